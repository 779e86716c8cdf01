"""The Service addresses of one interface: an election each, and the frames that come of them. Pure.

In      which addresses, with which standing; frames as parsed; the time. Out: frames to send, and turns to report.
Never   touches a socket or a clock. Costs what is due, or what one frame concerns, however many addresses there are.
Rules   A node that owns an address is heard by all every PROBE_INTERVAL_S, by a question for one of its addresses after
        the other. Owners that hear a node anew ask for all of theirs: so two that own one address and hear each other
        are one within PROBE_INTERVAL_S, which is the most that there are two on one segment. Whoever makes up nodes, to
        have it ask, comes to an end with that: then it asks CHECK_S apart, as it does anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from typing import NamedTuple

from birdpy.l2.election import (
    CHECK_S,
    DEPUTIES,
    PROBE_INTERVAL_S,
    SILENCES,
    Action,
    Announce,
    Answer,
    Election,
    Standing,
)
from birdpy.l2.packets import (
    ALL_NODES,
    Assertion,
    Heard,
    Question,
    multicast_mac,
    render_announcement,
    render_answer,
    render_probe,
)

ANEW_AFTER_S = SILENCES * PROBE_INTERVAL_S
"""A node that was silent so long may have missed who took over from it."""
NODES_HEARD_MOST = 4096
"""Of how many nodes it is kept when they were heard: whoever can send on the segment can claim to be many."""
ASKS_AT_ONCE = 10
"""How often in a row it asks for all of its addresses; one more is due every CHECK_S."""
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


class Traffic:
    """Of one address: questions of others than nodes while it was ours, answers to them, announcements."""

    __slots__ = ("announcements", "answers", "questions")

    def __init__(self) -> None:
        self.questions = self.answers = self.announcements = 0


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
        self.traffic: dict[bytes, Traffic] = {}
        self._leaving: dict[bytes, float] = {}
        self._due: list[tuple[float, bytes]] = []
        self._queued: dict[bytes, float] = {}
        self._turns: list[Turn] = []
        self._owned: dict[bytes, None] = {}
        self._left = False
        self._hello_at = self._look_at = 0.0
        self._reserves: set[bytes] = set()
        """Addresses that this node seldom asks for, since better deputies do."""
        self._heard_at: dict[bytes, float] = {}
        self._asks, self._asks_at = ASKS_AT_ONCE, -CHECK_S
        """How often it may still ask for all, as of when."""
        self._ask_at: float | None = None
        """When it asks for all, since a node was heard anew."""

    @property
    def due(self) -> float | None:
        """When `tick` wants to be called; None when there is nothing to wait for."""
        due = [self._due[0][0]] if self._due else []
        due += [self._hello_at] if self._owned else []
        due += [self._look_at] if self._reserves else []
        due += [self._ask_at] if self._ask_at is not None else []
        return min(due, default=None)

    def take_turns(self) -> list[Turn]:
        """Who answers for what changed since the last call, in the order that it happened."""
        turns, self._turns = self._turns, []
        return turns

    def take_left(self) -> bool:
        """Whether addresses were left for good since the last call: nobody needs to hear of them any more."""
        left, self._left = self._left, False
        return left

    def want(
        self, put: Mapping[bytes, Standing], drop: Iterable[bytes], now: float, drain: Iterable[bytes] = ()
    ) -> list[bytes]:
        """Addresses to contend for from now on, with this node's standing; to leave at once, and (`drain`) gently."""
        frames: list[bytes] = []
        for address in drop:
            frames += self._leave(address, now, gently=False)
        for address in drain:
            frames += self._leave(address, now, gently=True)
        for address, standing in put.items():
            left = self._leaving.pop(address, None) is not None
            election = self.elections.get(address)
            if election is None:
                self.elections[address] = Election(standing, now)
                self.traffic[address] = Traffic()
                self._queue(address, now)
            elif left or election.standing != standing:
                frames += self._act(address, election, election.owns, election.set_standing(standing, now))
        return frames

    def _leave(self, address: bytes, now: float, gently: bool) -> list[bytes]:
        election = self.elections.get(address)
        if election is None or not (election.owns or election.retired):
            self._forget(address)
            return []
        if address in self._leaving and not (election.gently and not gently):
            return []
        self._leaving[address] = now + LINGER_S + (election.standing.drain_s if gently else 0)
        frames = self._act(address, election, election.owns, election.leave(gently))
        if not election.owns and not election.retired:
            self._forget(address)
        return frames

    def _forget(self, address: bytes) -> None:
        self._left = self.elections.pop(address, None) is not None or self._left
        self.traffic.pop(address, None)
        self._leaving.pop(address, None)
        self._owned.pop(address, None)
        self._reserves.discard(address)

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
        frames = self._meet(heard, now)
        election = self.elections.get(heard.address)
        if election is None:
            return frames
        if election.owns and heard.stamp is None and isinstance(heard, Question):
            self.traffic[heard.address].questions += 1
        frames += self._act(heard.address, election, election.owns, election.hear(heard, now))
        if heard.address in self._leaving and not election.owns and not election.retired:
            self._forget(heard.address)
        return frames

    def _meet(self, heard: Heard, now: float) -> list[bytes]:
        """Asks for all of ours when a node that owns addresses is heard anew: at once, or when it may again."""
        if heard.stamp is None or not heard.stamp.owns:
            return []
        mac = heard.mac if isinstance(heard, Assertion) else heard.asker_mac
        last = self._heard_at.pop(mac, None)
        self._heard_at[mac] = now
        if len(self._heard_at) > NODES_HEARD_MOST:
            del self._heard_at[next(iter(self._heard_at))]
        if (last is None or now - last >= ANEW_AFTER_S) and self._owned and self._ask_at is None:
            wait = PROBE_INTERVAL_S if self._asks else CHECK_S
            self._ask_at = max(now, self._asks_at + wait)
        return self._ask_all(now)

    def _ask_all(self, now: float) -> list[bytes]:
        """Asks for all of ours, where that is due."""
        if self._ask_at is None or now < self._ask_at:
            return []
        regained = int((now - self._asks_at) / CHECK_S)
        self._asks = max(0, min(self._asks + regained, ASKS_AT_ONCE) - 1)
        self._ask_at, self._asks_at = None, now
        return [
            frame
            for address in tuple(self._owned)
            for frame in self._act(address, self.elections[address], True, self.elections[address].ask())
        ]

    def tick(self, now: float) -> list[bytes]:
        """What is due by now."""
        frames: list[bytes] = [*self._ask_all(now), *self._say_hello(now)]
        self._miss_owners(now)
        while self._due and self._due[0][0] <= now:
            when, address = heappop(self._due)
            if self._queued.get(address) != when:
                continue
            del self._queued[address]
            election = self.elections.get(address)
            if election is None:
                continue
            if self._leaving.get(address, now + 1) <= now:
                if election.owns:
                    self._turns.append(Turn(self.interface.name, address, False))
                self._forget(address)
                continue
            frames += self._act(address, election, election.owns, election.tick(now))
        return frames

    def _say_hello(self, now: float) -> list[bytes]:
        """A question for the address that was longest not asked for, to everybody."""
        if not self._owned or now < self._hello_at:
            return []
        self._hello_at = now + PROBE_INTERVAL_S
        address = next(iter(self._owned))
        self._owned[address] = self._owned.pop(address)
        self.counters.probes += 1
        to = multicast_mac(ALL_NODES) if len(address) == 16 else None
        interface, stamp = self.interface, self.elections[address].stamp
        return [render_probe(address, interface.mac, interface.link_local, to, stamp)]

    def _miss_owners(self, now: float) -> None:
        """Has those asked for soon whose owner's node has said nothing for some time."""
        if not self._reserves or now < self._look_at:
            return
        self._look_at = now + PROBE_INTERVAL_S
        missed = {mac for mac, at in self._heard_at.items() if now - at >= ANEW_AFTER_S}
        for address in self._reserves if missed else ():
            election = self.elections[address]
            if election.owner_mac in missed:
                election.suspect(now)
                self._queue(address, now)

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
        if not election.owns and election.standing.rank > DEPUTIES:
            self._reserves.add(address)
        else:
            self._reserves.discard(address)
        if not election.owns:
            self._owned.pop(address, None)
        elif address not in self._owned:
            self._owned[address] = None
        self._queue(address, min(election.due, self._leaving.get(address, election.due)))
        return [frame for action in actions for frame in self._render(address, action)]

    def _render(self, address: bytes, action: Action) -> Iterator[bytes]:
        interface = self.interface
        if isinstance(action, Answer):
            self.counters.answers += 1
            self.traffic[address].answers += action.question.stamp is None
            yield render_answer(action.question, interface.mac, action.stamp)
        elif isinstance(action, Announce):
            self.counters.announcements += 1
            self.traffic[address].announcements += 1
            yield from render_announcement(address, interface.mac, action.stamp)
        else:
            self.counters.probes += 1
            yield render_probe(address, interface.mac, interface.link_local, action.to, action.stamp)
