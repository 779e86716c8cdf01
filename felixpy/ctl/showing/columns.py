"""The columns of `get`: per kind, what a person wants to see at a glance, and more with `-o wide`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from felixpy.ctl.manifests import Body, Json
from felixpy.resources.kinds import CALICO, KindInfo

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and the cell that an object has under it."""

    title: str
    cell: Callable[[Body], str]
    wide: bool = False


def at(value: Json, path: str) -> Json:
    """The value at a dotted path; None where there is none."""
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def text(value: Json) -> str:
    """A value in a cell."""
    match value:
        case None | "" | []:
            return NOTHING
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return str(int(value))
        case list():
            return ",".join(text(item) for item in value)
        case dict():
            return ",".join(f"{key}={item}" for key, item in value.items()) or NOTHING
        case _:
            return str(value)


def field(title: str, path: str, *, wide: bool = False, default: Json = None) -> Column:
    """A column that shows one field."""

    def cell(body: Body) -> str:
        value = at(dict(body), path)
        return text(default if value is None else value)

    return Column(title, cell, wide)


def _each(title: str, path: str, inner: str, *, wide: bool = False) -> Column:
    """A column that shows a field of each item of a list."""

    def cell(body: Body) -> str:
        items = at(dict(body), path)
        return text([at(item, inner) for item in items] if isinstance(items, list) else None)

    return Column(title, cell, wide)


def _service_ports(body: Body) -> str:
    ports = at(dict(body), "spec.ports")
    shown: list[Json] = []
    for port in ports if isinstance(ports, list) else []:
        node_port = f":{at(port, 'nodePort')}" if at(port, "nodePort") else ""
        shown.append(f"{at(port, 'port')}{node_port}/{at(port, 'protocol') or 'TCP'}")
    return text(shown)


def _external_addresses(body: Body) -> str:
    ingress = at(dict(body), "status.loadBalancer.ingress")
    external = at(dict(body), "spec.externalIPs")
    given = [at(item, "ip") or at(item, "hostname") for item in ingress] if isinstance(ingress, list) else []
    shown = [*given, *(external if isinstance(external, list) else [])]
    if not shown and at(dict(body), "spec.type") == "LoadBalancer":
        return "<pending>"
    return text(shown)


def _both(body: Body, what: str) -> str:
    """What the status of a pool counts, of both families."""
    counts = [at(dict(body), f"status.{what}IPv{version}") for version in (4, 6)]
    return text(sum(one for one in counts if isinstance(one, int))) if any(one is not None for one in counts) else ""


def _endpoints(body: Body) -> str:
    endpoints = at(dict(body), "endpoints")
    return text([at(item, "addresses") for item in endpoints] if isinstance(endpoints, list) else None)


def _subsets(body: Body) -> str:
    shown: list[Json] = []
    subsets = at(dict(body), "subsets")
    for subset in subsets if isinstance(subsets, list) else []:
        ports, addresses = at(subset, "ports"), at(subset, "addresses")
        for address in addresses if isinstance(addresses, list) else []:
            numbers = [at(port, "port") for port in ports] if isinstance(ports, list) else []
            shown += [f"{at(address, 'ip')}:{number}" for number in numbers] or [at(address, "ip")]
    return text(shown)


_POLICY = (
    field("TIER", "spec.tier", default="default"),
    field("ORDER", "spec.order"),
    field("SELECTOR", "spec.selector", default="all()"),
    field("TYPES", "spec.types", wide=True),
)
_SETS = (field("NETS", "spec.nets"),)
_CALICO: dict[str, Sequence[Column]] = {
    "WorkloadEndpoint": (
        field("WORKLOAD", "spec.pod"),
        field("NODE", "spec.node"),
        field("NETWORKS", "spec.ipNetworks"),
        field("INTERFACE", "spec.interfaceName"),
        field("PROFILES", "spec.profiles", wide=True),
        field("MAC", "spec.mac", wide=True),
    ),
    "Node": (
        field("ASN", "spec.bgp.asNumber", default="(default)"),
        field("IPV4", "spec.bgp.ipv4Address"),
        field("IPV6", "spec.bgp.ipv6Address"),
        field("TUNNEL", "spec.bgp.ipv4IPIPTunnelAddr", wide=True),
        field("REFLECTOR", "spec.bgp.routeReflectorClusterID", wide=True),
    ),
    "IPPool": (
        field("CIDR", "spec.cidr"),
        field("NAT", "spec.natOutgoing", default=False),
        field("IPIPMODE", "spec.ipipMode", default="Never"),
        field("VXLANMODE", "spec.vxlanMode", default="Never"),
        field("DISABLED", "spec.disabled", default=False),
        field("SELECTOR", "spec.nodeSelector", default="all()"),
        field("BLOCKSIZE", "spec.blockSize", wide=True),
        field("USES", "spec.allowedUses", wide=True),
        field("ASSIGNMENT", "spec.assignmentMode", wide=True),
    ),
    "IPReservation": (field("CIDRS", "spec.reservedCIDRs"),),
    "Tier": (field("ORDER", "spec.order"), field("ACTION", "spec.defaultAction", default="Deny")),
    "NetworkPolicy": _POLICY,
    "GlobalNetworkPolicy": _POLICY,
    "StagedNetworkPolicy": (*_POLICY, field("ACTION", "spec.stagedAction", default="Set")),
    "StagedGlobalNetworkPolicy": (*_POLICY, field("ACTION", "spec.stagedAction", default="Set")),
    "Profile": (field("LABELS", "spec.labelsToApply"),),
    "NetworkSet": _SETS,
    "GlobalNetworkSet": _SETS,
    "HostEndpoint": (
        field("NODE", "spec.node"),
        field("INTERFACE", "spec.interfaceName"),
        field("IPS", "spec.expectedIPs"),
        field("PROFILES", "spec.profiles", wide=True),
    ),
    "BGPConfiguration": (
        field("LOGSEVERITY", "spec.logSeverityScreen"),
        field("MESHENABLED", "spec.nodeToNodeMeshEnabled"),
        field("ASNUMBER", "spec.asNumber"),
        _each("LOADBALANCERIPS", "spec.serviceLoadBalancerIPs", "cidr", wide=True),
        _each("CLUSTERIPS", "spec.serviceClusterIPs", "cidr", wide=True),
    ),
    "BGPPeer": (
        field("PEERIP", "spec.peerIP"),
        field("NODE", "spec.nodeSelector", default="(global)"),
        field("ASN", "spec.asNumber"),
        field("PEERS", "spec.peerSelector", wide=True),
    ),
    "FelixConfiguration": (field("SETTINGS", "spec", wide=True),),
    "ClusterInformation": (
        field("GUID", "spec.clusterGUID"),
        field("READY", "spec.datastoreReady"),
        field("VERSION", "spec.calicoVersion", wide=True),
    ),
}
_OTHERS: dict[str, Sequence[Column]] = {
    "NetworkPolicy": (
        field("POD-SELECTOR", "spec.podSelector.matchLabels", default="<all>"),
        field("TYPES", "spec.policyTypes"),
    ),
    "Namespace": (field("LABELS", "metadata.labels", wide=True),),
    "Service": (
        field("TYPE", "spec.type", default="ClusterIP"),
        field("CLUSTER-IP", "spec.clusterIP"),
        Column("EXTERNAL-IP", _external_addresses),
        Column("PORT(S)", _service_ports),
        field("POLICY", "spec.externalTrafficPolicy", wide=True, default="Cluster"),
        field("SELECTOR", "spec.selector", wide=True),
    ),
    "Endpoints": (Column("ENDPOINTS", _subsets),),
    "EndpointSlice": (
        field("ADDRESSTYPE", "addressType"),
        _each("PORTS", "ports", "port"),
        Column("ENDPOINTS", _endpoints),
    ),
    "Pod": (
        field("STATUS", "status.phase"),
        field("IP", "status.podIP"),
        field("NODE", "spec.nodeName"),
        field("LABELS", "metadata.labels", wide=True),
    ),
    "Secret": (field("TYPE", "type", default="Opaque"),),
    "Event": (
        field("TYPE", "type"),
        field("REASON", "reason"),
        field("OBJECT", "involvedObject.name"),
        field("LAST SEEN", "lastTimestamp"),
        field("MESSAGE", "message"),
    ),
    "IPAddressPool": (
        field("AUTO ASSIGN", "spec.autoAssign", default=True),
        field("AVOID BUGGY IPS", "spec.avoidBuggyIPs", default=False),
        field("ADDRESSES", "spec.addresses"),
        Column("ASSIGNED", lambda body: _both(body, "assigned")),
        Column("AVAILABLE", lambda body: _both(body, "available")),
    ),
    "ServiceL2Status": (
        field("NODE", "status.node"),
        field("SERVICE", "status.serviceName"),
        _each("INTERFACES", "status.interfaces", "name"),
    ),
    "ServiceBGPStatus": (
        field("NODE", "status.node"),
        field("SERVICE", "status.serviceName"),
        field("PEERS", "status.peers"),
    ),
    "L2Advertisement": (
        field("IPADDRESSPOOLS", "spec.ipAddressPools", default="(all)"),
        field("INTERFACES", "spec.interfaces", wide=True),
    ),
    "BGPAdvertisement": (
        field("IPADDRESSPOOLS", "spec.ipAddressPools", default="(all)"),
        field("AGGREGATION", "spec.aggregationLength", default=32),
        field("COMMUNITIES", "spec.communities", wide=True),
        field("PEERS", "spec.peers", wide=True, default="(all)"),
    ),
    "BGPPeer": (
        field("ADDRESS", "spec.peerAddress"),
        field("ASN", "spec.peerASN"),
        field("MY ASN", "spec.myASN"),
        field("BFD PROFILE", "spec.bfdProfile", wide=True),
    ),
}


def columns_of(info: KindInfo, *, wide: bool, with_namespace: bool) -> tuple[Column, ...]:
    """The columns of a kind; the namespace's only where several are shown."""
    own = (_CALICO if info.api_version == CALICO else _OTHERS).get(info.kind, ())
    first = [field("NAMESPACE", "metadata.namespace")] if with_namespace and info.namespaced else []
    created = field("CREATED", "metadata.creationTimestamp", wide=True)
    return tuple(c for c in (*first, field("NAME", "metadata.name"), *own, created) if wide or not c.wide)


def render_table(columns: Sequence[Column], bodies: Iterable[Body]) -> list[str]:
    """Lines with aligned cells, the headings first."""
    rows = [[column.title for column in columns], *([column.cell(body) for column in columns] for body in bodies)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
