"""BGP resources and announcements → what this node's speaker should be (birdpy's values). Pure.

Composes who is who (scene.py), what is originated (own_paths.py) and who is told what (policy.py); `reannounce` is the
same at the cost of what is announced otherwise. Source: Calico's confd bgp_processor.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import range_of
from birdpy.fib import RouteFilter
from birdpy.intent import (
    BgpIntent,
    Speaker,
)
from felixpy.calc.announcing.announce import AnnounceDelta
from felixpy.calc.announcing.announcements import Announcement
from felixpy.calc.announcing.service_ranges import read_ranges
from felixpy.calc.bgp.filters import Surroundings, needs_links
from felixpy.calc.bgp.own_paths import derive_own_path
from felixpy.calc.bgp.peers import (
    Refusal,
    Tables,
    find_router_id,
)
from felixpy.calc.bgp.policy import Circle, derive_policy
from felixpy.calc.bgp.scene import HostFacts, NoSpeaker, Scene, derive_scene, find_refusals, find_wanted_files
from felixpy.calc.bgp.settings import derive_router_id
from felixpy.calc.bgp.workloads import derive_selected
from felixpy.calc.tunnel_plan import tunnel_of
from felixpy.resources.bgp_types import BgpFilter, BgpPeer, SecretKey
from felixpy.resources.tables import Table
from felixpy.resources.types import IpPool


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


def derive_plan(scene: Scene, announced: Iterable[Announcement], hidden: Iterable[Announcement] = ()) -> BgpPlan:
    """The speaker; `announced` is what it originates, `hidden` what only a filter can let out."""
    announced = tuple(announced)
    circle = _draw_circle(scene, announced, tuple(hidden))
    advertisements = {one.advertisement.prefix: one.advertisement for one in circle.around.own}
    router_id, torn = find_router_id(scene.tables, scene.node)
    intent = BgpIntent(
        speaker=Speaker(
            scene.router.asn,
            router_id or derive_router_id(scene.node, scene.me),
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
        refusals=(*find_refusals(scene), *torn),
        gateways=gateways,
        local_addresses=tuple(sorted(scene.settings.default.workload_peering)) if workloads else (),
        visitors=workloads | {one for one in scene.sessions.neighbors if range_of(one) is not None},
        password_files=find_wanted_files(scene),
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
        advertisements[prefix] = derive_own_path(one, scene.settings, scene.router.asn).advertisement
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
    own = tuple(derive_own_path(one, scene.settings, scene.router.asn) for one in (*announced, *hidden))
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
