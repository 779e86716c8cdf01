"""What a deleted pool leaves behind: its empty blocks and the claims to them go; a block with held addresses stays.

In, out the deleted pool's prefix → how many blocks went, and why the others stay. A block that another pool has too is
        none of its own.
Never   takes an address from its holder.
Source: calicoctl's `ipam release` and kube-controllers' pool deletion, which give up a pool's affinities.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from felixpy.ctl.ipam.view import count_used, derive_pools, owner_name, read_blocks
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.model import Store
from felixpy.resources.kinds import IPAM_PREFIX
from ipam.addresses import Prefix
from ipam.engine import Allocator
from ipam.model import POOLS_PREFIX, Block, Owner, node_owner, parse_affinity_key, parse_owner
from ipam.request import IpamError

RELEASER = "felixctl"


@dataclass(frozen=True, slots=True)
class Leftovers:
    """How many blocks of a deleted pool were released, and what there is to say of each that was not."""

    released: int
    kept: tuple[str, ...]


async def release_blocks(store: Store, pool: Prefix) -> Leftovers:
    """Gives up the claims to the empty blocks of a pool that is gone.

    Raises  the store's own errors; the pool is deleted all the same.
    """
    snapshot = await store.snapshot([IPAM_PREFIX.encode(), POOLS_PREFIX.encode()])
    values = {pair.key.decode("utf-8", "replace"): pair.value for pair in snapshot.items}
    blocks = {block.cidr: block for block in read_blocks(values)}
    allocator = Allocator(IpamStore(store), node_owner(RELEASER), now=lambda: datetime.now(UTC), rng=random.Random())
    released: set[Prefix] = set()
    kept: dict[Prefix, str] = {}
    for cidr, owner in sorted(derive_claims(values, pool), key=lambda claim: (claim[0].address, str(claim[1]))):
        try:
            await allocator.release_block(cidr, owner)
        except IpamError as error:
            kept[cidr] = _why_kept(blocks[cidr]) if cidr in blocks and count_used(blocks[cidr]) else str(error)
        else:
            released.add(cidr)
    return Leftovers(len(released - kept.keys()), tuple(kept.values()))


def derive_claims(values: Mapping[str, bytes], pool: Prefix) -> frozenset[tuple[Prefix, Owner]]:
    """Blocks below `pool` that no pool in `values` has, with each who has a claim to them."""
    pools = [view.pool for view in derive_pools(values) if view.pool is not None]
    claims = {*_recorded(values), *_owned(read_blocks(values))}
    return frozenset(
        (cidr, owner)
        for cidr, owner in claims
        if pool.covers(cidr) and not any(other.cidr.covers(cidr) for other in pools)
    )


def _recorded(values: Mapping[str, bytes]) -> Iterator[tuple[Prefix, Owner]]:
    for key in values:
        claim = parse_affinity_key(key)
        if claim is not None:
            yield claim[1], claim[0]


def _owned(blocks: tuple[Block, ...]) -> Iterator[tuple[Prefix, Owner]]:
    for block in blocks:
        owner = parse_owner(block.affinity or "")
        if owner is not None:
            yield block.cidr, owner


def _why_kept(block: Block) -> str:
    return f"block {block.cidr} of {owner_name(block)} stays, as {count_used(block)} of its addresses are in use"
