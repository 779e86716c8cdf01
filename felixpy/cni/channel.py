"""The agent's end of the socket that the shim connects to.

Imperative. In → out: a listening socket of this user alone (mode 0600, peers' uid checked); one frame and one
descriptor in; one frame out. Must never look into a request. Source: unix(7), SCM_RIGHTS and SO_PEERCRED.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

from felixpy.cni import wire

BACKLOG = 512
REQUEST_TIMEOUT_S = 5.0
"""How long a peer may take to send a request or to take an answer; the shim needs no millisecond."""
_PEER_CREDENTIALS = struct.Struct("3i")


class NotAllowed(PermissionError):
    """The peer runs as a user that may not ask for anything."""


@dataclass(slots=True)
class Received:
    """A request's frame, and the network namespace that came with it; `close` gives the descriptor back."""

    frame: bytes
    netns: int | None = field(default=None)

    def close(self) -> None:
        if self.netns is not None:
            os.close(self.netns)
            self.netns = None


def listen(path: Path) -> socket.socket:
    """A socket at `path` in place of whatever is there; clients never find it half made.

    Raises  OSError when the directory is missing or may not be written.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(BACKLOG)
        temporary.rename(path)
    except BaseException:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise
    return listener


async def receive_request(connection: socket.socket) -> Received:
    """One whole request.

    Raises  NotAllowed; WireError for bytes that are no request, as soon as that shows; TimeoutError; OSError.
    """
    uid = _PEER_CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    )[1]
    if uid not in (0, os.geteuid()):
        raise NotAllowed(f"user {uid} may not use this socket")
    received = Received(b"")
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await _wait_readable(connection)
            frame, descriptors, _, _ = socket.recv_fds(connection, wire.HEADER_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            if descriptors:
                received.netns = descriptors[0]
            frame += await _receive(connection, wire.HEADER_BYTES - len(frame))
            frame += await _receive(connection, sum(wire.parse_request_header(frame)))
            received.frame = frame
            return received
    except BaseException:
        received.close()
        raise


async def send_answer(connection: socket.socket, answer: wire.Answer) -> None:
    """One whole answer.

    Raises  OSError when the peer is gone, TimeoutError when it does not read.
    """
    async with asyncio.timeout(REQUEST_TIMEOUT_S):
        await asyncio.get_running_loop().sock_sendall(connection, wire.render_answer(answer))


async def _receive(connection: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < size:
        piece = await loop.sock_recv(connection, min(size - len(data), 1 << 18))
        if not piece:
            raise wire.WireError("the connection ends inside the request")
        data += piece
    return bytes(data)


async def _wait_readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def seen() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection, seen)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
