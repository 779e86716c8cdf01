"""The routes that BGP taught, and the ways to its peers, in this node's kernel under a protocol number of their own.

In: deltas of learned routes, gateways of peers, kernel events; out: routes and the nexthop objects that they share.
Routes of an earlier run stay until a complete table says what may go. What others take away, or what goes with its
device, is put back as the kernel tells; where the host's own routes change, each next hop is looked up anew.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import assert_never

from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import bare, device_of
from birdpy.fib import LearnedRoute, RouteDelta
from felixpy.addresses import Address, Prefix, host_prefix
from felixpy.agent.kernel.applier import Applier
from felixpy.agent.kernel.repairs import Contest, Repairs
from felixpy.agent.routing.learned_driver import LearnedRoutes
from felixpy.agent.routing.next_hops import HopSet, NextHops
from felixpy.agent.routing.places import OURS, TakenPlaces
from felixpy.agent.routing.route_reconciler import Lead, RouteReconciler
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_LEARNED,
    Key,
    Outcome,
    Route,
    RouteType,
)
from felixpy.drivers.netlink.lookup import Outlet, find_outlets
from felixpy.drivers.netlink.monitor import (
    AddressChanged,
    KernelEvent,
    LinkChanged,
    NeighbourChanged,
    NextHopChanged,
    NftChanged,
    Overrun,
    RouteChanged,
    SettingChanged,
)

_log = logging.getLogger(__name__)

LOOPBACK = "lo"
NOT_WANTED = "not wanted (--nexthops none)"

WAY_METRIC = 1
"""Of ways to peers: 0 is what the host's own routes have (and of IPv6 the kernel makes 1024 of it)."""

TAUGHT = "learned routes"
WAYS = "ways to next hops"


class LearnedTable:
    """`survived`: the kernel held such routes when we came. `objects`: whether nexthop objects may be made."""

    def __init__(self, objects: bool = True) -> None:
        self.driver = LearnedRoutes(self._hear_refused, self._hear_nothing)
        self.plain = self.driver.why_no_nexthops() if objects else NOT_WANTED
        self.reconciler = RouteReconciler(self.driver)
        self.survived = bool(self.driver.read().objects) or any(True for _ in self.driver.read_alike())
        self._applier = Applier("learned routes", self.reconciler, lambda: None)
        self._routes: dict[BgpPrefix, LearnedRoute] = {}
        self._hops = NextHops(objects=not self.plain)
        self._ways: frozenset[Key] = frozenset()
        self._taken = TakenPlaces()
        self._adopted = False
        self._pruned = False
        self._down: set[str] = set()
        self._resolve = False
        self._reread = self._missed = False
        self._repairs = Repairs(self._repair)

    @property
    def installed(self) -> int:
        """How many learned routes the kernel has."""
        return self.reconciler.installed

    def put_ways(self, gateways: Mapping[BgpPrefix, bytes], local_addresses: Iterable[bytes]) -> None:
        """Takes the routes to peers that say by which gateway they are reached, and the addresses at which this node's
        own workloads reach it. They wait for nobody.
        """
        ways = (*map(gateway_route, gateways.items()), *map(local_route, local_addresses))
        wanted = {route.key: route for route in ways}
        if not self._ways and not wanted:
            return
        changes = Changes()
        changes.objects.update(dict.fromkeys(self._ways - wanted.keys()))
        changes.objects.update(wanted)
        self._ways = frozenset(wanted)
        self.reconciler.want(changes, {})
        if not self._adopted:
            self._read_places()
            self.reconciler.distrust(prune=False)
            self._adopted = True
        self._applier.apply("ways to BGP peers")

    def take(self, delta: RouteDelta) -> None:
        """Makes the kernel what the delta asks for. Routes are many and lead few ways, so it goes by these.

        Next hops are left once all are taken: one that some routes leave and others take keeps its object and its way.
        """
        if not self._adopted:
            self._read_places()
        changes = Changes()
        alike = _group(delta.put)
        turned = self._hops.lose(delta.lost, changes)
        put = self._lead_anew(turned | self._find_ways({route.next_hops for route in alike}, changes))
        known = self._routes.keys()
        left = Counter(self._routes[prefix].next_hops for prefix in (known & delta.put.keys()) | (known & delta.drop))
        for route, prefixes in alike.items():
            self._hops.take(route.next_hops, changes, len(prefixes))
            put.update(dict.fromkeys(prefixes, self._lead(route)))
        self._routes.update(delta.put)
        for prefix in delta.drop:
            self._routes.pop(prefix, None)
        for next_hops, users in left.items():
            self._hops.leave(next_hops, changes, users)
        self._taken.give_way(put)
        self.reconciler.want(changes, put, delta.drop)  # type: ignore[arg-type]
        if not self._adopted:
            self.reconciler.distrust(prune=delta.complete)
            self._adopted, self._pruned = True, delta.complete
        elif delta.complete and not self._pruned:
            self.reconciler.prune()
            self._pruned = True
        self._applier.apply("BGP")

    def _hear_refused(self, refused: Sequence[Outcome]) -> None:
        self._applier.note(self.reconciler.note_refused(refused))

    def _hear_nothing(self) -> None:
        """The kernel did not answer, so what it did is not known."""
        self.reconciler.distrust(prune=self._pruned)
        self._applier.apply("no answer")

    def _lead(self, route: LearnedRoute) -> Lead:
        return Lead(self._hops.find_target(route.next_hops), route.metric)

    def _lead_anew(self, turned: Collection[HopSet]) -> dict[Prefix, Lead]:
        """The routes that are to name something else, because their next hops do."""
        if not turned:
            return {}
        found: dict[Prefix, Lead] = {}
        alike = _group({prefix: route for prefix, route in self._routes.items() if route.next_hops in turned})
        for route, prefixes in alike.items():
            found.update(dict.fromkeys(prefixes, self._lead(route)))
        return found

    def _find_ways(self, sets: Iterable[HopSet], changes: Changes, again: bool = False) -> set[HopSet]:
        """Asks the kernel the way to next hops that have none yet, or to all of them."""
        wanted = {*self._hops.hops, *self._hops.unknown(sets)} if again else self._hops.unknown(sets)
        if not wanted:
            return set()
        told = {hop: Outlet(device, Address(bare(hop))) for hop in wanted if (device := device_of(hop))}
        try:
            found = find_outlets(wanted - told.keys(), but_by=ROUTE_PROTOCOL_LEARNED, spared=WAY_METRIC)
            outlets = {**found, **told}
        except OSError as error:
            _log.warning("the ways to next hops cannot be read: %s", error)
            return set()
        return self._hops.resolve(outlets, changes)

    def _find_ways_again(self) -> None:
        """Something of the host's own routes changed: each next hop may be reached another way now."""
        self._resolve = False
        changes = Changes()
        put = self._lead_anew(self._find_ways((), changes, again=True))
        self._taken.give_way(put)
        self.reconciler.want(changes, put)

    def _read_places(self) -> None:
        """Reads the routes of others; those of ours that are concerned, or were until now, give way or come back."""
        before = self._taken.destinations
        try:
            self._taken.reset((to, alike.key) for to, alike in self.driver.read_foreign() if alike.protocol not in OURS)
        except OSError as error:
            _log.warning("the routes of others cannot be read: %s", error)
            return
        concerned = (before | self._taken.destinations) & self._routes.keys()
        put = {prefix: self._lead(self._routes[prefix]) for prefix in concerned}  # type: ignore[index]
        self._taken.give_way(put)
        self.reconciler.want(Changes(), put)

    def _give_way(self, key: Key, gone: bool) -> bool:
        """Takes a route of others that came or went; whether that moves one of ours."""
        prefix = self._taken.note(key, gone)
        route = self._routes.get(prefix) if prefix is not None else None  # type: ignore[call-overload]
        if prefix is None or route is None:
            return False
        put = {prefix: self._lead(route)}
        self._taken.give_way(put)
        if self.reconciler.desired.get(prefix) == put[prefix]:
            return False
        self.reconciler.want(Changes(), put)
        return True

    def notice(self, event: KernelEvent) -> None:
        """Takes what happened in the kernel; what has to be repaired is, once for a burst of events."""
        if self._adopted and (what := self._find_broken(event)):
            self._repairs.notice(what, "kernel changed", everything=False, certain=what is TAUGHT)

    @property
    def contests(self) -> tuple[Contest, ...]:
        """What somebody keeps undoing, which is put right later each time."""
        return self._repairs.contests

    def _find_broken(self, event: KernelEvent) -> str:
        """What there may be to repair; "" for nothing.

        Of routes that go with their device or its address the kernel tells nothing: only reading finds them.
        """
        match event:
            case RouteChanged(key=key, protocol=protocol, gone=gone):
                moved = self.reconciler.wants(key)
                if moved:
                    self.reconciler.touch(key)
                if protocol not in OURS:
                    moved |= self._give_way(key, gone)
                    self._resolve = True
                if moved:
                    return TAUGHT
                return WAYS if self._resolve else ""
            case LinkChanged(name=name, up=up, gone=gone):
                if up and not gone:
                    self._reread |= name in self._down
                    self._down.discard(name)
                    self._resolve = True
                    self.reconciler.retry()
                    return WAYS
                if gone:
                    self._down.discard(name)
                else:
                    self._down.add(name)
                return ""
            case NextHopChanged(key=key, gone=False):
                if not self.reconciler.wants(key):
                    return ""
                self.reconciler.touch(key)
                return TAUGHT
            case NeighbourChanged() | NftChanged() | SettingChanged():
                return ""
            case AddressChanged() | NextHopChanged() | Overrun():
                self._resolve = self._reread = True
                self._missed |= isinstance(event, Overrun)
                return WAYS
            case _:
                assert_never(event)

    def _repair(self, why: str, _: bool) -> bool:
        if self._missed:
            self._missed = False
            self._read_places()
        if self._resolve:
            self._find_ways_again()
        if self._reread:
            self._reread = False
            self.reconciler.distrust(prune=self._pruned)
        self._applier.apply(why)
        return False


def gateway_route(way: tuple[BgpPrefix, bytes]) -> Route:
    """The kernel's form of the way to a peer; it comes before anything that is learned, and in nobody else's place."""
    prefix, gateway = way
    destination = Prefix(Address(prefix.address), prefix.length)
    return Route(destination, ROUTE_PROTOCOL_LEARNED, gateway=Address(gateway), metric=WAY_METRIC)


def local_route(address: bytes) -> Route:
    """What makes an address this node's own on every device, without being on any."""
    return Route(host_prefix(address), ROUTE_PROTOCOL_LEARNED, RouteType.LOCAL, device=LOOPBACK, metric=0)


def _group(routes: Mapping[BgpPrefix, LearnedRoute]) -> Mapping[LearnedRoute, Sequence[Prefix]]:
    """The prefixes of routes that are alike; of a table, most often all."""
    if len(set(map(id, routes.values()))) == 1:
        return {next(iter(routes.values())): [*routes]}  # type: ignore[list-item]
    found: dict[LearnedRoute, list[Prefix]] = {}
    last: LearnedRoute | None = None
    for prefix, route in routes.items():
        if route is not last:
            last, prefixes = route, found.setdefault(route, [])
        prefixes.append(prefix)  # type: ignore[arg-type]
    return found
