"""The JSON of resources as it stands in etcd: only the fields that something reads, all others are passed over.

These shapes belong to the codec; nothing else should see them. Calico's kinds and our own; those of Kubernetes and
MetalLB are in kube_documents. Source: projectcalico/calico api/pkg/apis, libcalico-go/lib/apis/internalapi.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class Doc(Struct, rename="camel", gc=False):
    """Base: JSON names are the camel case of ours."""


class Meta(Doc):
    name: str = ""
    namespace: str | None = None
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class ObjectDoc(Doc, kw_only=True):
    """What every object has; `kind` and `api_version` are "" where the value does not say."""

    kind: str = ""
    api_version: str = ""
    metadata: Meta


class Port(Doc):
    name: str = ""
    protocol: str | int = "TCP"
    port: int = 0


class Nat(Doc):
    internal_ip: str = field(name="internalIP")
    external_ip: str = field(name="externalIP")


class EndpointSpec(Doc):
    node: str
    interface_name: str = ""
    ip_networks: list[str] = []
    profiles: list[str] = []
    ports: list[Port] | None = None
    mac: str = ""
    workload: str = ""
    pod: str = ""
    orchestrator: str = ""
    container_id: str = field(default="", name="containerID")
    nats: list[Nat] | None = field(default=None, name="ipNATs")
    spoofed: list[str] | None = field(default=None, name="allowSpoofedSourcePrefixes")


class EndpointDoc(ObjectDoc):
    spec: EndpointSpec


class HostEndpointSpec(Doc):
    node: str
    interface_name: str = ""
    expected_ips: list[str] | None = field(default=None, name="expectedIPs")
    profiles: list[str] | None = None
    ports: list[Port] | None = None


class HostEndpointDoc(ObjectDoc):
    spec: HostEndpointSpec


class Icmp(Doc):
    type: int | None = None
    code: int | None = None


class ServiceAccounts(Doc):
    names: list[str] | None = None
    selector: str = ""


class ServiceRef(Doc):
    name: str = ""
    namespace: str = ""


class Entity(Doc):
    nets: list[str] | None = None
    not_nets: list[str] | None = None
    selector: str = ""
    not_selector: str = ""
    namespace_selector: str = ""
    service_accounts: ServiceAccounts | None = None
    services: ServiceRef | None = None
    ports: list[str | int] | None = None
    not_ports: list[str | int] | None = None


class Rule(Doc):
    action: str
    ip_version: int | None = field(default=None, name="ipVersion")
    protocol: str | int | None = None
    not_protocol: str | int | None = None
    icmp: Icmp | None = None
    not_icmp: Icmp | None = field(default=None, name="notICMP")
    source: Entity | None = None
    destination: Entity | None = None
    http: Any = None
    metadata: Any = None


class PolicySpec(Doc):
    tier: str = ""
    order: float | None = None
    selector: str = ""
    namespace_selector: str = ""
    service_account_selector: str = ""
    types: list[str] | None = None
    ingress: list[Rule] | None = None
    egress: list[Rule] | None = None
    do_not_track: bool = False
    pre_dnat: bool = field(default=False, name="preDNAT")
    apply_on_forward: bool = False


class PolicyDoc(ObjectDoc):
    spec: PolicySpec


class TierSpec(Doc):
    order: float | None = None
    default_action: str | None = None


class TierDoc(ObjectDoc):
    spec: TierSpec


class ProfileSpec(Doc):
    ingress: list[Rule] | None = None
    egress: list[Rule] | None = None
    labels_to_apply: dict[str, str] | None = None


class ProfileDoc(ObjectDoc):
    spec: ProfileSpec


class NetworkSetSpec(Doc):
    nets: list[str] | None = None


class NetworkSetDoc(ObjectDoc):
    spec: NetworkSetSpec = field(default_factory=NetworkSetSpec)


class IpPoolSpec(Doc):
    cidr: str
    block_size: int = 0
    ipip_mode: str = ""
    vxlan_mode: str = ""
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = field(default=False, name="disableBGPExport")
    node_selector: str = ""
    allowed_uses: list[str] | None = None
    assignment_mode: str | None = None


class IpPoolDoc(ObjectDoc):
    spec: IpPoolSpec


class IpReservationSpec(Doc):
    reserved_cidrs: list[str] = field(default_factory=list, name="reservedCIDRs")


class IpReservationDoc(ObjectDoc):
    spec: IpReservationSpec = field(default_factory=IpReservationSpec)


class LoadBalancerController(Doc):
    assign_ips: str = field(default="", name="assignIPs")


class Controllers(Doc):
    load_balancer: LoadBalancerController | None = None


class ControllersSpec(Doc):
    controllers: Controllers | None = None


class ControllersDoc(ObjectDoc):
    spec: ControllersSpec = field(default_factory=ControllersSpec)


class NodeBgp(Doc):
    as_number: int | str | None = None
    ipv4_address: str = field(default="", name="ipv4Address")
    ipv6_address: str = field(default="", name="ipv6Address")
    ipip_tunnel: str = field(default="", name="ipv4IPIPTunnelAddr")
    route_reflector_cluster_id: str = field(default="", name="routeReflectorClusterID")


class NodeAddressDoc(Doc):
    address: str = ""


class NodeSpec(Doc):
    bgp: NodeBgp | None = None
    addresses: list[NodeAddressDoc] | None = None
    vxlan_tunnel4: str = field(default="", name="ipv4VXLANTunnelAddr")
    vxlan_tunnel6: str = field(default="", name="ipv6VXLANTunnelAddr")
    vxlan_mac4: str = field(default="", name="vxlanTunnelMACAddr")
    vxlan_mac6: str = field(default="", name="vxlanTunnelMACAddrV6")


class NodeDoc(ObjectDoc):
    spec: NodeSpec = field(default_factory=NodeSpec)


class AnySpecDoc(ObjectDoc):
    spec: dict[str, Any] = {}


class NodeStatusSpec(Doc):
    node: str
    classes: list[str] = []
    update_period_seconds: int | None = None


class NodeStatusDoc(ObjectDoc):
    spec: NodeStatusSpec


class ClusterInformationSpec(Doc):
    cluster_guid: str = field(default="", name="clusterGUID")
    datastore_ready: bool | None = None


class ClusterInformationDoc(ObjectDoc):
    spec: ClusterInformationSpec


class BlockAttribute(Doc):
    handle_id: str | None = field(default=None, name="handle_id")
    secondary: dict[str, str] | None = None


class BlockDoc(Doc):
    cidr: str
    affinity: str | None = None
    allocations: list[int | None] = []
    attributes: list[BlockAttribute] | None = None
    deleted: bool = False


class AffinityDoc(Doc):
    state: str = ""
    deleted: bool = False


class GrantDoc(Doc):
    address: str
    services: list[str]
    pool: str = ""


class AnsweringDoc(Doc):
    """What a node answers for at layer 2: scores by segment and address."""

    segments: dict[str, dict[str, int]] = {}


class PortGrantDoc(Doc):
    port: int
    service: str
    uses: list[str]
