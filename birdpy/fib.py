"""Learned paths to routes: what the kernel should hold of what the neighbours said.

In: path events, as gobgpd's best-path watch gives them, and a filter. Out: routes to put and prefixes to drop. Never
touches netlink and never decides between paths: gobgpd has, and equal ones share the traffic. `derive_routes` is the
same from scratch. Source: RFC 4271 §9.1, RFC 9494 §4.5; Calico's local_pref to kernel metric rule (bird.cfg.template).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, KeysView, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from birdpy.addresses import Prefix, Version, is_forwardable, version_of
from birdpy.ranges import is_within

NORMAL_METRIC = 1024
"""Calico's normal route priority."""
LOCAL_PREF_TOP = (1 << 31) - 1
"""local_pref of metric 0: a local_pref within NORMAL_METRIC below it carries a metric (Calico's live migration)."""
DEFAULT_LOCAL_PREF = 100
_DEFAULTS = frozenset({Prefix(bytes(4), 0), Prefix(bytes(16), 0)})


class Source(NamedTuple):
    """Where a path came from: the neighbour as gobgpd names it ("" for our own), and its add-path identifier."""

    neighbor: str
    identifier: int = 0


class Path(NamedTuple):
    """One best (or equally good) path to a prefix."""

    next_hop: bytes
    local_pref: int = DEFAULT_LOCAL_PREF
    long_lived_stale: bool = False


class PathPut(NamedTuple):
    """`source` has this path to each of `prefixes` now."""

    prefixes: Sequence[Prefix]
    source: Source
    path: Path


class PathGone(NamedTuple):
    """The path of `source` to `prefix` is no longer among the best."""

    prefix: Prefix
    source: Source


class PathSet(NamedTuple):
    """All best paths to `prefix` now, none when empty."""

    prefix: Prefix
    paths: Mapping[Source, Path]


PathEvent = PathPut | PathGone | PathSet
Paths = Mapping[Source, Path]
"""All best paths to a prefix. Prefixes that are alike share one such value, so nobody ever changes one."""
PathTable = Mapping[Prefix, Paths]


class LearnedRoute(NamedTuple):
    """Where a route for the kernel leads. `next_hops` ascending, none twice; `metric` is the kernel's (lower wins)."""

    next_hops: tuple[bytes, ...]
    metric: int = NORMAL_METRIC


@dataclass(frozen=True, slots=True)
class RouteFilter:
    """Which learned routes stay out of the kernel.

    `own_prefixes` are ours to serve (a longer one inside may still live elsewhere); nothing within `excluded` is
    installed (tunnelled pools, to which every node has routes of its own); a next hop of `own_addresses` would be a
    loop. `metrics` are those of ordinary routes, of IPv4 and IPv6; a default route comes one behind.
    """

    own_prefixes: frozenset[Prefix] = frozenset()
    own_addresses: frozenset[bytes] = frozenset()
    excluded: tuple[Prefix, ...] = ()
    metrics: tuple[int, int] = (NORMAL_METRIC, NORMAL_METRIC)

    def admits(self, prefix: Prefix) -> bool:
        """Whether routes to `prefix` are wanted at all."""
        if prefix in self.own_prefixes:
            return False
        return not (self.excluded and any(is_within(prefix, outer) for outer in self.excluded))

    def find_refused(self, prefixes: KeysView[Prefix]) -> Set[Prefix]:
        """Those to which routes are not wanted; costs little where there are none."""
        if self.excluded:
            return {prefix for prefix in prefixes if not self.admits(prefix)}
        return self.own_prefixes & prefixes


class RouteDelta(NamedTuple):
    """Routes to put and prefixes to drop.

    `complete`: all that the neighbours have to say is known, so a kernel route of ours in no delta is a leftover.
    `lost`: neighbours that take their routes back because their session is gone. Deltas will say so route by route;
    whoever shares traffic with them may do without them at once.
    """

    put: Mapping[Prefix, LearnedRoute]
    drop: frozenset[Prefix]
    complete: bool
    lost: frozenset[bytes] = frozenset()


class Phase(StrEnum):
    """How far the table can be trusted."""

    FROZEN = "frozen"
    """gobgpd is away: nothing is dropped."""
    RESYNCING = "resyncing"
    """The table is being learned anew: routes not yet confirmed stay."""
    LIVE = "live"


def metric_of(local_pref: int, normal: int = NORMAL_METRIC) -> int:
    """The kernel metric that a local_pref carries; `normal` where it carries none that comes before it."""
    return LOCAL_PREF_TOP - local_pref if LOCAL_PREF_TOP - normal < local_pref < LOCAL_PREF_TOP else normal


def choose_route(prefix: Prefix, paths: Paths, route_filter: RouteFilter) -> LearnedRoute | None:
    """The route for the best paths to `prefix`; None where one of them is our own, or none can be used.

    Long-lived stale paths count only where there is no other. Of several metrics the lowest is taken, with its paths. A
    default route comes after the host's own, which often have the usual metric (DHCP, router advertisements): in its
    place it would cut the host off as soon as it is gone.
    """
    route = _choose_among(paths, route_filter, version_of(prefix.address))
    if route is None or not route_filter.admits(prefix):
        return None
    return _shared(route._replace(metric=route.metric + 1)) if prefix in _DEFAULTS else route


def _choose_among(paths: Paths, route_filter: RouteFilter, version: Version) -> LearnedRoute | None:
    """As `choose_route`, for any prefix of a version that is wanted at all."""
    usable: list[Path] = []
    for source, path in paths.items():
        if not source.neighbor:
            return None
        if is_forwardable(path.next_hop) and path.next_hop not in route_filter.own_addresses:
            usable.append(path)
    if not usable:
        return None
    if len(usable) > 1:
        usable = [path for path in usable if not path.long_lived_stale] or usable
    normal = route_filter.metrics[version == 6]
    metric = min(metric_of(path.local_pref, normal) for path in usable)
    hops = {path.next_hop for path in usable if metric_of(path.local_pref, normal) == metric}
    return _shared(LearnedRoute(tuple(sorted(hops)), metric))


@lru_cache(maxsize=4096)
def _shared(route: LearnedRoute) -> LearnedRoute:
    """Most routes are alike but for their prefix: they share one value."""
    return route


def derive_routes(paths: PathTable, route_filter: RouteFilter) -> Mapping[Prefix, LearnedRoute]:
    """All routes for all paths: the oracle of `Fib`."""
    routes = {prefix: choose_route(prefix, sources, route_filter) for prefix, sources in paths.items()}
    return {prefix: route for prefix, route in routes.items() if route is not None}


@dataclass(slots=True)
class Fib:
    """The learned table, kept up event by event. The routes it has given out survive gobgpd's absence."""

    route_filter: RouteFilter = RouteFilter()
    phase: Phase = Phase.FROZEN
    paths: dict[Prefix, Paths] = field(default_factory=dict)
    routes: dict[Prefix, LearnedRoute] = field(default_factory=dict)
    unconfirmed: set[Prefix] = field(default_factory=set)

    def freeze(self) -> None:
        """gobgpd is away: its paths are unknown, and the routes stay."""
        self.phase = Phase.FROZEN

    def resync(self) -> None:
        """A snapshot begins: every route waits to be confirmed by it."""
        self.phase = Phase.RESYNCING
        self.paths.clear()
        self.unconfirmed = set(self.routes)

    def sweep(self) -> RouteDelta:
        """All that can be confirmed has been: the rest goes."""
        self.phase = Phase.LIVE
        gone = frozenset(self.unconfirmed)
        self.unconfirmed = set()
        for prefix in gone:
            self.routes.pop(prefix, None)
        return RouteDelta({}, gone, True)

    def find_teachers(self, prefix: Prefix) -> tuple[str, ...]:
        """The neighbours whose paths the route to `prefix` takes, as gobgpd names them; none for one not confirmed."""
        route = self.routes.get(prefix)
        if route is None:
            return ()
        paths = self.paths.get(prefix, _NOTHING)
        return tuple(sorted({source.neighbor for source, path in paths.items() if path.next_hop in route.next_hops}))

    def count_taken(self) -> Mapping[str, int]:
        """How many prefixes have a path of each neighbour, as gobgpd names it, among their best. Reads all of them."""
        return Counter(neighbor for paths in self.paths.values() for neighbor in {source.neighbor for source in paths})

    def update(self, events: Iterable[PathEvent]) -> RouteDelta:
        """Takes events in; the last one per prefix and source wins."""
        touched: dict[Prefix, Paths] = {}
        without: dict[tuple[int, Source], tuple[Paths, Paths]] = {}
        for event in events:
            if isinstance(event, PathPut):
                self._put(event, touched)
            elif isinstance(event, PathSet):
                self._set(event.prefix, event.paths, touched)
            else:
                known = self.paths.get(event.prefix, _NOTHING)
                key = id(known), event.source
                if key not in without:
                    without[key] = known, {source: path for source, path in known.items() if source != event.source}
                self._set(event.prefix, without[key][1], touched)
        return self._settle(touched)

    def _put(self, event: PathPut, touched: dict[Prefix, Paths]) -> None:
        """Prefixes that were alike are alike afterwards: they share what they have become."""
        known, alone = self.paths, {event.source: event.path}
        beside: dict[int, tuple[Paths, Paths]] = {}
        for prefix in event.prefixes:
            before = known.get(prefix)
            if before is None or before.keys() == alone.keys():
                known[prefix] = touched[prefix] = alone
                continue
            if id(before) not in beside:
                beside[id(before)] = before, {**before, **alone}
            known[prefix] = touched[prefix] = beside[id(before)][1]

    def _set(self, prefix: Prefix, paths: Paths, touched: dict[Prefix, Paths]) -> None:
        touched[prefix] = paths
        if paths:
            self.paths[prefix] = paths
        else:
            self.paths.pop(prefix, None)

    def set_filter(self, route_filter: RouteFilter) -> RouteDelta:
        """Another filter: the known paths are judged anew; where only prefixes of ours came or went, those to them."""
        before, self.route_filter = self.route_filter, route_filter
        known: Iterable[Prefix] = self.paths
        waiting: Iterable[Prefix] = self.unconfirmed
        if replace(before, own_prefixes=route_filter.own_prefixes) == route_filter:
            changed = before.own_prefixes ^ route_filter.own_prefixes
            known = changed & self.paths.keys()
            waiting = changed & self.unconfirmed
        refused = [prefix for prefix in waiting if not route_filter.admits(prefix)]
        return self._settle({prefix: self.paths.get(prefix, _NOTHING) for prefix in (*known, *refused)})

    def _settle(self, touched: dict[Prefix, Paths]) -> RouteDelta:
        """Judges each set of paths once, however many prefixes share it."""
        put: dict[Prefix, LearnedRoute] = {}
        drop: set[Prefix] = set()
        routes, unconfirmed = self.routes, self.unconfirmed
        apart: dict[Prefix, LearnedRoute | None] = dict.fromkeys(self.route_filter.find_refused(touched.keys()))
        for prefix in _DEFAULTS & touched.keys():
            apart[prefix] = choose_route(prefix, touched[prefix], self.route_filter)
        judged: dict[tuple[int, int], LearnedRoute | None] = {}
        last: Paths | None = None
        size, verdict = 0, None
        for prefix, paths in touched.items():
            if paths is not last or len(prefix[0]) != size:
                last, size = paths, len(prefix[0])
                key = id(paths), size
                if key not in judged:
                    judged[key] = _choose_among(paths, self.route_filter, version_of(prefix[0]))
                verdict = judged[key]
            route = apart[prefix] if apart and prefix in apart else verdict
            if unconfirmed:
                unconfirmed.discard(prefix)
            before = routes.get(prefix)
            if route is before or route == before:
                continue
            if route is None:
                del routes[prefix]
                drop.add(prefix)
            else:
                routes[prefix] = put[prefix] = route
        return RouteDelta(put, frozenset(drop), self.phase is Phase.LIVE)


_NOTHING: Paths = MappingProxyType({})
