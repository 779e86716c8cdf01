"""Which pools a request may draw from, and in which order their blocks are tried.

In: pools, a request's wishes, predicates for selectors; out: pools in order, a reason for each that is not among them,
and endless-safe iterators of blocks. Each owner starts at a place of its own and goes on in steps of its own, so that
nodes that claim at once seldom meet, and those that did do not meet again; each further claim starts elsewhere.
Source: libcalico-go/lib/ipam/ipam.go (determinePools), ipam_block_reader_writer.go (randomBlockGenerator), reserved.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from .addresses import Address, Prefix, block_of, format_address
from .model import Pool, Use


class PoolRefusal(StrEnum):
    """Why a pool gave no address."""

    UNKNOWN = "there is no such pool"
    DISABLED = "the pool is disabled"
    OTHER_FAMILY = "the pool is of the other address family"
    OTHER_USE = "the pool is not for this use"
    ON_REQUEST = "the pool is only for requests that name it"
    NOT_SELECTED = "the pool's selectors leave this node or namespace out"
    NO_FREE_BLOCK = "every block of the pool is taken and without a free address"
    STRICT_AFFINITY = "the free addresses are in blocks of others, and strict affinity forbids to borrow"
    BLOCK_LIMIT = "the owner has as many blocks as it may have"
    NO_NEW_BLOCKS = "blocks are not claimed automatically"


@dataclass(frozen=True, slots=True)
class PoolChoice:
    """Pools in the order in which they are tried, and why the others are not."""

    pools: tuple[Pool, ...]
    refused: Mapping[str, PoolRefusal]


def choose_pools(
    pools: Iterable[Pool], version: int, use: Use, named: Sequence[str], selects: Callable[[Pool], bool]
) -> PoolChoice:
    """Pools that a request of one family may draw from.

    Shape   `named` pools (by name or CIDR) in the order named, whatever their selectors; else all that select, by name.
    """
    if named:
        return _choose_named(tuple(pools), version, use, named)
    chosen: list[Pool] = []
    refused: dict[str, PoolRefusal] = {}
    for pool in sorted(pools, key=lambda each: each.name):
        reason = _refuse(pool, version, use)
        if reason is None and not pool.automatic:
            reason = PoolRefusal.ON_REQUEST
        if reason is None and not selects(pool):
            reason = PoolRefusal.NOT_SELECTED
        if reason is None:
            chosen.append(pool)
        elif reason is not PoolRefusal.OTHER_FAMILY:
            refused[pool.name] = reason
    return PoolChoice(tuple(chosen), refused)


def _choose_named(pools: tuple[Pool, ...], version: int, use: Use, named: Sequence[str]) -> PoolChoice:
    chosen: list[Pool] = []
    refused: dict[str, PoolRefusal] = {}
    for name in named:
        pool = next((each for each in pools if name in (each.name, str(each.cidr))), None)
        reason = PoolRefusal.UNKNOWN if pool is None else _refuse(pool, version, use)
        if pool is not None and reason is None:
            chosen.append(pool)
        elif reason is not None:
            refused[name] = reason
    return PoolChoice(tuple(chosen), refused)


def _refuse(pool: Pool, version: int, use: Use) -> PoolRefusal | None:
    if pool.cidr.version != version:
        return PoolRefusal.OTHER_FAMILY
    if pool.disabled:
        return PoolRefusal.DISABLED
    return None if use in pool.uses else PoolRefusal.OTHER_USE


def pool_of(pools: Iterable[Pool], address: bytes) -> Pool | None:
    """The enabled pool that holds an address; the first by name where several do."""
    holding = (pool for pool in pools if not pool.disabled and pool.cidr.contains(address))
    return min(holding, key=lambda pool: pool.name, default=None)


def claim_seed(owner: str, claims: int) -> int:
    """Where an owner that already has `claims` blocks starts to look."""
    return int.from_bytes(sha256(f"{owner}/{claims}".encode()).digest()[:16], "big")


def iter_blocks(pool: Pool, seed: int) -> Iterator[Prefix]:
    """Every block of a pool once, from the place and in the steps that `seed` says.

    Shape   a pool has a power of two of blocks, so that any odd step comes by all of them.
    """
    count = 1 << (pool.block_length - pool.cidr.length)
    bits = len(pool.cidr.address) * 8
    base = int.from_bytes(pool.cidr.address, "big")
    step = seed >> 64 | 1
    for turn in range(count):
        number = base + ((seed + turn * step) % count << (bits - pool.block_length))
        yield Prefix(Address(number.to_bytes(bits // 8, "big")), pool.block_length)


def iter_overlapping(cidr: Prefix, lengths: Iterable[int]) -> Iterator[Prefix]:
    """The blocks of other lengths that would share addresses with `cidr`."""
    for length in lengths:
        if length < cidr.length:
            yield block_of(cidr.address, length)
        elif length > cidr.length:
            step = 1 << (len(cidr.address) * 8 - length)
            for place in range(1 << (length - cidr.length)):
                yield Prefix(cidr.nth(place * step), length)


def reservation_filter(reserved: Sequence[Prefix]) -> Callable[[Address], bool] | None:
    """Whether an address is reserved, as a predicate; None when nothing is."""
    if not reserved:
        return None
    return lambda address: any(cidr.contains(address) for cidr in reserved)


def describe_refusals(refused: Mapping[str, PoolRefusal]) -> str:
    """The reasons, pool by pool, for a person."""
    return "; ".join(f"{name}: {reason}" for name, reason in refused.items()) or "there is no pool"


def describe_addresses(addresses: Iterable[bytes]) -> str:
    """Addresses for a person."""
    return ", ".join(format_address(address) for address in addresses)
