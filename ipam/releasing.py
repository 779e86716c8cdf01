"""The plans of giving back: all addresses of a handle, single addresses, a block.

In: a draft and what is to go; out: the draft without it. A handle goes with the last of its addresses, an address of a
handle that has no key goes too, and a block that is empty and nobody's goes with its last address. What is gone already
counts as done.
Raises NeedKeys to be planned again, or an IpamError.
Source: libcalico-go/lib/ipam/ipam.go (ReleaseByHandle, ReleaseIPs), ipam_block_reader_writer.go (releaseBlockAffinity).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .addresses import Address, Prefix
from .block import Release, ReleaseRefusal, disown, held_by, new_block, release
from .draft import CONFIG_KEYS, UNKNOWN, Draft, NeedKeys
from .model import (
    Affinity,
    Block,
    Owner,
    affinity_key,
    block_key,
    handle_key,
    iter_holding,
)
from .request import BlockInUse


@dataclass(frozen=True, slots=True)
class Receipt:
    """The addresses that were given back, and those whose release was refused."""

    released: tuple[Address, ...]
    refused: Mapping[Address, ReleaseRefusal]


def plan_release_handle(draft: Draft, handle_id: str, only_empty: bool = False) -> tuple[Draft, Receipt]:
    """The draft without any address of a handle, and without the handle; as it was where one was to be `only_empty`.

    Shape   a block that the handle counts in and holds nothing of is written as it is: Calico counts first and writes
            the block then, so that one that is on its way fails, and does not allocate under a handle that is gone.
    """
    key = handle_key(handle_id)
    if draft.get(key) is UNKNOWN:
        raise NeedKeys([key])
    handle = draft.handle(handle_id)
    draft = draft.rely(key)
    listed = tuple(handle.blocks) if handle else ()
    unread = [block_key(cidr) for cidr in listed if draft.get(block_key(cidr)) is UNKNOWN]
    if unread:
        raise NeedKeys(unread)
    released: list[Address] = []
    before = draft
    for cidr in dict.fromkeys((*listed, *_own_holding(draft, handle_id))):
        block = draft.block(cidr)
        draft = draft.rely(block_key(cidr))
        if isinstance(block, Block):
            wanted = [Release(cidr.nth(ordinal), handle_id) for ordinal in held_by(block, handle_id)]
            if wanted and only_empty:
                return before, Receipt((), {})
            draft, _ = _release_in(draft, block, wanted)
            if not wanted:
                draft = draft.put_block(block)
            released += [each.address for each in wanted]
    if handle is not None:
        draft = draft.put(key, None)
    return draft, Receipt(tuple(released), {})


def _own_holding(draft: Draft, handle_id: str) -> Iterable[Prefix]:
    for cidr in draft.own_blocks():
        block = draft.get(block_key(cidr))
        if isinstance(block, Block) and any(
            (attribute.handle_id or "").startswith(handle_id) and attribute.holder == handle_id
            for attribute in block.attributes
        ):
            yield cidr


def plan_release_addresses(draft: Draft, releases: Sequence[Release]) -> tuple[Draft, Receipt]:
    """The draft without single addresses, each only if it is still held as its release says."""
    by_block: dict[Prefix, list[Release]] = {}
    for each in releases:
        cidr = _find_block(draft, each.address)
        if cidr is not None:
            by_block.setdefault(cidr, []).append(each)
    released: list[Address] = []
    refused: dict[Address, ReleaseRefusal] = {}
    for cidr, wanted in by_block.items():
        block = draft.block(cidr)
        if not isinstance(block, Block):
            continue
        held = [each for each in wanted if _is_held(block, each.address)]
        draft = draft.rely(block_key(cidr))
        draft, refusals = _release_in(draft, block, held)
        refused.update(refusals)
        released += [each.address for each in held if each.address not in refusals]
    return draft, Receipt(tuple(released), refused)


def _is_held(block: Block, address: Address) -> bool:
    attribute = block.attribute_of(block.cidr.ordinal(address))
    return attribute is not None and attribute.released_at is None


def _release_in(
    draft: Draft, block: Block, releases: Sequence[Release]
) -> tuple[Draft, Mapping[Address, ReleaseRefusal]]:
    if not releases:
        return draft, {}
    cooldown_s = draft.config().cooldown_s
    result = release(block, releases, cooldown_s, draft.now)
    keys = [handle_key(handle_id) for handle_id in result.by_handle]
    unread = [key for key in keys if draft.get(key) is UNKNOWN]
    if unread:
        raise NeedKeys(unread)
    if len(result.refused) < len(releases):
        draft = draft.put_block(result.block).rely(*CONFIG_KEYS)
    for handle_id, count in result.by_handle.items():
        handle = draft.handle(handle_id)
        if handle is not None:
            fewer = handle.plus(block.cidr, -count)
            draft = draft.put(handle_key(handle_id), fewer if fewer.blocks else None)
    return draft, result.refused


def _find_block(draft: Draft, address: Address) -> Prefix | None:
    candidates = tuple(iter_holding(address))
    known = [cidr for cidr in candidates if isinstance(draft.get(block_key(cidr)), Block)]
    if not known:
        unread = [block_key(cidr) for cidr in candidates if draft.get(block_key(cidr)) is UNKNOWN]
        if unread:
            raise NeedKeys(unread)
    holding = (cidr for cidr in known if _holds(draft, cidr, address))
    return next(holding, known[0] if known else None)


def _holds(draft: Draft, cidr: Prefix, address: Address) -> bool:
    block = draft.block(cidr)
    return isinstance(block, Block) and _is_held(block, address)


def plan_release_block(draft: Draft, cidr: Prefix, owner: Owner, only_empty: bool) -> Draft:
    """The draft with an owner's claim to a block given up, and the block deleted if it is empty.

    Raises  NeedKeys; BlockInUse when addresses are held and the block was to go `only_empty`.
    """
    keys = [block_key(cidr), affinity_key(owner, cidr)]
    unread = [key for key in keys if draft.get(key) is UNKNOWN]
    if unread:
        raise NeedKeys(unread)
    block = draft.block(cidr)
    draft = draft.rely(*keys)
    if isinstance(block, Block) and block.is_owned_by(owner):
        if only_empty and not block.is_empty:
            raise BlockInUse(f"block {cidr} of {owner} still has held addresses")
        draft = draft.put_block(disown(block))
    return draft.put(affinity_key(owner, cidr), None)


def plan_claim_block(draft: Draft, cidr: Prefix) -> Draft:
    """The draft with a block made the owner's, or with its claim to the block confirmed where it was not.

    Raises  NeedKeys; BlockInUse when another has the block.
    """
    key = affinity_key(draft.owner, cidr)
    if draft.get(key) is UNKNOWN:
        raise NeedKeys([key])
    block = draft.block(cidr)
    claim = draft.get(key)
    draft = draft.rely(key, block_key(cidr))
    if block is None:
        return draft.put_block(new_block(cidr, draft.owner, draft.now)).confirm(cidr)
    if not isinstance(block, Block) or not block.is_owned_by(draft.owner):
        raise BlockInUse(f"block {cidr} is another's")
    if isinstance(claim, Affinity) and claim.is_confirmed:
        return draft
    return draft.put_block(block).confirm(cidr)
