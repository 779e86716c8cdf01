"""Calico's IPAM as a person asks about it: how full pools, nodes and blocks are, who holds what, what is borrowed.

In: the datastore's IPAM keys and pools; out: values to show. What cannot be read is left to the audit. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ipam.addresses import Address
from ipam.codec import Malformed, parse_block, parse_pool
from ipam.model import BLOCKS_PREFIX, POOLS_PREFIX, Attribute, Block, OwnerKind, Pool

NOBODY = "(nobody)"


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool and its blocks; `pool` None stands for blocks outside every pool."""

    pool: Pool | None
    blocks: tuple[Block, ...]

    @property
    def used(self) -> int:
        return sum(map(count_used, self.blocks))

    @property
    def size(self) -> int:
        """How many addresses the pool has, or its blocks where there is no pool."""
        return self.pool.cidr.size if self.pool is not None else sum(block.cidr.size for block in self.blocks)

    def by_owner(self) -> Mapping[str, tuple[Block, ...]]:
        """Its blocks by the name of who they are affine to, in order."""
        owners = sorted({owner_name(block) for block in self.blocks})
        return {name: tuple(one for one in self.blocks if owner_name(one) == name) for name in owners}


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """One address that is not free. `cooling`: it was released a moment ago; `sequence` tells it from later ones."""

    address: Address
    block: Block
    attribute: Attribute
    sequence: int

    @property
    def cooling(self) -> bool:
        return self.attribute.released_at is not None

    @property
    def node(self) -> str:
        """Where it is used, "" when that is not recorded."""
        return self.attribute.owner.get("node", "")

    def describe(self) -> str:
        """Who uses it."""
        owner = self.attribute.owner
        if owner.get("pod"):
            what = f"pod {owner.get('namespace', '')}/{owner['pod']}"
        else:
            what = owner.get("type", "") or self.attribute.holder or "nobody that is recorded"
        where = f" on {self.node}" if self.node else ""
        since = f", since {owner['timestamp'].partition('.')[0]}" if "timestamp" in owner else ""
        return f"{what}{where}{since}"


def owner_name(block: Block) -> str:
    """The node, or other owner, that a block is affine to."""
    kind, _, name = (block.affinity or "").partition(":")
    if not name or block.deleted:
        return NOBODY
    return name if kind == OwnerKind.HOST else f"{name} ({kind})"


def count_used(block: Block) -> int:
    """How many of its addresses are not free."""
    return block.cidr.size - len(block.unallocated)


def derive_pools(values: Mapping[str, bytes]) -> tuple[PoolView, ...]:
    """Every pool by name with its blocks, and those of no pool at the end where there are any."""
    pools = sorted(_read_pools(values), key=lambda pool: pool.name)
    blocks = read_blocks(values)
    homes: dict[str, list[Block]] = {pool.name: [] for pool in pools}
    homeless: list[Block] = []
    for block in blocks:
        home = next((pool for pool in pools if pool.cidr.covers(block.cidr)), None)
        (homes[home.name] if home is not None else homeless).append(block)
    views = [PoolView(pool, tuple(homes[pool.name])) for pool in pools]
    return (*views, PoolView(None, tuple(homeless))) if homeless else tuple(views)


def read_blocks(values: Mapping[str, bytes]) -> tuple[Block, ...]:
    """All blocks that can be read, in the order of their addresses."""
    found: list[Block] = []
    for key, value in values.items():
        if key.startswith(BLOCKS_PREFIX):
            try:
                found.append(parse_block(value))
            except Malformed:
                continue
    return tuple(sorted(found, key=lambda block: (block.cidr.version, block.cidr)))


def _read_pools(values: Mapping[str, bytes]) -> Iterator[Pool]:
    for key, value in values.items():
        if key.startswith(POOLS_PREFIX):
            try:
                yield parse_pool(value)
            except Malformed:
                continue


def iter_held(block: Block) -> Iterator[HeldAddress]:
    """The addresses of a block that are not free."""
    for ordinal in range(block.cidr.size):
        attribute = block.attribute_of(ordinal)
        if attribute is not None:
            yield HeldAddress(block.cidr.nth(ordinal), block, attribute, block.sequence_of.get(ordinal, 0))


def find_borrowed(values: Mapping[str, bytes]) -> tuple[HeldAddress, ...]:
    """Addresses used on another node than the one whose block they are of."""
    return tuple(
        held
        for block in read_blocks(values)
        for held in iter_held(block)
        if held.node and not held.cooling and held.node != owner_name(block)
    )


def find_address(values: Mapping[str, bytes], address: Address) -> tuple[Pool | None, Block | None, HeldAddress | None]:
    """The pool and the block that an address is of, and who holds it; None for each that there is not."""
    pool = next((pool for pool in _read_pools(values) if pool.cidr.contains(address)), None)
    block = next((block for block in read_blocks(values) if block.cidr.contains(address)), None)
    held = next((held for held in iter_held(block) if held.address == address), None) if block is not None else None
    return pool, block, held
