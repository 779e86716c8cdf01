"""Services, their backends and LoadBalancer pools: documents → types. Source: k8s.io/api/core/v1; metallb.io api."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from felixpy.addresses import Address, Prefix, mask_address
from felixpy.resources.documents import AnsweringDoc, GrantDoc, PortGrantDoc
from felixpy.resources.foreign_json import UNREADABLE
from felixpy.resources.kinds import Name
from felixpy.resources.kube_documents import (
    AddressPoolDoc,
    BgpAdvertisementDoc,
    CommunityDoc,
    EndpointsDoc,
    EndpointSliceDoc,
    L2AdvertisementDoc,
    LabelSelector,
    ServiceDoc,
    SliceEndpoint,
    SlicePort,
)
from felixpy.resources.scalars import (
    FieldError,
    read_address,
    read_label_selector,
    read_labels,
    read_port,
    read_prefix,
    read_prefixes,
    read_protocol,
)
from felixpy.resources.service_types import (
    HEALTH,
    PREPEND_MOST,
    AddressPool,
    AddressRange,
    Answering,
    AnsweringClaim,
    Backend,
    BackendGroup,
    BackendPort,
    BgpAdvertisement,
    CommunityAliases,
    Distribution,
    EndpointSlice,
    Grant,
    Hints,
    L2Advertisement,
    PortGrant,
    PortUse,
    Preference,
    Service,
    ServicePort,
    TrafficPolicy,
)
from felixpy.selector import Selector

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
ANNOTATION_PREFIXES = ("metallb.io/", "metallb.universe.tf/")
DRAINING_ANNOTATION = "felixpy.io/draining"
"""On an IPAddressPool, `true`: no Service gets an address of it any more; MetalLB has no field for that."""
DEFAULT_AFFINITY_S = 10800
DISTRIBUTIONS = {
    "PreferClose": Distribution.SAME_ZONE,
    "PreferSameZone": Distribution.SAME_ZONE,
    "PreferSameNode": Distribution.SAME_NODE,
}
"""What else may stand in spec.trafficDistribution means nothing (KEP-4444)."""
CALICO_ADDRESSES = "projectcalico.org/loadBalancerIPs"
CALICO_ANNOTATIONS = (CALICO_ADDRESSES, "projectcalico.org/ipv4pools", "projectcalico.org/ipv6pools")
OUR_CLASSES = (None, "", "felixpy", "calico")
"""spec.loadBalancerClass of Services whose addresses are of our pools, or of Calico's."""
_HEALTH_WORD = "health"
_PROTOCOL_WORDS = {6: "TCP", 17: "UDP", 132: "SCTP"}


def _annotation(doc: ServiceDoc, word: str) -> str:
    annotations = doc.metadata.annotations or {}
    return next((annotations[prefix + word] for prefix in ANNOTATION_PREFIXES if prefix + word in annotations), "")


def is_foreign_class(name: str | None) -> bool:
    """Whether a load balancer class is another controller's, which gives the addresses and says so in the status."""
    return name not in OUR_CLASSES


def _told(doc: ServiceDoc) -> tuple[Address, ...]:
    """Addresses that its status has; with ipMode Proxy packets come to none of them (KEP-1860)."""
    told = doc.status.load_balancer if doc.status is not None and doc.spec.type == "LoadBalancer" else None
    return tuple(
        read_address("status.loadBalancer.ingress", one.ip)
        for one in (told.ingress if told is not None else None) or ()
        if one.ip and one.ip_mode != "Proxy"
    )


def read_service(doc: ServiceDoc) -> Service:
    spec = doc.spec
    clusters = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    calico = {word: _read_list(doc, word) for word in CALICO_ANNOTATIONS}
    asked = _annotation(doc, "loadBalancerIPs") or ",".join(calico[CALICO_ADDRESSES])
    if asked and spec.load_balancer_ip:
        raise FieldError("spec.loadBalancerIP", "is given together with the annotation loadBalancerIPs")
    wanted = [text.strip() for text in (asked or spec.load_balancer_ip).split(",") if text.strip()]
    told = _told(doc)
    affinity = 0
    if spec.session_affinity == "ClientIP":
        client = spec.session_affinity_config.client_ip if spec.session_affinity_config else None
        affinity = (client or {}).get("timeoutSeconds", DEFAULT_AFFINITY_S)
    return Service(
        type=spec.type,
        ports=tuple(
            ServicePort(
                port.name,
                read_protocol(f"spec.ports[{index}].protocol", port.protocol) or 6,
                read_port(f"spec.ports[{index}].port", port.port),
                read_port(f"spec.ports[{index}].nodePort", port.node_port) if port.node_port else 0,
            )
            for index, port in enumerate(spec.ports or ())
        ),
        cluster_addresses=tuple(
            read_address(f"spec.clusterIPs[{index}]", text) for index, text in enumerate(clusters) if text != "None"
        ),
        external_addresses=tuple(
            read_address(f"spec.externalIPs[{index}]", text) for index, text in enumerate(spec.external_ips or ())
        ),
        requested=tuple(read_address("spec.loadBalancerIP", text) for text in wanted),
        pool=_annotation(doc, "address-pool"),
        sharing_key=_annotation(doc, "allow-shared-ip"),
        class_name=spec.load_balancer_class,
        external_policy=_traffic("spec.externalTrafficPolicy", spec.external_traffic_policy),
        internal_policy=_traffic("spec.internalTrafficPolicy", spec.internal_traffic_policy),
        source_ranges=read_prefixes("spec.loadBalancerSourceRanges", spec.load_balancer_source_ranges),
        families=tuple(6 if word == "IPv6" else 4 for word in spec.ip_families or ()),
        family_policy=spec.ip_family_policy,
        affinity_timeout_s=affinity,
        labels=read_labels(doc.metadata.labels),
        selector=read_labels(spec.selector),
        created=doc.metadata.creation_timestamp or "",
        uid=doc.metadata.uid,
        given=told if is_foreign_class(spec.load_balancer_class) else (),
        had=() if is_foreign_class(spec.load_balancer_class) else told,
        calico_pools=(*calico["projectcalico.org/ipv4pools"], *calico["projectcalico.org/ipv6pools"]),
        health_port=spec.health_check_node_port,
        node_ports=spec.type == "NodePort" or spec.allocate_load_balancer_node_ports is not False,
        publish_unready=spec.publish_not_ready_addresses,
        distribution=DISTRIBUTIONS.get(spec.traffic_distribution or "", Distribution.ANY),
    )


def _read_list(doc: ServiceDoc, word: str) -> tuple[str, ...]:
    """An annotation of Calico's: a list in JSON."""
    text = (doc.metadata.annotations or {}).get(word, "")
    try:
        return tuple(msgspec.json.decode(text, type=list[str])) if text else ()
    except UNREADABLE:
        raise FieldError(f"metadata.annotations[{word}]", f'{text!r} is no list in JSON, as in ["one"]') from None


def _traffic(field: str, word: str) -> TrafficPolicy:
    try:
        return TrafficPolicy(word or TrafficPolicy.CLUSTER)
    except ValueError:
        raise FieldError(field, f"{word!r} is neither Cluster nor Local") from None


def read_slice(doc: EndpointSliceDoc) -> EndpointSlice | None:
    """None for a slice of no Service."""
    labels = doc.metadata.labels or {}
    service = labels.get(SERVICE_NAME_LABEL, "")
    if not service:
        return None
    backends = []
    for index, endpoint in enumerate(doc.endpoints or ()):
        conditions = endpoint.conditions
        ready = conditions is None or conditions.ready is not False
        serving = ready if conditions is None or conditions.serving is None else conditions.serving
        backends.append(
            Backend(
                tuple(read_address(f"endpoints[{index}].addresses", text) for text in endpoint.addresses),
                endpoint.node_name or "",
                ready,
                serving,
                bool(conditions and conditions.terminating),
                endpoint.zone or "",
                _hints(endpoint),
            )
        )
    return EndpointSlice(
        service, (BackendGroup(tuple(backends), _ports("ports", doc.ports)),), HEADLESS_LABEL in labels
    )


def _hints(endpoint: SliceEndpoint) -> Hints:
    if endpoint.hints is None:
        return _NO_HINTS
    zones, nodes = endpoint.hints.for_zones or (), endpoint.hints.for_nodes or ()
    return Hints(tuple(one.name for one in zones), tuple(one.name for one in nodes))


_NO_HINTS = Hints()


def read_endpoints(doc: EndpointsDoc, name: str) -> EndpointSlice:
    """The older kind: named like its Service, one group per subset."""
    groups = []
    for index, subset in enumerate(doc.subsets or ()):
        backends = [
            Backend((read_address(f"subsets[{index}].addresses", one.ip),), one.node_name or "", ready, ready)
            for ready, some in ((True, subset.addresses), (False, subset.not_ready_addresses))
            for one in some or ()
        ]
        groups.append(BackendGroup(tuple(backends), _ports(f"subsets[{index}].ports", subset.ports)))
    return EndpointSlice(name, tuple(groups))


def _ports(field: str, ports: Iterable[SlicePort] | None) -> tuple[BackendPort, ...]:
    return tuple(
        BackendPort(
            port.name or "",
            read_protocol(f"{field}[{index}].protocol", port.protocol or "TCP") or 6,
            read_port(f"{field}[{index}].port", port.port),
        )
        for index, port in enumerate(ports or ())
        if port.port is not None
    )


def read_range(field: str, text: str) -> AddressRange:
    """A CIDR, or `first-last` with blanks round the dash allowed; a bare address is refused, as MetalLB does."""
    first, dash, last = text.partition("-")
    if dash:
        low, high = read_address(field, first.strip()), read_address(field, last.strip())
        if len(low) != len(high):
            raise FieldError(field, f"{text!r} begins and ends in different families")
        if low > high:
            raise FieldError(field, f"{text!r} ends before it begins")
        return AddressRange(low, high)
    if "/" not in text:
        raise FieldError(field, f"{text!r} is neither a CIDR nor a range")
    prefix = read_prefix(field, text)
    return AddressRange(prefix.address, last_address(prefix))


def last_address(prefix: Prefix) -> Address:
    """The highest address inside."""
    bits = len(prefix.address) * 8
    number = int.from_bytes(mask_address(prefix.address, prefix.length), "big") | ((1 << (bits - prefix.length)) - 1)
    return Address(number.to_bytes(len(prefix.address), "big"))


def read_address_pool(doc: AddressPoolDoc) -> AddressPool:
    spec = doc.spec
    allocation = spec.service_allocation
    field = "spec.serviceAllocation"
    return AddressPool(
        ranges=tuple(read_range(f"spec.addresses[{index}]", text) for index, text in enumerate(spec.addresses)),
        auto_assign=spec.auto_assign is not False,
        avoid_buggy=spec.avoid_buggy,
        priority=allocation.priority if allocation else 0,
        namespaces=tuple(allocation.namespaces or ()) if allocation else (),
        service_selectors=tuple(
            read_label_selector(f"{field}.serviceSelectors[{index}]", one)
            for index, one in enumerate((allocation.service_selectors if allocation else None) or ())
        ),
        namespace_selectors=tuple(
            read_label_selector(f"{field}.namespaceSelectors[{index}]", one)
            for index, one in enumerate((allocation.namespace_selectors if allocation else None) or ())
        ),
        labels=read_labels(doc.metadata.labels),
        draining=(doc.metadata.annotations or {}).get(DRAINING_ANNOTATION) == "true",
    )


def read_bgp_advertisement(doc: BgpAdvertisementDoc) -> BgpAdvertisement:
    spec = doc.spec
    for field, length, most in (
        ("spec.aggregationLength", spec.aggregation_length, 32),
        ("spec.aggregationLengthV6", spec.aggregation_length_v6, 128),
    ):
        if not 1 <= length <= most:
            raise FieldError(field, f"{length} is not between 1 and {most}")
    if spec.local_pref is not None and not 0 <= spec.local_pref < 1 << 32:
        raise FieldError("spec.localPref", f"{spec.local_pref} is not between 0 and 2^32 - 1")
    if spec.as_path_prepend is not None and not 0 <= spec.as_path_prepend <= PREPEND_MOST:
        raise FieldError("spec.asPathPrepend", f"{spec.as_path_prepend} is not between 0 and {PREPEND_MOST}")
    return BgpAdvertisement(
        pools=tuple(spec.ip_address_pools or ()),
        aggregation4=spec.aggregation_length,
        aggregation6=spec.aggregation_length_v6,
        local_pref=spec.local_pref,
        communities=tuple(
            read_community(f"spec.communities[{index}]", word) if ":" in word else word
            for index, word in enumerate(spec.communities or ())
        ),
        node_selectors=_selectors("spec.nodeSelectors", spec.node_selectors),
        peers=tuple(spec.peers or ()),
        pool_selectors=_selectors("spec.ipAddressPoolSelectors", spec.ip_address_pool_selectors),
        service_selectors=_selectors("spec.serviceSelectors", spec.service_selectors),
        prepend=spec.as_path_prepend or 0,
    )


def read_community(field: str, text: str) -> str:
    """`65000:100`, or a large one (`65000:1:2`, before which `large:` may stand); RFC 1997, RFC 8092."""
    parts = text.removeprefix("large:").split(":")
    bits = {2: 16, 3: 32}.get(len(parts), 0)
    plain = len(parts) == 2 and text.startswith("large:")
    if plain or not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in parts):
        raise FieldError(field, f"{text!r} is no community such as 65000:100 or large:65000:100:1")
    if not all(int(part) < 1 << bits for part in parts):
        raise FieldError(field, f"{text!r} is no community: a part does not fit in {bits} bits")
    return ":".join(str(int(part)) for part in parts)


def read_communities(doc: CommunityDoc) -> CommunityAliases:
    return CommunityAliases(
        tuple(
            (one.name, read_community(f"spec.communities[{index}].value", one.value))
            for index, one in enumerate(doc.spec.communities or ())
        )
    )


def read_l2_advertisement(doc: L2AdvertisementDoc) -> L2Advertisement:
    spec = doc.spec
    preferences = []
    for index, one in enumerate(spec.preferred_node_selectors or ()):
        field = f"spec.preferredNodeSelectors[{index}]"
        if not 1 <= one.weight <= 100:
            raise FieldError(f"{field}.weight", f"{one.weight} is not between 1 and 100")
        preferences.append(Preference(one.weight, read_label_selector(f"{field}.preference", one.preference)))
    return L2Advertisement(
        pools=tuple(spec.ip_address_pools or ()),
        pool_selectors=_selectors("spec.ipAddressPoolSelectors", spec.ip_address_pool_selectors),
        service_selectors=_selectors("spec.serviceSelectors", spec.service_selectors),
        node_selectors=_selectors("spec.nodeSelectors", spec.node_selectors),
        preferences=tuple(preferences),
        interfaces=tuple(spec.interfaces or ()),
    )


def _selectors(field: str, selectors: Iterable[LabelSelector] | None) -> tuple[Selector, ...]:
    return tuple(read_label_selector(f"{field}[{index}]", one) for index, one in enumerate(selectors or ()))


def read_grant(doc: GrantDoc) -> Grant:
    names = []
    for index, text in enumerate(doc.services):
        namespace, slash, name = text.partition("/")
        if not slash:
            raise FieldError(f"services[{index}]", f"{text!r} is not `namespace/name`")
        names.append(Name(namespace, name))
    return Grant(read_address("address", doc.address), tuple(names), doc.pool)


def read_answering(doc: AnsweringDoc) -> Answering:
    return Answering(
        tuple(
            AnsweringClaim(read_address(f"segments.{segment}", text), segment, score)
            for segment, scores in sorted(doc.segments.items())
            for text, score in sorted(scores.items())
        )
    )


def read_port_grant(doc: PortGrantDoc) -> PortGrant:
    if not 1 <= doc.port <= 65535:
        raise FieldError("port", f"{doc.port} is no port")
    namespace, slash, name = doc.service.partition("/")
    if not slash:
        raise FieldError("service", f"{doc.service!r} is not `namespace/name`")
    uses = tuple(read_port_use(f"uses[{index}]", text) for index, text in enumerate(doc.uses))
    return PortGrant(doc.port, Name(namespace, name), uses)


def read_port_use(field: str, text: str) -> PortUse:
    """`TCP/80`, or `health`."""
    if text == _HEALTH_WORD:
        return HEALTH
    protocol, _, port = text.partition("/")
    if not (port.isascii() and port.isdigit()):
        raise FieldError(field, f"{text!r} is neither PROTOCOL/PORT nor {_HEALTH_WORD}")
    return PortUse(read_protocol(field, protocol) or 6, int(port))


def format_port_use(use: PortUse) -> str:
    """As `read_port_use` reads it."""
    return _HEALTH_WORD if use == HEALTH else f"{_PROTOCOL_WORDS.get(use.protocol, str(use.protocol))}/{use.port}"
