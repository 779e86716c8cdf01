"""Learned paths to routes: what the kernel should hold of what the neighbours said.

In: path events, as gobgpd's best-path watch gives them, and a filter. Out: routes to put and prefixes to drop. Never
touches netlink and never decides between paths: gobgpd has, and equal ones share the traffic. `derive_routes` is the
same from scratch. Source: RFC 4271 §9.1, RFC 9494 §4.5; Calico's local_pref to kernel metric rule (bird.cfg.template).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from birdpy.addresses import Prefix, is_forwardable
from birdpy.ranges import is_within

NORMAL_METRIC = 1024
"""Calico's normal route priority."""
LOCAL_PREF_TOP = (1 << 31) - 1
"""local_pref of metric 0: a local_pref within NORMAL_METRIC below it carries a metric (Calico's live migration)."""
DEFAULT_LOCAL_PREF = 100


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
    """`source` has this path to `prefix` now."""

    prefix: Prefix
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
PathTable = Mapping[Prefix, Mapping[Source, Path]]


@dataclass(frozen=True, slots=True)
class LearnedRoute:
    """Where a route for the kernel leads. `next_hops` ascending, none twice; `metric` is the kernel's (lower wins)."""

    next_hops: tuple[bytes, ...]
    metric: int = NORMAL_METRIC


@dataclass(frozen=True, slots=True)
class RouteFilter:
    """Which learned routes stay out of the kernel.

    `own_prefixes` are ours to serve (a longer one inside may still live elsewhere); nothing within `excluded` is
    installed (tunnelled pools, to which every node has routes of its own); a next hop of `own_addresses` would be a
    loop. `metrics` are those of ordinary routes, of IPv4 and IPv6.
    """

    own_prefixes: frozenset[Prefix] = frozenset()
    own_addresses: frozenset[bytes] = frozenset()
    excluded: tuple[Prefix, ...] = ()
    take_default: bool = False
    metrics: tuple[int, int] = (NORMAL_METRIC, NORMAL_METRIC)

    def admits(self, prefix: Prefix) -> bool:
        """Whether routes to `prefix` are wanted at all."""
        if prefix.length == 0 and not self.take_default:
            return False
        if prefix in self.own_prefixes:
            return False
        return not (self.excluded and any(is_within(prefix, outer) for outer in self.excluded))


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


def choose_route(prefix: Prefix, paths: Mapping[Source, Path], route_filter: RouteFilter) -> LearnedRoute | None:
    """The route for the best paths to `prefix`; None where one of them is our own, or none can be used.

    Long-lived stale paths count only where there is no other. Of several metrics the lowest is taken, with its paths.
    """
    if len(paths) == 1:
        ((source, path),) = paths.items()
        usable_alone = source.neighbor and is_forwardable(path.next_hop)
        if not usable_alone or path.next_hop in route_filter.own_addresses or not route_filter.admits(prefix):
            return None
        return _single(path.next_hop, path.local_pref, route_filter.metrics[len(prefix.address) == 16])
    usable: list[Path] = []
    for source, path in paths.items():
        if not source.neighbor:
            return None
        if is_forwardable(path.next_hop) and path.next_hop not in route_filter.own_addresses:
            usable.append(path)
    if not usable or not route_filter.admits(prefix):
        return None
    if len(usable) > 1:
        usable = [path for path in usable if not path.long_lived_stale] or usable
    normal = route_filter.metrics[len(prefix.address) == 16]
    metric = min(metric_of(path.local_pref, normal) for path in usable)
    hops = {path.next_hop for path in usable if metric_of(path.local_pref, normal) == metric}
    return LearnedRoute(tuple(sorted(hops)), metric)


@lru_cache(maxsize=4096)
def _single(next_hop: bytes, local_pref: int, normal: int) -> LearnedRoute:
    """Most routes are alike but for their prefix: they share one value."""
    return LearnedRoute((next_hop,), metric_of(local_pref, normal))


def derive_routes(paths: PathTable, route_filter: RouteFilter) -> Mapping[Prefix, LearnedRoute]:
    """All routes for all paths: the oracle of `Fib`."""
    routes = {prefix: choose_route(prefix, sources, route_filter) for prefix, sources in paths.items()}
    return {prefix: route for prefix, route in routes.items() if route is not None}


@dataclass(slots=True)
class Fib:
    """The learned table, kept up event by event. The routes it has given out survive gobgpd's absence."""

    route_filter: RouteFilter = RouteFilter()
    phase: Phase = Phase.FROZEN
    paths: dict[Prefix, dict[Source, Path]] = field(default_factory=dict)
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
        paths = self.paths.get(prefix, {})
        return tuple(sorted({source.neighbor for source, path in paths.items() if path.next_hop in route.next_hops}))

    def count_taken(self) -> Mapping[str, int]:
        """How many prefixes have a path of each neighbour, as gobgpd names it, among their best. Reads all of them."""
        return Counter(neighbor for paths in self.paths.values() for neighbor in {source.neighbor for source in paths})

    def update(self, events: Iterable[PathEvent]) -> RouteDelta:
        """Takes events in; the last one per prefix and source wins."""
        touched: dict[Prefix, None] = {}
        for event in events:
            prefix = event.prefix
            touched[prefix] = None
            if type(event) is PathPut:
                known = self.paths.get(prefix)
                if known is None:
                    self.paths[prefix] = {event.source: event.path}
                else:
                    known[event.source] = event.path
            elif type(event) is PathGone:
                known = self.paths.get(prefix)
                if known is not None:
                    known.pop(event.source, None)
                    if not known:
                        del self.paths[prefix]
            elif type(event) is PathSet:
                if event.paths:
                    self.paths[prefix] = dict(event.paths)
                else:
                    self.paths.pop(prefix, None)
        return self._settle(touched)

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
        return self._settle([*known, *refused])

    def _settle(self, prefixes: Iterable[Prefix]) -> RouteDelta:
        put: dict[Prefix, LearnedRoute] = {}
        drop: set[Prefix] = set()
        nothing: Mapping[Source, Path] = {}
        for prefix in prefixes:
            route = choose_route(prefix, self.paths.get(prefix, nothing), self.route_filter)
            self.unconfirmed.discard(prefix)
            before = self.routes.get(prefix)
            if route is before or route == before:
                continue
            if route is None:
                del self.routes[prefix]
                drop.add(prefix)
            else:
                self.routes[prefix] = route
                put[prefix] = route
        return RouteDelta(put, frozenset(drop), self.phase is Phase.LIVE)
