"""The process that answers: raw sockets on every usable interface, and a UNIX socket to be told by (control.py).

In      requests of the agent (protocol.py), frames, changes of interfaces, the time. Out: frames, one status a request.
Never   decides who answers (election.py). Holds what it was told for as long as it lives: neither the agent nor the
        datastore has to be there. One thread and no garbage of note, so an answer waits for nothing but its turn.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from birdpy.addresses import format_address
from birdpy.l2.control import Control
from birdpy.l2.links import Links
from birdpy.l2.packets import parse_frame
from birdpy.l2.port import Port
from birdpy.l2.protocol import (
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
        self._told_places: set[int] = set()
        self._links = Links()
        self._control = Control(path, self._poll, self._serve, self._details)
        self._poll.register(self._links.fileno(), _READ)
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
        elif descriptor == self._links.fileno():
            self._links.read()
            self._take_links()
        elif descriptor == self._end.fileno():
            self._leave()
        else:
            self._control.handle(descriptor)

    def _leave(self) -> None:
        """Takes no more requests, and contends for nothing any more."""
        self._end.recv(1)
        if self._ending:
            return
        self._ending = True
        self._control.close()
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

    def _serve(self, line: bytes) -> tuple[bytes, bool]:
        """The answer to a request, and whether who asked watches from now on."""
        try:
            request = parse_request(line)
        except ProtocolError as error:
            return render_status(Status(error=str(error)), False), False
        self._obey(request)
        detailed = isinstance(request, Ask | Watch)
        return render_status(self._status(detailed), detailed), isinstance(request, Watch)

    def _details(self) -> bytes:
        return render_status(self._status(True), True)

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
        segments = [place.segment for place in self._places.values()]
        owned = [one for segment in segments for one in _list_owned(segment)] if detailed else ()
        counted = [
            InterfaceCounters(segment.interface.name, one.answers, one.announcements, one.probes, one.turns)
            for segment in segments
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
            self._told_places = set(self._places)
            self._control.tell_watchers()


def _list_owned(segment: Segment) -> Iterator[OwnedVip]:
    interface = segment.interface
    for address, election in segment.elections.items():
        traffic = segment.traffic[address]
        yield OwnedVip(
            interface.name,
            format_address(address),
            election.owns,
            (interface.mac if election.owns else election.owner_mac or b"").hex(":"),
            election.foreign_mac.hex(":"),
            traffic.questions,
            traffic.answers,
            traffic.announcements,
        )


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
