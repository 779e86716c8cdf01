"""The routes that BGP taught, and the ways to its peers, in this node's kernel under a protocol number of their own.

In: deltas of learned routes, gateways of peers, kernel events; out: routes and the nexthop objects that they share.
Routes of an earlier run stay until a complete table says what may go. What others take away, or what goes with its
device, is put back as the kernel tells; where the host's own routes change, each next hop is looked up anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import assert_never

from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import bare, device_of
from birdpy.fib import NORMAL_METRIC, LearnedRoute, RouteDelta
from felixpy.addresses import Address, Prefix, host_prefix
from felixpy.agent.kernel.applier import Applier
from felixpy.agent.routing.next_hops import HopSet, NextHops
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_LEARNED,
    ROUTE_PROTOCOL_WORKLOAD,
    Hop,
    Key,
    Kind,
    Route,
    RouteType,
    Seen,
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
)
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.reconcile import Reconciler

_log = logging.getLogger(__name__)

LOOPBACK = "lo"
GATHER_S = 0.05
"""Kernel events so close together cost one repair."""


class LearnedRoutes(RouteDriver):
    """The route driver, for routes that BGP taught and nothing else."""

    def __init__(self) -> None:
        super().__init__(protocols=(ROUTE_PROTOCOL_LEARNED,))

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """Routes and nexthops with our protocol number."""
        seen = super().read()
        return Seen({key: one for key, one in seen.objects.items() if key.kind in (Kind.ROUTE, Kind.NEXTHOP)})


class LearnedTable:
    """`survived`: the kernel held such routes when we came."""

    def __init__(self) -> None:
        self.driver = LearnedRoutes()
        self.reconciler = Reconciler(self.driver, lambda _: {})
        self.survived = bool(self.driver.read().objects)
        self._applier = Applier("learned routes", self.reconciler, lambda: None)
        self._routes: dict[BgpPrefix, LearnedRoute] = {}
        self._hops = NextHops()
        self._ways: frozenset[Key] = frozenset()
        self._adopted = False
        self._pruned = False
        self._down: set[str] = set()
        self._resolve = False
        self._reread = False
        self._repair: asyncio.TimerHandle | None = None

    @property
    def installed(self) -> int:
        """How many learned routes the kernel has."""
        return len(self._routes) - sum(key.kind is Kind.ROUTE for key in self.reconciler.failed)

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
        self.reconciler.want(changes)
        if not self._adopted:
            self.reconciler.distrust(prune=False)
            self._adopted = True
        self._applier.apply("ways to BGP peers")

    def take(self, delta: RouteDelta) -> None:
        """Makes the kernel what the delta asks for.

        Next hops are left once all are taken: one that some routes leave and others take keeps its object and its way.
        """
        changes = Changes()
        left: list[HopSet] = []
        self._hops.lose(delta.lost, changes)
        self._find_ways({route.next_hops for route in delta.put.values()}, changes)
        for prefix, route in delta.put.items():
            old = self._routes.get(prefix)
            number = self._hops.take(route.next_hops, changes)
            if old is not None:
                left.append(old.next_hops)
                if old.metric != route.metric:
                    changes.objects[route_key(prefix, old)] = None
            self._routes[prefix] = route
            one = learned_route(prefix, route, number)
            changes.objects[one.key] = one
        for prefix in delta.drop:
            gone = self._routes.pop(prefix, None)
            if gone is not None:
                left.append(gone.next_hops)
                changes.objects[route_key(prefix, gone)] = None
        for next_hops in left:
            self._hops.leave(next_hops, changes)
        self.reconciler.want(changes)
        if not self._adopted:
            self.reconciler.distrust(prune=delta.complete)
            self._adopted, self._pruned = True, delta.complete
        elif delta.complete and not self._pruned:
            self.reconciler.prune()
            self._pruned = True
        self._applier.apply("BGP")

    def _find_ways(self, sets: Iterable[HopSet], changes: Changes, again: bool = False) -> set[HopSet]:
        """Asks the kernel the way to next hops that have none yet, or to all of them."""
        wanted = {*self._hops.hops, *self._hops.unknown(sets)} if again else self._hops.unknown(sets)
        if not wanted:
            return set()
        told = {hop: Outlet(device, Address(bare(hop))) for hop in wanted if (device := device_of(hop))}
        try:
            outlets = {**find_outlets(wanted - told.keys(), but_by=ROUTE_PROTOCOL_LEARNED), **told}
        except OSError as error:
            _log.warning("the ways to next hops cannot be read: %s", error)
            return set()
        return self._hops.resolve(outlets, changes)

    def _find_ways_again(self) -> None:
        """Something of the host's own routes changed: each next hop may be reached another way now."""
        self._resolve = False
        changes = Changes()
        turned = self._find_ways((), changes, again=True)
        for prefix, route in self._routes.items() if turned else ():
            if route.next_hops in turned:
                one = learned_route(prefix, route, self._hops.take(route.next_hops, changes, users=0))
                changes.objects[one.key] = one
        self.reconciler.want(changes)

    def notice(self, event: KernelEvent) -> None:
        """Takes what happened in the kernel; what has to be repaired is, once for a burst of events."""
        if self._adopted and self._may_be_broken(event) and self._repair is None:
            self._repair = asyncio.get_running_loop().call_later(GATHER_S, self._repair_routes)

    def _may_be_broken(self, event: KernelEvent) -> bool:
        """Whether there may be something to repair.

        Of routes that go with their device or its address the kernel tells nothing: only reading finds them.
        """
        match event:
            case RouteChanged(key=key, protocol=protocol):
                if self.reconciler.wants(key):
                    self.reconciler.touch((key,))
                    return True
                self._resolve |= protocol not in (ROUTE_PROTOCOL_WORKLOAD, ROUTE_PROTOCOL_LEARNED)
                return self._resolve
            case LinkChanged(name=name, up=up, gone=gone):
                if up and not gone:
                    self._reread |= name in self._down
                    self._down.discard(name)
                    self._resolve = True
                    self.reconciler.retry()
                    return True
                if gone:
                    self._down.discard(name)
                else:
                    self._down.add(name)
                return False
            case NextHopChanged(key=key, gone=False):
                if not self.reconciler.wants(key):
                    return False
                self.reconciler.touch((key,))
                return True
            case NeighbourChanged() | NftChanged():
                return False
            case AddressChanged() | NextHopChanged() | Overrun():
                self._resolve = self._reread = True
                return True
            case _:
                assert_never(event)

    def _repair_routes(self) -> None:
        self._repair = None
        if self._resolve:
            self._find_ways_again()
        if self._reread:
            self._reread = False
            self.reconciler.distrust(prune=self._pruned)
        self._applier.apply("kernel changed")


def gateway_route(way: tuple[BgpPrefix, bytes]) -> Route:
    """The kernel's form of the way to a peer; it comes before anything that is learned."""
    prefix, gateway = way
    destination = Prefix(Address(prefix.address), prefix.length)
    return Route(destination, ROUTE_PROTOCOL_LEARNED, gateway=Address(gateway), metric=0)


def local_route(address: bytes) -> Route:
    """What makes an address this node's own on every device, without being on any."""
    return Route(host_prefix(address), ROUTE_PROTOCOL_LEARNED, RouteType.LOCAL, device=LOOPBACK, metric=0)


def learned_route(prefix: BgpPrefix, route: LearnedRoute, number: int | None) -> Route:
    """The kernel's form of a learned route: it names a nexthop, or where that has none the next hops themselves."""
    destination = Prefix(Address(prefix.address), prefix.length)
    metric = 0 if destination.version == 6 and route.metric == NORMAL_METRIC else route.metric
    if number is not None:
        return Route(destination, ROUTE_PROTOCOL_LEARNED, nexthop_id=number, metric=metric)
    if len(route.next_hops) == 1:
        gateway = Address(route.next_hops[0])
        return Route(destination, ROUTE_PROTOCOL_LEARNED, gateway=gateway, metric=metric)
    hops = tuple(Hop(Address(hop), None) for hop in route.next_hops)
    return Route(destination, ROUTE_PROTOCOL_LEARNED, hops=hops, metric=metric)


def route_key(prefix: BgpPrefix, route: LearnedRoute) -> Key:
    """The kernel's key of a learned route."""
    return learned_route(prefix, route, 0).key
