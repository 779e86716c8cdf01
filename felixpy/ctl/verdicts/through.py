"""What passes through a node from network to network, where its host endpoints have a say about that.

In: two Worlds; out: Differences between networks by the interfaces of one node, and the nodes whose policies tell more
networks apart than can be looked at. Networks that the policies on the way do not tell apart are one class, of which
one address is tried. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from felixpy.addresses import Address, Prefix, host_prefix
from felixpy.ctl.verdicts.classes import Divider
from felixpy.ctl.verdicts.compare import Difference, derive_turns
from felixpy.ctl.verdicts.ends import ALIKE, End, regions_of
from felixpy.ctl.verdicts.hosts import Hosts, Path, doors_of
from felixpy.ctl.verdicts.shifts import Shifts
from felixpy.ctl.verdicts.ways import Ways
from felixpy.ctl.verdicts.world import Condition, World
from felixpy.dataplane.rules import Side

MOST_PAIRS = 10_000
"""Of classes at one node, by one pair of its interfaces: a second or so."""
OTHERS = "others"
"""The interfaces that no host endpoint governs."""


@dataclass(frozen=True, slots=True)
class Through:
    """What fares otherwise on its way through, and the nodes of which this is not known."""

    differences: tuple[Difference, ...]
    left_out: tuple[str, ...] = ()


def compare_through(worlds: tuple[World, World], shifts: Shifts) -> Through:
    """All nodes with host endpoints in one of the worlds."""
    hosts = Hosts(worlds[0]), Hosts(worlds[1])
    found: list[Difference] = []
    left_out: dict[str, None] = {}
    known: dict[Ways, tuple[Difference, ...] | None] = {}
    divider: Divider | None = None
    for node in sorted({*hosts[0].by_node, *hosts[1].by_node}):
        for (entering, by), (leaving, to) in product(_entrances(hosts, node), _exits(hosts, node)):
            ways = entering.then(leaving)
            if not shifts.touch(ways):
                continue
            if ways not in known:
                divider = divider or Divider(*worlds, _known(worlds))
                known[ways] = _Way(worlds, shifts, divider, ways).differences()
            alike = known[ways]
            if alike is None:
                left_out[node] = None
            else:
                found += (_at(one, node, by, to) for one in alike)
    return Through(tuple(found), tuple(left_out))


Classes = Mapping[int, Sequence[Sequence[End]]]
"""Networks that are not told apart, by family."""


def _entrances(hosts: tuple[Hosts, Hosts], node: str) -> Iterable[tuple[Ways, str]]:
    return _alike(
        (_ways(one.before_forwarding(door) for one in hosts), door.interface) for door in doors_of(*hosts, node)
    )


def _exits(hosts: tuple[Hosts, Hosts], node: str) -> Iterable[tuple[Ways, str]]:
    return _alike(
        (_ways(one.after_forwarding(door) for one in hosts), door.interface) for door in doors_of(*hosts, node)
    )


def _alike(doors: Iterable[tuple[Ways, str]]) -> Iterable[tuple[Ways, str]]:
    """Interfaces by what is said of what passes them."""
    found: dict[Ways, list[str]] = {}
    for ways, interface in doors:
        found.setdefault(ways, []).append(interface or OTHERS)
    return [(ways, ALIKE.join(some) if len(found) > 1 else "") for ways, some in found.items()]


def _ways(paths: Iterable[Path]) -> Ways:
    before, after = paths
    return Ways(before, after)


def _known(worlds: tuple[World, World]) -> Iterator[Address]:
    """Whoever is an end by himself."""
    for world in worlds:
        yield from world.cluster.holders
        yield from world.cluster.node_names


def _at(one: Difference, node: str, by: str, to: str) -> Difference:
    """The same networks, by interfaces of a node."""
    sources = tuple(end._replace(node=node, interface=by) for end in one.sources)
    return replace(
        one, sources=sources, destinations=tuple(end._replace(node=node, interface=to) for end in one.destinations)
    )


class _Way:
    """In by one interface of a node, and out by another."""

    def __init__(self, worlds: tuple[World, World], shifts: Shifts, divider: Divider, ways: Ways) -> None:
        self._worlds = worlds
        self._shifts = shifts
        self._divider = divider
        self._ways = ways

    def classes(self, side: Side) -> Classes:
        """The networks at a side, as far as the policies tell them apart."""
        conditions = self._shifts.conditions(self._ways, side)
        prefixes = {prefix for condition in conditions for prefix in self._prefixes(condition)}
        regions = tuple(regions_of(prefixes, self._divider.addresses))
        notes = self._divider.divide_others(conditions, [end.address for end in regions]).notes
        found: dict[int, dict[tuple[int, ...], list[End]]] = {}
        for end in regions:
            found.setdefault(end.version, {}).setdefault(notes.get(end.address, ()), []).append(end)
        return {version: tuple(some.values()) for version, some in found.items()}

    def _prefixes(self, condition: Condition) -> Iterator[Prefix]:
        if isinstance(condition, Prefix):
            yield condition
            return
        for world in self._worlds:
            held = world.held(condition)
            yield from held.prefixes
            yield from map(host_prefix, held.addresses - self._divider.addresses)

    def differences(self) -> tuple[Difference, ...] | None:
        """What fares otherwise from network to network, whatever the node; None where there are too many networks."""
        sources, targets = self.classes("source"), self.classes("destination")
        if sum(len(some) * len(targets.get(version, ())) for version, some in sources.items()) > MOST_PAIRS:
            return None
        return tuple(self._between(sources, targets))

    def _between(self, sources: Classes, targets: Classes) -> Iterator[Difference]:
        before, after = self._shifts.tracks(self._ways)
        for version in sources:
            for some, others in product(sources[version], targets.get(version, ())):
                pair = some[0].address, others[0].address
                was, is_now = before.between(*pair), after.between(*pair)
                if [clause.meaning for clause in was] == [clause.meaning for clause in is_now]:
                    continue
                turns = tuple(derive_turns(version, (was, is_now), ((), ())))
                if turns:
                    yield Difference(tuple(some), tuple(others), turns, is_within=True)
