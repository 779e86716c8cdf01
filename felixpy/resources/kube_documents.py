"""The JSON of Kubernetes' and MetalLB's objects as it stands in etcd: only the fields that something reads.

These shapes belong to the codec; nothing else should see them. Source: k8s.io/api; metallb.io api.
"""

from __future__ import annotations

from msgspec import field

from felixpy.resources.documents import Doc, ObjectDoc


class NamespaceDoc(ObjectDoc):
    """Of a namespace its metadata is read alone."""


class ServiceAccountDoc(ObjectDoc):
    """Of a service account too."""


class ContainerPort(Doc):
    name: str = ""
    protocol: str = "TCP"
    container_port: int = 0


class Container(Doc):
    ports: list[ContainerPort] | None = None


class PodSpec(Doc):
    service_account_name: str = ""
    containers: list[Container] | None = None


class PodDoc(ObjectDoc):
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
    health_check_node_port: int = 0
    allocate_load_balancer_node_ports: bool | None = None
    publish_not_ready_addresses: bool = False
    traffic_distribution: str | None = None


class IngressAddress(Doc):
    ip: str = ""
    ip_mode: str | None = None


class LoadBalancerStatus(Doc):
    ingress: list[IngressAddress] | None = None


class ServiceStatus(Doc):
    load_balancer: LoadBalancerStatus | None = None


class ServiceDoc(ObjectDoc):
    spec: ServiceSpec
    status: ServiceStatus | None = None


class SliceConditions(Doc):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ZoneHint(Doc):
    name: str


class SliceHints(Doc):
    for_zones: list[ZoneHint] | None = None
    for_nodes: list[ZoneHint] | None = None


class SliceEndpoint(Doc):
    addresses: list[str]
    node_name: str | None = None
    zone: str | None = None
    hints: SliceHints | None = None
    conditions: SliceConditions | None = None


class SlicePort(Doc):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSliceDoc(ObjectDoc):
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class SubsetAddress(Doc):
    ip: str
    node_name: str | None = None


class Subset(Doc):
    addresses: list[SubsetAddress] | None = None
    not_ready_addresses: list[SubsetAddress] | None = None
    ports: list[SlicePort] | None = None


class EndpointsDoc(ObjectDoc):
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


class AddressPoolDoc(ObjectDoc):
    spec: AddressPoolSpec


class BgpAdvertisementSpec(Doc):
    ip_address_pools: list[str] | None = field(default=None, name="ipAddressPools")
    ip_address_pool_selectors: list[LabelSelector] | None = field(default=None, name="ipAddressPoolSelectors")
    service_selectors: list[LabelSelector] | None = None
    aggregation_length: int = 32
    aggregation_length_v6: int = field(default=128, name="aggregationLengthV6")
    local_pref: int | None = None
    as_path_prepend: int | None = None
    communities: list[str] | None = None
    node_selectors: list[LabelSelector] | None = None
    peers: list[str] | None = None


class BgpAdvertisementDoc(ObjectDoc):
    spec: BgpAdvertisementSpec = field(default_factory=BgpAdvertisementSpec)


class CommunityAliasDoc(Doc):
    name: str
    value: str


class CommunitySpec(Doc):
    communities: list[CommunityAliasDoc] | None = None


class CommunityDoc(ObjectDoc):
    spec: CommunitySpec = field(default_factory=CommunitySpec)


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


class L2AdvertisementDoc(ObjectDoc):
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


class KubePolicyDoc(ObjectDoc):
    spec: KubePolicySpec
