"""Resources as the agent reads them: parsed, checked, compact. The codec makes them; everything else trusts them.

Only what some calculation reads is here; a read-modify-write works on the JSON in etcd, so unknown fields survive.
Endpoints are many, so theirs is the smallest form: labels are interned tuples, addresses bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import msgspec

from felixpy.addresses import Address, Prefix
from felixpy.selector import Selector

LabelPairs = tuple[tuple[str, str], ...]
"""Labels, sorted by name."""


class NamedPort(msgspec.Struct, frozen=True, gc=False):
    """A port that rules can refer to by name."""

    name: str
    protocol: int
    port: int


class FloatingAddress(NamedTuple):
    """An address that leads to another one, a workload's own; both of one family."""

    external: Address
    internal: Address


class WorkloadEndpoint(msgspec.Struct, frozen=True):
    """A pod's (or any workload's) interface. `labels` are its own, without those inherited from its profiles.

    `pod_uid`, where it is known, tells Pods of one name apart, as that of Pod does; both are short digests. `spoofed`:
    whose addresses it may give as its own, where the node lets it.
    """

    node: str
    interface: str
    addresses: tuple[Address, ...]
    labels: LabelPairs
    profiles: tuple[str, ...]
    ports: tuple[NamedPort, ...] = ()
    mac: bytes = b""
    workload: str = ""
    orchestrator: str = ""
    container_id: str = ""
    floating: tuple[FloatingAddress, ...] = ()
    pod_uid: bytes = b""
    spoofed: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class HostEndpoint:
    """An interface of a host, or all of them (`*`)."""

    node: str
    interface: str
    expected_addresses: tuple[Address, ...]
    labels: LabelPairs
    profiles: tuple[str, ...]
    ports: tuple[NamedPort, ...] = ()


class EncapMode(StrEnum):
    NEVER = "Never"
    ALWAYS = "Always"
    CROSS_SUBNET = "CrossSubnet"


@dataclass(frozen=True, slots=True)
class IpPool:
    """Where addresses come from, and how they travel between nodes."""

    cidr: Prefix
    block_size: int
    ipip: EncapMode = EncapMode.NEVER
    vxlan: EncapMode = EncapMode.NEVER
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = False
    node_selector: Selector | None = None
    allowed_uses: tuple[str, ...] = ("Workload", "Tunnel")
    automatic: bool = True


@dataclass(frozen=True, slots=True)
class IpReservation:
    """Addresses that nobody is given who did not ask for them by themselves."""

    cidrs: tuple[Prefix, ...]


@dataclass(frozen=True, slots=True)
class ControllersConfiguration:
    """What KubeControllersConfiguration says to the one who gives Services addresses.

    `requested_only`: of Calico's pools those who ask for one, and no others. `classes`: whom at all, "" being those
    without a class.
    """

    requested_only: bool = False
    classes: frozenset[str] = frozenset({"", "felixpy"})


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """A node's address with the length of its subnet's prefix."""

    address: Address
    subnet: Prefix


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster, as far as routing reads it; `others` are addresses that it has beside those of BGP."""

    labels: LabelPairs = ()
    ipv4: NodeAddress | None = None
    ipv6: NodeAddress | None = None
    as_number: int | None = None
    route_reflector_cluster_id: str = ""
    ipip_tunnel: Address | None = None
    vxlan_tunnel4: Address | None = None
    vxlan_tunnel6: Address | None = None
    vxlan_mac4: bytes = b""
    vxlan_mac6: bytes = b""
    others: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class FailsafePort:
    """A port that host endpoints never close; `net` None means for everybody."""

    protocol: int
    port: int
    net: Prefix | None = None


FelixValue = str | int | bool


class PassedOver(NamedTuple):
    """A field of an object that counts as missing, where the rest of the object counts."""

    field: str
    why: str


@dataclass(frozen=True, slots=True)
class FelixConfiguration:
    """Global (`default`) or of one node (`node.<name>`): the values that something reads, and lists.

    `failsafe_in`, `failsafe_out` and `external_nodes` None means not said.
    """

    values: tuple[tuple[str, FelixValue], ...] = ()
    failsafe_in: tuple[FailsafePort, ...] | None = None
    failsafe_out: tuple[FailsafePort, ...] | None = None
    passed_over: tuple[PassedOver, ...] = ()
    external_nodes: tuple[Prefix, ...] | None = None


@dataclass(frozen=True, slots=True)
class NodeStatusWish:
    """A CalicoNodeStatus: what (`classes`: Agent, BGP, Routes) is to be told of a node and how often; 0 s is once."""

    node: str
    classes: tuple[str, ...]
    period_s: int


@dataclass(frozen=True, slots=True)
class ClusterInformation:
    """Which cluster this is, and whether its data may be used."""

    cluster_guid: str
    datastore_ready: bool


@dataclass(frozen=True, slots=True)
class Block:
    """An IPAM block, as far as routing reads it: who has it, and which of its addresses others have borrowed.

    `affinity` is a node's name, "" when the block has none (or belongs to a virtual owner).
    `borrowed` maps other nodes' addresses inside it; `used` says whether anybody holds an address of it.
    """

    affinity: str
    borrowed: tuple[tuple[Address, str], ...] = ()
    used: bool = True


@dataclass(frozen=True, slots=True)
class BlockAffinity:
    """A node's claim of a block: `confirmed`, `pending` or `pendingDeletion`."""

    state: str


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Kubernetes namespace."""

    labels: LabelPairs


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A Kubernetes service account."""

    labels: LabelPairs


@dataclass(frozen=True, slots=True)
class Pod:
    """A Kubernetes pod, as far as it gives its endpoints labels and named ports."""

    labels: LabelPairs
    service_account: str = ""
    ports: tuple[NamedPort, ...] = ()
    uid: bytes = b""
