"""The process that answers: raw sockets on every usable interface, and a UNIX socket to be told by.

In      requests of the agent (protocol.py), frames, changes of interfaces, the time. Out: frames, one status a request.
Never   decides who answers (election.py). Holds what it was told for as long as it lives: neither the agent nor the
        datastore has to be there. One thread and no garbage of note, so an answer waits for nothing but its turn.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from birdpy.addresses import format_address
from birdpy.l2.links import Links
from birdpy.l2.packets import parse_frame
from birdpy.l2.port import Port
from birdpy.l2.protocol import (
    LINE_MOST_BYTES,
    VERSION,
    Ask,
    InterfaceCounters,
    OwnedVip,
    ProtocolError,
    Replace,
    Request,
    Status,
    Update,
    Vip,
    Watch,
    parse_request,
    render_status,
)
from birdpy.l2.segment import Interface, Segment

PRIORITY = -10
"""Nice value: answers are few and short, and whole segments wait for them."""
IDLE_S = 60.0
WATCH_BUFFER_BYTES = 1 << 23
SO_SNDBUFFORCE = 32
"""Not in Python's socket module; asks for more than net.core.wmem_max, where that is allowed."""
_READ = select.EPOLLIN


class _Place:
    """An interface in use."""

    def __init__(self, interface: Interface) -> None:
        self.port = Port(interface)
        self.segment = Segment(interface)


class Responder:
    """Serves until told to end by SIGTERM; then other nodes may take its addresses before it goes.

    Raises  OSError when the socket or netlink cannot be had.
    """

    def __init__(self, path: Path) -> None:
        self._poll = select.epoll()
        self._vips: dict[bytes, Vip] = {}
        self._places: dict[int, _Place] = {}
        self._frames_of: dict[int, tuple[_Place, socket.socket]] = {}
        self._peers: dict[int, tuple[socket.socket, bytearray]] = {}
        self._watchers: set[int] = set()
        self._told_places: set[int] = set()
        self._links = Links()
        self._listener = listen(path)
        self._poll.register(self._links.fileno(), _READ)
        self._poll.register(self._listener.fileno(), _READ)
        self._end, waker = socket.socketpair()
        waker.setblocking(False)
        self._waker = waker
        self._poll.register(self._end.fileno(), _READ)
        self._ending = False
        self._take_links()

    def serve(self) -> None:
        """Returns when told to end, and nobody waits for an answer any more."""
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno())
        while not self._ending or any(place.segment.elections for place in self._places.values()):
            for descriptor, _ in self._poll.poll(self._timeout_s()):
                self._handle(descriptor)
            now = time.monotonic()
            for place in self._places.values():
                due = place.segment.due
                if due is not None and due <= now:
                    place.port.send(place.segment.tick(now))
            self._report()

    def _timeout_s(self) -> float:
        due = [place.segment.due for place in self._places.values()]
        first = min((one for one in due if one is not None), default=None)
        return IDLE_S if first is None else min(max(first - time.monotonic(), 0.0), IDLE_S)

    def _handle(self, descriptor: int) -> None:
        source = self._frames_of.get(descriptor)
        if source is not None:
            place, readable = source
            for frame in place.port.read(readable):
                heard = parse_frame(frame)
                if heard is not None:
                    place.port.send(place.segment.hear(heard, time.monotonic()))
        elif descriptor in self._peers:
            self._serve_peer(descriptor)
        elif descriptor == self._listener.fileno():
            self._accept()
        elif descriptor == self._links.fileno():
            self._links.read()
            self._take_links()
        elif descriptor == self._end.fileno():
            self._leave()

    def _leave(self) -> None:
        """Takes no more requests, and contends for nothing any more."""
        self._end.recv(1)
        if self._ending:
            return
        self._ending = True
        self._poll.unregister(self._listener.fileno())
        self._listener.close()
        for descriptor in tuple(self._peers):
            self._part(descriptor)
        self._obey(Replace(()))

    def _take_links(self) -> None:
        usable = self._links.usable
        now = time.monotonic()
        for number in [one for one in self._places if one not in usable]:
            self._close_place(number)
        for number, interface in usable.items():
            place = self._places.get(number)
            if place is not None and place.segment.interface.name != interface.name:
                self._close_place(number)
                place = None
            if place is None:
                self._open_place(interface, now)
            elif place.segment.interface != interface:
                place.port.send(place.segment.move(interface, now))
                self._want(place, self._vips, (), now)

    def _open_place(self, interface: Interface, now: float) -> None:
        try:
            place = _Place(interface)
        except OSError as error:
            _say(f"{interface.name}: cannot be used: {error}")
            return
        self._places[interface.number] = place
        for one in place.port.sockets:
            self._frames_of[one.fileno()] = (place, one)
            self._poll.register(one.fileno(), _READ)
        _say(f"{interface.name}: in use")
        self._want(place, self._vips, (), now)

    def _close_place(self, number: int) -> None:
        place = self._places.pop(number)
        for one in place.port.sockets:
            del self._frames_of[one.fileno()]
            self._poll.unregister(one.fileno())
        place.port.close()
        _say(f"{place.segment.interface.name}: not in use")

    def _want(
        self, place: _Place, put: Mapping[bytes, Vip], drop: Iterable[bytes], now: float, drain: Iterable[bytes] = ()
    ) -> None:
        interface = place.segment.interface
        here, away = {}, list(drop)
        for address, vip in put.items():
            if interface.speaks(address) and (vip.interfaces is None or interface.name in vip.interfaces):
                here[address] = vip.standing_on(interface.name)
            else:
                away.append(address)
        place.port.send(place.segment.want(here, away, now, drain))
        if any(len(address) == 16 for address in here):
            place.port.hear_groups(place.segment.elections)

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("3i", packed)[1] not in (0, os.geteuid()):
            peer.close()
            return
        peer.setblocking(False)
        self._peers[peer.fileno()] = (peer, bytearray())
        self._poll.register(peer.fileno(), _READ)

    def _serve_peer(self, descriptor: int) -> None:
        peer, pending = self._peers[descriptor]
        try:
            data = peer.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        pending += data
        if not data or len(pending) > LINE_MOST_BYTES:
            self._part(descriptor)
            return
        if b"\n" not in data:
            return
        *lines, rest = bytes(pending).split(b"\n")
        pending[:] = rest
        for line in lines:
            if not self._answer(peer, line):
                self._part(descriptor)
                return

    def _answer(self, peer: socket.socket, line: bytes) -> bool:
        """Whether the peer took the answer."""
        try:
            request = parse_request(line)
        except ProtocolError as error:
            answer = render_status(Status(error=str(error)), False)
        else:
            self._obey(request)
            if isinstance(request, Watch):
                peer.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, WATCH_BUFFER_BYTES)
                self._watchers.add(peer.fileno())
            detailed = isinstance(request, Ask | Watch)
            answer = render_status(self._status(detailed), detailed)
        try:
            peer.settimeout(1.0)
            peer.sendall(answer)
            peer.setblocking(False)
        except OSError:
            return False
        return True

    def _part(self, descriptor: int) -> None:
        peer, _ = self._peers.pop(descriptor)
        self._watchers.discard(descriptor)
        self._poll.unregister(descriptor)
        peer.close()

    def _obey(self, request: Request) -> None:
        drain: tuple[bytes, ...] = ()
        if isinstance(request, Replace):
            put = {vip.address: vip for vip in request.vips}
            drop = tuple(address for address in self._vips if address not in put)
        elif isinstance(request, Update):
            put, drop, drain = {vip.address: vip for vip in request.puts}, request.drops, request.drains
        else:
            return
        for address in (*drop, *drain):
            self._vips.pop(address, None)
        self._vips.update(put)
        now = time.monotonic()
        for place in self._places.values():
            self._want(place, put, drop, now, drain)

    def _status(self, detailed: bool) -> Status:
        owned = [
            OwnedVip(
                place.segment.interface.name,
                format_address(address),
                election.owns,
                (place.segment.interface.mac if election.owns else election.owner_mac or b"").hex(":"),
                election.foreign_mac.hex(":"),
            )
            for place in (self._places.values() if detailed else ())
            for address, election in place.segment.elections.items()
        ]
        counted = [
            InterfaceCounters(segment.interface.name, one.answers, one.announcements, one.probes, one.turns)
            for segment in (place.segment for place in self._places.values())
            for one in (segment.counters,)
        ]
        return Status(VERSION, os.getpid(), len(self._vips), tuple(owned), tuple(counted))

    def _report(self) -> None:
        """One line for what has changed, however many addresses it concerns, and word to those who watch."""
        turned = False
        for place in self._places.values():
            if place.segment.take_left():
                place.port.hear_groups(place.segment.elections)
            turns = place.segment.take_turns()
            turned = turned or bool(turns)
            for owns, words in ((True, "answers for"), (False, "no longer answers for")):
                named = [format_address(turn.address) for turn in turns if turn.owns == owns]
                if named:
                    more = f" and {len(named) - 1} more" if len(named) > 1 else ""
                    _say(f"{place.segment.interface.name}: {words} {named[0]}{more}")
        if turned or self._told_places != self._places.keys():
            self._tell_watchers()

    def _tell_watchers(self) -> None:
        """Those that do not take it now begin anew: nobody is waited for."""
        self._told_places = set(self._places)
        if not self._watchers:
            return
        line = render_status(self._status(True), True)
        for descriptor in tuple(self._watchers):
            try:
                whole = self._peers[descriptor][0].send(line) == len(line)
            except OSError:
                whole = False
            if not whole:
                self._part(descriptor)


def listen(path: Path) -> socket.socket:
    """A UNIX socket for this user alone, in place of whatever is at `path`; whoever looks finds it whole.

    Raises  OSError when the directory is missing or may not be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    listener.bind(str(temporary))
    temporary.chmod(0o600)
    listener.listen(16)
    temporary.rename(path)
    return listener


def _say(words: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), words, file=sys.stderr, flush=True)


def main() -> None:
    """`python -m birdpy.l2 SOCKET`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    except PermissionError:
        _say("the priority stays as it is: not allowed to raise it")
    Responder(Path(sys.argv[1])).serve()
