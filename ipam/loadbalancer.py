"""Which addresses a Service of type LoadBalancer gets: the ones it asks for, the ones it has, or the lowest free.

In: a Service, the pools, the ledger; out: Granted, or Refused with a reason for the request or for each pool. The same
input gives the same answer: pools that are reserved for the Service by priority and name, then the others by name, in
each the lowest address that it may hold; one that rests only where it was the Service's own, or nothing else is free.
What it has, it keeps for as long as it may hold it.
Never grants: the caller writes the grant and tells the ledger.
Source: metallb/internal/ipam/allocator.go, controller/service.go, internal/k8s/k8salloc.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .addresses import Address, format_address
from .ledger import Ledger, Range, Sharer, is_buggy


@dataclass(frozen=True, slots=True)
class VipPool:
    """A MetalLB IPAddressPool. Its selectors are resolved beforehand.

    `namespaces` are those it is for, None meaning all; `selects_services` says that it has selectors of Services, whose
    matches are in `VipService.selected_by`. Priority counts down to 1; 0 comes last. A draining pool gives out nothing,
    not even what is asked for; who has an address of it keeps it. Addresses of an exclusive one are shared by nobody.
    One `on_request` gives only to Services that ask for pools of its kind. `open_ranges` are where an address is looked
    for, None meaning all of it: the rest is reserved for those who ask for an address by itself.
    """

    name: str
    ranges: tuple[Range, ...]
    auto_assign: bool = True
    avoid_buggy: bool = False
    priority: int = 0
    namespaces: frozenset[str] | None = None
    selects_services: bool = False
    draining: bool = False
    exclusive: bool = False
    on_request: bool = False
    open_ranges: tuple[Range, ...] | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether it is set aside for some Services."""
        return self.namespaces is not None or self.selects_services or self.priority > 0

    def has_family(self, version: int) -> bool:
        """Whether it has addresses of a family."""
        return any(each.version == version for each in self.ranges)

    def contains(self, address: bytes) -> bool:
        """Whether an address is of this pool."""
        return any(each.contains(address) for each in self.ranges)


class FamilyPolicy(StrEnum):
    """How many families a Service takes (spec.ipFamilyPolicy)."""

    SINGLE = "SingleStack"
    PREFER_DUAL = "PreferDualStack"
    REQUIRE_DUAL = "RequireDualStack"


@dataclass(frozen=True, slots=True)
class VipService:
    """What a Service says about its addresses. `families` has 4, 6 or both, the primary one first.

    `only` are the names of the pools that it may have addresses of; None means all. `named`: it asks for these by name;
    `asks`: by name, or for pools of their kind. `had` are addresses that it had of somebody else before: while it
    holds none, these are its own like those that it holds.
    """

    sharer: Sharer
    namespace: str
    families: tuple[int, ...] = (4,)
    policy: FamilyPolicy = FamilyPolicy.SINGLE
    requested: tuple[Address, ...] = ()
    requested_pool: str = ""
    selected_by: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    named: bool = False
    asks: bool = False
    had: tuple[Address, ...] = ()

    @property
    def wanted(self) -> tuple[int, ...]:
        """The families that it would have at best."""
        return self.families[:1] if self.policy is FamilyPolicy.SINGLE else self.families


class VipRefusal(StrEnum):
    """Why a Service did not get an address, or not from a pool."""

    NO_POOL = "there is no pool"
    UNKNOWN_POOL = "there is no pool of the name asked for"
    NOT_IN_POOL = "the address is in no pool, or not in the one asked for"
    FAMILIES = "the addresses asked for are not of the Service's families"
    NOT_AUTOMATIC = "the pool is only for Services that ask for it"
    NOT_ASKED = "pools of Calico are only for Services that ask for one (assignIPs: RequestedServicesOnly)"
    OTHER_NAMESPACE = "the pool is for other namespaces"
    OTHER_SERVICES = "the pool is for other Services"
    LACKS_FAMILY = "the pool lacks an address family of the Service"
    FULL = "the pool has no free address"
    DRAINING = "the pool is draining"
    BUGGY = "the pool avoids addresses that end in .0 or .255"
    TAKEN = "another Service holds the address and does not share it under the same key"
    PORT_TAKEN = "another Service uses the same port of the address"
    BACKENDS_DIFFER = "Services that keep traffic local share an address only when they select the same pods"


@dataclass(frozen=True, slots=True)
class Vip:
    """An address and the pool it is of."""

    address: Address
    pool: str


@dataclass(frozen=True, slots=True)
class Granted:
    """The addresses that a Service is to have, in the order of its families."""

    vips: tuple[Vip, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """No address. `reasons` is by what was tried: an address asked for, a pool, or "" for the Service as a whole."""

    reasons: Mapping[str, VipRefusal] = field(default_factory=dict)

    def describe(self) -> str:
        """The reasons for a person."""
        return "; ".join(f"{what}: {reason}" if what else str(reason) for what, reason in self.reasons.items())


def choose_addresses(service: VipService, pools: Iterable[VipPool], ledger: Ledger) -> Granted | Refused:
    """The addresses that a Service is to have now, given what it and everyone else holds.

    Missing  a second family is no reason to refuse a Service that only prefers both.
    """
    ordered = _order(pool for pool in pools if service.only is None or pool.name in service.only)
    if service.requested:
        return _choose_requested(service, ordered, ledger)
    if service.requested_pool:
        ordered = tuple(pool for pool in ordered if pool.name == service.requested_pool)
        if not ordered:
            return Refused({service.requested_pool: VipRefusal.UNKNOWN_POOL})
    kept = _keep(service, ordered, ledger)
    if kept:
        whole = _complete(service, kept, ordered, ledger)
        if whole is not None:
            return Granted(whole)
    return _choose_automatic(service, ordered, ledger)


def explain_sharing(service: VipService, address: Address, ledger: Ledger) -> VipRefusal | None:
    """Why a Service may not hold an address beside those who do; None when it may.

    Beside those of a higher rank it stays: it is they who have to leave.
    """
    mine = service.sharer
    stays = address in ledger.held_by(mine.name)
    for other in ledger.holders_of(address):
        if other.name == mine.name or (stays and (other.rank, other.name) > (mine.rank, mine.name)):
            continue
        if not mine.sharing_key or mine.sharing_key != other.sharing_key:
            return VipRefusal.TAKEN
        if mine.ports & other.ports:
            return VipRefusal.PORT_TAKEN
        if mine.backend != other.backend:
            return VipRefusal.BACKENDS_DIFFER
    return None


def _order(pools: Iterable[VipPool]) -> tuple[VipPool, ...]:
    return tuple(sorted(pools, key=lambda pool: (not pool.is_pinned, pool.priority == 0, pool.priority, pool.name)))


def _explain_pool(service: VipService, pool: VipPool) -> VipRefusal | None:
    if pool.namespaces is not None and service.namespace not in pool.namespaces:
        return VipRefusal.OTHER_NAMESPACE
    if pool.selects_services and pool.name not in service.selected_by:
        return VipRefusal.OTHER_SERVICES
    return None


def _explain_address(service: VipService, pool: VipPool, address: Address, ledger: Ledger) -> VipRefusal | None:
    if pool.avoid_buggy and is_buggy(address):
        return VipRefusal.BUGGY
    others = (other for other in ledger.holders_of(address) if other.name != service.sharer.name)
    if pool.exclusive and any(others):
        return _explain_pool(service, pool) or VipRefusal.TAKEN
    return _explain_pool(service, pool) or explain_sharing(service, address, ledger)


def _pool_of(service: VipService, pools: tuple[VipPool, ...], address: Address) -> VipPool | None:
    """The pool that a Service has an address from: of several that hold it, the first that is for the Service."""
    holding = [pool for pool in pools if pool.contains(address)]
    return next((pool for pool in holding if _explain_pool(service, pool) is None), holding[0] if holding else None)


def _choose_requested(service: VipService, pools: tuple[VipPool, ...], ledger: Ledger) -> Granted | Refused:
    versions = [4 if len(address) == 4 else 6 for address in service.requested]
    optional = service.policy is FamilyPolicy.PREFER_DUAL
    fitting = set(versions) <= set(service.wanted) if optional else set(versions) == set(service.wanted)
    if not fitting or len(set(versions)) != len(versions):
        return Refused({"": VipRefusal.FAMILIES})
    vips: list[Vip] = []
    reasons: dict[str, VipRefusal] = {}
    for address in sorted(service.requested, key=lambda each: service.wanted.index(4 if len(each) == 4 else 6)):
        pool = _pool_of(service, pools, address)
        reason: VipRefusal | None = VipRefusal.NOT_IN_POOL
        if pool is not None and service.requested_pool in ("", pool.name):
            new = address not in ledger.held_by(service.sharer.name)
            reason = _explain_address(service, pool, address, ledger)
            reason = VipRefusal.DRAINING if reason is None and new and pool.draining else reason
            vips.append(Vip(address, pool.name))
        if reason is not None:
            reasons[format_address(address)] = reason
    return Refused(reasons) if reasons else Granted(tuple(vips))


def _keep(service: VipService, pools: tuple[VipPool, ...], ledger: Ledger) -> tuple[Vip, ...]:
    kept: list[Vip] = []
    for version in service.wanted:
        for address in ledger.held_by(service.sharer.name) or service.had:
            pool = _pool_of(service, pools, address)
            if (len(address) == 4) == (version == 4) and pool is not None:
                if _explain_address(service, pool, address, ledger) is None:
                    kept.append(Vip(address, pool.name))
                break
    return tuple(kept)


def _complete(
    service: VipService, kept: tuple[Vip, ...], pools: tuple[VipPool, ...], ledger: Ledger
) -> tuple[Vip, ...] | None:
    """What is kept with the other family from the same pool; None when that is needed and cannot be had."""
    if len(kept) == len(service.wanted):
        return kept
    pool = next(each for each in pools if each.name == kept[0].pool)
    whole: list[Vip] = []
    for version in service.wanted:
        have = next((vip for vip in kept if (len(vip.address) == 4) == (version == 4)), None)
        address = have.address if have else None if pool.draining else _lowest(service, pool, version, ledger)
        if address is None:
            return kept if service.policy is FamilyPolicy.PREFER_DUAL else None
        whole.append(Vip(address, pool.name))
    return tuple(whole)


def _choose_automatic(service: VipService, pools: tuple[VipPool, ...], ledger: Ledger) -> Granted | Refused:
    reasons: dict[str, VipRefusal] = {}
    single: tuple[Vip, ...] = ()
    for pool in pools:
        reason = _explain_pool(service, pool)
        if reason is None and not pool.auto_assign and not (service.requested_pool or service.named):
            reason = VipRefusal.NOT_AUTOMATIC
        if reason is None and pool.on_request and not service.asks:
            reason = VipRefusal.NOT_ASKED
        if reason is None and pool.draining:
            reason = VipRefusal.DRAINING
        if reason is not None:
            reasons[pool.name] = reason
            continue
        found = [(version, _lowest(service, pool, version, ledger)) for version in service.wanted]
        vips = tuple(Vip(address, pool.name) for _, address in found if address is not None)
        if len(vips) == len(found):
            return Granted(vips)
        lacking = any(not pool.has_family(version) for version, address in found if address is None)
        reasons[pool.name] = VipRefusal.LACKS_FAMILY if lacking else VipRefusal.FULL
        if not single and found[0][1] is not None:
            single = vips[:1]
    if single and service.policy is FamilyPolicy.PREFER_DUAL:
        return Granted(single)
    return Refused(reasons or {"": VipRefusal.NO_POOL})


def _lowest(service: VipService, pool: VipPool, version: int, ledger: Ledger) -> Address | None:
    looked_at = pool.ranges if pool.open_ranges is None else pool.open_ranges
    ranges = [within for within in looked_at if within.version == version]
    for address in ledger.rested_from(service.sharer.name):
        inside = any(within.contains(address) for within in ranges)
        if inside and _explain_address(service, pool, address, ledger) is None:
            return address
    for within in ranges:
        shared = ledger.shared_under(service.sharer.sharing_key) if service.sharer.sharing_key else iter(())
        candidates = [
            address
            for address in shared
            if within.contains(address) and _explain_address(service, pool, address, ledger) is None
        ]
        free = ledger.lowest_free(within, pool.avoid_buggy)
        if free is not None:
            candidates.append(free)
        if candidates:
            return min(candidates)
    rested = (ledger.longest_resting(within, pool.avoid_buggy) for within in ranges)
    return next((address for address in rested if address is not None), None)
