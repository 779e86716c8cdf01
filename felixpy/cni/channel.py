"""The agent's end of a connection that the shim made.

Imperative. In → out: one frame and one descriptor in, from root or our own user; one frame out. Must never look into a
request. Source: unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, field

from birdpy.unix_socket import peer_of
from felixpy.cni import wire
from felixpy.drivers.readable import until_readable

REQUEST_TIMEOUT_S = 5.0
"""How long a peer may take to send a request or to take an answer; the shim needs no millisecond."""


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


async def receive_request(connection: socket.socket) -> Received:
    """One whole request.

    Raises  NotAllowed; WireError for bytes that are no request, as soon as that shows; TimeoutError; OSError.
    """
    peer = peer_of(connection)
    if not peer.is_allowed:
        raise NotAllowed(f"user {peer.uid} may not use this socket")
    received = Received(b"")
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await until_readable(connection)
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
