"""What the pools say of addresses: which are the cluster's own, and which hide behind their node when they leave it.

Pure. Source: felix/dataplane/linux/masq_mgr.go (pools for Service addresses are not the cluster's own in this sense).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from felixpy.addresses import Prefix
from felixpy.resources.types import IpPool

LOAD_BALANCER_ONLY = ("LoadBalancer",)


@dataclass(frozen=True, slots=True)
class PoolsIntent:
    """`own`: prefixes of the cluster's pools; `masqueraded`: those of them with natOutgoing."""

    own: frozenset[Prefix] = frozenset()
    masqueraded: frozenset[Prefix] = frozenset()


def derive_pools(pools: Iterable[IpPool]) -> PoolsIntent:
    """All pools as one intent; a disabled pool's addresses are in use all the same."""
    workloads = [pool for pool in pools if pool.allowed_uses != LOAD_BALANCER_ONLY]
    return PoolsIntent(
        frozenset(pool.cidr for pool in workloads),
        frozenset(pool.cidr for pool in workloads if pool.nat_outgoing),
    )
