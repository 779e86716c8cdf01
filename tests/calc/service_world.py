"""A small world of Services: builders with short names, and strategies for sequences of changes to it."""

from __future__ import annotations

from hypothesis import strategies as st

from felixpy.addresses import Address, parse_address, parse_prefix
from felixpy.calc.services.frontends import ANY_OWN, BackendAddress, Frontend
from felixpy.calc.services.topology import ZONE_LABEL
from felixpy.resources.bgp_types import BgpConfiguration
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.service_types import (
    HEALTH,
    AddressPool,
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
    Service,
    ServicePort,
    TrafficPolicy,
)
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import (
    Block,
    BlockAffinity,
    FelixConfiguration,
    FloatingAddress,
    IpPool,
    Node,
    WorkloadEndpoint,
)
from felixpy.selector import parse_selector

ME, OTHER = "n1", "n2"
TCP, UDP = 6, 17
LOCAL, CLUSTER = TrafficPolicy.LOCAL, TrafficPolicy.CLUSTER

Change = tuple[Ref, Resource | None]


def name_of(text: str) -> Name:
    namespace, _, last = text.rpartition("/")
    return Name(namespace, last)


def service(text: str, value: Service | None) -> Change:
    return Ref(Table.SERVICE, name_of(text)), value


def service_of(
    kind: str = "LoadBalancer",
    *,
    cluster: str = "",
    external: str = "",
    port: int = 80,
    protocol: int = TCP,
    external_policy: TrafficPolicy = CLUSTER,
    internal_policy: TrafficPolicy = CLUSTER,
    source_ranges: str = "",
    affinity_s: int = 0,
    label: str = "",
    node_port: int = 0,
    health_port: int = 0,
    families: str = "",
    unready: bool = False,
    distribution: Distribution = Distribution.ANY,
) -> Service:
    """One port, named `web`; addresses and ranges are lists with blanks."""
    return Service(
        kind,
        (ServicePort("web", protocol, port, node_port),),
        cluster_addresses=tuple(map(parse_address, cluster.split())),
        external_addresses=tuple(map(parse_address, external.split())),
        external_policy=external_policy,
        internal_policy=internal_policy,
        source_ranges=tuple(map(parse_prefix, source_ranges.split())),
        affinity_timeout_s=affinity_s,
        labels=((label, "x"),) if label else (),
        families=tuple(map(int, families.split())),
        health_port=health_port,
        publish_unready=unready,
        distribution=distribution,
    )


def backend(
    address: str, node: str = OTHER, state: str = "ready", *, zone: str = "", zones: str = "", nodes: str = ""
) -> Backend:
    """`state` is ready, terminating (still serving), or gone (neither); hints are for `zones` and `nodes`."""
    return Backend(
        (parse_address(address),),
        node,
        state == "ready",
        state in ("ready", "terminating"),
        state == "terminating",
        zone,
        Hints(tuple(zones.split()), tuple(nodes.split())),
    )


def port_grant(port: int, owner: str, *uses: PortUse) -> Change:
    return Ref(Table.PORT_GRANT, Name("", str(port))), PortGrant(port, name_of(owner), uses)


def node(zone: str, name: str = ME) -> Change:
    return Ref(Table.NODE, Name("", name)), Node(labels=((ZONE_LABEL, zone),) if zone else ())


def slice_of(
    text: str,
    owner: str,
    *backends: Backend,
    port: int = 8080,
    protocol: int = TCP,
    table: Table = Table.SLICE,
) -> Change:
    group = BackendGroup(backends, (BackendPort("web", protocol, port),))
    return Ref(table, name_of(text)), EndpointSlice(owner, (group,))


def grant(address: str, *services: str, pool: str = "default") -> Change:
    parsed = parse_address(address)
    return Ref(Table.GRANT, Name("", address)), Grant(parsed, tuple(map(name_of, services)), pool)


def workload(text: str, *addresses: str, node: str = ME) -> Change:
    endpoint = WorkloadEndpoint(node, "cali1", tuple(map(parse_address, addresses)), (), ())
    return Ref(Table.WORKLOAD, name_of(text)), endpoint


def external_ranges(*ranges: str) -> Change:
    value = BgpConfiguration(service_external_cidrs=tuple(map(parse_prefix, ranges)))
    return Ref(Table.BGP_CONFIGURATION, Name("", "default")), value


def at(address: str, port: int = 80, protocol: int = TCP) -> Frontend:
    return Frontend(parse_address(address), protocol, port)


def on_node(port: int, protocol: int = TCP, version: int = 4) -> Frontend:
    """A port of every address of the node."""
    return Frontend(ANY_OWN[version], protocol, port)


def to(address: str, port: int = 8080) -> BackendAddress:
    return BackendAddress(parse_address(address), port)


def address(text: str) -> Address:
    return parse_address(text)


_NAMES = st.sampled_from(["a/x", "a/y"])
_VIPS = ["203.0.113.1", "2001:db8::1"]
_PODS = ["10.0.0.1", "10.0.0.2", "fd00::1"]
_POLICIES = st.sampled_from([CLUSTER, LOCAL])

_services = st.builds(
    service_of,
    st.sampled_from(["LoadBalancer", "LoadBalancer", "NodePort", "ClusterIP", "ExternalName"]),
    cluster=st.sampled_from(["", "10.96.0.1", "10.96.0.1 fd96::1", "10.96.0.2"]),
    external=st.sampled_from(["", "203.0.113.1", "198.51.100.1"]),
    port=st.sampled_from([80, 443]),
    protocol=st.sampled_from([TCP, TCP, UDP]),
    external_policy=_POLICIES,
    internal_policy=_POLICIES,
    source_ranges=st.sampled_from(["", "192.0.2.0/24"]),
    affinity_s=st.sampled_from([0, 0, 10800]),
    label=st.sampled_from(["", "", "", "service.kubernetes.io/service-proxy-name"]),
    node_port=st.sampled_from([0, 30080, 30443]),
    health_port=st.sampled_from([0, 31000]),
    families=st.sampled_from(["", "4", "6 4"]),
    unready=st.sampled_from([False, False, True]),
    distribution=st.sampled_from([Distribution.ANY, Distribution.ANY, *Distribution]),
)
_backends = st.builds(
    backend,
    st.sampled_from(_PODS),
    st.sampled_from([ME, OTHER, ""]),
    st.sampled_from(["ready", "terminating", "gone"]),
    zone=st.sampled_from(["", "east", "west"]),
    zones=st.sampled_from(["", "", "east", "east west"]),
    nodes=st.sampled_from(["", "", ME, OTHER]),
)
_slices = st.builds(
    lambda text, owner, backends, protocol, table: slice_of(text, owner, *backends, protocol=protocol, table=table),
    st.sampled_from(["a/x", "a/y", "b/x"]),
    st.sampled_from(["x", "y"]),
    st.lists(_backends, max_size=3),
    st.sampled_from([TCP, TCP, UDP]),
    st.sampled_from([Table.SLICE, Table.SLICE, Table.ENDPOINTS]),
)
_grants = st.builds(
    lambda vip, names, pool: grant(vip, *names, pool=pool),
    st.sampled_from(_VIPS),
    st.lists(_NAMES, max_size=2, unique=True),
    st.sampled_from(["default", "gold"]),
)
_port_grants = st.builds(
    port_grant,
    st.sampled_from([30080, 30081, 31000]),
    _NAMES,
    st.sampled_from([PortUse(TCP, 80), PortUse(TCP, 443), PortUse(UDP, 80), HEALTH]),
)
_own_node = st.builds(node, st.sampled_from(["", "east", "west"]), st.sampled_from([ME, ME, OTHER]))
_workloads = st.builds(
    lambda text, addresses, node: workload(text, *addresses, node=node),
    st.sampled_from(["a/w1", "a/w2"]),
    st.lists(st.sampled_from(_PODS), max_size=2),
    st.sampled_from([ME, OTHER]),
)


def service_ranges(*external: str, cluster: str = "", balanced: str = "", aggregate: bool = True) -> Change:
    value = BgpConfiguration(
        service_external_cidrs=tuple(map(parse_prefix, external)),
        service_cluster_cidrs=tuple(map(parse_prefix, cluster.split())),
        service_lb_cidrs=tuple(map(parse_prefix, balanced.split())),
        aggregate_lb=aggregate,
    )
    return Ref(Table.BGP_CONFIGURATION, Name("", "default")), value


_ranges = st.builds(
    lambda ranges, cluster, balanced, aggregate: service_ranges(
        *ranges, cluster=cluster, balanced=balanced, aggregate=aggregate
    ),
    st.lists(st.sampled_from(["203.0.113.0/24", "198.51.100.0/24", "198.51.100.1/32"]), max_size=2),
    st.sampled_from(["", "10.96.0.0/16", "10.96.0.0/16 fd96::/64"]),
    st.sampled_from(["", "", "203.0.113.0/24", "203.0.113.1/32", "192.0.2.0/24"]),
    st.booleans(),
)


@st.composite
def _blocks(draw: st.DrawFn) -> Change:
    text = draw(st.sampled_from(["10.0.0.0-26", "10.0.0.64-26", "10.1.0.0-26"]))
    first = text.partition("-")[0]
    borrowed = draw(st.lists(st.sampled_from([ME, OTHER, "n3"]), max_size=2))
    pairs = tuple(
        (Address(parse_address(first)[:3] + bytes([parse_address(first)[3] + index])), holder)
        for index, holder in enumerate(borrowed)
    )
    return Ref(Table.BLOCK, Name("", text)), Block(
        draw(st.sampled_from([ME, OTHER, ""])), pairs, bool(pairs) or draw(st.booleans())
    )


_affinities = st.builds(
    lambda node, text, state: (Ref(Table.AFFINITY, Name(node, text)), BlockAffinity(state)),
    st.sampled_from([ME, OTHER]),
    st.sampled_from(["10.0.0.0-26", "10.0.0.64-26", "10.1.0.0-26"]),
    st.sampled_from(["confirmed", "pending", "pendingDeletion"]),
)
_pools = st.builds(
    lambda cidr, hidden: (
        Ref(Table.POOL, Name("", cidr.replace("/", "-"))),
        IpPool(parse_prefix(cidr), 26, disable_bgp_export=hidden),
    ),
    st.sampled_from(["10.0.0.0/16", "10.1.0.0/16"]),
    st.booleans(),
)
_nodes = st.builds(
    lambda name, labels: (Ref(Table.NODE, Name("", name)), Node(labels=tuple((label, "") for label in labels))),
    st.sampled_from([ME, OTHER]),
    st.lists(
        st.sampled_from(["node.kubernetes.io/exclude-from-external-load-balancers", "rack"]), max_size=2, unique=True
    ),
)
_advertisements = st.builds(
    lambda name, pools, length, selector, pref, communities, pool_selector, service_selector: (
        Ref(Table.BGP_ADVERTISEMENT, Name("metallb-system", name)),
        BgpAdvertisement(
            tuple(pools),
            length,
            128,
            pref,
            tuple(communities),
            (parse_selector(selector),) if selector else (),
            pool_selectors=(parse_selector(pool_selector),) if pool_selector else (),
            service_selectors=(parse_selector(service_selector),) if service_selector else (),
        ),
    ),
    st.sampled_from(["one", "two"]),
    st.lists(st.sampled_from(["default", "gold"]), max_size=1),
    st.sampled_from([32, 24]),
    st.sampled_from(["", "has(rack)", "!has(rack)"]),
    st.sampled_from([None, 100, 200]),
    st.lists(st.sampled_from(["65000:1", "65000:2", "quiet"]), max_size=1),
    st.sampled_from(["", "", "has(tier)"]),
    st.sampled_from(["", "", "!all()", "!has(service.kubernetes.io/service-proxy-name)"]),
)
_address_pools = st.builds(
    lambda name, labels: (Ref(Table.ADDRESS_POOL, Name("metallb-system", name)), AddressPool((), labels=labels)),
    st.sampled_from(["default", "gold"]),
    st.sampled_from([(), (("tier", "gold"),)]),
)
_others_of_metallb = st.sampled_from(
    [
        (Ref(Table.COMMUNITY, Name("metallb-system", "names")), CommunityAliases((("quiet", "65535:65281"),))),
        (Ref(Table.L2_ADVERTISEMENT, Name("metallb-system", "l2")), L2Advertisement()),
    ]
)


_floating = st.builds(
    lambda text, node, externals: (
        Ref(Table.WORKLOAD, name_of(text)),
        WorkloadEndpoint(
            node,
            "cali1",
            (parse_address("10.0.0.1"),),
            (),
            (),
            floating=tuple(FloatingAddress(parse_address(one), parse_address("10.0.0.1")) for one in externals),
        ),
    ),
    st.sampled_from(["a/f1", "a/f2"]),
    st.sampled_from([ME, OTHER]),
    st.lists(st.sampled_from(["10.0.0.9", "10.1.0.9", "203.0.113.1", "192.0.2.1"]), max_size=3, unique=True),
)
_felix = st.builds(
    lambda name, word: (
        Ref(Table.FELIX_CONFIGURATION, Name("", name)),
        FelixConfiguration((("floatingIPs", word),) if word else ()),
    ),
    st.sampled_from(["default", f"node.{ME}", f"node.{OTHER}"]),
    st.sampled_from(["Enabled", "Enabled", "Disabled", ""]),
)


def _or_gone(changes: st.SearchStrategy[Change]) -> st.SearchStrategy[Change]:
    return st.builds(
        lambda change, gone: (change[0], None if gone else change[1]), changes, st.sampled_from([False, False, True])
    )


SERVICE_CHANGES = _or_gone(
    st.one_of(
        st.builds(service, _NAMES, _services),
        st.builds(service, _NAMES, _services),
        _slices,
        _slices,
        _grants,
        _port_grants,
        _own_node,
        _workloads,
        _ranges,
    )
)
ANNOUNCE_CHANGES = st.one_of(
    SERVICE_CHANGES,
    _or_gone(st.one_of(_blocks(), _affinities, _pools, _nodes, _advertisements, _address_pools, _others_of_metallb)),
    _or_gone(st.one_of(_floating, _felix)),
)
