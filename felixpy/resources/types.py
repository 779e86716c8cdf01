"""Resources as the agent reads them: parsed, checked, compact. The codec makes them; everything else trusts them.

Only what some calculation reads is here; a read-modify-write works on the JSON in etcd, so unknown fields survive.
Endpoints are many, so theirs is the smallest form: labels are interned tuples, addresses bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

import msgspec

from felixpy.addresses import Address, Prefix
from felixpy.resources.bgp_types import BfdProfile, BgpConfiguration, BgpFilter, BgpPeer, Secret, SpeakerPeer
from felixpy.resources.kinds import Name
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
    """A pod's (or any workload's) interface. `labels` are its own, without those inherited from its profiles."""

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


@dataclass(frozen=True, slots=True)
class HostEndpoint:
    """An interface of a host, or all of them (`*`)."""

    node: str
    interface: str
    expected_addresses: tuple[Address, ...]
    labels: LabelPairs
    profiles: tuple[str, ...]
    ports: tuple[NamedPort, ...] = ()


class RuleAction(StrEnum):
    ALLOW = "Allow"
    DENY = "Deny"
    LOG = "Log"
    PASS = "Pass"


@dataclass(frozen=True, slots=True)
class IcmpMatch:
    """ICMP type, and code where given."""

    type: int
    code: int | None = None


@dataclass(frozen=True, slots=True)
class EntityMatch:
    """What a rule asks of a packet's source or destination; empty parts ask nothing.

    `selector` already holds the namespace and service account parts. `ports` are inclusive ranges, `port_names` names.
    `service` is the only part where it is given: what is behind it; as a destination only at the ports served there.
    """

    nets: tuple[Prefix, ...] = ()
    not_nets: tuple[Prefix, ...] = ()
    selector: Selector | None = None
    not_selector: Selector | None = None
    ports: tuple[tuple[int, int], ...] = ()
    port_names: tuple[str, ...] = ()
    not_ports: tuple[tuple[int, int], ...] = ()
    not_port_names: tuple[str, ...] = ()
    service: Name | None = None


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One ingress or egress rule; `index` is its place among the rules that were written, where some were left out.

    `note` is what its writer remarks, for people who read the kernel's rules.
    """

    action: RuleAction
    version: Literal[4, 6] | None = None
    protocol: int | None = None
    not_protocol: int | None = None
    icmp: IcmpMatch | None = None
    not_icmp: IcmpMatch | None = None
    source: EntityMatch = field(default_factory=EntityMatch)
    destination: EntityMatch = field(default_factory=EntityMatch)
    index: int | None = None
    note: str = ""


class PolicyKind(StrEnum):
    """Which resource a policy came from: part of its identity."""

    GLOBAL = "GlobalNetworkPolicy"
    NAMESPACED = "NetworkPolicy"
    KUBERNETES = "KubernetesNetworkPolicy"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy of either scope. `order` None means last; `selector` holds the namespace part."""

    tier: str
    order: float | None
    selector: Selector
    applies_ingress: bool
    applies_egress: bool
    ingress: tuple[PolicyRule, ...] = ()
    egress: tuple[PolicyRule, ...] = ()
    do_not_track: bool = False
    pre_dnat: bool = False
    apply_on_forward: bool = False


class TierDefault(StrEnum):
    DENY = "Deny"
    PASS = "Pass"


@dataclass(frozen=True, slots=True)
class Tier:
    """A group of policies; `order` None means last."""

    order: float | None
    default_action: TierDefault = TierDefault.DENY


@dataclass(frozen=True, slots=True)
class Profile:
    """Rules and labels that endpoints take over by naming it."""

    ingress: tuple[PolicyRule, ...] = ()
    egress: tuple[PolicyRule, ...] = ()
    labels_to_apply: LabelPairs = ()


@dataclass(frozen=True, slots=True)
class NetworkSet:
    """Prefixes with labels (global or of a namespace)."""

    nets: tuple[Prefix, ...]
    labels: LabelPairs
    profiles: tuple[str, ...] = ()


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
class NodeAddress:
    """A node's address with the length of its subnet's prefix."""

    address: Address
    subnet: Prefix


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster, as far as routing reads it."""

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


@dataclass(frozen=True, slots=True)
class FailsafePort:
    """A port that host endpoints never close; `net` None means for everybody."""

    protocol: int
    port: int
    net: Prefix | None = None


@dataclass(frozen=True, slots=True)
class FelixConfiguration:
    """Global (`default`) or of one node (`node.<name>`): the JSON spec's scalars, as they stand, and failsafe ports.

    `failsafe_in` and `failsafe_out` None means not said.
    """

    values: tuple[tuple[str, str | int | float | bool], ...] = ()
    failsafe_in: tuple[FailsafePort, ...] | None = None
    failsafe_out: tuple[FailsafePort, ...] | None = None


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


class TrafficPolicy(StrEnum):
    CLUSTER = "Cluster"
    LOCAL = "Local"


class Distribution(StrEnum):
    """Which endpoints a Service prefers (spec.trafficDistribution); PreferClose is the older word for the same zone."""

    ANY = ""
    SAME_ZONE = "PreferSameZone"
    SAME_NODE = "PreferSameNode"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service; `protocol` by number."""

    name: str
    protocol: int
    port: int
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A Service, as far as forwarding, allocation and announcement read it.

    `requested` are addresses asked for, `pool` the pool asked for; `class_name` None means not said. `health_port` is
    where nodes tell a balancer outside whether they have endpoints; 0 means not said. `node_ports`: whether ports that
    have none are to get one. `publish_unready`: its endpoints count as ready whatever they say. `calico_pools` are the
    IPPools asked for, by name or CIDR.
    """

    type: str
    ports: tuple[ServicePort, ...]
    cluster_addresses: tuple[Address, ...] = ()
    external_addresses: tuple[Address, ...] = ()
    requested: tuple[Address, ...] = ()
    pool: str = ""
    sharing_key: str = ""
    class_name: str | None = None
    external_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    internal_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    source_ranges: tuple[Prefix, ...] = ()
    families: tuple[int, ...] = ()
    family_policy: str = "SingleStack"
    affinity_timeout_s: int = 0
    labels: LabelPairs = ()
    selector: LabelPairs = ()
    created: str = ""
    health_port: int = 0
    node_ports: bool = True
    publish_unready: bool = False
    distribution: Distribution = Distribution.ANY
    calico_pools: tuple[str, ...] = ()
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Hints:
    """Which zones and nodes should use a backend; nothing said where empty."""

    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backend:
    """One address behind a Service; `zone` is where it runs."""

    addresses: tuple[Address, ...]
    node: str
    ready: bool
    serving: bool
    terminating: bool = False
    zone: str = ""
    hints: Hints = Hints()


@dataclass(frozen=True, slots=True)
class BackendPort:
    """A port of every backend of a slice, by the Service port's name."""

    name: str
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class BackendGroup:
    """Backends that serve the same ports."""

    backends: tuple[Backend, ...]
    ports: tuple[BackendPort, ...]


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Backends of one Service of the same namespace: an EndpointSlice, or the older Endpoints with its subsets.

    A `headless` one is for rules that name the Service; nothing forwards to it.
    """

    service: str
    groups: tuple[BackendGroup, ...]
    headless: bool = False


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Inclusive first and last address, of one family."""

    first: Address
    last: Address


@dataclass(frozen=True, slots=True)
class AddressPool:
    """A MetalLB IPAddressPool; a `draining` one gives out nothing more."""

    ranges: tuple[AddressRange, ...]
    auto_assign: bool = True
    avoid_buggy: bool = False
    priority: int = 0
    namespaces: tuple[str, ...] = ()
    service_selectors: tuple[Selector, ...] = ()
    namespace_selectors: tuple[Selector, ...] = ()
    labels: LabelPairs = ()
    draining: bool = False


@dataclass(frozen=True, slots=True)
class BgpAdvertisement:
    """A MetalLB BGPAdvertisement; empty selections mean all. A pool is selected by name or by `pool_selectors`.

    `communities` are numbers with colons, or names that a Community gives; `peers` are names of BGPPeers.
    """

    pools: tuple[str, ...] = ()
    aggregation4: int = 32
    aggregation6: int = 128
    local_pref: int | None = None
    communities: tuple[str, ...] = ()
    node_selectors: tuple[Selector, ...] = ()
    peers: tuple[str, ...] = ()
    pool_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()


@dataclass(frozen=True, slots=True)
class CommunityAliases:
    """A MetalLB Community: names of communities, each with its number."""

    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """Nodes to prefer, and how much."""

    weight: int
    selector: Selector


@dataclass(frozen=True, slots=True)
class L2Advertisement:
    """A MetalLB L2Advertisement; empty selections mean all. A pool is selected by name or by `pool_selectors`."""

    pools: tuple[str, ...] = ()
    pool_selectors: tuple[Selector, ...] = ()
    service_selectors: tuple[Selector, ...] = ()
    node_selectors: tuple[Selector, ...] = ()
    preferences: tuple[Preference, ...] = ()
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """An address that the load balancer controller gave to Services (one, or several that share it)."""

    address: Address
    services: tuple[Name, ...]
    pool: str


class AnsweringClaim(NamedTuple):
    """An address that a node answers for on a segment, with its score there."""

    address: Address
    segment: str
    score: int


@dataclass(frozen=True, slots=True)
class Answering:
    """What one node answers for at layer 2, while it lives."""

    claims: tuple[AnsweringClaim, ...]


class PortUse(NamedTuple):
    """A port of a Service, by protocol number; HEALTH stands for its health check."""

    protocol: int
    port: int


HEALTH = PortUse(0, 0)


@dataclass(frozen=True, slots=True)
class PortGrant:
    """A port of every node that the controllers gave to a Service, and what for."""

    port: int
    service: Name
    uses: tuple[PortUse, ...]


Resource = (
    WorkloadEndpoint
    | HostEndpoint
    | Policy
    | Tier
    | Profile
    | NetworkSet
    | IpPool
    | Node
    | BgpConfiguration
    | BgpPeer
    | BgpFilter
    | FelixConfiguration
    | ClusterInformation
    | NodeStatusWish
    | Block
    | BlockAffinity
    | Namespace
    | ServiceAccount
    | Pod
    | Service
    | EndpointSlice
    | AddressPool
    | BgpAdvertisement
    | CommunityAliases
    | L2Advertisement
    | SpeakerPeer
    | BfdProfile
    | Secret
    | Grant
    | PortGrant
    | Answering
)


@dataclass(frozen=True, slots=True)
class Broken:
    """A value that is not what its key says it is: counts as missing, and is reported once."""

    key: str
    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.key}: {self.field}: {self.why}" if self.field else f"{self.key}: {self.why}"
