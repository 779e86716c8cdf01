"""Figures about Service addresses, in MetalLB's names: how full the pools are, and what this node announces.

In: what the controller and the roles know; out: Families. Source: metallb internal/allocator/stats.go, speaker/main.go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from felixpy.addresses import Prefix, format_address, mask_address
from felixpy.controllers.pool_status import PoolCount
from felixpy.metrics import Family
from felixpy.resources.service_types import Grant

_POOLS: tuple[tuple[str, str, Callable[[PoolCount], int]], ...] = (
    ("addresses_in_use_total", "Addresses of a pool that are held", lambda one: one.held4 + one.held6),
    ("addresses_total", "Addresses that a pool can give out", lambda one: one.size4 + one.size6),
    ("ipv4_addresses_in_use_total", "IPv4 addresses of a pool that are held", lambda one: one.held4),
    ("ipv4_addresses_total", "IPv4 addresses that a pool can give out", lambda one: one.size4),
    ("ipv6_addresses_in_use_total", "IPv6 addresses of a pool that are held", lambda one: one.held6),
    ("ipv6_addresses_total", "IPv6 addresses that a pool can give out", lambda one: one.size6),
)


def announced_family(node: str, grants: Collection[Grant], announced: Collection[Prefix]) -> Family:
    """`metallb_speaker_announced`: which addresses of which Services this node announces by BGP.

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
    words = "Addresses of Services that this node announces"
    return Family("metallb_speaker_announced", words, labels=("service", "protocol", "node", "ip"), rows=rows)


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
