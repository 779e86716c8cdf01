"""Where the responder is told and asked: a UNIX socket, a line a request and a line an answer.

In      connections of this user and of root; out: each request to whoever serves them, each answer to who asked.
Never   waits for a peer: what one does not take is kept for it, at most one answer at a time, and its next request is
        looked at once it has taken that. A watcher that is slow gets the newest word and not all that were between.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from pathlib import Path

from birdpy.l2.protocol import LINE_MOST_BYTES
from birdpy.unix_socket import listen, peer_of

PEERS_MOST = 64
"""Connections at once; others are closed. An agent has two, and whoever asks for status one."""
_READ_BYTES = 1 << 18


class _Peer:
    """One connection: lines that have come and are not served yet, and what of the answer is not taken yet."""

    __slots__ = ("came", "connection", "left", "stale", "watches")

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.came = bytearray()
        self.left = memoryview(b"")
        self.watches = self.stale = False


Serve = Callable[[bytes], tuple[bytes, bool]]
"""From a request to its answer, and whether who asked watches from now on."""


class Control:
    """Connections in `poll`; `handle` what it reports of them.

    Raises  OSError when the directory is missing or may not be written.
    """

    def __init__(self, path: Path, poll: select.epoll, serve: Serve, report: Callable[[], bytes]) -> None:
        self._poll = poll
        self._serve = serve
        self._report = report
        self._peers: dict[int, _Peer] = {}
        self._listener = listen(path)
        self._poll.register(self._listener.fileno(), select.EPOLLIN)

    def handle(self, descriptor: int) -> None:
        """Something has come, or can be sent; a descriptor of somebody else is passed over."""
        if descriptor == self._listener.fileno():
            self._accept()
        elif descriptor in self._peers:
            self._advance(descriptor)

    def close(self) -> None:
        """Takes no more requests."""
        self._poll.unregister(self._listener.fileno())
        self._listener.close()
        for descriptor in tuple(self._peers):
            self._part(descriptor)

    def tell_watchers(self) -> None:
        """Those who watch get what is so now; one that has not taken the last word yet gets it after that."""
        line = b""
        for descriptor, peer in tuple(self._peers.items()):
            if not peer.watches:
                continue
            if peer.left:
                peer.stale = True
                continue
            line = line or self._report()
            self._send(descriptor, line)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if not peer_of(connection).is_allowed or len(self._peers) >= PEERS_MOST:
            connection.close()
            return
        connection.setblocking(False)
        self._peers[connection.fileno()] = _Peer(connection)
        self._poll.register(connection.fileno(), select.EPOLLIN)

    def _advance(self, descriptor: int) -> None:
        """Sends what is left of an answer; else reads, and serves what has come."""
        peer = self._peers[descriptor]
        if peer.left:
            self._send(descriptor, b"")
        else:
            try:
                data = peer.connection.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            peer.came += data
            if not data or len(peer.came) > LINE_MOST_BYTES:
                self._part(descriptor)
                return
            if b"\n" not in data:
                return
        self._serve_lines(descriptor)

    def _serve_lines(self, descriptor: int) -> None:
        while (peer := self._peers.get(descriptor)) is not None and not peer.left:
            if peer.stale:
                peer.stale = False
                self._send(descriptor, self._report())
                continue
            end = peer.came.find(b"\n")
            if end < 0:
                return
            line = bytes(peer.came[:end])
            del peer.came[: end + 1]
            answer, watches = self._serve(line)
            peer.watches = peer.watches or watches
            self._send(descriptor, answer)

    def _send(self, descriptor: int, line: bytes) -> None:
        """Sends a line, or (none) the rest of one; what the peer does not take is sent when it can be."""
        peer = self._peers[descriptor]
        waited = bool(peer.left)
        rest = peer.left if waited else memoryview(line)
        try:
            peer.left = rest[peer.connection.send(rest) :]
        except BlockingIOError:
            peer.left = rest
        except OSError:
            self._part(descriptor)
            return
        if bool(peer.left) != waited:
            self._poll.modify(descriptor, select.EPOLLOUT if peer.left else select.EPOLLIN)

    def _part(self, descriptor: int) -> None:
        peer = self._peers.pop(descriptor)
        self._poll.unregister(descriptor)
        peer.connection.close()
