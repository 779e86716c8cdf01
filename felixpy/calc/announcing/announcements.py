"""What one block or one granted address means to the BGP neighbours of this node: announcements, or a reason. Pure.

In: a block with its pools and affinity, or a grant with its frontends and the terms of advertisements.py. Out: what to
announce for it, and what several announcements of one prefix are together. Knows no other block or address.
Source: confd/pkg/backends/calico/routes.go and bird_aggr.cfg.template (blocks); metallb speaker/bgp_controller.go
(VIPs; without any BGPAdvertisement or L2Advertisement every granted address is announced, since a BGP node that holds
back what it was given helps nobody); RFC 8326 (GRACEFUL_SHUTDOWN).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from felixpy.addresses import Address, Prefix, host_prefix, mask_address
from felixpy.calc.announcing.advertisements import Subjects, Terms, covers
from felixpy.calc.announcing.floating import find_silence
from felixpy.calc.announcing.service_ranges import ServiceRanges, judge_address
from felixpy.calc.reasons import Reason, Silent
from felixpy.calc.services.frontends import Frontend, FrontendIntent, Origin
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import BgpAdvertisement, Grant, Service
from felixpy.resources.types import Block, IpPool

PENDING, ENDING = "pending", "pendingDeletion"
GRACEFUL_SHUTDOWN = "65535:0"
"""Neighbours give it their lowest local_pref themselves: with a low one here, another node's path would be our best,
and ours be told to nobody."""


class Why(StrEnum):
    """What a prefix is announced for."""

    BLOCK = "this node's address block"
    BORROWED = "an address of another node's block, held here"
    SERVICE = "a Service address with endpoints"
    FLOATING = "a floating address of a workload here"
    RANGE = "a range of Service addresses (BGPConfiguration)"


@dataclass(frozen=True, slots=True)
class Announcement:
    """A prefix to announce; `peers` names those to tell, all when empty. `local_pref` None leaves the default.

    `prepend`: so many times more our AS is in front of the path that other ASes are told.
    `interface`: the device that it leads to, "" where to none. `endpoints` is how many serve it on this node, where
    connections stay on the node that they came to; None elsewhere.
    """

    prefix: Prefix
    why: Why
    local_pref: int | None = None
    communities: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    interface: str = ""
    endpoints: int | None = None
    prepend: int = 0


def derive_block(
    prefix: Prefix, block: Block, state: str, pools: Iterable[IpPool], node: str, devices: Mapping[Address, str]
) -> tuple[Announcement, ...] | Silent:
    """What one block means here: itself where it is ours, else those of its addresses that this node holds.

    Empty where the block does not concern this node. One of no pool, as a deleted pool leaves it, is announced
    while addresses of it are held. `state` is that of our affinity to it, "" when there is none.
    `devices` are those of the workloads here, by their addresses.
    """
    ours = block.affinity == node
    held = () if ours else tuple(address for address, holder in block.borrowed if holder == node)
    if not (ours or held):
        return ()
    around = [pool for pool in pools if pool.cidr.contains(prefix.address)]
    if any(pool.disable_bgp_export for pool in around):
        return Silent(Reason.EXPORT_DISABLED)
    if not around and not block.used:
        return Silent(Reason.NO_POOL)
    if not ours:
        return tuple(
            Announcement(host_prefix(address), Why.BORROWED, interface=devices.get(address, "")) for address in held
        )
    if state == PENDING:
        return Silent(Reason.AFFINITY_PENDING)
    if state == ENDING and not block.used:
        return Silent(Reason.AFFINITY_ENDING)
    return (Announcement(prefix, Why.BLOCK),)


def announce_floating(address: Address, pools: Iterable[IpPool], enabled: bool) -> tuple[Announcement, ...] | Silent:
    """What a floating address of a workload here means."""
    return find_silence(address, pools, enabled) or (Announcement(host_prefix(address), Why.FLOATING),)


def derive_range(prefix: Prefix, terms: Terms, drained: bool = True) -> tuple[Announcement, ...] | Silent:
    """What a range of Service addresses that is announced whole means here."""
    return _unless_excluded((Announcement(prefix, Why.RANGE),), terms, drained)


def derive_routed(
    address: Address,
    intents: Collection[FrontendIntent],
    terms: Terms,
    services: Mapping[Name, Service],
    ranges: ServiceRanges,
    drained: bool = True,
) -> tuple[Announcement, ...] | Silent:
    """What a cluster or external address of a Service means here."""
    judged = judge_address(address, intents, services, ranges)
    if judged is None:
        return ()
    if isinstance(judged, Reason):
        return Silent(judged)
    return _unless_excluded((Announcement(host_prefix(address), Why.SERVICE),), terms, drained)


def _unless_excluded(
    made: tuple[Announcement, ...] | Silent, terms: Terms, drained: bool
) -> tuple[Announcement, ...] | Silent:
    """A node that is excluded, and not `drained` yet, asks its neighbours to send elsewhere (RFC 8326)."""
    if not terms.excluded or isinstance(made, Silent):
        return made
    if drained:
        return Silent(Reason.NODE_EXCLUDED)
    return tuple(replace(one, communities=tuple(sorted({*one.communities, GRACEFUL_SHUTDOWN}))) for one in made)


def derive_address(
    grant: Grant,
    intents: Collection[FrontendIntent],
    terms: Terms,
    subjects: Subjects,
    ranges: ServiceRanges,
    drained: bool = True,
) -> tuple[Announcement, ...] | Silent:
    """What a granted address means here: announced where some frontend of it takes connections from outside.

    A prefix with an unresolved community is held back, whoever else advertises it: what was to go with it is not known.
    Where there are ranges for it, they say so for an address that no BGPAdvertisement is for.
    """
    unserved = find_unserved(intents)
    if unserved is not None:
        return unserved
    if terms.excluded and drained:
        return Silent(Reason.NODE_EXCLUDED)
    made = _advertised(grant, intents, terms, subjects)
    if ranges.load_balancer and (isinstance(made, Silent) or terms.advertisements is None):
        routed = _granted_by_range(grant.address, intents, subjects, ranges)
        outside = isinstance(routed, Silent) and routed.reason is Reason.OUTSIDE_RANGES
        made = made if outside and terms.advertisements is not None else routed
    return _unless_excluded(made, terms, drained)


def _granted_by_range(
    address: Address, intents: Collection[FrontendIntent], subjects: Subjects, ranges: ServiceRanges
) -> tuple[Announcement, ...] | Silent:
    if not ranges.around(Origin.GRANT, address):
        return Silent(Reason.OUTSIDE_RANGES)
    judged = judge_address(address, intents, subjects.services, ranges)
    if isinstance(judged, Reason):
        return Silent(judged)
    alone = Announcement(host_prefix(address), Why.SERVICE, endpoints=count_endpoints(intents))
    return (alone,) if judged else ()


def _advertised(
    grant: Grant, intents: Collection[FrontendIntent], terms: Terms, subjects: Subjects
) -> tuple[Announcement, ...] | Silent:
    endpoints = count_endpoints(intents)
    if terms.advertisements is None:
        return (Announcement(host_prefix(grant.address), Why.SERVICE, endpoints=endpoints),)
    held, made = (
        [_advertise(grant.address, endpoints, one) for one in some if covers(one, grant, subjects)]
        for some in (terms.unresolved, terms.advertisements)
    )
    if not held and not made:
        return Silent(Reason.NOT_ADVERTISED)
    prefixes = {one.prefix for one in held}
    return tuple(one for one in made if one.prefix not in prefixes) or Silent(Reason.UNKNOWN_COMMUNITY)


def find_unserved(intents: Collection[FrontendIntent]) -> Silent | None:
    """Why no frontend of an address takes connections from outside; None where one does."""
    if not intents:
        return Silent(Reason.NO_SERVICE)
    if any(intent.outside for intent in intents):
        return None
    reasons = {intent.reason for intent in intents}
    told = (reason for reason in (Reason.NOT_IN_KERNEL, Reason.NO_LOCAL_ENDPOINT) if reason in reasons)
    return Silent(next(told, Reason.NO_ENDPOINT))


def count_endpoints(intents: Iterable[FrontendIntent]) -> int | None:
    """How many endpoints of an address this node has, where connections stay here; None where they may go anywhere."""
    outside = [intent for intent in intents if intent.outside]
    if not all(intent.keep_source for intent in outside):
        return None
    return len({backend.address for intent in outside for backend in intent.outside})


def _advertise(address: Address, endpoints: int | None, advertisement: BgpAdvertisement) -> Announcement:
    length = advertisement.aggregation4 if len(address) == 4 else advertisement.aggregation6
    return Announcement(
        Prefix(mask_address(address, length), length),
        Why.SERVICE,
        advertisement.local_pref,
        tuple(sorted(set(advertisement.communities))),
        tuple(sorted(set(advertisement.peers))),
        endpoints=endpoints,
        prepend=advertisement.prepend,
    )


def merge_announcements(announcements: Collection[Announcement]) -> Announcement:
    """One announcement of one prefix out of several: all communities, the highest local_pref, every peer of any,
    the longest path.

    Endpoints are those of all, where connections to all of it stay on this node.
    """
    first = min(announcements, key=lambda one: one.why)
    prefs = [one.local_pref for one in announcements if one.local_pref is not None]
    everyone = any(not one.peers for one in announcements)
    counts = [one.endpoints for one in announcements if one.endpoints is not None]
    return Announcement(
        first.prefix,
        first.why,
        max(prefs, default=None),
        tuple(sorted({word for one in announcements for word in one.communities})),
        () if everyone else tuple(sorted({peer for one in announcements for peer in one.peers})),
        interface=max(one.interface for one in announcements),
        endpoints=sum(counts) if len(counts) == len(announcements) else None,
        prepend=max(one.prepend for one in announcements),
    )


def granted_intents(grant: Grant, frontends: Mapping[Frontend, FrontendIntent]) -> tuple[FrontendIntent, ...]:
    """The frontends of one address that belong to Services that the grant names."""
    return tuple(intent for intent in frontends.values() if intent.service in grant.services)
