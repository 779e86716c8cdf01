"""The pairs of ends and the packets whose fate differs between two worlds, and what decides before and after.

In: two Worlds; out: Differences, each of many sources, many destinations and some cells of packets. Ends that the
rules in question cannot tell apart are one class, of which one end is looked at; first for the sides that the change
touches alone, and only where these say something else also for the side that stays as it was. Pure.
`tests/ctl/test_verdicts_properties.py` has the oracle: every pair and packet by `explain`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from felixpy.addresses import Address, Prefix, host_prefix
from felixpy.calc.intent import PolicyId, SetSpec
from felixpy.ctl.explain.reading import Statement
from felixpy.ctl.verdicts.cells import Asked, Cell
from felixpy.ctl.verdicts.ends import End, endpoints_of, regions_of
from felixpy.ctl.verdicts.judge import Clause, allows, clauses_between, decide
from felixpy.ctl.verdicts.world import Held, Judge, World
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.rules import NetIn, SetHas, Side
from felixpy.resources.tables import Table
from felixpy.selector import compile_selector, parse_selector

Condition = SetSpec | Prefix
T = TypeVar("T")


class Ruling(NamedTuple):
    """What became of a packet: whether it is allowed, and what each side that was asked said."""

    allowed: bool
    statements: tuple[Statement, ...]


class Turn(NamedTuple):
    """Packets of a cell, before and after."""

    cell: Cell
    before: Ruling
    after: Ruling


@dataclass(frozen=True, slots=True)
class Difference:
    """From each of the sources to each of the destinations (but from none to itself) the packets fare otherwise."""

    sources: tuple[End, ...]
    destinations: tuple[End, ...]
    turns: tuple[Turn, ...]


class _Sides(NamedTuple):
    """One direction of an end, before and after; None where nothing judges."""

    before: Judge | None
    after: Judge | None


_NOBODY = _Sides(None, None)


def compare(before: World, after: World) -> Iterator[Difference]:
    """Everything that fares otherwise in the second world."""
    yield from _Comparison(before, after).differences()


def changed_hosts(before: World, after: World) -> list[str]:
    """Host endpoints whose rules are others in the second world, by name. What they decide is not compared."""
    hosts = {ref for world in (before, after) for ref in world.holders if ref.table is Table.HOST}
    return sorted(str(ref.name) for ref in hosts if before.host_rules(ref) != after.host_rules(ref))


class _Comparison:
    def __init__(self, before: World, after: World) -> None:
        self.before, self.after = before, after
        self._changed = _changed_holders(before, after)
        self._other_slices = not before.has_slices_of(after)
        self._moved: dict[SetSpec, bool] = {}
        self._conditions: dict[tuple[_Sides, Side], frozenset[Condition]] = {}

    def differences(self) -> Iterator[Difference]:
        ends = list(endpoints_of(self.before, self.after))
        out: dict[End, _Sides] = {}
        into: dict[End, _Sides] = {}
        for end in ends:
            out[end], into[end] = self._sides(end)
        touched_out, touched_in = (
            {sides for sides in set(every.values()) if self._decides_otherwise(sides)} for every in (out, into)
        )
        touched = touched_out | touched_in
        if not touched:
            return
        ends += regions_of(self._prefixes(touched), {end.address for end in ends})
        sources = self._classes(ends, touched, "source", {end: one for end, one in out.items() if one in touched_out})
        targets = self._classes(
            ends, touched, "destination", {end: one for end, one in into.items() if one in touched_in}
        )
        for leaving, here in sources:
            for reaching, there in targets:
                if here[0].version != there[0].version or leaving is reaching is _NOBODY:
                    continue
                if self._differ(leaving, reaching, here[0], there[0]):
                    yield from self._finer(here, there, out, into)

    def _sides(self, end: End) -> tuple[_Sides, _Sides]:
        """What judges what an end sends, and what it receives."""
        if end.endpoint is None:
            return _NOBODY, _NOBODY
        (out, into), (out_after, into_after) = self.before.judges(end.endpoint), self.after.judges(end.endpoint)
        return _Sides(out, out_after), _Sides(into, into_after)

    def _decides_otherwise(self, sides: _Sides) -> bool:
        """Whether the two may decide otherwise about some packet."""
        one, other = sides
        if one is None or other is None:
            return one is not other
        if (one.tiers, one.profiles, one.first) != (other.tiers, other.profiles, other.first):
            return True
        writers: tuple[PolicyId | str, ...] = (*one.policies(), *one.profiles)
        if any(self.before.written(writer) != self.after.written(writer) for writer in writers):
            return True
        return bool(self._changed or self._other_slices) and any(
            isinstance(condition, SetSpec) and self._is_moved(condition)
            for side in _SIDES
            for condition in self._conditions_of(sides, side)
        )

    def _is_moved(self, spec: SetSpec) -> bool:
        """Whether a set has other members in the second world."""
        found = self._moved.get(spec)
        if found is None:
            found = self._moved[spec] = self._may_move(spec) and self.before.held(spec) != self.after.held(spec)
        return found

    def _may_move(self, spec: SetSpec) -> bool:
        if spec.service is not None:
            return self._other_slices
        matches = compile_selector(parse_selector(spec.text))
        return any(matches(labels) for labels in self._changed)

    def _conditions_of(self, sides: _Sides, side: Side) -> frozenset[Condition]:
        """What the rules ask of the addresses of one side, in both worlds."""
        found = self._conditions.get((sides, side))
        if found is None:
            asked = (
                condition
                for world, judge in zip((self.before, self.after), sides, strict=True)
                if judge is not None
                for condition in _conditions(world, judge, side)
            )
            found = self._conditions[sides, side] = frozenset(asked)
        return found

    def _prefixes(self, touched: Iterable[_Sides]) -> Iterator[Prefix]:
        """Where the rules in question may divide addresses that no endpoint has."""
        for condition in {one for sides in touched for side in _SIDES for one in self._conditions_of(sides, side)}:
            if isinstance(condition, Prefix):
                yield condition
                continue
            for world in (self.before, self.after):
                held = world.held(condition)
                yield from held.prefixes
                yield from (host_prefix(address) for address in held.addresses)

    def _classes(
        self, ends: Sequence[End], touched: Iterable[_Sides], side: Side, judged: dict[End, _Sides]
    ) -> list[tuple[_Sides, list[End]]]:
        """Ends that no touched rule tells apart, with the touched sides that they have themselves."""
        conditions = frozenset(one for sides in touched for one in self._conditions_of(sides, side))
        marks = self._marks(ends, conditions)
        found = _grouped((judged.get(end, _NOBODY), end.version, marks[end.address]) for end in ends)
        return [(key[0], [ends[index] for index in indexes]) for key, indexes in found.items()]

    def _marks(self, ends: Iterable[End], conditions: Iterable[Condition]) -> dict[Address, int]:
        """A number for each address; equal ones for those of which each condition says the same, in both worlds."""
        marks = dict.fromkeys((end.address for end in ends), 0)
        ordered = sorted(marks, key=lambda address: (len(address), address))
        bit = 1
        for condition in conditions:
            for members in self._members(condition, ordered, marks):
                for address in members:
                    marks[address] |= bit
                bit <<= 1
        return marks

    def _members(
        self, condition: Condition, ordered: Sequence[Address], marks: dict[Address, int]
    ) -> Iterator[Iterable[Address]]:
        """Which of the addresses a condition is about, once for each way in which it is."""
        if isinstance(condition, Prefix):
            yield _within(condition, ordered)
            return
        one, other = self.before.held(condition), self.after.held(condition)
        for held in (one,) if one == other else (one, other):
            members = held.addresses & marks.keys()
            yield members.union(*(_within(prefix, ordered) for prefix in held.prefixes)) if held.prefixes else members
            yield from _by_ports(held, marks)

    def _differ(self, leaving: _Sides, reaching: _Sides, source: End, destination: End) -> bool:
        """Whether a side that is touched decides otherwise about some packet."""
        for sides in (leaving, reaching):
            one, other = self._clauses(sides, source, destination)
            if [clause.meaning for clause in one] == [clause.meaning for clause in other]:
                continue
            for cell in Asked(source.version, (clause.matches for clause in (*one, *other))).cells():
                packet = cell.packet(source.address, destination.address)
                if allows(decide(one, packet)) != allows(decide(other, packet)):
                    return True
        return False

    def _clauses(self, sides: _Sides, source: End, destination: End) -> tuple[tuple[Clause, ...], tuple[Clause, ...]]:
        if sides.before is None or sides.after is None:
            return (), ()
        return (
            clauses_between(self.before, sides.before, source.address, destination.address),
            clauses_between(self.after, sides.after, source.address, destination.address),
        )

    def _finer(
        self, here: Sequence[End], there: Sequence[End], out: dict[End, _Sides], into: dict[End, _Sides]
    ) -> Iterator[Difference]:
        """What differs between two classes, by all that decides at both ends."""
        leaving = _grouped(out.get(end, _NOBODY) for end in here)
        reaching = _grouped(into.get(end, _NOBODY) for end in there)
        for out_sides, sources in leaving.items():
            for in_sides, targets in reaching.items():
                both = (out_sides, in_sides)
                for source in self._alike([here[index] for index in sources], both, "source"):
                    for target in self._alike([there[index] for index in targets], both, "destination"):
                        turns = tuple(self._turns(out_sides, in_sides, source[0], target[0]))
                        if turns and not (len(source) == len(target) == 1 and _same(source[0], target[0])):
                            yield Difference(tuple(source), tuple(target), turns)

    def _alike(self, ends: Sequence[End], sides: Iterable[_Sides], side: Side) -> Iterator[list[End]]:
        conditions = frozenset(one for some in sides for one in self._conditions_of(some, side))
        marks = self._marks(ends, conditions)
        for indexes in _grouped(marks[end.address] for end in ends).values():
            yield [ends[index] for index in indexes]

    def _turns(self, leaving: _Sides, reaching: _Sides, source: End, destination: End) -> Iterator[Turn]:
        out_before, out_after = self._clauses(leaving, source, destination)
        in_before, in_after = self._clauses(reaching, source, destination)
        every = (*out_before, *out_after, *in_before, *in_after)
        for cell in Asked(source.version, (clause.matches for clause in every)).cells():
            packet = cell.packet(source.address, destination.address)
            one = _rule(out_before, in_before, packet)
            other = _rule(out_after, in_after, packet)
            if one.allowed != other.allowed:
                yield Turn(cell, one, other)


_SIDES: tuple[Side, Side] = ("source", "destination")


def _conditions(world: World, judge: Judge, side: Side) -> Iterator[Condition]:
    """What a judge's rules ask of the address on one side."""
    writers: tuple[PolicyId | str, ...] = (*judge.policies(), *judge.profiles)
    for writer in writers:
        for line in world.lines(writer, judge.direction):
            for match in line.rule.matches:
                if isinstance(match, NetIn) and match.side == side:
                    yield from match.nets
                elif isinstance(match, SetHas) and match.side == side:
                    yield world.spec(match.set_name)


def _within(prefix: Prefix, ordered: Sequence[Address]) -> Iterator[Address]:
    """The addresses in a prefix, out of a sorted sequence."""
    index = bisect_left(ordered, (len(prefix.address), prefix.address), key=lambda one: (len(one), one))
    while index < len(ordered) and prefix.contains(ordered[index]):
        yield ordered[index]
        index += 1


def _by_ports(held: Held, addresses: Iterable[Address]) -> Iterator[list[Address]]:
    """Addresses by the ports that they serve, where they serve some."""
    known = addresses if isinstance(addresses, dict) else frozenset(addresses)
    found: dict[frozenset[tuple[int, int]], list[Address]] = {}
    for address, ports in held.served.items():
        if address in known:
            found.setdefault(ports, []).append(address)
    yield from found.values()


def _grouped(keys: Iterable[T]) -> dict[T, list[int]]:
    """The places of equal keys."""
    found: dict[T, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return found


def _rule(leaving: Sequence[Clause], reaching: Sequence[Clause], packet: Packet) -> Ruling:
    """First the sender's side, then, if that lets it go, the receiver's."""
    statements: list[Statement] = []
    for clauses in (leaving, reaching):
        if clauses:
            statements.append(decide(clauses, packet))
            if not allows(statements[-1]):
                return Ruling(False, tuple(statements))
    return Ruling(True, tuple(statements))


def _same(one: End, other: End) -> bool:
    """Whether two ends are one endpoint, whose packets to itself meet no rule."""
    return one.endpoint is not None and one.endpoint == other.endpoint


def _changed_holders(before: World, after: World) -> list[dict[str, str]]:
    """The labels, in either world, of what sets are made of and is not the same in both; each once."""
    found: dict[frozenset[tuple[str, str]], dict[str, str]] = {}
    for ref in before.changed_holders(after):
        for world in (before, after):
            labels = world.labels_of(ref)
            if labels is not None:
                found[frozenset(labels.items())] = labels
    return list(found.values())
