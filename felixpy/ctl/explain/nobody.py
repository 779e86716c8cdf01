"""Addresses of pools that nobody has, and where packets to them end. In: the cluster; out: a Vacancy. Pure.

What is not tunnelled finds its node by BGP, which tells of whole blocks: so a node gets all that is for its blocks, and
drops what none of its pods has. Source: calc/tunnel_plan.py (own blocks lead nowhere).
"""

from __future__ import annotations

from dataclasses import dataclass

from felixpy.addresses import Address, Prefix, format_address, mask_address
from felixpy.ctl.explain.cluster import Cluster
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Table
from felixpy.resources.types import Block, IpPool


@dataclass(frozen=True, slots=True)
class Vacancy:
    """An address of `pool` that no endpoint has, and the block that it is in with the node whose block that is.

    `block` is None where nobody has taken it; `node` is "" where the block has lost its node.
    """

    address: Address
    pool: str
    block: Prefix | None = None
    node: str = ""

    def __str__(self) -> str:
        where = f"it is of IPPool {self.pool}, in no block"
        if self.block is not None:
            owner = f"a block of node {self.node}, which drops what none of its pods has" if self.node else "no node's"
            where = f"it is of IPPool {self.pool}, in {self.block}, {owner}"
        return f"nobody has {format_address(self.address)}: {where}"


def find_vacancy(cluster: Cluster, address: Address) -> Vacancy | None:
    """That nobody has the address; None where somebody may: outside of the pools that pods get addresses from, too."""
    if address in cluster.holders or address in cluster.floating or address in cluster.node_names:
        return None
    pool = _pool_of(cluster, address)
    if pool is None or cluster.services_at((address,)):
        return None
    block, affinity = _block_of(cluster, address)
    return Vacancy(address, pool, block, affinity)


def _pool_of(cluster: Cluster, address: Address) -> str | None:
    """A disabled pool may be a network of others that is not to be masqueraded."""
    for name, pool in sorted(cluster.tables[Table.POOL].items()):
        if isinstance(pool, IpPool) and not pool.disabled and pool.cidr.contains(address):
            return name.name if "Workload" in pool.allowed_uses else None
    return None


def _block_of(cluster: Cluster, address: Address) -> tuple[Prefix | None, str]:
    """The block that an address is in, and the node that has it there."""
    for length in range(len(address) * 8, -1, -1):
        prefix = Prefix(mask_address(address, length), length)
        found = cluster.tables[Table.BLOCK].get(Name("", f"{format_address(prefix.address)}-{length}"))
        if isinstance(found, Block):
            return prefix, dict(found.borrowed).get(address, found.affinity)
    return None, ""
