"""The values that address management is made of, in Calico's words, and the etcd keys that they live at.

Owns the shapes only: JSON is codec.py's, and what may be done to a block is block.py's. Values are immutable; a change
is a new value. `extra` holds the fields that we do not know, so that a write keeps them.
Source: libcalico-go/lib/backend/model (block.go, block_affinity.go, ipam_handle.go, ipam_config.go), api v3 ippool.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from .addresses import Address, Prefix, block_of, parse_prefix

IPAM_PREFIX = "/calico/ipam/v2/"
BLOCKS_PREFIX = f"{IPAM_PREFIX}assignment/"
HANDLES_PREFIX = f"{IPAM_PREFIX}handle/"
CONFIG_KEY = f"{IPAM_PREFIX}config"
CONFIGURATION_KEY = "/calico/resources/v3/projectcalico.org/ipamconfigurations/default"
"""What people apply (v3 IPAMConfiguration); it counts where Calico's own CONFIG_KEY does not exist."""
POOLS_PREFIX = "/calico/resources/v3/projectcalico.org/ippools/"
RESERVATIONS_PREFIX = "/calico/resources/v3/projectcalico.org/ipreservations/"

WINDOWS_HANDLE = "windows-reserved-ipam-handle"
MACHINE_INFIX = ".vmi."
"""In the handle of an address that Calico keeps for a KubeVirt machine, whether or not that runs (lib/ipam/vmipam)."""
"""Marks addresses that every block of a Windows node gives up; such a block still counts as empty."""

MAX_BLOCKS_PER_OWNER = 20
"""The limit where neither configuration nor request says one (ipam.go, autoAssign)."""

BLOCK_LENGTHS = {4: range(20, 33), 6: range(116, 129)}
"""Which prefix lengths a pool's blocks may have, per family (ippool.go, blockSize)."""

Json = Mapping[str, object]


class OwnerKind(StrEnum):
    """Whether a block belongs to a node, or to something that only has a name (Service addresses)."""

    HOST = "host"
    VIRTUAL = "virtual"


class Owner(NamedTuple):
    """Who a block is affine to."""

    kind: OwnerKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


LOAD_BALANCER = Owner(OwnerKind.VIRTUAL, "load-balancer")


def node_owner(node: str) -> Owner:
    """The owner that stands for a node."""
    return Owner(OwnerKind.HOST, node)


def parse_owner(text: str) -> Owner | None:
    """The owner that a block's affinity names; None when it names none."""
    kind, _, name = text.partition(":")
    return Owner(OwnerKind(kind), name) if name and kind in tuple(OwnerKind) else None


@dataclass(frozen=True, slots=True)
class Attribute:
    """What is recorded of one or more addresses of a block.

    `owner` is who uses them ("secondary" in JSON); `released_at` is set while they cool down, then nobody does.
    """

    handle_id: str | None = None
    owner: Mapping[str, str] = field(default_factory=dict)
    alternate_owner: Mapping[str, str] = field(default_factory=dict)
    released_at: datetime | None = None
    extra: Json = field(default_factory=dict)

    @property
    def holder(self) -> str:
        """The handle without what a bad migration appended to it; "" when there is none."""
        return (self.handle_id or "").partition("\r")[0]


@dataclass(frozen=True, slots=True)
class Block:
    """A slice of a pool and the state of each of its addresses.

    `allocations` has one entry per address: None, or an index into `attributes`. `unallocated` lists free ordinals, the
    longest free first. `sequence_number` grows with every write; `sequence_of` has its value at each allocation, which
    tells an allocation from a later one of the same address. `nulls` names the empty fields that JSON has as null.
    """

    cidr: Prefix
    affinity: str | None
    claimed_at: datetime | None
    allocations: tuple[int | None, ...]
    unallocated: tuple[int, ...]
    attributes: tuple[Attribute, ...]
    sequence_number: int
    sequence_of: Mapping[int, int]
    deleted: bool = False
    nulls: frozenset[str] = frozenset()
    extra: Json = field(default_factory=dict)

    def attribute_of(self, ordinal: int) -> Attribute | None:
        """What is recorded of one address; None when it is free."""
        index = self.allocations[ordinal]
        return None if index is None else self.attributes[index]

    def is_owned_by(self, owner: Owner) -> bool:
        """Whether it is affine to `owner` and in use at all."""
        return self.affinity == str(owner) and not self.deleted

    @property
    def is_empty(self) -> bool:
        """Whether no address is held; addresses that cool down count as held."""
        return all(
            index is None or self.attributes[index].holder.lower() == WINDOWS_HANDLE for index in self.allocations
        )


class AffinityState(StrEnum):
    """How far a claim has come. "" is what old versions wrote for confirmed."""

    CONFIRMED = "confirmed"
    PENDING = "pending"
    PENDING_DELETION = "pendingDeletion"
    UNSTATED = ""


@dataclass(frozen=True, slots=True)
class Affinity:
    """An owner's claim to a block; the key says which."""

    state: AffinityState
    deleted: bool = False
    extra: Json = field(default_factory=dict)

    @property
    def is_confirmed(self) -> bool:
        """Whether the claim has been made good."""
        return self.state in (AffinityState.CONFIRMED, AffinityState.UNSTATED) and not self.deleted


@dataclass(frozen=True, slots=True)
class Handle:
    """How many addresses one handle holds in each block: the index from a handle to its blocks."""

    blocks: Mapping[Prefix, int]
    deleted: bool = False
    extra: Json = field(default_factory=dict)

    def plus(self, block: Prefix, count: int) -> Handle:
        """With `count` more (or fewer, when negative) in `block`; never below none."""
        blocks = dict(self.blocks)
        total = blocks.pop(block, 0) + count
        if total > 0:
            blocks[block] = total
        return Handle(blocks, False, self.extra)

    def without(self, block: Prefix) -> Handle:
        """With nothing in `block`."""
        return Handle({cidr: count for cidr, count in self.blocks.items() if cidr != block}, False, self.extra)


@dataclass(frozen=True, slots=True)
class Config:
    """What holds for the whole cluster; these defaults hold when the key does not exist.

    `max_blocks` is per owner, 0 meaning MAX_BLOCKS_PER_OWNER; `cooldown_s` is how long a released address rests.
    """

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks: int = 0
    cooldown_s: int = 0
    extra: Json = field(default_factory=dict)

    @property
    def block_limit(self) -> int:
        """How many blocks an owner may have."""
        return self.max_blocks or MAX_BLOCKS_PER_OWNER


class Use(StrEnum):
    """What an address is for."""

    WORKLOAD = "Workload"
    TUNNEL = "Tunnel"
    LOAD_BALANCER = "LoadBalancer"


@dataclass(frozen=True, slots=True)
class Pool:
    """A range that blocks of `block_length` bits are cut from. Pools are tried in order of name.

    Not `automatic` means that only requests that name the pool get addresses of it.
    """

    name: str
    cidr: Prefix
    block_length: int
    disabled: bool = False
    automatic: bool = True
    uses: frozenset[Use] = frozenset({Use.WORKLOAD, Use.TUNNEL})
    node_selector: str = ""
    namespace_selector: str = ""


@lru_cache(maxsize=4096)
def block_key(cidr: Prefix) -> str:
    """Where a block lives."""
    return f"{BLOCKS_PREFIX}ipv{cidr.version}/block/{_dashed(cidr)}"


def iter_holding(address: Address) -> Iterator[Prefix]:
    """Every block, of whatever size, that could hold an address."""
    for length in BLOCK_LENGTHS[4 if len(address) == 4 else 6]:
        yield block_of(address, length)


def affinity_key(owner: Owner, cidr: Prefix) -> str:
    """Where an owner's claim to a block lives."""
    return f"{IPAM_PREFIX}{owner.kind}/{owner.name}/ipv{cidr.version}/block/{_dashed(cidr)}"


def affinities_prefix(owner: Owner) -> str:
    """What the keys of all of an owner's claims begin with."""
    return f"{IPAM_PREFIX}{owner.kind}/{owner.name}/"


def handle_key(handle_id: str) -> str:
    """Where a handle lives."""
    return HANDLES_PREFIX + handle_id


def pool_key(name: str) -> str:
    """Where a pool lives."""
    return POOLS_PREFIX + name


def parse_block_key(key: str) -> Prefix | None:
    """The block that a key is of; None when it is not a block's key."""
    return _parse_dashed(key.rpartition("/")[2]) if key.startswith(BLOCKS_PREFIX) else None


def parse_affinity_key(key: str) -> tuple[Owner, Prefix] | None:
    """Owner and block of a claim's key; None when it is not a claim's key."""
    parts = key.removeprefix(IPAM_PREFIX).split("/")
    if not key.startswith(IPAM_PREFIX) or len(parts) != 5 or parts[0] not in tuple(OwnerKind):
        return None
    cidr = _parse_dashed(parts[4])
    return None if cidr is None else (Owner(OwnerKind(parts[0]), parts[1]), cidr)


def parse_handle_key(key: str) -> str | None:
    """The handle that a key is of; None when it is not a handle's key."""
    return key.removeprefix(HANDLES_PREFIX) if key.startswith(HANDLES_PREFIX) else None


def _dashed(cidr: Prefix) -> str:
    return str(cidr).replace("/", "-")


def _parse_dashed(text: str) -> Prefix | None:
    address, _, length = text.rpartition("-")
    try:
        return parse_prefix(f"{address}/{length}")
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class AssignedAddress:
    """One address given out: the block and pool it is of, and the sequence number that guards its release.

    `borrowed` means that the block is another owner's, so that the address needs a route of its own.
    """

    address: Address
    block: Prefix
    pool: str
    sequence: int
    borrowed: bool = False


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that one request was given, as of `revision`. `repeated` means that its handle had these before."""

    handle_id: str
    addresses: tuple[AssignedAddress, ...]
    repeated: bool = False
    revision: int = 0
