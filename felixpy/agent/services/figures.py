"""Figures about Service addresses, in MetalLB's names: how full the pools are, and what this node announces.

In: what the controller, the roles and the responder know; out: Families.
Source: metallb internal/allocator/stats.go, internal/layer2/stats.go, speaker/main.go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from birdpy.l2.protocol import OwnedVip, Status
from felixpy.addresses import Address, Prefix, format_address, mask_address
from felixpy.controllers.pool_status import PoolCount
from felixpy.metrics import Family, FamilyKind
from felixpy.resources.service_types import Grant

_POOLS: tuple[tuple[str, str, Callable[[PoolCount], int]], ...] = (
    ("addresses_in_use_total", "Addresses of a pool that are held", lambda one: one.held4 + one.held6),
    ("addresses_total", "Addresses that a pool can give out", lambda one: one.size4 + one.size6),
    ("ipv4_addresses_in_use_total", "IPv4 addresses of a pool that are held", lambda one: one.held4),
    ("ipv4_addresses_total", "IPv4 addresses that a pool can give out", lambda one: one.size4),
    ("ipv6_addresses_in_use_total", "IPv6 addresses of a pool that are held", lambda one: one.held6),
    ("services_allocated_total", "Services that have an address of a pool", lambda one: one.services),
    ("ipv6_addresses_total", "IPv6 addresses that a pool can give out", lambda one: one.size6),
)


def announced_family(
    node: str, grants: Collection[Grant], announced: Collection[Prefix], answered: Collection[Address] = ()
) -> Family:
    """`metallb_speaker_announced`: which addresses of which Services this node announces by BGP, or answers for.

    Cost    a look a grant for each length of the prefixes, however many these are.
    """
    held = frozenset(announced)
    shapes = {(len(prefix.address), prefix.length) for prefix in held}
    rows: dict[tuple[str, ...], float] = {
        (str(service), "bgp", node, format_address(grant.address)): 1.0
        for grant in grants
        if any(
            size == len(grant.address) and Prefix(mask_address(grant.address, length), length) in held
            for size, length in shapes
        )
        for service in grant.services
    }
    rows |= {
        (str(service), "layer2", node, format_address(grant.address)): 1.0
        for grant in grants
        if grant.address in answered
        for service in grant.services
    }
    words = "Addresses of Services that this node announces"
    return Family("metallb_speaker_announced", words, labels=("service", "protocol", "node", "ip"), rows=rows)


class AnnouncedFigures:
    """What the roles of this process announce, as a source of figures; each asked for when it is wanted."""

    def __init__(
        self,
        node: str,
        grants: Callable[[], Collection[Grant]],
        announced: Callable[[], Collection[Prefix]],
        answered: Callable[[], Collection[Address]],
    ) -> None:
        self._node = node
        self._grants = grants
        self._announced = announced
        self._answered = answered

    def families(self) -> list[Family]:
        """`announced_family` as of now."""
        return [announced_family(self._node, self._grants(), self._announced(), self._answered())]


_ANSWERS: tuple[tuple[str, str, Callable[[OwnedVip], int]], ...] = (
    ("requests_received", "Questions for an address while this node had it", lambda one: one.questions),
    ("responses_sent", "Answers to them", lambda one: one.answers),
    ("gratuitous_sent", "Announcements to everybody", lambda one: one.announcements),
)


def answered_families(status: Status) -> Iterator[Family]:
    """`metallb_layer2_...`: what went to and fro for each address, on all interfaces."""
    for name, words, figure in _ANSWERS:
        rows: dict[tuple[str, ...], float] = {}
        for one in status.vips:
            rows[(one.address,)] = rows.get((one.address,), 0.0) + figure(one)
        yield Family(f"metallb_layer2_{name}", words, FamilyKind.UNTYPED, ("ip",), rows)


class AllocatorFigures:
    """How full the pools are, while this process gives the addresses; nothing while another does."""

    def __init__(self) -> None:
        self._pools: Mapping[str, PoolCount] = {}

    def take(self, pools: Mapping[str, PoolCount]) -> None:
        """How full they are now."""
        self._pools = pools

    def families(self) -> Iterator[Family]:
        """MetalLB's gauges."""
        for name, words, figure in _POOLS:
            rows: dict[tuple[str, ...], float] = {(pool,): float(figure(one)) for pool, one in self._pools.items()}
            yield Family(f"metallb_allocator_{name}", words, labels=("pool",), rows=rows)
