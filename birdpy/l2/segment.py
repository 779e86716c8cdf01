"""The Service addresses of one interface: an election each, and the frames that come of them. Pure.

In      which addresses, with which standing; frames as parsed; the time. Out: frames to send, and turns to report.
Never   touches a socket or a clock. Costs what is due, or what one frame concerns, however many addresses there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from typing import NamedTuple

from birdpy.l2.election import Action, Announce, Answer, Election, Standing
from birdpy.l2.packets import Heard, render_announcement, render_answer, render_probe

LINGER_S = 3.0
"""How long an address that is no longer ours is answered for, unless another node takes it before."""


class Interface(NamedTuple):
    """What frames need to know of an interface. `link_local` is empty where it speaks no IPv6."""

    name: str
    number: int
    mac: bytes
    link_local: bytes = b""

    def speaks(self, address: bytes) -> bool:
        """Whether questions for the address can come in here."""
        return len(address) == 4 or bool(self.link_local)


class Turn(NamedTuple):
    """This node has begun or ended to answer for an address on an interface."""

    interface: str
    address: bytes
    owns: bool


class Counters:
    """What has been sent on an interface since it was taken into use."""

    __slots__ = ("announcements", "answers", "probes", "turns")

    def __init__(self) -> None:
        self.answers = self.announcements = self.probes = self.turns = 0


class Segment:
    """Feed it with `want`, `hear` and `tick`; each gives frames to send."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.counters = Counters()
        self.elections: dict[bytes, Election] = {}
        self._leaving: dict[bytes, float] = {}
        self._due: list[tuple[float, bytes]] = []
        self._queued: dict[bytes, float] = {}
        self._turns: list[Turn] = []

    @property
    def due(self) -> float | None:
        """When `tick` wants to be called; None when there is nothing to wait for."""
        return self._due[0][0] if self._due else None

    def take_turns(self) -> list[Turn]:
        """Who answers for what changed since the last call, in the order that it happened."""
        turns, self._turns = self._turns, []
        return turns

    def want(self, put: Mapping[bytes, Standing], drop: Iterable[bytes], now: float) -> list[bytes]:
        """Addresses to contend for from now on, with this node's standing, and addresses to leave."""
        frames: list[bytes] = []
        for address in drop:
            frames += self._leave(address, now)
        for address, standing in put.items():
            left = self._leaving.pop(address, None) is not None
            election = self.elections.get(address)
            if election is None:
                self.elections[address] = Election(standing, now)
                self._queue(address, now)
            elif left or election.standing != standing:
                frames += self._act(address, election, election.owns, election.set_standing(standing, now))
        return frames

    def _leave(self, address: bytes, now: float) -> list[bytes]:
        election = self.elections.get(address)
        if election is None or not election.owns:
            self.elections.pop(address, None)
            return []
        if address in self._leaving:
            return []
        self._leaving[address] = now + LINGER_S
        return self._act(address, election, True, election.leave())

    def move(self, interface: Interface, now: float) -> list[bytes]:
        """The interface has another address: everybody is told, at another Ethernet address."""
        same = interface.mac == self.interface.mac
        self.interface = interface
        if same:
            return []
        return [
            frame
            for address, election in self.elections.items()
            for frame in self._act(address, election, election.owns, election.announce_anew(now))
        ]

    def hear(self, heard: Heard, now: float) -> list[bytes]:
        """A frame that came in here."""
        election = self.elections.get(heard.address)
        if election is None:
            return []
        frames = self._act(heard.address, election, election.owns, election.hear(heard, now))
        if heard.address in self._leaving and not election.owns:
            del self._leaving[heard.address], self.elections[heard.address]
        return frames

    def tick(self, now: float) -> list[bytes]:
        """What is due by now."""
        frames: list[bytes] = []
        while self._due and self._due[0][0] <= now:
            when, address = heappop(self._due)
            if self._queued.get(address) != when:
                continue
            del self._queued[address]
            election = self.elections.get(address)
            if election is None:
                continue
            if self._leaving.get(address, now + 1) <= now:
                del self._leaving[address], self.elections[address]
                self._turns.append(Turn(self.interface.name, address, False))
                continue
            frames += self._act(address, election, election.owns, election.tick(now))
        return frames

    def _queue(self, address: bytes, due: float) -> None:
        """Sees to it that the address has its turn by `due`; an earlier one is as good, since it queues again."""
        if self._queued.get(address, due + 1) > due:
            self._queued[address] = due
            heappush(self._due, (due, address))

    def _act(self, address: bytes, election: Election, owned: bool, actions: Iterable[Action]) -> list[bytes]:
        """The frames for `actions`, of an election that was (not) won before them."""
        if election.owns != owned:
            self.counters.turns += 1
            self._turns.append(Turn(self.interface.name, address, election.owns))
        self._queue(address, min(election.due, self._leaving.get(address, election.due)))
        return [frame for action in actions for frame in self._render(address, action)]

    def _render(self, address: bytes, action: Action) -> Iterator[bytes]:
        interface = self.interface
        if isinstance(action, Answer):
            self.counters.answers += 1
            yield render_answer(action.question, interface.mac, action.stamp)
        elif isinstance(action, Announce):
            self.counters.announcements += 1
            yield from render_announcement(address, interface.mac, action.stamp)
        else:
            self.counters.probes += 1
            yield render_probe(address, interface.mac, interface.link_local, action.to, action.stamp)
