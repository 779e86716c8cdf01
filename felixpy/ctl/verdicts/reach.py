"""Who reaches a Service otherwise than before: its addresses are followed to the backends behind them.

In: two Worlds, their Fields and what differs between ends; out: Differences whose destination is a Service. A Service
is looked at where it leads elsewhere, or where what is behind it fares otherwise. What is sent inside the cluster
counts, by endpoints and nodes; policies before translation see the Service's own address, all others the backend. Pure.
`tests/ctl/test_verdicts_services.py` holds it against `explain`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from felixpy.addresses import Address, format_address
from felixpy.calc.intent import Stage
from felixpy.calc.services.frontends import BackendAddress, Frontend
from felixpy.ctl.explain.flow import SOURCE_PORT
from felixpy.ctl.explain.reading import Said, Statement
from felixpy.ctl.verdicts.cells import Cell
from felixpy.ctl.verdicts.classes import Divider
from felixpy.ctl.verdicts.compare import Difference, Ruling, Turn
from felixpy.ctl.verdicts.ends import End
from felixpy.ctl.verdicts.hosts import Path
from felixpy.ctl.verdicts.leads import Lead, Leads, derive_leads
from felixpy.ctl.verdicts.settle import follow
from felixpy.ctl.verdicts.shifts import Shifts
from felixpy.ctl.verdicts.sieve import Sieve
from felixpy.ctl.verdicts.ways import Field, Ways
from felixpy.ctl.verdicts.world import Judge, World
from felixpy.dataplane.chains.causes import SOURCE_NOT_ALLOWED
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.rules import Side

_EARLY = frozenset({Stage.UNTRACKED, Stage.PRE_DNAT})
Some = tuple[BackendAddress, int]
"""A backend, and how many fare as it does."""
Fared = tuple[bool, tuple[Statement, ...]]
"""Whether a packet is let go on, and what was said about it."""


class Answer(NamedTuple):
    """How many backends are reached, of how many, and what was said of one that tells: of a denied one, if any is."""

    reached: int
    backends: int
    said: tuple[Statement, ...]

    @property
    def share(self) -> Fraction:
        """How many of all connections get through."""
        return Fraction(self.reached, self.backends) if self.backends else Fraction(0)

    def __str__(self) -> str:
        if not self.backends:
            return "no endpoints"
        return f"{self.reached} of {self.backends} endpoint{'' if self.backends == 1 else 's'}"


_NOT_SERVED = Answer(0, 0, (Statement(Said.DENIES, "", default="no Service with endpoints has this address and port"),))
_NOT_LET_IN = Statement(Said.DENIES, "", default=str(SOURCE_NOT_ALLOWED))
_UNTRACKED = Statement(Said.DENIES, "", default="what is not tracked is not translated either")


def compare_services(
    worlds: tuple[World, World], shifts: Shifts, fields: Sequence[Field], differences: Iterable[Difference]
) -> Iterator[Difference]:
    """Everything that reaches a Service otherwise in the second world."""
    leads = derive_leads(*worlds)
    affected = _affected(leads, differences)
    if affected:
        yield from _Reach(worlds, shifts, fields).differences(leads, affected)


def _affected(leads: tuple[Leads, Leads], differences: Iterable[Difference]) -> list[Frontend]:
    """Frontends that lead elsewhere, and those that lead to somebody who fares otherwise."""
    before, after = leads
    every = {**before, **after}
    found = {frontend for frontend in every if before.get(frontend) != after.get(frontend)}
    behind: dict[Address, set[tuple[Frontend, int]]] = {}
    for frontend in every.keys() - found:
        behind.setdefault(frontend.address, set()).add((frontend, frontend.port))
        for backend in every[frontend].backends:
            behind.setdefault(backend.address, set()).add((frontend, backend.port))
    for one in differences:
        if not behind:
            break
        for end in one.destinations:
            if end.region is not None:
                asked = {address for address in behind if end.region.contains(address)}
            else:
                asked = {end.address}
            for address in asked:
                hit = {pair for pair in behind.get(address, ()) if _is_told(one.turns, pair[0].protocol, pair[1])}
                found |= {frontend for frontend, _ in hit}
                if hit and not behind[address].difference(hit):
                    del behind[address]
                elif hit:
                    behind[address] -= hit
    return sorted(found)


def _by_sources(ends: Sequence[End], leads: tuple[Lead | None, Lead | None]) -> Iterable[Sequence[End]]:
    """Senders by whether a Service takes connections from them."""
    found: dict[tuple[bool, ...], list[End]] = {}
    for end in ends:
        found.setdefault(tuple(lead is None or lead.lets_in(end.address) for lead in leads), []).append(end)
    return found.values()


def _is_told(turns: Iterable[Turn], protocol: int, port: int) -> bool:
    return any(
        (protocol not in cell.besides) if cell.protocol is None else _is_of(cell, protocol, port)
        for cell in (turn.cell for turn in turns)
    )


def _is_of(cell: Cell, protocol: int, port: int) -> bool:
    return cell.protocol == protocol and cell.ports[0] <= port <= cell.ports[1]


class _Reach:
    """Senders, divided as far as what is behind a Service tells them apart."""

    def __init__(self, worlds: tuple[World, World], shifts: Shifts, fields: Sequence[Field]) -> None:
        self._worlds = worlds
        self._shifts = shifts
        self._whole = fields[0]
        self._inner = {
            next(iter(one.sources)).node: one for one in fields[1:] if next(iter(one.targets)).endpoint is not None
        }
        addresses = [end.address for ways in (self._whole.sources, self._whole.targets) for end in ways]
        self._divider = Divider(*worlds, addresses)
        self._sieve = Sieve(shifts, self._divider)
        self._guarded = frozenset(end.node for end in self._whole.sources if end.node)
        self._senders = self._by_address(self._whole.sources)
        self._targets = self._by_address(self._whole.targets)
        self._groups: dict[tuple[int, Ways], list[End]] = {}
        for first, *_ in self._senders.values():
            self._groups.setdefault((first.version, self._whole.sources[first]), []).append(first)
        self._parts: dict[tuple[int, frozenset[Ways]], tuple[tuple[End, ...], ...]] = {}
        self._known: dict[object, Fared] = {}

    def differences(self, leads: tuple[Leads, Leads], affected: Iterable[Frontend]) -> Iterator[Difference]:
        """What differs, frontend by frontend."""
        for frontend in affected:
            pair = leads[0].get(frontend), leads[1].get(frontend)
            service = next(one.service for one in (pair[1], pair[0]) if one is not None)
            is_outer = any(one is not None and one.is_outer for one in pair)
            target = End(frontend.address, service=service, interface=format_address(frontend.address) * is_outer)
            for (before, after), senders in self._by_answers(frontend, pair).items():
                if before.share == after.share:
                    continue
                protocol, port = frontend.protocol, frontend.port
                cell = Cell(protocol, protocol, (port, port))
                is_more = after.share > before.share
                rulings = Ruling(not is_more, before.said), Ruling(is_more, after.said)
                yield Difference(tuple(senders), (target,), (Turn(cell, *rulings, f"{after}, before {before}"),))

    def _by_address(self, ends: Iterable[End]) -> dict[Address, tuple[End, ...]]:
        """Each end by all interfaces that it is looked at by, that of its node's own address first."""
        found: dict[Address, list[End]] = {}
        for end in ends:
            found.setdefault(end.address, []).append(end)
        return {address: tuple(sorted(some, key=self._is_other)) for address, some in found.items()}

    def _is_other(self, end: End) -> tuple[bool, bool]:
        """Whether it is by another interface than that of its node's own address; then by one that has a name."""
        uplink = self._worlds[1].cluster.uplink(end.node) if end.interface else ""
        return uplink not in end.interfaces, bool(end.interface)

    def _pair(self, sender: End, address: Address) -> tuple[End, End | None]:
        """A sender and whoever has an address, by the interfaces by which packets go from one to the other."""
        targets = self._targets.get(address, ())
        senders = self._senders[sender.address]
        for one in senders:
            for other in targets:
                if one.is_carried_to(other):
                    return one, other
        return sender, targets[0] if targets else None

    def _by_answers(
        self, frontend: Frontend, leads: tuple[Lead | None, Lead | None]
    ) -> dict[tuple[Answer, Answer], list[End]]:
        """All senders by what they are answered before and after."""
        found: dict[tuple[Answer, Answer], list[End]] = {}
        backends = {backend for lead in leads if lead is not None for backend in lead.backends}
        into = frozenset(ways for address in {one.address for one in backends} for ways in self._every_into(address))
        neighbours = self._neighbours(backends, any(lead is not None and lead.is_local for lead in leads))
        alike: dict[tuple[int, Ways], tuple[Some, ...]] = {}
        for part in self._divide(4 if len(frontend.address) == 4 else 6, into):
            rest = [end for end in part if end not in neighbours] if neighbours else part
            ways = self._whole.sources[part[0]]
            for number, lead in enumerate(leads):
                if (number, ways) not in alike:
                    alike[number, ways] = tuple(self._alike(ways, lead)) if lead is not None else ()
            for some in _by_sources(rest, leads):
                answers = [self._answer(number, some[0], frontend, leads, alike[number, ways]) for number in (0, 1)]
                found.setdefault((answers[0], answers[1]), []).extend(some)
            for end in part if neighbours else ():
                if end in neighbours:
                    answers = [
                        self._answer(number, end, frontend, leads, tuple(self._near(end, lead)))
                        for number, lead in enumerate(leads)
                    ]
                    found.setdefault((answers[0], answers[1]), []).append(end)
        return found

    def _neighbours(self, backends: set[BackendAddress], is_local: bool) -> frozenset[End]:
        """Senders for whom it matters where a backend is: on a guarded node, or where each node keeps to its own."""
        nodes = {node for backend in backends for node in self._nodes_of(backend.address)}
        if is_local:
            return frozenset(first for first, *_ in self._senders.values() if self._node_of(first) in nodes)
        if not self._guarded:
            return frozenset()
        firsts = ((first, others) for first, *others in self._senders.values())
        return frozenset(first for first, others in firsts if others or (first.node and first.node in nodes))

    def _near(self, sender: End, lead: Lead | None) -> Iterator[Some]:
        """Each backend by itself that a neighbour of some may get."""
        home = self._node_of(sender)
        for backend in lead.backends if lead is not None else ():
            if lead is not None and (not lead.is_local or home in self._nodes_of(backend.address)):
                yield backend, 1

    def _alike(self, out: Ways, lead: Lead) -> Iterator[Some]:
        """One of those backends that a sender's way and their own do not tell apart, and how many these are."""
        found: dict[object, list[BackendAddress]] = {}
        for backend in () if lead.is_local else lead.backends:
            into = self._every_into(backend.address)
            notes = (self._sieve.note(ways, "destination", backend.address) for ways in (out, *into))
            is_alike = backend.address in self._divider.addresses and len(into) == 1
            found.setdefault((into, *notes, backend.port) if is_alike else backend, []).append(backend)
        yield from ((some[0], len(some)) for some in found.values())

    def _node_of(self, end: End) -> str:
        return end.node if end.endpoint is None else self._worlds[1].endpoints[end.endpoint].node

    def _nodes_of(self, address: Address) -> Iterator[str]:
        """The node of whoever has an address, in each world where somebody has it."""
        for world in self._worlds:
            for name in world.cluster.holders.get(address, ()):
                if name in world.endpoints:
                    yield world.endpoints[name].node

    def _divide(self, version: int, into: frozenset[Ways]) -> tuple[tuple[End, ...], ...]:
        """Senders by their own way, and by what it and these ways say of their addresses."""
        found = self._parts.get((version, into))
        if found is None:
            parts: dict[tuple[object, ...], list[End]] = {}
            for (family, ways), ends in self._groups.items():
                if family != version:
                    continue
                notes = [self._sieve.division(one, "source").notes for one in (*into, ways)]
                for end in ends:
                    parts.setdefault((ways, *(one.get(end.address, ()) for one in notes)), []).append(end)
            found = self._parts[version, into] = tuple(map(tuple, parts.values()))
        return found

    def _every_into(self, address: Address) -> tuple[Ways, ...]:
        """What judges what an address receives, by each interface."""
        targets = self._targets.get(address)
        return tuple(map(self._whole.targets.__getitem__, targets)) if targets else (self._into(address, None),)

    def _into(self, address: Address, end: End | None) -> Ways:
        """What judges what an address receives; its endpoint may be in one of the worlds only, or nobody known."""
        if end is not None:
            return self._whole.targets[end]
        paths: list[Path] = []
        for world in self._worlds:
            name = next((one for one in world.cluster.holders.get(address, ()) if one in world.endpoints), None)
            paths.append((world.judges(name)[1],) if name is not None else ())
        return Ways(paths[0], paths[1])

    def _answer(
        self,
        number: int,
        sender: End,
        frontend: Frontend,
        leads: tuple[Lead | None, Lead | None],
        backends: Sequence[Some],
    ) -> Answer:
        """What a sender is answered in one of the worlds."""
        lead = leads[number]
        if not backends or lead is None:
            return _NOT_SERVED
        if not lead.lets_in(sender.address):
            return Answer(0, len(lead.backends), (_NOT_LET_IN,))
        found = [(self._reaches(number, sender, frontend, one), count) for one, count in backends]
        reached = sum(count for (allowed, _), count in found if allowed)
        said = next((words for (allowed, words), _ in found if not allowed), found[0][0][1])
        return Answer(reached, sum(count for _, count in found), said)

    def _reaches(self, number: int, sender: End, frontend: Frontend, backend: BackendAddress) -> Fared:
        """Whether a sender's first packet to a frontend gets to a backend, and what was said about it."""
        sender, target = self._pair(sender, backend.address)
        out, into = self._whole.sources[sender], self._into(backend.address, target)
        packet = Packet(sender.address, backend.address, frontend.protocol, "", SOURCE_PORT, backend.port)
        if target is not None and sender.is_near(target):
            if sender.is_host:
                return True, ()
            return self._follow(number, frontend, packet, self._inside(number, sender, target, (out, into)))
        if backend.address not in self._divider.addresses or any(judge.stage in _EARLY for judge in out[number]):
            return self._follow(number, frontend, packet, (out[number], into[number]))
        notes = [self._sieve.note(ways, "destination", backend.address) for ways in (out, into)]
        key = (number, sender, into, *notes, frontend.protocol, backend.port)
        if key not in self._known:
            note = self._sieve.note(into, "source", sender.address)
            self._known[key] = self._sift(number, packet, (out, "destination", notes[0]), (into, "source", note))
        return self._known[key]

    def _sift(self, number: int, packet: Packet, *sides: tuple[Ways, Side, tuple[int, ...]]) -> Fared:
        """What both ways say of a packet, by the steps alone that may concern it."""
        said: tuple[Statement, ...] = ()
        for ways, side, note in sides:
            places = self._sieve.places(ways, side, note)[number]
            clauses = self._shifts.tracks(ways)[number].between(packet.source, packet.destination, places)
            allowed, more = follow(clauses, packet)
            said = (*said, *more)
            if not allowed:
                return False, said
        return True, said

    def _follow(self, number: int, frontend: Frontend, packet: Packet, paths: tuple[Path, Path]) -> Fared:
        """The same by all steps: those before translation see the frontend."""
        out, into = paths
        early = tuple(judge for judge in out if judge.stage in _EARLY)
        later: tuple[Judge, ...] = tuple(judge for judge in out if judge.stage not in _EARLY)
        said: tuple[Statement, ...] = ()
        if early:
            asked = replace(packet, destination=frontend.address, destination_port=frontend.port)
            allowed, said = self._ask(number, early, asked)
            if not allowed:
                return False, said
            if any(one.policy is not None and one.said is Said.ALLOWS for one in said):
                if any(judge.stage is Stage.UNTRACKED for judge in early):
                    return False, (*said, _UNTRACKED)
                later = tuple(judge for judge in later if judge.stage is None)
        for path in (later, into):
            allowed, more = self._ask(number, path, packet)
            said = (*said, *more)
            if not allowed:
                return False, said
        return True, said

    def _ask(self, number: int, path: Path, packet: Packet) -> Fared:
        return follow(self._shifts.track(bool(number), path).between(packet.source, packet.destination), packet)

    def _inside(self, number: int, sender: End, target: End, ways: tuple[Ways, Ways]) -> tuple[Path, Path]:
        """The ways from one endpoint of a guarded node to another, which pass no interface of the node's own."""
        inner = self._inner.get(sender.node)
        if inner is None or target.endpoint is None:
            return ways[0][number], ways[1][number]
        here, there = (End(one.address, one.endpoint, None, one.node) for one in (sender, target))
        return inner.sources[here][number], inner.targets[there][number]
