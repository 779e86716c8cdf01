"""What may be done to a block: cut one, assign, release, let released addresses rest, hand it to another owner.

In: a block and the facts (now, sequence numbers come from the block itself); out: a new block and what was done. Free
addresses form a queue: the longest free goes out first. An address that is released with a cooldown keeps its place in
`allocations`, under an attribute that only says when, until `collect` frees it.
Never writes the sequence number that a stored block gets: `stamp` does, once per write.
Source: libcalico-go/lib/ipam/ipam_block.go; design/ipam/ipam-core-library.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from .addresses import Address, Prefix
from .model import Attribute, Block, Owner


class ReleaseRefusal(StrEnum):
    """Why an address was not released; whoever asked acts on outdated knowledge."""

    OTHER_HANDLE = "another handle holds the address"
    OTHER_ALLOCATION = "the address has been released and given out again since"


@dataclass(frozen=True, slots=True)
class Release:
    """A request to give an address back; a handle and a sequence number, where given, must be those it is held by."""

    address: Address
    handle_id: str | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """A block after some releases, how many addresses each handle gave back, and which releases were refused."""

    block: Block
    by_handle: Mapping[str, int]
    refused: Mapping[Address, ReleaseRefusal]


def new_block(cidr: Prefix, owner: Owner | None, now: datetime) -> Block:
    """A block with every address free.

    Units   its sequence number starts at `now` in nanoseconds, so a block that is deleted and made again goes on above.
    """
    return Block(
        cidr=cidr,
        affinity=None if owner is None else str(owner),
        claimed_at=None if owner is None else now,
        allocations=(None,) * cidr.size,
        unallocated=tuple(range(cidr.size)),
        attributes=(),
        sequence_number=int(now.timestamp() * 1_000_000) * 1000,
        sequence_of={},
        nulls=frozenset({"attributes"}),
    )


def free_ordinals(block: Block, reserved: Callable[[Address], bool] | None = None) -> Iterable[int]:
    """Ordinals that may be given out, next first; `reserved` addresses are passed over."""
    if reserved is None:
        return block.unallocated
    return (ordinal for ordinal in block.unallocated if not reserved(block.cidr.nth(ordinal)))


def assign(block: Block, ordinal: int, handle_id: str, owner: Mapping[str, str]) -> Block:
    """Gives a free address to a handle. `owner` is recorded with it; equal records are kept once."""
    record = Attribute(handle_id=handle_id, owner=owner)
    same = (n for n, known in enumerate(block.attributes) if known.handle_id == handle_id and known == record)
    index = next(same, len(block.attributes))
    attributes = block.attributes if index < len(block.attributes) else (*block.attributes, record)
    free = block.unallocated
    place = free.index(ordinal)
    return replace(
        block,
        allocations=_with(block.allocations, ordinal, index),
        unallocated=free[:place] + free[place + 1 :],
        attributes=attributes,
        sequence_of={**block.sequence_of, ordinal: block.sequence_number},
    )


def held_by(block: Block, handle_id: str) -> tuple[int, ...]:
    """Ordinals that a handle holds."""
    indexes = {index for index, attribute in enumerate(block.attributes) if attribute.holder == handle_id}
    return tuple(ordinal for ordinal, index in enumerate(block.allocations) if index in indexes) if indexes else ()


def release(block: Block, releases: Iterable[Release], cooldown_s: int, now: datetime) -> Released:
    """Gives addresses back. One that is free or cools down counts as done; one that does not match is refused."""
    ordinals: dict[int, str] = {}
    refused: dict[Address, ReleaseRefusal] = {}
    for wanted in releases:
        ordinal = block.cidr.ordinal(wanted.address)
        attribute = block.attribute_of(ordinal)
        if attribute is None or attribute.released_at is not None:
            continue
        if wanted.sequence is not None and wanted.sequence != block.sequence_of.get(ordinal, 0):
            refused[wanted.address] = ReleaseRefusal.OTHER_ALLOCATION
        elif wanted.handle_id is not None and wanted.handle_id != attribute.holder:
            refused[wanted.address] = ReleaseRefusal.OTHER_HANDLE
        else:
            ordinals[ordinal] = attribute.holder
    by_handle: dict[str, int] = {}
    for handle_id in ordinals.values():
        if handle_id:
            by_handle[handle_id] = by_handle.get(handle_id, 0) + 1
    return Released(_let_rest(block, ordinals, cooldown_s, now), by_handle, refused)


def _let_rest(block: Block, ordinals: Iterable[int], cooldown_s: int, now: datetime) -> Block:
    allocations = list(block.allocations)
    sequence_of = dict(block.sequence_of)
    for ordinal in sorted(ordinals):
        allocations[ordinal] = len(block.attributes)
        sequence_of[ordinal] = block.sequence_number
    rested = replace(
        block,
        allocations=tuple(allocations),
        attributes=(*block.attributes, Attribute(released_at=now)),
        sequence_of=sequence_of,
    )
    return collect(rested, cooldown_s, now)


def collect(block: Block, cooldown_s: int, now: datetime) -> Block:
    """Frees the addresses that have rested for `cooldown_s`, last in the queue, and drops records that none refers to.

    Returns the same object when there is nothing to do.
    """
    latest = now - timedelta(seconds=cooldown_s)
    rested = {
        index
        for index, attribute in enumerate(block.attributes)
        if attribute.released_at is not None and attribute.released_at <= latest
    }
    freed = tuple(ordinal for ordinal, index in enumerate(block.allocations) if index in rested) if rested else ()
    used = {index for index in block.allocations if index is not None and index not in rested}
    if not freed and len(used) == len(block.attributes):
        return block
    moved: dict[int | None, int] = {old: new for new, old in enumerate(sorted(used))}
    return replace(
        block,
        allocations=tuple(moved.get(index) for index in block.allocations),
        unallocated=block.unallocated + freed,
        attributes=tuple(block.attributes[old] for old in sorted(used)),
        sequence_of={ordinal: number for ordinal, number in block.sequence_of.items() if ordinal not in freed},
    )


def disown(block: Block) -> Block:
    """Without affinity; its addresses stay with their holders."""
    return replace(block, affinity=None, claimed_at=None)


def stamp(block: Block) -> Block:
    """As it is written: with the next sequence number."""
    return replace(block, sequence_number=block.sequence_number + 1)


def _with(values: tuple[int | None, ...], place: int, value: int | None) -> tuple[int | None, ...]:
    return (*values[:place], value, *values[place + 1 :])
