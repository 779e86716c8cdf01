"""Differences put together: pairs that fare alike are one group, told by the same packets and the same deciders.

In: Differences; out: Groups, most pairs first. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple, TypeVar

from felixpy.addresses import Address
from felixpy.ctl.explain.reading import Statement
from felixpy.ctl.verdicts.cells import describe_cells
from felixpy.ctl.verdicts.compare import Difference, Turn
from felixpy.ctl.verdicts.ends import End, Receiving, Sending, carried
from felixpy.resources.kinds import Name

T = TypeVar("T")

Who = End
"""An End without its address: an endpoint, a node, or a network."""
Reasons = tuple[Statement, ...]
_NOWHERE = Address(b"")


class Change(NamedTuple):
    """Packets in words, and what decides about them before and after."""

    packets: tuple[str, ...]
    before: Reasons
    after: Reasons


@dataclass(frozen=True, slots=True)
class Group:
    """From each of `sources` to each of `destinations`, in these families, the same changes; `allowed` after them.

    `is_within`: of two that are on one node only; else of none that a node parts from the rest (`End.is_near`).
    """

    allowed: bool
    changes: tuple[Change, ...]
    versions: frozenset[int]
    sources: frozenset[Who]
    destinations: frozenset[Who]
    is_within: bool = False

    @property
    def pairs(self) -> int:
        """How many pairs these are."""
        return _count(self.sources, self.destinations, self.is_within)

    @property
    def is_parted(self) -> bool:
        """Whether some pairs of its ends are not meant, since both are on one node."""
        return not self.is_within and _near(self.sources, self.destinations) > 0


class _Tally(NamedTuple):
    """Ends counted by what makes pairs of them other than most."""

    by_endpoint: Counter[Name]
    by_node: Counter[str]
    passed_by: Counter[str]
    """Endpoints of guarded nodes of which nobody has a say about what passes through, by node."""
    forwarded: Counter[Name]
    """Endpoints of the others."""


@lru_cache(maxsize=1024)
def _tally(ends: frozenset[Who]) -> _Tally:
    guarded = [one for one in ends if one.node]
    return _Tally(
        Counter(one.endpoint for one in ends if one.endpoint is not None),
        Counter(one.node for one in guarded),
        Counter(one.node for one in guarded if one.endpoint is not None and not one.is_forwarded),
        Counter(one.endpoint for one in guarded if one.endpoint is not None and one.is_forwarded),
    )


@lru_cache(maxsize=1024)
def _senders(ends: frozenset[Who]) -> dict[Sending, frozenset[Who]]:
    return _parts(ends, lambda one: one.sending)


@lru_cache(maxsize=1024)
def _receivers(ends: frozenset[Who]) -> dict[Receiving, frozenset[Who]]:
    return _parts(ends, lambda one: one.receiving)


def _parts(ends: frozenset[Who], key: Callable[[Who], T]) -> dict[T, frozenset[Who]]:
    found: dict[T, set[Who]] = {}
    for one in ends:
        found.setdefault(key(one), set()).add(one)
    return {which: frozenset(some) for which, some in found.items()} if len(found) > 1 else dict.fromkeys(found, ends)


def _count(sources: frozenset[Who], destinations: frozenset[Who], is_within: bool) -> int:
    """How many pairs of them are meant."""
    if is_within:
        return _count_carried(sources, destinations, is_within)
    return sum(
        _count_carried(some, others, is_within)
        for sending, some in _senders(sources).items()
        for receiving, others in _receivers(destinations).items()
        if carried(sending, receiving)
    )


def _count_carried(sources: frozenset[Who], destinations: frozenset[Who], is_within: bool) -> int:
    here, there = _tally(sources), _tally(destinations)
    same = _both(here.by_endpoint, there.by_endpoint)
    if is_within:
        return _both(here.by_node, there.by_node) - same
    return len(sources) * len(destinations) - _near(sources, destinations) - same


def _near(sources: frozenset[Who], destinations: frozenset[Who]) -> int:
    """How many pairs of different ends are near each other."""
    here, there = _tally(sources), _tally(destinations)
    through = _both(here.passed_by, there.passed_by) + _both(here.forwarded, there.forwarded)
    return _both(here.by_node, there.by_node) - through


def _both(here: Counter[T], there: Counter[T]) -> int:
    """How many pairs have the same key."""
    fewer, more = sorted((here, there), key=len)
    return sum(count * more[key] for key, count in fewer.items() if key in more)


def group_differences(
    differences: Iterable[Difference], reasons: Callable[[Turn], tuple[Reasons, Reasons]]
) -> list[Group]:
    """Pairs that fare alike together; `reasons` are those for which packets are told apart. Most pairs first."""
    ends = _Ends()
    found: dict[tuple[bool, bool, tuple[Change, ...]], list[Group]] = {}
    for one in differences:
        for group in _split(one, ends, reasons):
            found.setdefault((group.allowed, group.is_within, group.changes), []).append(group)
    groups = [group for alike in found.values() for group in _in_every_family(alike)]
    groups = _joined(groups, lambda one: (one.sources, one.versions), _with_destinations)
    groups = _joined(groups, lambda one: (one.destinations, one.versions), _with_sources)
    groups = list(_on_every_node(groups))
    return sorted((one for one in groups if one.pairs), key=_rank)


def _rank(group: Group) -> tuple[object, ...]:
    named = (_first(group.sources), _first(group.destinations))
    return (group.allowed, -group.pairs, -len(group.versions), group.changes[0].packets, group.is_within, *named)


@lru_cache(maxsize=1024)
def _first(ends: frozenset[Who]) -> str:
    """By which groups are sorted that are alike otherwise."""
    return min(map(str, ends))


def count_pairs(groups: Sequence[Group]) -> int:
    """How many pairs are in some of the groups."""
    return sum(_count_alike([one for one in groups if one.is_within == is_within]) for is_within in (False, True))


def _count_alike(groups: Sequence[Group]) -> int:
    sources, destinations = (
        _by_places(groups, lambda one: one.sources),
        _by_places(groups, lambda one: one.destinations),
    )
    return sum(
        _count(some, others, groups[0].is_within)
        for here, some in sources.items()
        for there, others in destinations.items()
        if not here.isdisjoint(there)
    )


def _in_every_family(groups: Sequence[Group]) -> Iterator[Group]:
    """Groups of equal changes, so that each pair is in one of them, with all families in which it fares so."""
    sources, destinations = (
        _by_places(groups, lambda one: one.sources),
        _by_places(groups, lambda one: one.destinations),
    )
    for here, some in sources.items():
        for there, others in destinations.items():
            versions = frozenset(version for place in here & there for version in groups[place].versions)
            if versions:
                yield replace(groups[0], versions=versions, sources=some, destinations=others)


def _by_places(
    groups: Sequence[Group], part: Callable[[Group], frozenset[Who]]
) -> dict[frozenset[int], frozenset[Who]]:
    """Ends by the groups that they are in; many groups may have the same ends, which are looked at once."""
    places: dict[frozenset[Who], list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(part(group), []).append(place)
    if len(places) == 1:
        return {frozenset(here): ends for ends, here in places.items()}
    alike: dict[Who, list[int]] = {}
    for number, ends in enumerate(places):
        for who in ends:
            alike.setdefault(who, []).append(number)
    found: dict[tuple[int, ...], set[Who]] = {}
    for who, numbers in alike.items():
        found.setdefault(tuple(numbers), set()).add(who)
    every = list(places.values())
    return {
        frozenset(place for number in numbers for place in every[number]): frozenset(some)
        for numbers, some in found.items()
    }


class _Ends:
    """The ends of differences without their addresses; those of equal classes made once."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Sequence[End], frozenset[Who]]] = {}

    def of(self, ends: tuple[End, ...]) -> frozenset[Who]:
        """All of them."""
        found = self._found.get(id(ends))
        if found is None:
            found = self._found[id(ends)] = ends, frozenset(map(_who, ends))
        return found[1]


def _split(one: Difference, ends: _Ends, reasons: Callable[[Turn], tuple[Reasons, Reasons]]) -> Iterator[Group]:
    sources, destinations = ends.of(one.sources), ends.of(one.destinations)
    for allowed in (False, True):
        found: dict[tuple[str, Reasons, Reasons], list[Turn]] = {}
        for turn in one.turns:
            if turn.after.allowed == allowed:
                found.setdefault((turn.note, *reasons(turn)), []).append(turn)
        changes = (Change(_packets(turns), *key[1:]) for key, turns in found.items())
        if found:
            versions = frozenset({one.sources[0].version})
            told = tuple(sorted(changes, key=lambda one: one.packets))
            yield Group(allowed, told, versions, sources, destinations, one.is_within)


def _packets(turns: Sequence[Turn]) -> tuple[str, ...]:
    """Packets in words; all have the same note."""
    words = describe_cells([turn.cell for turn in turns])
    return (*words[:-1], f"{words[-1]} ({turns[0].note})") if turns[0].note else words


def _joined(
    groups: Iterable[Group], key: Callable[[Group], object], join: Callable[[Sequence[Group]], Group]
) -> list[Group]:
    """Groups of equal key and changes as one."""
    found: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        found.setdefault((group.allowed, group.is_within, group.changes, key(group)), []).append(group)
    return [join(alike) for alike in found.values()]


def _with_sources(groups: Sequence[Group]) -> Group:
    return replace(groups[0], sources=_union([group.sources for group in groups]))


def _with_destinations(groups: Sequence[Group]) -> Group:
    return replace(groups[0], destinations=_union([group.destinations for group in groups]))


def _union(parts: Sequence[frozenset[Who]]) -> frozenset[Who]:
    """All of the ends; where all parts are the same, that one, which is counted already."""
    first, *others = parts
    return first if all(one is first or one == first for one in others) else first.union(*others)


def _on_every_node(groups: Iterable[Group]) -> Iterator[Group]:
    """Groups within a node and equal but for the node as one: which ends belong together their nodes say."""
    found: dict[tuple[object, ...], dict[str, list[Group]]] = {}
    for group in groups:
        if not group.is_within:
            yield group
            continue
        node = next(iter(group.sources)).node
        found.setdefault((group.allowed, group.changes, group.versions), {}).setdefault(node, []).append(group)
    for by_node in found.values():
        for alike in zip_longest(*by_node.values()):
            some = [one for one in alike if one is not None]
            yield _with_sources([_with_destinations(some), *some])


def _who(end: End) -> Who:
    return end._replace(address=_NOWHERE)


def full_reasons(turn: Turn) -> tuple[Reasons, Reasons]:
    """All that was said on both sides."""
    return turn.before.statements, turn.after.statements


def decisive_reasons(turn: Turn) -> tuple[Reasons, Reasons]:
    """What was said, in both worlds, on the side that denies in one of them."""
    denying, allowing = (turn.before, turn.after) if turn.after.allowed else (turn.after, turn.before)
    last = denying.statements[-1]
    said = sorted(allowing.statements, key=lambda one: (one.direction == last.direction, one.scope == last.scope))
    other = tuple(said[-1:])
    return ((last,), other) if turn.after.allowed else (other, (last,))
