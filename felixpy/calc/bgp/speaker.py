"""BGP resources and announcements → what this node's speaker should be (birdpy's values). Pure.

Composes: who is asked for (bgp_peers), the sessions that come of it (birdpy's topology), and who is told what
(bgp_policy). What cannot be had is named, with its reason, and never half done.
Source: Calico's BGPConfiguration and BGPPeer (api/pkg/apis/projectcalico/v3), confd's bgp_processor.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from types import MappingProxyType

from birdpy import topology
from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import format_address, parse_address, range_of, version_of
from birdpy.fib import LOCAL_PREF_TOP, NORMAL_METRIC, RouteFilter
from birdpy.intent import (
    BGP_PORT,
    Advertisement,
    BgpIntent,
    LinkBandwidth,
    Speaker,
    parse_community,
    parse_large_community,
)
from birdpy.topology import Wish
from felixpy.calc.announcing.announce import AnnounceDelta
from felixpy.calc.announcing.announcements import Announcement, Why
from felixpy.calc.announcing.service_ranges import read_ranges
from felixpy.calc.bgp.filters import OwnPath, Surroundings, needs_links
from felixpy.calc.bgp.peers import (
    Around,
    Asked,
    Passwords,
    Refusal,
    Tables,
    conflict_refusals,
    derive_asked,
    find_router_id,
    object_of,
    restart_within,
)
from felixpy.calc.bgp.policy import Circle, derive_policy
from felixpy.calc.bgp.workloads import Selected, derive_selected
from felixpy.calc.tunnel_plan import tunnel_of
from felixpy.resources.bgp_types import BgpConfiguration, BgpFilter, BgpPeer, PrefixCommunities, SecretKey
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Table
from felixpy.resources.types import IpPool, Node

DEFAULT_AS = 64512
DEFAULT_CONFIGURATION = "default"
AS_TRANS = 23456
"""What stands for an AS of four octets where there is room for two (RFC 6793 §9)."""
ENDPOINT_BYTES_PER_S = 125_000_000.0
"""One Gbit/s an endpoint: only how the nodes compare matters."""


class NoSpeaker(StrEnum):
    """Why this node speaks no BGP."""

    NO_NODE = "there is no Node resource of this node's name"
    NO_ADDRESS = "the Node resource gives no spec.bgp.ipv4Address or ipv6Address"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What is not in the datastore: password files, its devices' subnets, and the routers heard on them."""

    password_files: Mapping[SecretKey, str] = field(default_factory=dict, repr=False)
    links: Mapping[str, tuple[BgpPrefix, ...]] = field(default_factory=dict)
    routers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BgpPlan:
    """What the speaker should be, which learned routes are wanted, and what was asked for and cannot be had.

    `asked_by`: names of BGPPeers by the neighbour's address, none where it is the mesh.
    `gateways` are routes that peers need to be reached at all; `local_addresses` are ours to workloads that peer with
    us. Nobody waits for `visitors`: these, and whoever may connect from a prefix. `password_files`: passwords that no
    Secret has. `needs_links`: some filter asks for devices. `listens_on`: devices whose routers are to be found.
    """

    intent: BgpIntent
    route_filter: RouteFilter
    asked_by: Mapping[bytes, tuple[str, ...]] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    gateways: Mapping[BgpPrefix, bytes] = field(default_factory=dict)
    local_addresses: tuple[bytes, ...] = ()
    visitors: frozenset[bytes] = frozenset()
    password_files: frozenset[SecretKey] = frozenset()
    needs_links: bool = False
    listens_on: frozenset[str] = frozenset()
    rest: _Rest | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class _Configuration:
    """The global configuration and this node's, as one."""

    default: BgpConfiguration
    own: BgpConfiguration

    @property
    def asn(self) -> int:
        return self.default.as_number or DEFAULT_AS

    @property
    def port(self) -> int:
        return self.own.listen_port or self.default.listen_port or BGP_PORT

    @property
    def binds_to_node(self) -> bool:
        said = self.own.bind_to_node
        return bool(self.default.bind_to_node if said is None else said)

    @property
    def communities(self) -> tuple[PrefixCommunities, ...]:
        said = self.own.prefix_communities
        return (self.default.prefix_communities if said is None else said) or ()

    def normal_priority(self, version: int) -> int:
        if version == 4:
            return self.default.normal_priority4 or NORMAL_METRIC
        return self.default.normal_priority6 or NORMAL_METRIC


@dataclass(frozen=True, slots=True)
class Scene:
    """Who is who for one node, whatever it announces: settings, nodes, what was asked for, and the sessions of that."""

    tables: Tables
    node: str
    me: Node
    facts: HostFacts
    settings: _Configuration
    nodes: Mapping[str, topology.Node]
    passwords: Passwords
    asked: Asked
    mesh: topology.Mesh
    refusals: tuple[Refusal, ...]
    sessions: topology.Sessions
    told: Mapping[str, frozenset[bytes]]

    @property
    def router(self) -> topology.Node:
        return self.nodes[self.node]


@dataclass(frozen=True, slots=True)
class _Rest:
    """What one announcement more or less is judged by, and leaves as it is.

    `unannounced` are our prefixes beside the announced ones; `for_some` those that the policy names; `filtered`: it may
    name any.
    """

    scene: Scene
    unannounced: frozenset[BgpPrefix]
    for_some: frozenset[BgpPrefix]
    filtered: bool


def derive_bgp(tables: Tables, node: str, announced: Iterable[Announcement]) -> BgpPlan | NoSpeaker:
    """The speaker of `node`, all of it from scratch."""
    scene = derive_scene(tables, node, HostFacts(), derive_selected(tables, node))
    return scene if isinstance(scene, NoSpeaker) else derive_plan(scene, announced)


def derive_scene(
    tables: Tables, node: str, facts: HostFacts, workloads: Selected = MappingProxyType({})
) -> Scene | NoSpeaker:
    """What changes with resources and the host only; `workloads` are those that BGPPeers select on this node."""
    me = tables[Table.NODE].get(Name("", node))
    if not isinstance(me, Node):
        return NoSpeaker.NO_NODE
    if me.ipv4 is None and me.ipv6 is None:
        return NoSpeaker.NO_ADDRESS
    passwords = Passwords(tables[Table.SECRET], facts.password_files)
    settings = _Configuration(_configuration(tables, DEFAULT_CONFIGURATION), _configuration(tables, f"node.{node}"))
    nodes = {
        name.name: _router(name.name, value, settings, tables)
        for name, value in tables[Table.NODE].items()
        if isinstance(value, Node)
    }
    asked = derive_asked(tables, node, passwords, Around(facts.routers, workloads))
    mesh, refusals = _mesh(settings.default, passwords)
    sessions = topology.derive_sessions(nodes[node], nodes.values(), asked.peers, mesh)
    told = topology.find_peer_addresses(nodes[node], nodes.values(), asked.peers)
    return Scene(tables, node, me, facts, settings, nodes, passwords, asked, mesh, refusals, sessions, told)


def derive_plan(scene: Scene, announced: Iterable[Announcement], hidden: Iterable[Announcement] = ()) -> BgpPlan:
    """The speaker; `announced` is what it originates, `hidden` what only a filter can let out."""
    announced = tuple(announced)
    circle = _draw_circle(scene, announced, tuple(hidden))
    advertisements = {one.advertisement.prefix: one.advertisement for one in circle.around.own}
    router_id, torn = find_router_id(scene.tables, scene.node)
    intent = BgpIntent(
        speaker=Speaker(
            scene.router.asn,
            router_id or _router_id(scene.node, scene.me),
            scene.settings.port,
            scene.router.addresses if scene.settings.binds_to_node else (),
        ),
        neighbors=scene.sessions.neighbors,
        advertisements=dict(sorted(advertisements.items())),
        policy=derive_policy(circle),
    )
    gateways, used = _gateways(circle), _used_filters(circle)
    workloads = frozenset(a for peer in scene.asked.peers for a in peer.workloads) & scene.sessions.neighbors.keys()
    route_filter = _route_filter(scene, frozenset(gateways))
    for_some = frozenset(BgpPrefix(*one.prefix) for one in announced if one.peers or one.prepend)
    rest = _Rest(scene, route_filter.own_prefixes, for_some, bool(used))
    return BgpPlan(
        intent,
        replace(route_filter, own_prefixes=frozenset(advertisements) | rest.unannounced),
        asked_by=scene.sessions.peers,
        refusals=(*_refusals(scene), *torn),
        gateways=gateways,
        local_addresses=tuple(sorted(scene.settings.default.workload_peering)) if workloads else (),
        visitors=workloads | {one for one in scene.sessions.neighbors if range_of(one) is not None},
        password_files=_wanted_files(scene),
        needs_links=needs_links(used),
        listens_on=scene.asked.links,
        rest=rest,
    )


def reannounce(plan: BgpPlan, delta: AnnounceDelta) -> BgpPlan | None:
    """The plan after a change of announcements, all else being as it was; None where the policy depends on them.

    Cost    that of the change, and a copy of the tables that it is in.
    """
    rest = plan.rest
    if rest is None or rest.filtered or any(one.peers or one.prepend for one in delta.puts.values()):
        return None
    puts = {BgpPrefix(*prefix): one for prefix, one in delta.puts.items()}
    drops = {BgpPrefix(*prefix) for prefix in delta.drops}
    if not rest.for_some.isdisjoint(puts.keys() | drops):
        return None
    scene = rest.scene
    advertisements = dict(plan.intent.advertisements)
    for prefix in drops:
        advertisements.pop(prefix, None)
    for prefix, one in puts.items():
        advertisements[prefix] = _own_path(one, scene.settings, scene.router.asn).advertisement
    own_prefixes = frozenset(advertisements) | rest.unannounced
    return replace(
        plan,
        intent=replace(plan.intent, advertisements=advertisements),
        route_filter=replace(plan.route_filter, own_prefixes=own_prefixes),
    )


def _draw_circle(scene: Scene, announced: tuple[Announcement, ...], hidden: tuple[Announcement, ...]) -> Circle:
    tables, sessions = scene.tables, scene.sessions
    peers = {name.name: one for name, one in tables[Table.BGP_PEER].items() if isinstance(one, BgpPeer)}
    circle = Circle(
        router=scene.router,
        neighbors=sessions.neighbors,
        peers={
            address: tuple(peers[name] for name in names if name in peers) for address, names in sessions.peers.items()
        },
        filters={name.name: one for name, one in tables[Table.BGP_FILTER].items() if isinstance(one, BgpFilter)},
        announced=announced,
        told=_by_short_name(scene.told),
        around=Surroundings(links=scene.facts.links, routers=_routers(scene)),
        pools=tuple(pool for pool in tables[Table.POOL].values() if isinstance(pool, IpPool)),
        mesh=scene.mesh.enabled,
        communities=scene.settings.communities,
    )
    if not any(rule.accept for one in _used_filters(circle) for rule in (*one.export4, *one.export6)):
        hidden = ()
    own = tuple(_own_path(one, scene.settings, scene.router.asn) for one in (*announced, *hidden))
    return replace(circle, hidden=hidden, around=replace(circle.around, own=own))


def _used_filters(circle: Circle) -> tuple[BgpFilter, ...]:
    """Those of this node's peers."""
    names = {name for peers in circle.peers.values() for peer in peers for name in peer.filters}
    return tuple(circle.filters[name] for name in sorted(names))


def _route_filter(scene: Scene, own_prefixes: frozenset[BgpPrefix]) -> RouteFilter:
    """Which learned routes are wanted; `own_prefixes` are ours to serve."""
    settings = scene.settings
    connected = {BgpPrefix(*one.subnet) for one in (scene.me.ipv4, scene.me.ipv6) if one is not None}
    ranges = (BgpPrefix(*one) for one in read_ranges(settings.default).whole)
    return RouteFilter(
        metrics=(settings.normal_priority(4), settings.normal_priority(6)),
        own_prefixes=own_prefixes | connected,
        own_addresses=frozenset(scene.router.addresses),
        excluded=(*_tunnelled(scene.tables), *sorted(ranges)),
    )


def _refusals(scene: Scene) -> Iterator[Refusal]:
    """What concerns this node and cannot be had."""
    peers = scene.asked.peers
    concerned = {peer.name for peer in peers if peer.local_nodes is None or scene.node in peer.local_nodes}
    concerned |= {name for name, addresses in scene.told.items() if addresses}
    for name, why in sorted(scene.asked.refused.items()):
        if name in concerned:
            yield Refusal(object_of(name), why)
    yield from conflict_refusals(scene.sessions.conflicts)
    yield from scene.refusals
    if scene.settings.binds_to_node and any(peer.workloads for peer in peers):
        for address in scene.settings.default.workload_peering:
            why = f"with bindMode NodeIP nothing listens at {format_address(address)}, but at the node's own addresses"
            yield Refusal("BGPConfiguration default", f"localWorkloadPeeringIPV{version_of(address)}: {why}")
    if any(peer.workloads for peer in peers):
        for address in scene.settings.default.peering_on_links:
            why = f"{format_address(address)} is of one link only, and every workload has one of its own"
            yield Refusal("BGPConfiguration default", f"localWorkloadPeeringIPV6: {why}")
    for one in scene.settings.communities:
        if one.unknown:
            names = ", ".join(one.unknown)
            yield Refusal("BGPConfiguration", f"nothing in {one.prefix} is announced: no community is named {names}")


def _mesh(default: BgpConfiguration, passwords: Passwords) -> tuple[topology.Mesh, tuple[Refusal, ...]]:
    """The mesh; without its password there is none."""
    enabled = default.mesh is not False
    restart = restart_within(default.mesh_restart_s, default.extras)
    key = default.mesh_password
    if not enabled or key is None:
        return topology.Mesh(enabled, Wish(graceful_restart=restart)), ()
    why = passwords.why_unusable(key)
    wish = Wish(password=passwords.find(key), graceful_restart=restart)
    if why:
        return topology.Mesh(True, wish, refused=True), (
            Refusal("BGPConfiguration default", f"nodeMeshPassword: {why}"),
        )
    return topology.Mesh(True, wish), ()


def _routers(scene: Scene) -> tuple[bytes, ...]:
    """Addresses that next hops of others can be expected to be."""
    addresses = {address for node in scene.nodes.values() for address in node.addresses}
    single = {address for address in scene.sessions.neighbors if range_of(address) is None}
    return tuple(sorted(addresses | single))


def _gateways(circle: Circle) -> Mapping[BgpPrefix, bytes]:
    """Routes to the peers that say by which gateway they are reached."""
    return {
        BgpPrefix(address, len(address) * 8): peer.reachable_by
        for address, peers in circle.peers.items()
        for peer in peers
        if peer.reachable_by is not None and range_of(address) is None
    }


def _wanted_files(scene: Scene) -> frozenset[SecretKey]:
    """Passwords of Calico's objects that are in no Secret of the datastore."""
    peers = (peer for peer in scene.tables[Table.BGP_PEER].values() if isinstance(peer, BgpPeer))
    asked = (scene.settings.default.mesh_password, *(peer.password for peer in peers))
    return frozenset(key for key in asked if key is not None and not scene.passwords.is_stored(key))


def _by_short_name(told: Mapping[str, frozenset[bytes]]) -> Mapping[str, frozenset[bytes]]:
    """As BGPAdvertisements name peers: those of MetalLB without their namespace."""
    found: dict[str, frozenset[bytes]] = {}
    for name, addresses in told.items():
        short = name.rpartition("/")[2]
        found[short] = found.get(short, frozenset()) | addresses
    return found


def _tunnelled(tables: Tables) -> tuple[BgpPrefix, ...]:
    """Prefixes of the pools whose routes lead through tunnels, which this node derives by itself (tunnels.py)."""
    pools = (pool for pool in tables[Table.POOL].values() if isinstance(pool, IpPool))
    return tuple(sorted(BgpPrefix(*pool.cidr) for pool in pools if tunnel_of(pool) is not None))


def _bandwidth(endpoints: int, asn: int) -> LinkBandwidth:
    """What makes a router that weighs its equal-cost paths send each endpoint as much, whichever node it is on."""
    return LinkBandwidth(asn if asn < 1 << 16 else AS_TRANS, endpoints * ENDPOINT_BYTES_PER_S)


def _own_path(announced: Announcement, settings: _Configuration, asn: int) -> OwnPath:
    """Blocks and addresses of pods carry the normal priority, so that Calico's nodes and ours rank them alike."""
    plain = [word for word in announced.communities if word.count(":") == 1]
    large = [word for word in announced.communities if word.count(":") > 1]
    local_pref = announced.local_pref
    priority = settings.normal_priority(announced.prefix.version)
    if local_pref is None and announced.why is not Why.SERVICE:
        local_pref = LOCAL_PREF_TOP - priority
    return OwnPath(
        Advertisement(
            BgpPrefix(announced.prefix.address, announced.prefix.length),
            communities=tuple(parse_community(word) for word in plain),
            large_communities=tuple(parse_large_community(word) for word in large),
            local_pref=local_pref,
            link_bandwidth=None if announced.endpoints is None else _bandwidth(announced.endpoints, asn),
        ),
        priority,
        announced.interface,
    )


def _configuration(tables: Tables, name: str) -> BgpConfiguration:
    found = tables[Table.BGP_CONFIGURATION].get(Name("", name))
    return found if isinstance(found, BgpConfiguration) else BgpConfiguration()


def _router(name: str, node: Node, settings: _Configuration, tables: Tables) -> topology.Node:
    own = replace(settings, own=_configuration(tables, f"node.{name}"))
    addresses = tuple(one.address for one in (node.ipv4, node.ipv6) if one is not None)
    cluster = _cluster_id(node.route_reflector_cluster_id) if node.route_reflector_cluster_id else None
    return topology.Node(name, addresses, node.as_number or settings.asn, cluster, own.port)


def _cluster_id(text: str) -> bytes:
    """A cluster id as four bytes; text of another form is hashed, so that equal texts stay equal."""
    try:
        address = parse_address(text)
    except ValueError:
        address = b""
    return address if len(address) == 4 else blake2b(text.encode(), digest_size=4).digest()


def _router_id(name: str, node: Node) -> bytes:
    """The node's IPv4 address, else a hash of its name."""
    return node.ipv4.address if node.ipv4 is not None else blake2b(name.encode(), digest_size=4).digest()
