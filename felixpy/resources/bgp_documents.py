"""The JSON of BGP's kinds as it stands in etcd: only the fields that something reads.

These shapes belong to the codec. Source: projectcalico/calico api/pkg/apis/projectcalico/v3; metallb api; k8s core/v1.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from felixpy.resources.documents import Doc, ObjectDoc
from felixpy.resources.kube_documents import LabelSelector


class CidrItem(Doc):
    cidr: str


class NamedCommunity(Doc):
    name: str
    value: str


class PrefixAdvertisement(Doc):
    cidr: str
    communities: list[str] | None = None


class BgpConfigurationSpec(Doc):
    as_number: int | str | None = None
    node_to_node_mesh_enabled: bool | None = None
    listen_port: int | None = None
    service_cluster_ips: list[CidrItem] | None = field(default=None, name="serviceClusterIPs")
    service_external_ips: list[CidrItem] | None = field(default=None, name="serviceExternalIPs")
    service_lb_ips: list[CidrItem] | None = field(default=None, name="serviceLoadBalancerIPs")
    service_lb_aggregation: str | None = field(default=None, name="serviceLoadBalancerAggregation")
    communities: list[NamedCommunity] | None = None
    prefix_advertisements: list[PrefixAdvertisement] | None = None
    node_mesh_password: dict[str, Any] | None = None
    node_mesh_max_restart_time: str | None = None
    bind_mode: str | None = None
    local_peering4: str = field(default="", name="localWorkloadPeeringIPV4")
    local_peering6: str = field(default="", name="localWorkloadPeeringIPV6")
    normal_priority4: int | None = field(default=None, name="ipv4NormalRoutePriority")
    normal_priority6: int | None = field(default=None, name="ipv6NormalRoutePriority")


class BgpConfigurationDoc(ObjectDoc):
    spec: BgpConfigurationSpec


class BgpPeerSpec(Doc):
    node: str = ""
    node_selector: str = ""
    peer_ip: str = field(default="", name="peerIP")
    as_number: int | str | None = None
    local_as_number: int | str | None = field(default=None, name="localASNumber")
    peer_selector: str = ""
    local_workload_selector: str = ""
    keep_original_next_hop: bool = False
    next_hop_mode: str | None = None
    source_address: str = ""
    ttl_security: int | None = None
    keepalive_time: str | None = None
    max_restart_time: str | None = None
    allow_local_as: int | None = field(default=None, name="numAllowedLocalASNumbers")
    reachable_by: str = ""
    password: dict[str, Any] | None = None
    filters: list[str] | None = None
    reverse_peering: str | None = None


class BgpPeerDoc(ObjectDoc):
    spec: BgpPeerSpec


class LengthRange(Doc):
    min: int | None = None
    max: int | None = None


class CommunityMatch(Doc):
    values: list[str]


class CommunityValue(Doc):
    value: str


class PrependValue(Doc):
    prefix: list[int | str]


class PriorityValue(Doc):
    value: int


class OperationDoc(Doc):
    add_community: CommunityValue | None = None
    prepend_as_path: PrependValue | None = field(default=None, name="prependASPath")
    set_priority: PriorityValue | None = None


class FilterRuleDoc(Doc, forbid_unknown_fields=True):
    """A condition that is not known must not be passed over: the rule would hold for more than was written."""

    action: str
    cidr: str = ""
    match_operator: str = ""
    prefix_length: LengthRange | None = None
    source: str = ""
    interface: str = ""
    peer_type: str = ""
    communities: CommunityMatch | None = None
    as_path_prefix: list[int | str] | None = None
    priority: int | None = None
    operations: list[OperationDoc] | None = None


class BgpFilterSpec(Doc):
    export4: list[FilterRuleDoc] | None = field(default=None, name="exportV4")
    import4: list[FilterRuleDoc] | None = field(default=None, name="importV4")
    export6: list[FilterRuleDoc] | None = field(default=None, name="exportV6")
    import6: list[FilterRuleDoc] | None = field(default=None, name="importV6")


class BgpFilterDoc(ObjectDoc):
    spec: BgpFilterSpec = field(default_factory=BgpFilterSpec)


class SecretDoc(ObjectDoc):
    type: str = ""
    data: dict[str, str] | None = None
    string_data: dict[str, str] | None = None


class SpeakerPeerSpec(Doc):
    my_asn: int = field(name="myASN")
    peer_asn: int = field(default=0, name="peerASN")
    dynamic_asn: str = field(default="", name="dynamicASN")
    local_asn: int = field(default=0, name="localASN")
    peer_address: str = ""
    interface: str = ""
    source_address: str = ""
    peer_port: int = 0
    hold_time: str | None = None
    keepalive_time: str | None = None
    connect_time: str | None = None
    router_id: str = field(default="", name="routerID")
    node_selectors: list[LabelSelector] | None = None
    password: str = ""
    password_secret: dict[str, Any] | None = None
    bfd_profile: str = ""
    graceful_restart: bool | None = field(default=None, name="enableGracefulRestart")
    multihop: bool | None = field(default=None, name="ebgpMultiHop")
    vrf: str = ""
    dual_stack_address_family: bool = False


class SpeakerPeerDoc(ObjectDoc):
    spec: SpeakerPeerSpec


class BfdProfileSpec(Doc):
    receive_interval: int | None = None
    transmit_interval: int | None = None
    detect_multiplier: int | None = None
    echo_interval: int | None = None
    echo_mode: bool = False
    passive_mode: bool = False
    minimum_ttl: int | None = None


class BfdProfileDoc(ObjectDoc):
    spec: BfdProfileSpec = field(default_factory=BfdProfileSpec)
