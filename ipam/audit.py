"""What is wrong with the recorded addresses, and what may be released for it.

In: every key of the datastore at one revision, and which handles and addresses are alive; out: findings with reasons,
and releases. A handle that nothing alive uses is a suspect only: it is released when two audits, far enough apart,
found the very same allocations, and the release names their sequence numbers, so that who came back in between wins.
Never writes: releases go through the allocator, as everyone's do.
Source: calicoctl/calicoctl/commands/ipam/check.go, kube-controllers/pkg/controllers/node/ipam.go, design/ipam.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Generic, TypeVar

from .addresses import Address, Prefix, format_address
from .block import Release
from .codec import Malformed, parse_affinity, parse_block, parse_handle, parse_pool
from .model import (
    BLOCKS_PREFIX,
    HANDLES_PREFIX,
    POOLS_PREFIX,
    WINDOWS_HANDLE,
    Affinity,
    Block,
    Handle,
    Pool,
    affinity_key,
    parse_affinity_key,
    parse_handle_key,
    parse_owner,
)

GRACE = timedelta(minutes=15)
"""How long a suspect stays one before it is released (leakGracePeriod)."""


class Problem(StrEnum):
    """What an audit finds."""

    LEAKED = "the address is allocated and nothing alive uses it"
    NOT_ALLOCATED = "the address is in use and not allocated"
    SEVERAL_USERS = "the address is in use by several"
    OUTSIDE_POOLS = "the address is allocated outside every pool"
    EMPTY_OUTSIDE_POOLS = "the block is empty and outside every pool"
    NO_HANDLE = "the address is allocated and its handle does not exist"
    NO_ADDRESS = "the handle exists and holds no address"
    COUNT_WRONG = "the handle counts other addresses than the blocks do"
    LOST = "the address is neither allocated nor free"
    OVERLAP = "the block shares addresses with another"
    CLAIM_MISSING = "the block has an owner and no claim by it"
    CLAIM_STALE = "the claim is to a block that is not the claimant's"
    CLAIM_UNCONFIRMED = "the claim was left half made or half undone"
    UNREADABLE = "the value cannot be read"


CAUSES: Mapping[Problem, str] = {
    Problem.LEAKED: "whoever had it ended without giving it back",
    Problem.NOT_ALLOCATED: "it was taken without asking, or released by hand",
    Problem.SEVERAL_USERS: "it was taken without asking, or given out twice by a faulty program",
    Problem.OUTSIDE_POOLS: "its pool was deleted or made smaller",
    Problem.EMPTY_OUTSIDE_POOLS: "its pool was deleted or made smaller",
    Problem.NO_HANDLE: "the handle was deleted by hand",
    Problem.NO_ADDRESS: "a Calico node ended between handle and block",
    Problem.COUNT_WRONG: "a Calico node ended between handle and block",
    Problem.LOST: "the block was written by hand, or by a faulty program",
    Problem.OVERLAP: "the size of a pool's blocks was changed while it had some",
    Problem.CLAIM_MISSING: "a Calico node was overtaken while it gave up the block",
    Problem.CLAIM_STALE: "a Calico node ended, or was overtaken, while it took or gave up the block",
    Problem.CLAIM_UNCONFIRMED: "a Calico node ended, or was overtaken, while it took or gave up the block",
    Problem.UNREADABLE: "it was written by hand, or by a faulty program",
}
"""What such a thing comes of, as a rule: no transaction of ours leaves any of them, but for what our nodes leak."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one key; `subject` is the address, handle or block for a person."""

    problem: Problem
    key: str
    subject: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Suspect:
    """An allocation that nothing alive uses."""

    address: Address
    handle_id: str
    sequence: int

    def release(self) -> Release:
        """Its release, refused if it has been given out anew."""
        return Release(self.address, self.handle_id, self.sequence)


@dataclass(frozen=True, slots=True)
class Audit:
    """What one look at the datastore found."""

    findings: tuple[Finding, ...]
    suspects: frozenset[Suspect]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


@dataclass(frozen=True, slots=True)
class _Snapshot:
    blocks: Mapping[str, Block]
    handles: Mapping[str, Handle]
    claims: Mapping[str, Affinity]
    pools: tuple[Pool, ...]
    unreadable: tuple[Finding, ...]


def audit(
    values: Mapping[str, bytes],
    live_handles: Collection[str] | None = None,
    live_addresses: Collection[Address] = (),
    shared: Mapping[Address, str] = MappingProxyType({}),
) -> Audit:
    """Compares blocks, handles, claims and pools with one another and with what is alive.

    `shared` are addresses that several have, and who.

    Missing  without `live_handles` nothing is suspected: not to know who is alive is not to know that nobody is.
    """
    snapshot = _read(values)
    suspects = frozenset(_find_suspects(snapshot, live_handles, live_addresses))
    leaks = (
        Finding(Problem.LEAKED, HANDLES_PREFIX + each.handle_id, format_address(each.address), each.handle_id)
        for each in sorted(suspects, key=lambda each: each.address)
    )
    findings = (
        *snapshot.unreadable,
        *leaks,
        *_find_unallocated(snapshot, live_addresses),
        *(Finding(Problem.SEVERAL_USERS, "", format_address(one), who) for one, who in sorted(shared.items())),
        *_check_blocks(snapshot),
        *_check_handles(snapshot),
        *_check_claims(snapshot),
    )
    return Audit(findings, suspects)


def derive_releases(
    first: Audit, then: datetime, second: Audit, now: datetime, grace: timedelta = GRACE
) -> tuple[Release, ...]:
    """The releases that two audits agree on; none while the second came sooner than `grace` after the first.

    Shape   of a handle all its suspects or none: a handle some of whose addresses are alive is left alone.
    """
    if now - then < grace:
        return ()
    agreed = first.suspects & second.suspects
    changed = {each.handle_id for each in second.suspects - agreed}
    ready = (each for each in agreed if each.handle_id not in changed)
    return tuple(each.release() for each in sorted(ready, key=lambda each: each.address))


T = TypeVar("T", bound=Hashable)


class Suspicions(Generic[T]):
    """Since when each thing has been suspect without a break."""

    def __init__(self) -> None:
        self._since: dict[T, float] = {}

    def look(self, suspects: Collection[T], now: float, grace_s: float) -> tuple[T, ...]:
        """Takes what one look found, at `now` (seconds); those that have been suspect for `grace_s`."""
        self._since = {one: self._since.get(one, now) for one in suspects}
        return tuple(one for one, since in self._since.items() if now - since >= grace_s)


def _read(values: Mapping[str, bytes]) -> _Snapshot:
    blocks: dict[str, Block] = {}
    handles: dict[str, Handle] = {}
    claims: dict[str, Affinity] = {}
    pools: list[Pool] = []
    unreadable: list[Finding] = []
    for key, value in values.items():
        try:
            if key.startswith(BLOCKS_PREFIX):
                blocks[key] = parse_block(value)
            elif key.startswith(HANDLES_PREFIX):
                handles[key] = parse_handle(value)
            elif key.startswith(POOLS_PREFIX):
                pools.append(parse_pool(value))
            elif parse_affinity_key(key) is not None:
                claims[key] = parse_affinity(value)
        except Malformed as problem:
            unreadable.append(Finding(Problem.UNREADABLE, key, key.rpartition("/")[2], str(problem)))
    return _Snapshot(blocks, handles, claims, tuple(pools), tuple(unreadable))


def _iter_held(block: Block) -> Iterator[tuple[Address, str, int]]:
    for ordinal in range(block.cidr.size):
        attribute = block.attribute_of(ordinal)
        if attribute is not None and attribute.released_at is None and attribute.holder.lower() != WINDOWS_HANDLE:
            yield block.cidr.nth(ordinal), attribute.holder, block.sequence_of.get(ordinal, 0)


def _find_suspects(
    snapshot: _Snapshot, live_handles: Collection[str] | None, live_addresses: Collection[Address]
) -> Iterator[Suspect]:
    if live_handles is None:
        return
    held = [each for block in snapshot.blocks.values() for each in _iter_held(block)]
    alive = {*live_handles, *(handle_id for address, handle_id, _ in held if address in live_addresses and handle_id)}
    for address, handle_id, sequence in held:
        if handle_id not in alive and address not in live_addresses:
            yield Suspect(address, handle_id, sequence)


def _find_unallocated(snapshot: _Snapshot, live_addresses: Collection[Address]) -> Iterator[Finding]:
    held = {address for block in snapshot.blocks.values() for address, _, _ in _iter_held(block)}
    for address in sorted(live_addresses):
        if address not in held and any(pool.cidr.contains(address) for pool in snapshot.pools):
            yield Finding(Problem.NOT_ALLOCATED, "", format_address(address))


def _check_blocks(snapshot: _Snapshot) -> Iterator[Finding]:
    for key, block in snapshot.blocks.items():
        in_pool = any(pool.cidr.covers(block.cidr) for pool in snapshot.pools)
        for address, handle_id, _ in _iter_held(block):
            text = format_address(address)
            if not in_pool:
                yield Finding(Problem.OUTSIDE_POOLS, key, text, handle_id)
            if handle_id and HANDLES_PREFIX + handle_id not in snapshot.handles:
                yield Finding(Problem.NO_HANDLE, key, text, handle_id)
        if not in_pool and block.is_empty:
            yield Finding(Problem.EMPTY_OUTSIDE_POOLS, key, str(block.cidr), block.affinity or "")
        free = set(block.unallocated)
        for ordinal, index in enumerate(block.allocations):
            if index is None and ordinal not in free:
                yield Finding(Problem.LOST, key, format_address(block.cidr.nth(ordinal)))
    yield from _find_overlaps(snapshot.blocks)


def _find_overlaps(blocks: Mapping[str, Block]) -> Iterator[Finding]:
    widest: Prefix | None = None
    order = sorted(blocks.items(), key=lambda each: (each[1].cidr.version, each[1].cidr))
    for key, block in order:
        if widest is not None and widest.covers(block.cidr):
            yield Finding(Problem.OVERLAP, key, str(block.cidr), str(widest))
        else:
            widest = block.cidr


def _check_handles(snapshot: _Snapshot) -> Iterator[Finding]:
    counted: dict[str, dict[Prefix, int]] = {}
    for block in snapshot.blocks.values():
        for _, handle_id, _ in _iter_held(block):
            counts = counted.setdefault(handle_id, {})
            counts[block.cidr] = counts.get(block.cidr, 0) + 1
    for key, handle in snapshot.handles.items():
        handle_id = parse_handle_key(key) or ""
        counts = counted.get(handle_id, {})
        if not counts:
            yield Finding(Problem.NO_ADDRESS, key, handle_id)
        elif counts != dict(handle.blocks):
            yield Finding(Problem.COUNT_WRONG, key, handle_id, f"{_words(handle.blocks)}, in truth {_words(counts)}")


def _words(counts: Mapping[Prefix, int]) -> str:
    return ", ".join(f"{count} in {cidr}" for cidr, count in sorted(counts.items())) or "none"


def _check_claims(snapshot: _Snapshot) -> Iterator[Finding]:
    owned: dict[str, tuple[str, Block]] = {}
    for key, block in snapshot.blocks.items():
        claim = _claim_of(block)
        if claim is not None:
            owned[claim] = (key, block)
    for claim, (key, block) in owned.items():
        if claim not in snapshot.claims:
            yield Finding(Problem.CLAIM_MISSING, key, str(block.cidr), block.affinity or "")
    for key, affinity in snapshot.claims.items():
        subject = key.rpartition("/")[2]
        if key not in owned:
            yield Finding(Problem.CLAIM_STALE, key, subject, affinity.state)
        elif not affinity.is_confirmed:
            yield Finding(Problem.CLAIM_UNCONFIRMED, key, subject, affinity.state)


def _claim_of(block: Block) -> str | None:
    owner = parse_owner(block.affinity or "")
    return affinity_key(owner, block.cidr) if owner is not None else None
