"""Service addresses by the ranges of BGPConfiguration: ranges that every node announces whole, addresses by themselves.

In: the ranges, and the frontends of an address. Out: whether a range goes out whole, and whether an address of it goes
out alone from this node: where its traffic is for nodes with an endpoint, where its range is that address only, and
where load balancer ranges are not aggregated. An address without an endpoint is never announced alone. Pure.
Source: confd/pkg/backends/calico/routes.go (advertiseThisService), client.go (updateGlobalRoutes).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from felixpy.addresses import Address, Prefix
from felixpy.calc.reasons import Reason
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.calc.services.frontends import Frontend, FrontendIntent, Origin
from felixpy.resources.bgp_types import BgpConfiguration
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.service_types import Service, TrafficPolicy
from felixpy.resources.tables import Ref, Table

ROUTED = (Origin.CLUSTER, Origin.EXTERNAL)
"""Addresses that nobody granted: what is announced of them the ranges alone say."""


@dataclass(frozen=True, slots=True)
class ServiceRanges:
    """What the configuration `default` says; nothing is announced by a range that is not there."""

    cluster: tuple[Prefix, ...] = ()
    external: tuple[Prefix, ...] = ()
    load_balancer: tuple[Prefix, ...] = ()
    aggregate: bool = True

    @property
    def whole(self) -> frozenset[Prefix]:
        """The ranges that every node announces."""
        balanced = self.load_balancer if self.aggregate else ()
        return frozenset((*self.cluster, *(one for one in (*self.external, *balanced) if not is_single(one))))

    def around(self, origin: Origin, address: Address) -> tuple[Prefix, ...]:
        """The ranges for addresses of this origin that an address is in."""
        ranges = {Origin.CLUSTER: self.cluster, Origin.EXTERNAL: self.external, Origin.GRANT: self.load_balancer}
        return tuple(one for one in ranges.get(origin, ()) if one.contains(address))


def read_ranges(configuration: object) -> ServiceRanges:
    """Of the configuration `default`, if there is one."""
    if not isinstance(configuration, BgpConfiguration):
        return ServiceRanges()
    return ServiceRanges(
        configuration.service_cluster_cidrs,
        configuration.service_external_cidrs,
        configuration.service_lb_cidrs,
        configuration.aggregate_lb,
    )


def is_single(prefix: Prefix) -> bool:
    """Whether it is one address."""
    return prefix.length == len(prefix.address) * 8


def judge_address(
    address: Address, intents: Collection[FrontendIntent], services: Mapping[Name, Service], ranges: ServiceRanges
) -> bool | Reason | None:
    """Whether an address goes out alone, or why not; None where no range asks for that."""
    found = {_judge(address, intent, services.get(intent.service), ranges) for intent in intents}
    found.discard(None)
    if True in found:
        return True
    reasons: Iterable[Reason] = (one for one in found if isinstance(one, Reason))
    return min(reasons, default=None)


def _judge(
    address: Address, intent: FrontendIntent, service: Service | None, ranges: ServiceRanges
) -> bool | Reason | None:
    around = ranges.around(intent.origin, address)
    if service is None or not around:
        return None
    if service.external_policy is TrafficPolicy.LOCAL:
        here = intent.hairpins if intent.origin is Origin.CLUSTER else intent.outside
        if here and intent.outside:
            return True
        return intent.reason or Reason.NO_LOCAL_ENDPOINT
    alone = intent.origin is not Origin.CLUSTER and any(is_single(one) for one in around)
    if ranges.aggregate and not alone:
        return None
    return True if intent.outside else intent.reason or Reason.NO_ENDPOINT


def routed_at(frontends: Mapping[Frontend, FrontendIntent]) -> Mapping[Address, tuple[FrontendIntent, ...]]:
    """Frontends whose addresses nobody granted, by address."""
    found: dict[Address, list[FrontendIntent]] = {}
    for frontend, intent in frontends.items():
        if intent.origin in ROUTED:
            found.setdefault(frontend.address, []).append(intent)
    return {address: tuple(intents) for address, intents in found.items()}


@dataclass(slots=True)
class RoutedAddresses:
    """The ranges, and the frontends whose addresses nobody granted, kept up to date."""

    ranges: ServiceRanges = ServiceRanges()
    _at: dict[Address, dict[Frontend, FrontendIntent]] = field(default_factory=dict)
    _services: dict[Name, Service] = field(default_factory=dict)

    def update(self, ref: Ref, value: Resource | None) -> Iterator[Prefix | Address]:
        """Takes in one resource; yields the ranges and addresses that may be another thing now."""
        if ref.table is Table.BGP_CONFIGURATION and ref.name.name == "default":
            before, self.ranges = self.ranges, read_ranges(value)
            if before != self.ranges:
                yield from before.whole | self.ranges.whole
                yield from self._at
        elif ref.table is Table.SERVICE:
            old = self._services.pop(ref.name, None)
            new = value if isinstance(value, Service) else None
            if new is not None:
                self._services[ref.name] = new
            for one in (old, new):
                yield from (*one.cluster_addresses, *one.external_addresses) if one is not None else ()

    def update_frontends(self, delta: ServiceDelta) -> Iterator[Address]:
        """Takes in what ServiceCalc flushed; yields the addresses that may be another thing now."""
        for frontend in (*delta.drops, *delta.puts):
            intent = delta.puts.get(frontend)
            held = self._at.setdefault(frontend.address, {})
            known = held.pop(frontend, None)
            if intent is not None and intent.origin in ROUTED:
                held[frontend] = intent
            if known is not None or frontend in held:
                yield frontend.address
            if not held:
                del self._at[frontend.address]

    def everything(self) -> Iterator[Prefix | Address]:
        """All ranges that are announced whole, and all addresses."""
        yield from self.ranges.whole
        yield from self._at

    def intents_at(self, address: Address) -> tuple[FrontendIntent, ...]:
        """What is served at an address that nobody granted."""
        return tuple(self._at.get(address, {}).values())
