"""Services and pools as the choice of an address sees them: our resources → ipam's values. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from felixpy.addresses import Prefix, mask_address
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import AddressPool, Service, TrafficPolicy
from felixpy.resources.services import last_address
from felixpy.resources.types import IpPool, Namespace
from felixpy.selector import compile_selector
from ipam.addresses import Address
from ipam.ledger import Port, Range, Sharer, without_ranges
from ipam.loadbalancer import FamilyPolicy, VipPool, VipService

CALICO_CLASS = "calico"
"""spec.loadBalancerClass of those that want an address of a Calico IPPool, and of nothing else."""
CALICO_POOL = "ippools/"
"""Begins the name of a Calico IPPool among all pools: no name has a slash."""
FOR_SERVICES = "LoadBalancer"
"""In allowedUses of an IPPool."""


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What holds for all of Calico's pools: what is reserved, and whether only who asks for such a pool gets of one.

    An IPReservation keeps addresses from being chosen; who asks for one by itself has it, and who holds one keeps it.
    """

    reserved: tuple[Prefix, ...] = ()
    requested_only: bool = False


_NO_RULES = PoolRules()
_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}


def wants_address(service: Service | None, classes: Collection[str], calico: bool = False) -> bool:
    """Whether a Service is ours to give an address to: of one of these classes, or of Calico's where it has pools."""
    if service is None or service.type != "LoadBalancer":
        return False
    of_class = service.class_name or ""
    return of_class in classes or (calico and of_class == CALICO_CLASS)


class _Wish(msgspec.Struct, rename="camel"):
    type: str = ""
    load_balancer_class: str | None = None


class _Document(msgspec.Struct):
    spec: _Wish = msgspec.field(default_factory=_Wish)


def asks_for_address(value: bytes, classes: Collection[str]) -> bool:
    """Whether a Service of which not everything can be read is ours to give an address to."""
    document = decode_or_none(value, _Document)
    if document is None:
        return False
    spec = document.spec
    return spec.type == "LoadBalancer" and (spec.load_balancer_class or "") in classes


def make_sharer(name: Name, service: Service | None, revision: int) -> Sharer:
    """What decides with whom a Service, last changed at `revision`, may share; one that is gone shares with nobody."""
    if service is None:
        return Sharer(str(name), rank=revision)
    local = service.external_policy is TrafficPolicy.LOCAL
    return Sharer(
        str(name),
        service.sharing_key,
        frozenset(Port(_PROTOCOLS.get(port.protocol, str(port.protocol)), port.port) for port in service.ports),
        _describe_backend(name, service) if local else "",
        revision,
    )


def _describe_backend(name: Name, service: Service) -> str:
    """The same for those that are on the same nodes: they select the same pods. Endpoints made by hand are its own."""
    if not service.selector:
        return f"endpoints of {name}"
    return f"in {name.namespace} " + ",".join(f"{label}={value}" for label, value in sorted(service.selector))


def make_families(service: Service) -> tuple[int, ...]:
    """The families of a Service, primary first: as said, else as its addresses are, else IPv4."""
    given = service.families or tuple(
        dict.fromkeys(4 if len(one) == 4 else 6 for one in (*service.cluster_addresses, *service.requested))
    )
    primary = given[0] if given else 4
    if read_family_policy(service) is FamilyPolicy.SINGLE:
        return (primary,)
    return (primary, 10 - primary)


def read_family_policy(service: Service) -> FamilyPolicy:
    """The policy; what is none counts as not said."""
    known = service.family_policy in FamilyPolicy._value2member_map_
    return FamilyPolicy(service.family_policy) if known else FamilyPolicy.SINGLE


def make_service(
    name: Name,
    service: Service,
    pools: Mapping[Name, AddressPool],
    revision: int,
    ip_pools: Mapping[Name, IpPool] | None = None,
) -> VipService:
    """A Service, last changed at `revision`, as the choice sees it."""
    labels = dict(service.labels)
    selected_by = frozenset(
        pool_name.name
        for pool_name, pool in pools.items()
        if any(compile_selector(selector)(labels) for selector in pool.service_selectors)
    )
    return VipService(
        sharer=make_sharer(name, service, revision),
        namespace=name.namespace,
        families=make_families(service),
        policy=read_family_policy(service),
        requested=tuple(Address(address) for address in service.requested),
        requested_pool=service.pool,
        selected_by=selected_by,
        only=_only(service, ip_pools or {}),
        named=bool(service.calico_pools),
        asks=bool(service.calico_pools) or service.class_name == CALICO_CLASS,
        had=tuple(Address(address) for address in service.had),
    )


def _only(service: Service, ip_pools: Mapping[Name, IpPool]) -> frozenset[str] | None:
    """The pools that a Service may have addresses of: where it names Calico's, or is of its class."""
    if not service.calico_pools and service.class_name != CALICO_CLASS:
        return None
    return frozenset(
        f"{CALICO_POOL}{name.name}"
        for name, pool in ip_pools.items()
        if not service.calico_pools or {name.name, str(pool.cidr)} & set(service.calico_pools)
    )


def make_pools(
    pools: Mapping[Name, AddressPool],
    namespaces: Mapping[Name, Namespace],
    ip_pools: Mapping[Name, IpPool] | None = None,
    rules: PoolRules = _NO_RULES,
) -> tuple[tuple[VipPool, ...], Mapping[str, str]]:
    """The pools as the choice sees them, and those refused: by name, the name of the pool that they overlap.

    Of pools with one name the first namespace's counts; of two that share an address the one whose name comes first,
    MetalLB's before Calico's.
    """
    made: dict[str, VipPool] = {}
    refused: dict[str, str] = {}
    for name, pool in sorted(pools.items(), key=lambda item: (item[0].name, item[0].namespace)):
        if name.name in made or name.name in refused:
            continue
        one = _make_pool(name.name, pool, namespaces.items())
        _admit(one, made, refused)
    for name, ip_pool in sorted((ip_pools or {}).items()):
        _admit(_make_ip_pool(name.name, ip_pool, rules), made, refused)
    return tuple(made.values()), refused


def _make_ip_pool(name: str, pool: IpPool, rules: PoolRules) -> VipPool:
    cidr = _range(pool.cidr)
    return VipPool(
        f"{CALICO_POOL}{name}",
        (cidr,),
        pool.automatic,
        exclusive=True,
        on_request=rules.requested_only,
        open_ranges=tuple(without_ranges((cidr,), map(_range, rules.reserved))) if rules.reserved else None,
    )


def _range(cidr: Prefix) -> Range:
    return Range(Address(mask_address(cidr.address, cidr.length)), Address(last_address(cidr)))


def _admit(one: VipPool, made: dict[str, VipPool], refused: dict[str, str]) -> None:
    rival = next((other.name for other in made.values() if _overlap(one, other)), None)
    if rival is None:
        made[one.name] = one
    else:
        refused[one.name] = rival


def for_services(pool: IpPool) -> bool:
    """Whether a Calico IPPool is for addresses of Services."""
    return FOR_SERVICES in pool.allowed_uses and not pool.disabled


def _overlap(one: VipPool, other: VipPool) -> bool:
    return any(
        mine.version == theirs.version and mine.first <= theirs.last and theirs.first <= mine.last
        for mine in one.ranges
        for theirs in other.ranges
    )


def _make_pool(name: str, pool: AddressPool, namespaces: Iterable[tuple[Name, Namespace]]) -> VipPool:
    allowed: frozenset[str] | None = None
    if pool.namespaces or pool.namespace_selectors:
        matchers = [compile_selector(selector) for selector in pool.namespace_selectors]
        matching = {one.name for one, value in namespaces if any(match(dict(value.labels)) for match in matchers)}
        allowed = frozenset(pool.namespaces) | matching
    return VipPool(
        name=name,
        ranges=tuple(Range(Address(one.first), Address(one.last)) for one in pool.ranges),
        auto_assign=pool.auto_assign,
        avoid_buggy=pool.avoid_buggy,
        priority=pool.priority,
        namespaces=allowed,
        selects_services=bool(pool.service_selectors),
        draining=pool.draining,
    )
