"""The plan of one assignment: what the handle holds already, then fixed addresses, then any from a pool.

In: a draft and a request; out: the draft with the addresses taken, and the assignment. For any address, in this
order: the owner's own blocks, a block that nobody has, an empty block that another owner left idle, a free address in
another's block. Claims that Calico left pending, or pending deletion, are made good with the assignment that uses them.
Raises NeedKeys to be planned again, or an IpamError; the draft that it was given is then as it was.
Source: libcalico-go/lib/ipam/ipam.go (autoAssign, AssignIP), ipam_block_reader_writer.go (findUsableBlock).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice

from .addresses import Address, Prefix, block_of
from .block import assign, collect, free_ordinals, held_by, new_block
from .cache import UNSURE, Broken
from .choose import PoolRefusal, choose_pools, claim_seed, iter_blocks, pool_of, reservation_filter
from .draft import CONFIG_KEYS, UNKNOWN, Draft, NeedKeys
from .model import (
    AssignedAddress,
    Assignment,
    Block,
    Config,
    Handle,
    OwnerKind,
    Pool,
    affinity_key,
    block_key,
    handle_key,
    pool_key,
)
from .request import AddressRefusal, AddressRefused, IpamError, PoolExhausted, Request

IDLE_AFTER = timedelta(minutes=1)
"""How long an empty block stays with its owner before another may take it (EmptyBlockMinReclaimAge)."""

MAX_BLOCKS = 1 << 18
"""Blocks of a pool that are looked at before it counts as exhausted: all of a /8 in blocks of the usual size."""

PROBE = 16
SCAN = 128
"""Blocks that are read at once: to find one that nobody has, and to find an address in those that others have."""


@dataclass(frozen=True, slots=True)
class _Search:
    """What one request's search for addresses of one family goes by."""

    request: Request
    pools: tuple[Pool, ...]
    config: Config
    reserved: Callable[[Address], bool] | None


def plan_assign(draft: Draft, request: Request, selects: Callable[[Pool], bool]) -> tuple[Draft, Assignment]:
    """The draft with all of a request's addresses taken; `selects` is the node's part of the pools' selectors.

    Raises  NeedKeys; PoolExhausted, AddressRefused, Unreadable.
    """
    try:
        return _plan(draft, request, selects)
    except IpamError:
        key = handle_key(request.handle_id)
        if draft.get(key) is UNKNOWN:
            raise NeedKeys([key]) from None
        raise


def _plan(draft: Draft, request: Request, selects: Callable[[Pool], bool]) -> tuple[Draft, Assignment]:
    draft = draft.rely(handle_key(request.handle_id))
    before = draft.handle(request.handle_id)
    draft, got = _find_held(draft, request.handle_id, before)
    handle = _recount(draft, before, got)
    fixed = [address for address in request.addresses if all(address != each.address for each in got)]
    if not fixed and all(_count(got, version) >= request.wanted(version) for version in (4, 6)):
        return draft, Assignment(request.handle_id, got, repeated=True)
    config = draft.config()
    draft = draft.rely(*CONFIG_KEYS)
    reserved = reservation_filter(draft.cache.reserved())
    for address in fixed:
        draft, taken = _assign_fixed(draft, address, request, config)
        got, handle = (*got, taken), handle.plus(taken.block, 1)
    for version in (4, 6):
        missing = request.wanted(version) - _count(got, version)
        if missing <= 0:
            continue
        choice = choose_pools(
            draft.cache.pools(),
            version,
            request.use,
            request.pools,
            lambda pool: selects(pool) and request.selects(pool),
        )
        search = _Search(request, choice.pools, config, reserved)
        for _ in range(missing):
            refused: dict[str, PoolRefusal] = {}
            found = _assign_any(draft, search, version, refused)
            if found is None:
                raise PoolExhausted(version, {**choice.refused, **refused})
            draft, taken = found
            got, handle = (*got, taken), handle.plus(taken.block, 1)
    return draft.put(handle_key(request.handle_id), handle), Assignment(request.handle_id, got)


def _recount(draft: Draft, before: Handle | None, got: tuple[AssignedAddress, ...]) -> Handle:
    """What a handle counts, without blocks that are gone, and at least what it holds.

    More than it holds is let be: Calico counts first and writes the block then, so that it may be on its way.
    """
    if before is None:
        return Handle({})
    held = Counter(each.block for each in got)
    present = {cidr: count for cidr, count in before.blocks.items() if draft.block(cidr) is not None}
    return Handle({cidr: max(count, held[cidr]) for cidr, count in present.items()}, extra=before.extra)


def _count(got: tuple[AssignedAddress, ...], version: int) -> int:
    return sum(1 for each in got if each.block.version == version)


def _find_held(draft: Draft, handle_id: str, handle: Handle | None) -> tuple[Draft, tuple[AssignedAddress, ...]]:
    held: list[AssignedAddress] = []
    unread = [block_key(cidr) for cidr in (handle.blocks if handle else ()) if draft.get(block_key(cidr)) is UNKNOWN]
    if unread:
        raise NeedKeys(unread)
    for cidr in handle.blocks if handle else ():
        block = draft.block(cidr)
        draft = draft.rely(block_key(cidr))
        if isinstance(block, Block):
            pool = pool_of(draft.cache.pools(), cidr.address)
            held += [
                _describe(draft, block, ordinal, pool.name if pool else "") for ordinal in held_by(block, handle_id)
            ]
    return draft, tuple(held)


def _describe(draft: Draft, block: Block, ordinal: int, pool: str) -> AssignedAddress:
    return AssignedAddress(
        address=block.cidr.nth(ordinal),
        block=block.cidr,
        pool=pool,
        sequence=block.sequence_of.get(ordinal, 0),
        borrowed=not block.is_owned_by(draft.owner),
    )


def _take(draft: Draft, block: Block, ordinal: int, pool: Pool, request: Request) -> tuple[Draft, AssignedAddress]:
    taken = assign(block, ordinal, request.handle_id, request.owner)
    draft = draft.put_block(taken).rely(pool_key(pool.name))
    if taken.is_owned_by(draft.owner):
        draft = draft.confirm(taken.cidr)
    return draft, _describe(draft, taken, ordinal, pool.name)


def _assign_fixed(draft: Draft, address: Address, request: Request, config: Config) -> tuple[Draft, AssignedAddress]:
    pool = pool_of(draft.cache.pools(), address)
    if pool is None:
        raise AddressRefused(address, AddressRefusal.NO_POOL)
    if request.use not in pool.uses:
        raise AddressRefused(address, AddressRefusal.OTHER_USE)
    cidr = block_of(address, pool.block_length)
    block = draft.block(cidr)
    if isinstance(block, Broken) or (block is not None and block.deleted):
        raise AddressRefused(address, AddressRefusal.UNREADABLE)
    if block is None:
        if not draft.knows_claims:
            raise NeedKeys(claims=True)
        if draft.cache.overlaps(cidr):
            raise AddressRefused(address, AddressRefusal.OVERLAP)
        block = new_block(cidr, draft.owner, draft.now)
    if config.strict_affinity and not block.is_owned_by(draft.owner):
        raise AddressRefused(address, AddressRefusal.STRICT_AFFINITY)
    block = collect(block, config.cooldown_s, draft.now)
    ordinal = cidr.ordinal(address)
    held = block.attribute_of(ordinal)
    if held is not None and held.released_at is not None:
        raise AddressRefused(address, AddressRefusal.COOLING_DOWN)
    if held is not None:
        raise AddressRefused(address, AddressRefusal.IN_USE, held.holder)
    return _take(draft, block, ordinal, pool, request)


def _assign_any(
    draft: Draft, search: _Search, version: int, refused: dict[str, PoolRefusal]
) -> tuple[Draft, AssignedAddress] | None:
    own = _find_own(draft, search.pools)
    found = _from_own(draft, own, search)
    if found is not None:
        return found
    reason = _why_no_claim(search.config, len(own))
    if reason is not None:
        refused.update({pool.name: reason for pool in search.pools})
        return None
    if not draft.knows_claims:
        raise NeedKeys(claims=True)
    for pool in search.pools:
        found = _from_unclaimed(draft, pool, own, search)
        if found is not None:
            return found
    for pool in search.pools:
        found = _from_others(draft, pool, search)
        if found is not None:
            return found
        strict = search.config.strict_affinity
        refused[pool.name] = PoolRefusal.STRICT_AFFINITY if strict else PoolRefusal.NO_FREE_BLOCK
    return None


def _find_own(draft: Draft, pools: tuple[Pool, ...]) -> list[tuple[Prefix, Pool]]:
    """The owner's blocks in some pools, with those that it has claimed and not yet made."""
    claims = [(cidr, pool) for pool in pools for cidr in draft.own_blocks() if pool.cidr.covers(cidr)]
    unread = [block_key(cidr) for cidr, _ in claims if draft.get(block_key(cidr)) is UNKNOWN]
    if unread:
        raise NeedKeys(unread)
    return [(cidr, pool) for cidr, pool in claims if draft.block(cidr) is None or draft.owned_block(cidr)]


def _why_no_claim(config: Config, count: int) -> PoolRefusal | None:
    if not config.auto_allocate_blocks:
        return PoolRefusal.NO_NEW_BLOCKS
    return PoolRefusal.BLOCK_LIMIT if count >= config.block_limit else None


def _from_own(draft: Draft, own: list[tuple[Prefix, Pool]], search: _Search) -> tuple[Draft, AssignedAddress] | None:
    full: list[tuple[Block, Pool]] = []
    for cidr, pool in own:
        block = draft.owned_block(cidr)
        if block is None:
            continue
        ordinal = next(iter(free_ordinals(block, search.reserved)), None)
        if ordinal is not None:
            return _take(draft, block, ordinal, pool, search.request)
        full.append((block, pool))
    for block, pool in full:
        if all(attribute.released_at is None for attribute in block.attributes):
            continue
        rested = collect(block, search.config.cooldown_s, draft.now)
        ordinal = next(iter(free_ordinals(rested, search.reserved)), None)
        if ordinal is not None:
            return _take(draft, rested, ordinal, pool, search.request)
    return None


def _from_unclaimed(
    draft: Draft, pool: Pool, own: list[tuple[Prefix, Pool]], search: _Search
) -> tuple[Draft, AssignedAddress] | None:
    claimed_in_part = [cidr for cidr, of in own if of is pool and draft.block(cidr) is None]
    for cidr in claimed_in_part or _iter_unclaimed(draft, pool, len(own)):
        block = new_block(cidr, draft.owner, draft.now)
        ordinal = next(iter(free_ordinals(block, search.reserved)), None)
        if ordinal is not None and not draft.cache.overlaps(cidr):
            return _take(draft, block, ordinal, pool, search.request)
    return None


def _iter_pool(draft: Draft, pool: Pool, claims: int) -> Iterator[Prefix]:
    """A pool's blocks in the order of the owner's next claim, but for those that are reserved as a whole."""
    reserved = tuple(cidr for cidr in draft.cache.reserved() if cidr.overlaps(pool.cidr))
    for cidr in islice(iter_blocks(pool, claim_seed(draft.owner.name, claims)), MAX_BLOCKS):
        if not any(wide.covers(cidr) for wide in reserved):
            yield cidr


def _iter_unclaimed(draft: Draft, pool: Pool, claims: int) -> Iterator[Prefix]:
    unread: list[str] = []
    for cidr in _iter_pool(draft, pool, claims):
        if cidr in draft.cache.free:
            continue
        value = draft.get(block_key(cidr))
        if value is None or (value is UNKNOWN and draft.guesses):
            yield cidr
        elif value is UNKNOWN:
            unread.append(block_key(cidr))
            if len(unread) >= PROBE:
                raise NeedKeys(unread)
    if unread:
        raise NeedKeys(unread)


def _from_others(draft: Draft, pool: Pool, search: _Search) -> tuple[Draft, AssignedAddress] | None:
    cooldown_s = search.config.cooldown_s
    idle = next((block for block in _iter_others(draft, pool, cooldown_s) if _is_idle(draft, block)), None)
    if idle is not None:
        draft, block = _take_over(draft, idle)
        ordinal = next(iter(free_ordinals(block, search.reserved)), None)
        if ordinal is not None:
            return _take(draft, block, ordinal, pool, search.request)
    if search.config.strict_affinity:
        return None
    for block in _iter_others(draft, pool, cooldown_s):
        ordinal = next(iter(free_ordinals(block, search.reserved)), None)
        if ordinal is not None:
            return _take(draft, block, ordinal, pool, search.request)
    return None


def _iter_others(draft: Draft, pool: Pool, cooldown_s: int) -> Iterator[Block]:
    unread: list[str] = []
    absent = 0 if draft.guesses else UNSURE
    for cidr in _iter_pool(draft, pool, 0):
        key = block_key(cidr)
        if draft.cache.free.get(cidr, absent) == 0 and key not in draft.changes:
            continue
        value = draft.get(key)
        if isinstance(value, Block):
            if not value.is_owned_by(draft.owner) and not value.deleted:
                yield collect(value, cooldown_s, draft.now)
        elif value is UNKNOWN:
            unread.append(key)
            if len(unread) >= SCAN:
                raise NeedKeys(unread, scan=True)
    if unread:
        raise NeedKeys(unread, scan=True)


def _is_idle(draft: Draft, block: Block) -> bool:
    idle_since = block.claimed_at
    return (
        block.is_empty
        and bool(block.unallocated)
        and block_key(block.cidr) not in draft.changes
        and not (block.affinity or "").startswith(f"{OwnerKind.VIRTUAL}:")
        and (idle_since is None or draft.now - idle_since >= IDLE_AFTER)
    )


def _take_over(draft: Draft, idle: Block) -> tuple[Draft, Block]:
    kind, _, name = (idle.affinity or "").partition(":")
    if kind == OwnerKind.HOST:
        owner = draft.owner._replace(kind=OwnerKind.HOST, name=name)
        key = affinity_key(owner, idle.cidr)
        if draft.get(key) is UNKNOWN:
            raise NeedKeys([key])
        draft = draft.put(key, None)
    fresh = new_block(idle.cidr, draft.owner, draft.now)
    sequence = max(fresh.sequence_number, idle.sequence_number + 1)
    return draft, replace(fresh, sequence_number=sequence, extra=idle.extra)
