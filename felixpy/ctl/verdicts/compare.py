"""The pairs of ends and the packets whose fate differs between two worlds, and what decides before and after.

In: two Worlds; out: Differences, each of many sources, many destinations and some cells of packets. Each way on which
the change has a say is looked at alone: the ends at its other side are divided by what its own rules ask, one end of
each class is tried, and only where the way says something else also the other side's way is asked. So the work is that
of the ways which the change touches, and of the classes that these tell apart. Pure.
`tests/ctl/test_verdicts_properties.py` has the oracle: every pair and packet by `explain`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from felixpy.addresses import Address, Prefix, host_prefix
from felixpy.ctl.explain.reading import Statement
from felixpy.ctl.verdicts.cells import Cell, Cells
from felixpy.ctl.verdicts.classes import Divider
from felixpy.ctl.verdicts.clauses import Clause
from felixpy.ctl.verdicts.ends import End, carried, regions_of
from felixpy.ctl.verdicts.settle import Settled, settle
from felixpy.ctl.verdicts.shifts import SIDES, Shifts
from felixpy.ctl.verdicts.sieve import Places, Sieve
from felixpy.ctl.verdicts.ways import NOBODY, Field, Ways, fields_of
from felixpy.ctl.verdicts.world import Condition, World
from felixpy.dataplane.rules import Side

T = TypeVar("T")


class Ruling(NamedTuple):
    """What became of a packet: whether it is allowed, and what each side that was asked said."""

    allowed: bool
    statements: tuple[Statement, ...]


class Turn(NamedTuple):
    """Packets of a cell, before and after; `note` says more about them."""

    cell: Cell
    before: Ruling
    after: Ruling
    note: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """From each of the sources to each of the destinations the packets fare otherwise, where `Difference.holds`."""

    sources: tuple[End, ...]
    destinations: tuple[End, ...]
    turns: tuple[Turn, ...]
    is_within: bool = False

    def holds(self, source: End, destination: End) -> bool:
        """Whether this is about two of its ends: none is about an end itself, nor about a way that the two do not use.

        With `is_within` both are on one node; else none of the pairs is that a node parts from the rest.
        """
        if source.is_same(destination):
            return False
        if self.is_within:
            return source.node == destination.node
        return not source.is_near(destination) and source.is_carried_to(destination)

    @property
    def is_about_some(self) -> bool:
        """Whether it is about any pair."""
        return any(self.holds(source, destination) for source in self.sources for destination in self.destinations)


def compare(before: World, after: World) -> Iterator[Difference]:
    """Everything that fares otherwise in the second world, between ends that are themselves."""
    yield from compare_fields((before, after), Shifts(before, after), fields_of(before, after))


def compare_fields(worlds: tuple[World, World], shifts: Shifts, fields: Iterable[Field]) -> Iterator[Difference]:
    """The same, of fields that are made already."""
    for field in fields:
        if any(map(shifts.touch, {*field.sources.values(), *field.targets.values()})):
            yield from _Comparison(worlds, shifts, field).differences()


class _Class(NamedTuple):
    """Ends at the far side of a way that its rules do not tell apart, and the steps of either track that concern them.

    `members` are by their own ways; None for all that no condition tells from the most.
    """

    example: End
    members: Mapping[Ways, Sequence[End]] | None
    places: Places


_FAR: Mapping[Side, Side] = {"source": "destination", "destination": "source"}


class _Comparison:
    """What differs in one Field."""

    def __init__(self, worlds: tuple[World, World], shifts: Shifts, field: Field) -> None:
        self._worlds = worlds
        self._shifts = shifts
        self._is_within = field.is_within
        self._ways: Mapping[Side, Mapping[End, Ways]] = {"source": field.sources, "destination": field.targets}
        self._groups = {side: _by_way(ways) for side, ways in self._ways.items()}
        self._holders = {side: _by_address(ways) for side, ways in self._ways.items()}
        self._divider = Divider(*worlds, (end.address for ways in self._ways.values() for end in ways))
        self._sieve = Sieve(shifts, self._divider)
        self._strangers: dict[Condition, tuple[Prefix, ...]] = {}
        self._told: set[tuple[End, End]] = set()

    def differences(self) -> Iterator[Difference]:
        """Each way that is touched, with those at its far side of whom it says something else."""
        for near in SIDES:
            for (version, ways), ends in self._groups[near].items():
                if self._shifts.touch(ways):
                    classes = tuple(self._classes(_FAR[near], version, ways))
                    for here in self._split(ends, ways, near):
                        for there in classes:
                            if self._differs(near, ways, here[0], there):
                                yield from self._by_both(near, ways, here, there)

    def _classes(self, far: Side, version: int, ways: Ways) -> Iterator[_Class]:
        """All ends of a family that may be at the far side, as far as the way tells them apart."""
        notes = self._sieve.division(ways, far).notes
        noted: dict[tuple[int, ...], dict[Ways, list[End]]] = {}
        for address, note in notes.items():
            for end in self._holders[far].get(address, ()):
                if end.version == version:
                    noted.setdefault(note, {}).setdefault(self._ways[far][end], []).append(end)
        for note, members in noted.items():
            yield _Class(next(iter(members.values()))[0], members, self._sieve.places(ways, far, note))
        others = (end for end in self._ways[far] if end.version == version and end.address not in notes)
        example = next(others, None)
        if example is not None:
            yield _Class(example, None, self._sieve.places(ways, far, ()))
        if not self._is_within:
            yield from self._regions(far, version, ways)

    def _regions(self, far: Side, version: int, ways: Ways) -> Iterator[_Class]:
        """The rest of the world."""
        conditions = self._shifts.conditions(ways, far)
        prefixes = {prefix for condition in conditions for prefix in self._prefixes(condition)}
        regions = [end for end in regions_of(prefixes, self._divider.addresses) if end.version == version]
        division = self._divider.divide_others(conditions, [end.address for end in regions])
        found: dict[tuple[int, ...], list[End]] = {}
        for end in regions:
            found.setdefault(division.notes.get(end.address, ()), []).append(end)
        for note, ends in found.items():
            held = tuple(division.held(note))
            before, after = (filed.places(held) for filed in self._sieve.files(ways, far))
            yield _Class(ends[0], {NOBODY: ends}, (before, after))

    def _prefixes(self, condition: Condition) -> tuple[Prefix, ...]:
        """Where a condition may divide addresses that no end has."""
        if isinstance(condition, Prefix):
            return (condition,)
        found = self._strangers.get(condition)
        if found is None:
            every: set[Prefix] = set()
            for world in self._worlds:
                held = world.held(condition)
                every |= held.prefixes
                every.update(map(host_prefix, held.addresses - self._divider.addresses))
            found = self._strangers[condition] = tuple(every)
        return found

    def _split(self, ends: Sequence[End], ways: Ways, side: Side) -> Iterator[Sequence[End]]:
        """Ends by what a way says of them at one of its sides."""
        notes = self._sieve.division(ways, side).notes
        if not notes:
            yield ends
            return
        found: dict[tuple[int, ...], list[End]] = {}
        for end in ends:
            found.setdefault(notes.get(end.address, ()), []).append(end)
        yield from found.values()

    def _differs(self, near: Side, ways: Ways, here: End, there: _Class) -> bool:
        """Whether a way says something else of some packet between an end and a class."""
        one, other = self._clauses(ways, *_ordered(near, here, there.example), there.places)
        if [clause.meaning for clause in one] == [clause.meaning for clause in other]:
            return False
        cells = Cells(here.version, (clause.matches for clause in (*one, *other)))
        return settle(one, cells).allowed != settle(other, cells).allowed

    def _clauses(
        self, ways: Ways, source: End, destination: End, places: Places
    ) -> tuple[tuple[Clause, ...], tuple[Clause, ...]]:
        one, other = self._shifts.tracks(ways)
        return (
            one.between(source.address, destination.address, places[0]),
            other.between(source.address, destination.address, places[1]),
        )

    def _by_both(self, near: Side, ways: Ways, here: Sequence[End], there: _Class) -> Iterator[Difference]:
        """What differs between two classes, by all that decides at both ends."""
        far = _FAR[near]
        for others, ends in self._members(far, ways, here[0].version, there):
            twice = self._shifts.touch(others)
            for some in self._split(here, others, near):
                asked = self._sieve.places(others, near, self._sieve.note(others, near, some[0].address))
                for rest in self._split(ends, others, far):
                    sources, targets = _ordered(near, some, rest)
                    if twice and not self._is_new(sources, targets):
                        continue
                    own = self._clauses(ways, sources[0], targets[0], there.places)
                    theirs = self._clauses(others, sources[0], targets[0], asked)
                    turns = tuple(derive_turns(some[0].version, *_ordered(near, own, theirs)))
                    if turns:
                        yield from self._told_of(sources, targets, turns)

    def _told_of(self, sources: Sequence[End], targets: Sequence[End], turns: tuple[Turn, ...]) -> Iterator[Difference]:
        """What differs between two classes; ends that are near all of the other class are no part of it."""
        if not self._is_within:
            sources, targets = _carried(sources, targets)
            sources, targets = _partnered(sources, targets), _partnered(targets, sources)
        found = Difference(tuple(sources), tuple(targets), turns, self._is_within)
        if found.is_about_some:
            yield found

    def _members(self, far: Side, ways: Ways, version: int, there: _Class) -> Iterator[tuple[Ways, Sequence[End]]]:
        if there.members is not None:
            yield from there.members.items()
            return
        notes = self._sieve.division(ways, far).notes
        noted = {self._ways[far][end] for address in notes for end in self._holders[far].get(address, ())}
        for (family, others), ends in self._groups[far].items():
            if family == version:
                left = ends if others not in noted else tuple(end for end in ends if end.address not in notes)
                if left:
                    yield others, left

    def _is_new(self, sources: Sequence[End], targets: Sequence[End]) -> bool:
        """Whether two classes were not told of yet; both their ways are touched, so that they are found twice."""
        key = min(sources), min(targets)
        is_new = key not in self._told
        self._told.add(key)
        return is_new


def _carried(sources: Sequence[End], targets: Sequence[End]) -> tuple[Sequence[End], Sequence[End]]:
    """The ends between some of which packets go by the interfaces that they are looked at by."""
    here, there = {end.sending for end in sources}, {end.receiving for end in targets}
    pairs = [(one, other) for one in here for other in there if carried(one, other)]
    if len(pairs) == len(here) * len(there):
        return sources, targets
    some, others = {one for one, _ in pairs}, {other for _, other in pairs}
    return [end for end in sources if end.sending in some], [end for end in targets if end.receiving in others]


def _partnered(ends: Sequence[End], others: Sequence[End]) -> Sequence[End]:
    """The ends of which some of the others is not near."""
    if not others or not others[0].node or any(other.node != others[0].node for other in others):
        return ends
    return [end for end in ends if any(not end.is_near(other) for other in others)]


def derive_turns(
    version: int,
    leaving: tuple[Sequence[Clause], Sequence[Clause]],
    reaching: tuple[Sequence[Clause], Sequence[Clause]],
) -> Iterator[Turn]:
    """The packets that fare otherwise: first the sender's side, then, if that lets them go, the receiver's."""
    cells = Cells(version, (clause.matches for clauses in (*leaving, *reaching) for clause in clauses))
    out, into = ([settle(clauses, cells) for clauses in side] for side in (leaving, reaching))
    was, is_now = (one.allowed & other.allowed for one, other in zip(out, into, strict=True))
    changed = was ^ is_now
    while changed:
        bit = changed & -changed
        changed ^= bit
        before, after = (_rule(one, other, bit) for one, other in zip(out, into, strict=True))
        yield Turn(cells.all[bit.bit_length() - 1], before, after)


def _rule(leaving: Settled, reaching: Settled, cell: int) -> Ruling:
    if not leaving.allowed & cell:
        return Ruling(False, leaving.of(cell))
    return Ruling(bool(reaching.allowed & cell), (*leaving.of(cell), *reaching.of(cell)))


def _ordered(near: Side, here: T, there: T) -> tuple[T, T]:
    """The source's first."""
    return (here, there) if near == "source" else (there, here)


def _by_way(ways: Mapping[End, Ways]) -> dict[tuple[int, Ways], tuple[End, ...]]:
    found: dict[tuple[int, Ways], list[End]] = {}
    for end, one in ways.items():
        found.setdefault((end.version, one), []).append(end)
    return {key: tuple(ends) for key, ends in found.items()}


def _by_address(ends: Iterable[End]) -> dict[Address, list[End]]:
    found: dict[Address, list[End]] = {}
    for end in ends:
        found.setdefault(end.address, []).append(end)
    return found
