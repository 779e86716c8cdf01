"""Which Service addresses Calico's IPAM records: in blocks of `virtual:load-balancer`, with a handle a Service.

In: IPAM blocks as they are in the datastore, and what we have written since; out: who holds which address, and the
handle and attributes of a Service in Calico's own form. Whoever wrote them, Calico's controller or ours, reads alike.
Pure. Source: kube-controllers/pkg/controllers/loadbalancer (handles, attributes).
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256

from felixpy.addresses import Address
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import Service
from ipam.codec import Malformed, parse_block
from ipam.model import BLOCKS_PREFIX, LOAD_BALANCER

HANDLE_MOST = 253
_OWNER = LOAD_BALANCER.name.encode()


class CalicoHoldings:
    """Who holds which address, block by block."""

    def __init__(self) -> None:
        self._blocks: dict[str, dict[Address, Name]] = {}
        self._block_of: dict[Address, str] = {}
        self._holder_of: dict[Address, Name] = {}
        self._held: dict[Name, set[Address]] = {}

    def observe(self, key: str, value: bytes | None) -> frozenset[Name] | None:
        """Takes a key; the holders whom that concerns, None where it is no block's key."""
        if not key.startswith(BLOCKS_PREFIX):
            return None
        after = dict(_read_holders(value)) if value is not None and _OWNER in value else {}
        before = self._blocks.pop(key, {})
        if after:
            self._blocks[key] = after
        for address in before.keys() - after.keys():
            self._put(address, None, key)
        for address, name in after.items():
            self._put(address, name, key)
        return frozenset(before.values()) | frozenset(after.values())

    def assume(self, address: Address, name: Name | None) -> str:
        """We have written that `name` (nobody: None) holds an address; the key of its block, "" where none is known."""
        key = self._block_of.get(address, "")
        if key:
            block = self._blocks.setdefault(key, {})
            if name is None:
                block.pop(address, None)
            else:
                block[address] = name
        self._put(address, name, key)
        return key

    def _put(self, address: Address, name: Name | None, key: str) -> None:
        holder = self._holder_of.pop(address, None)
        if holder is not None:
            self._held[holder].discard(address)
            if not self._held[holder]:
                del self._held[holder]
        self._block_of.pop(address, None)
        if name is not None:
            self._holder_of[address] = name
            self._held.setdefault(name, set()).add(address)
        if key:
            self._block_of[address] = key

    def holder(self, address: Address) -> Name | None:
        """Who holds an address, as IPAM says."""
        return self._holder_of.get(address)

    def addresses_of(self, name: Name) -> frozenset[Address]:
        """What a Service holds, as IPAM says."""
        return frozenset(self._held.get(name, ()))


def _read_holders(value: bytes) -> Iterator[tuple[Address, Name]]:
    """The addresses of a block that are held; by whom it does not say, nobody may have."""
    try:
        block = parse_block(value)
    except Malformed:
        return
    for ordinal in range(len(block.allocations)):
        attribute = block.attribute_of(ordinal)
        if attribute is None or attribute.released_at is not None:
            continue
        owner = attribute.owner
        named = Name(owner.get("namespace", ""), owner.get("service", ""))
        unknown = Name("", f"IPAM handle {attribute.holder}")
        yield Address(block.cidr.nth(ordinal)), named if all(named) else unknown


def make_handle(name: Name, uid: str) -> str:
    """The handle of a Service (createHandle in Calico's controller)."""
    digest = sha256(f"{name.name}-{name.namespace}-{uid}".lower().encode()).digest()
    plain = re.sub(r"[-_.]", "", urlsafe_b64encode(digest).decode().rstrip("="))
    return f"lb-{plain}"[:HANDLE_MOST]


def make_attributes(name: Name, service: Service, now: str) -> dict[str, str]:
    """What is recorded of a Service's addresses."""
    return {"service": name.name, "namespace": name.namespace, "type": service.type, "timestamp": now}
