"""The JSON of resources as it stands in etcd: only the fields that something reads, all others are passed over.

These shapes belong to the codec; nothing else should see them. Source: projectcalico/calico api/pkg/apis,
libcalico-go/lib/apis/internalapi; k8s.io/api; metallb.io api.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class Doc(Struct, rename="camel", gc=False):
    """Base: JSON names are the camel case of ours."""


class Meta(Doc):
    name: str = ""
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Port(Doc):
    name: str = ""
    protocol: str | int = "TCP"
    port: int = 0


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


class EndpointDoc(Doc):
    spec: EndpointSpec
    metadata: Meta


class HostEndpointSpec(Doc):
    node: str
    interface_name: str = ""
    expected_ips: list[str] | None = field(default=None, name="expectedIPs")
    profiles: list[str] | None = None
    ports: list[Port] | None = None


class HostEndpointDoc(Doc):
    spec: HostEndpointSpec
    metadata: Meta


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


class PolicyDoc(Doc):
    spec: PolicySpec
    metadata: Meta


class TierSpec(Doc):
    order: float | None = None
    default_action: str | None = None


class TierDoc(Doc):
    spec: TierSpec
    metadata: Meta


class ProfileSpec(Doc):
    ingress: list[Rule] | None = None
    egress: list[Rule] | None = None
    labels_to_apply: dict[str, str] | None = None


class ProfileDoc(Doc):
    spec: ProfileSpec
    metadata: Meta


class NetworkSetSpec(Doc):
    nets: list[str] | None = None


class NetworkSetDoc(Doc):
    metadata: Meta
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


class IpPoolDoc(Doc):
    spec: IpPoolSpec
    metadata: Meta


class NodeBgp(Doc):
    as_number: int | str | None = None
    ipv4_address: str = field(default="", name="ipv4Address")
    ipv6_address: str = field(default="", name="ipv6Address")
    ipip_tunnel: str = field(default="", name="ipv4IPIPTunnelAddr")
    route_reflector_cluster_id: str = field(default="", name="routeReflectorClusterID")


class NodeSpec(Doc):
    bgp: NodeBgp | None = None
    vxlan_tunnel4: str = field(default="", name="ipv4VXLANTunnelAddr")
    vxlan_tunnel6: str = field(default="", name="ipv6VXLANTunnelAddr")
    vxlan_mac4: str = field(default="", name="vxlanTunnelMACAddr")
    vxlan_mac6: str = field(default="", name="vxlanTunnelMACAddrV6")


class NodeDoc(Doc):
    metadata: Meta
    spec: NodeSpec = field(default_factory=NodeSpec)


class CidrItem(Doc):
    cidr: str


class BgpConfigurationSpec(Doc):
    as_number: int | str | None = None
    node_to_node_mesh_enabled: bool | None = None
    listen_port: int | None = None
    service_cluster_ips: list[CidrItem] | None = field(default=None, name="serviceClusterIPs")
    service_external_ips: list[CidrItem] | None = field(default=None, name="serviceExternalIPs")
    service_lb_ips: list[CidrItem] | None = field(default=None, name="serviceLoadBalancerIPs")


class BgpConfigurationDoc(Doc):
    spec: BgpConfigurationSpec
    metadata: Meta


class BgpPeerSpec(Doc):
    node: str = ""
    node_selector: str = ""
    peer_ip: str = field(default="", name="peerIP")
    as_number: int | str | None = None
    local_as_number: int | str | None = field(default=None, name="localASNumber")
    peer_selector: str = ""
    keep_original_next_hop: bool = False
    next_hop_mode: str | None = None
    source_address: str = ""
    ttl_security: int | None = None
    keepalive_time: str | None = None
    max_restart_time: str | None = None
    allow_local_as: int | None = field(default=None, name="numAllowedLocalASNumbers")
    reachable_by: str = ""
    password: dict[str, Any] | None = None


class BgpPeerDoc(Doc):
    spec: BgpPeerSpec
    metadata: Meta


class AnySpecDoc(Doc):
    metadata: Meta
    spec: dict[str, Any] = {}


class ClusterInformationSpec(Doc):
    cluster_guid: str = field(default="", name="clusterGUID")
    datastore_ready: bool | None = None


class ClusterInformationDoc(Doc):
    spec: ClusterInformationSpec
    metadata: Meta


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


class NamespaceDoc(Doc):
    metadata: Meta


class ServiceAccountDoc(Doc):
    metadata: Meta


class ContainerPort(Doc):
    name: str = ""
    protocol: str = "TCP"
    container_port: int = 0


class Container(Doc):
    ports: list[ContainerPort] | None = None


class PodSpec(Doc):
    service_account_name: str = ""
    containers: list[Container] | None = None


class PodDoc(Doc):
    metadata: Meta
    spec: PodSpec = field(default_factory=PodSpec)


class KubePort(Doc):
    name: str = ""
    protocol: str = "TCP"
    port: int = 0
    node_port: int = 0


class SessionAffinityConfig(Doc):
    client_ip: dict[str, int] | None = field(default=None, name="clientIP")


class ServiceSpec(Doc):
    type: str = "ClusterIP"
    ports: list[KubePort] | None = None
    selector: dict[str, str] | None = None
    cluster_ip: str = field(default="", name="clusterIP")
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    external_ips: list[str] | None = field(default=None, name="externalIPs")
    load_balancer_ip: str = field(default="", name="loadBalancerIP")
    load_balancer_class: str | None = None
    load_balancer_source_ranges: list[str] | None = None
    external_traffic_policy: str = "Cluster"
    internal_traffic_policy: str = "Cluster"
    ip_families: list[str] | None = None
    ip_family_policy: str = "SingleStack"
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None


class ServiceDoc(Doc):
    metadata: Meta
    spec: ServiceSpec


class SliceConditions(Doc):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(Doc):
    addresses: list[str]
    node_name: str | None = None
    conditions: SliceConditions | None = None


class SlicePort(Doc):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSliceDoc(Doc):
    metadata: Meta
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class SubsetAddress(Doc):
    ip: str
    node_name: str | None = None


class Subset(Doc):
    addresses: list[SubsetAddress] | None = None
    not_ready_addresses: list[SubsetAddress] | None = None
    ports: list[SlicePort] | None = None


class EndpointsDoc(Doc):
    metadata: Meta
    subsets: list[Subset] | None = None


class LabelExpression(Doc):
    key: str
    operator: str
    values: list[str] | None = None


class LabelSelector(Doc):
    match_labels: dict[str, str] | None = None
    match_expressions: list[LabelExpression] | None = None


class PoolAllocation(Doc):
    priority: int = 0
    namespaces: list[str] | None = None
    namespace_selectors: list[LabelSelector] | None = None
    service_selectors: list[LabelSelector] | None = None


class AddressPoolSpec(Doc):
    addresses: list[str]
    auto_assign: bool | None = None
    avoid_buggy: bool = field(default=False, name="avoidBuggyIPs")
    service_allocation: PoolAllocation | None = None


class AddressPoolDoc(Doc):
    metadata: Meta
    spec: AddressPoolSpec


class BgpAdvertisementSpec(Doc):
    ip_address_pools: list[str] | None = field(default=None, name="ipAddressPools")
    aggregation_length: int = 32
    aggregation_length_v6: int = field(default=128, name="aggregationLengthV6")
    local_pref: int | None = None
    communities: list[str] | None = None
    node_selectors: list[LabelSelector] | None = None
    peers: list[str] | None = None


class BgpAdvertisementDoc(Doc):
    metadata: Meta
    spec: BgpAdvertisementSpec = field(default_factory=BgpAdvertisementSpec)


class PreferenceDoc(Doc):
    weight: int
    preference: LabelSelector


class L2AdvertisementSpec(Doc):
    ip_address_pools: list[str] | None = field(default=None, name="ipAddressPools")
    ip_address_pool_selectors: list[LabelSelector] | None = field(default=None, name="ipAddressPoolSelectors")
    service_selectors: list[LabelSelector] | None = None
    node_selectors: list[LabelSelector] | None = None
    preferred_node_selectors: list[PreferenceDoc] | None = None
    interfaces: list[str] | None = None


class L2AdvertisementDoc(Doc):
    metadata: Meta
    spec: L2AdvertisementSpec = field(default_factory=L2AdvertisementSpec)


class KubePolicyPort(Doc):
    protocol: str = "TCP"
    port: str | int | None = None
    end_port: int | None = None


class IpBlock(Doc):
    cidr: str
    excluded: list[str] | None = field(default=None, name="except")


class KubePeer(Doc):
    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IpBlock | None = None


class KubeIngress(Doc):
    peers: list[KubePeer] | None = field(default=None, name="from")
    ports: list[KubePolicyPort] | None = None


class KubeEgress(Doc):
    peers: list[KubePeer] | None = field(default=None, name="to")
    ports: list[KubePolicyPort] | None = None


class KubePolicySpec(Doc):
    pod_selector: LabelSelector = field(default_factory=LabelSelector)
    policy_types: list[str] | None = None
    ingress: list[KubeIngress] | None = None
    egress: list[KubeEgress] | None = None


class KubePolicyDoc(Doc):
    metadata: Meta
    spec: KubePolicySpec


class GrantDoc(Doc):
    address: str
    services: list[str]
    pool: str = ""
