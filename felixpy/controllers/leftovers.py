"""Addresses and blocks that no node will ever give back: those of nodes that are gone, and what nodes cannot see.

In: the datastore's Nodes, holders and IPAM keys, then the endpoints and pods that bear on the candidates; out: what is
left behind, to be released when it has been so for a while. A node is gone when it has no Node and no agent holds its
name. A live node gives back what is in its own blocks (agent/pods/sweeper.py) and does not see what it borrowed.
Never takes an address that an endpoint of a live node has, or whose pod is still one of its node. Pure.
Source: kube-controllers/pkg/controllers/node/ipam.go; libcalico-go/lib/clientv3/node.go (what goes with a Node).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from felixpy.addresses import Address
from felixpy.resources.codec import Decoder
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import BY_TYPE, CALICO, HOLDERS_PREFIX, IPAM_PREFIX, NODES_PREFIX, Name
from felixpy.resources.tables import Decoded
from felixpy.resources.types import WorkloadEndpoint
from ipam.addresses import Prefix
from ipam.audit import Suspect
from ipam.codec import Malformed, parse_block
from ipam.model import (
    BLOCKS_PREFIX,
    MACHINE_INFIX,
    WINDOWS_HANDLE,
    Attribute,
    Block,
    OwnerKind,
    node_owner,
    parse_affinity_key,
    parse_owner,
)

NODES = BY_TYPE[CALICO, "Node"]
ENDPOINTS = BY_TYPE[CALICO, "WorkloadEndpoint"]
PODS = BY_TYPE["v1", "Pod"]
READ = tuple(
    prefix.encode()
    for prefix in (NODES.prefix, HOLDERS_PREFIX, NODES_PREFIX, BLOCKS_PREFIX, f"{IPAM_PREFIX}{OwnerKind.HOST}/")
)
"""What `find_left` asks for."""


@dataclass(frozen=True, slots=True)
class LeftAddress:
    """An allocation that its node will not give back; `pod` is "" where none is recorded."""

    suspect: Suspect
    node: str
    gone: bool
    namespace: str = ""
    pod: str = ""


class LeftClaim(NamedTuple):
    """A claim to a block by a node that is gone."""

    node: str
    cidr: Prefix


class _PodSpec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _Pod(msgspec.Struct):
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)


@dataclass(frozen=True, slots=True)
class Users:
    """Who has addresses: endpoints by node and address, each with its key; and pods by name, with their nodes."""

    endpoints: Mapping[tuple[str, Address], tuple[str, ...]] = field(default_factory=dict)
    pods: Mapping[Name, str] = field(default_factory=dict)

    def endpoints_of(self, left: LeftAddress) -> tuple[str, ...]:
        """The keys of its node's endpoints that have an address."""
        return self.endpoints.get((left.node, Address(left.suspect.address)), ())

    def uses(self, left: LeftAddress) -> bool:
        """Whether an address is in use after all: its pod is there still, or a live node has an endpoint with it."""
        if left.pod and self.pods.get(Name(left.namespace, left.pod)) == left.node:
            return True
        return not left.gone and bool(self.endpoints_of(left))


@dataclass(frozen=True, slots=True)
class Left:
    """What may be left behind, as far as IPAM and Nodes say."""

    addresses: frozenset[LeftAddress] = frozenset()
    claims: frozenset[LeftClaim] = frozenset()

    def endpoint_prefixes(self) -> tuple[bytes, ...]:
        """Below which the endpoints are that may have these addresses: Calico's names begin with the node's."""
        places = sorted({(one.namespace or "default", one.node.replace("-", "--")) for one in self.addresses})
        return tuple(ENDPOINTS.key(Name(namespace, f"{node}-")).encode() for namespace, node in places)

    def pod_keys(self) -> tuple[bytes, ...]:
        """Where the pods would be that these addresses are recorded for."""
        pods = {Name(one.namespace, one.pod) for one in self.addresses if one.pod}
        return tuple(PODS.key(name).encode() for name in sorted(pods))

    def without_used(self, users: Users) -> Left:
        """Without addresses that are in use after all, and the claims to the blocks that these are of."""
        used = [one for one in self.addresses if users.uses(one)]
        kept = {
            claim
            for claim in self.claims
            if any(one.node == claim.node and claim.cidr.contains(one.suspect.address) for one in used)
        }
        return Left(self.addresses.difference(used), self.claims - kept)


def find_left(values: Mapping[str, bytes]) -> Left:
    """What may be left behind. Addresses that belong to Services are not looked at, nor those without a handle."""
    known = frozenset(_iter_known(values))
    addresses: set[LeftAddress] = set()
    claims: set[LeftClaim] = set()
    for key, value in values.items():
        claim = parse_affinity_key(key)
        if claim is not None and claim[0].kind is OwnerKind.HOST and claim[0].name not in known:
            claims.add(LeftClaim(claim[0].name, claim[1]))
        elif key.startswith(BLOCKS_PREFIX):
            try:
                block = parse_block(value)
            except Malformed:
                continue
            addresses.update(_iter_left(block, known))
            claims.update(_left_block(block, known))
    return Left(frozenset(addresses), frozenset(claims))


def find_forgotten(values: Mapping[str, bytes]) -> frozenset[str]:
    """Nodes that are gone and of which the datastore still says that they were ours."""
    said = {key.removeprefix(NODES_PREFIX) for key in values if key.startswith(NODES_PREFIX)}
    return frozenset(said.difference(_iter_known(values)))


def _iter_known(values: Mapping[str, bytes]) -> Iterator[str]:
    for key in values:
        if key.startswith(NODES.prefix):
            yield key.removeprefix(NODES.prefix)
        elif key.startswith(HOLDERS_PREFIX):
            yield key.removeprefix(HOLDERS_PREFIX).partition("/")[0]


def _left_block(block: Block, known: frozenset[str]) -> Iterator[LeftClaim]:
    owner = parse_owner(block.affinity or "")
    if owner is not None and owner.kind is OwnerKind.HOST and owner.name not in known:
        yield LeftClaim(owner.name, block.cidr)


def _iter_left(block: Block, known: frozenset[str]) -> Iterator[LeftAddress]:
    if (block.affinity or "").startswith(f"{OwnerKind.VIRTUAL}:"):
        return
    for ordinal in range(block.cidr.size):
        attribute = block.attribute_of(ordinal)
        node = _node_of(attribute) if attribute is not None else ""
        if attribute is None or not node or attribute.released_at is not None:
            continue
        gone = node not in known
        if gone or ("pod" in attribute.owner and not block.is_owned_by(node_owner(node))):
            suspect = Suspect(block.cidr.nth(ordinal), attribute.holder, block.sequence_of.get(ordinal, 0))
            owner = attribute.owner
            yield LeftAddress(suspect, node, gone, owner.get("namespace", ""), owner.get("pod", ""))


def _node_of(attribute: Attribute) -> str:
    """Of a pod or tunnel; "" where the address is nobody's, or a machine's, which has it also while it is off."""
    holder = attribute.holder
    if not holder or holder.lower() == WINDOWS_HANDLE or MACHINE_INFIX in holder:
        return ""
    return attribute.owner.get("node", "")


def read_users(values: Iterable[tuple[str, bytes]]) -> Users:
    """Who has addresses, from endpoints and pods; what cannot be read has none."""
    decoder = Decoder("")
    endpoints: dict[tuple[str, Address], tuple[str, ...]] = {}
    pods: dict[Name, str] = {}
    for key, value in values:
        pod = PODS.parse_name(key)
        if pod is not None:
            pods[pod] = _read_node(value)
            continue
        decoded = decoder.decode(key.encode(), value)
        if isinstance(decoded, Decoded) and isinstance(decoded.value, WorkloadEndpoint):
            for address in decoded.value.addresses:
                place = (decoded.value.node, address)
                endpoints[place] = (*endpoints.get(place, ()), key)
    return Users(endpoints, pods)


def _read_node(value: bytes) -> str:
    pod = decode_or_none(value, _Pod)
    return pod.spec.node_name if pod is not None else ""
