"""BGP resources and announcements → what this node's speaker should be (birdpy's values). Pure.

Policy: in the mesh every node tells its own neighbours of other ASes only what it originates. Without the mesh, and at
a route reflector, they are told other nodes' blocks too, of the pools that are exported. Nothing learned from them goes
on to other nodes, so that no node becomes a transit; but a route reflector passes on everything to its clients. What is
announced to some peers goes to no other neighbour, the mesh included.
Source: Calico's BGPConfiguration and BGPPeer (api/pkg/apis/projectcalico/v3), confd's bgp_processor.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

from birdpy import topology
from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import parse_address
from birdpy.fib import RouteFilter
from birdpy.intent import (
    Advertisement,
    BgpIntent,
    Match,
    Neighbor,
    Policy,
    PrefixRange,
    RouteOrigin,
    Speaker,
    Statement,
    parse_community,
    parse_large_community,
)
from felixpy.calc.announce import Announcement
from felixpy.calc.tunnel_plan import tunnel_of
from felixpy.resources.codec import Table
from felixpy.resources.kinds import Name
from felixpy.resources.types import BgpConfiguration, BgpPeer, IpPool, Node, Resource
from felixpy.selector import Selector, compile_selector

DEFAULT_AS = 64512
DEFAULT_CONFIGURATION = "default"

Tables = Mapping[Table, Mapping[Name, Resource]]


class NoSpeaker(StrEnum):
    """Why this node speaks no BGP."""

    NO_NODE = "there is no Node resource of this node's name"
    NO_ADDRESS = "the Node resource gives no spec.bgp.ipv4Address or ipv6Address"


@dataclass(frozen=True, slots=True)
class BgpPlan:
    """What the speaker should be, which learned routes are wanted, and by whom each session was asked for.

    `asked_by`: names of BGPPeers by the neighbour's address, none where it is the mesh.
    """

    intent: BgpIntent
    route_filter: RouteFilter
    asked_by: Mapping[bytes, tuple[str, ...]] = field(default_factory=dict)


def derive_bgp(tables: Tables, node: str, announced: Iterable[Announcement]) -> BgpPlan | NoSpeaker:
    """The speaker of `node`; `announced` is what it originates."""
    me = tables[Table.NODE].get(Name("", node))
    if not isinstance(me, Node):
        return NoSpeaker.NO_NODE
    if me.ipv4 is None and me.ipv6 is None:
        return NoSpeaker.NO_ADDRESS
    default = _configuration(tables, DEFAULT_CONFIGURATION)
    own = _configuration(tables, f"node.{node}")
    asn = default.as_number or DEFAULT_AS
    nodes = {
        name.name: _router(name.name, value, asn, _port(tables, name.name, default))
        for name, value in tables[Table.NODE].items()
        if isinstance(value, Node)
    }
    router = nodes[node]
    mesh = topology.Mesh(enabled=default.mesh is not False)
    peers = [
        _peer(name.name, peer, tables)
        for name, peer in tables[Table.BGP_PEER].items()
        if isinstance(peer, BgpPeer) and _is_understood(peer)
    ]
    neighbors = topology.derive_neighbors(router, nodes.values(), peers, mesh)
    announced = tuple(announced)
    advertisements = {one.prefix: one for one in map(_advertisement, announced)}
    told = topology.find_peer_addresses(router, nodes.values(), peers)
    exports = (
        *_restrict(announced, frozenset(neighbors), told),
        *_exports(router, neighbors, _passed_on(tables, router, mesh)),
    )
    intent = BgpIntent(
        speaker=Speaker(router.asn, _router_id(node, me), own.listen_port or default.listen_port or 179),
        neighbors=neighbors,
        advertisements=dict(sorted(advertisements.items())),
        policy=Policy(exports=exports),
    )
    connected = {BgpPrefix(*one.subnet) for one in (me.ipv4, me.ipv6) if one is not None}
    route_filter = RouteFilter(
        own_prefixes=frozenset(advertisements) | connected,
        own_addresses=frozenset(router.addresses),
        excluded=_tunnelled(tables),
    )
    asked_by = {
        address: tuple(sorted(name for name, addresses in told.items() if address in addresses))
        for address in neighbors
    }
    return BgpPlan(intent, route_filter, asked_by)


def _is_understood(peer: BgpPeer) -> bool:
    """Whether all that guards the session can be kept: passwords and BGPFilters cannot yet, so it stays closed."""
    return not (peer.password_secret or peer.filters)


def _tunnelled(tables: Tables) -> tuple[BgpPrefix, ...]:
    """Prefixes of the pools whose routes lead through tunnels, which this node derives by itself (tunnels.py)."""
    pools = (pool for pool in tables[Table.POOL].values() if isinstance(pool, IpPool))
    return tuple(sorted(BgpPrefix(*pool.cidr) for pool in pools if tunnel_of(pool) is not None))


def _advertisement(announced: Announcement) -> Advertisement:
    plain = [word for word in announced.communities if word.count(":") == 1]
    large = [word for word in announced.communities if word.count(":") > 1]
    return Advertisement(
        BgpPrefix(announced.prefix.address, announced.prefix.length),
        communities=tuple(parse_community(word) for word in plain),
        large_communities=tuple(parse_large_community(word) for word in large),
        local_pref=announced.local_pref,
    )


def _configuration(tables: Tables, name: str) -> BgpConfiguration:
    found = tables[Table.BGP_CONFIGURATION].get(Name("", name))
    return found if isinstance(found, BgpConfiguration) else BgpConfiguration()


def _port(tables: Tables, node: str, default: BgpConfiguration) -> int:
    return _configuration(tables, f"node.{node}").listen_port or default.listen_port or 179


def _router(name: str, node: Node, asn: int, port: int) -> topology.Node:
    addresses = tuple(one.address for one in (node.ipv4, node.ipv6) if one is not None)
    cluster = _cluster_id(node.route_reflector_cluster_id) if node.route_reflector_cluster_id else None
    return topology.Node(name, addresses, node.as_number or asn, cluster, port)


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


def _select(selector: Selector, tables: Tables) -> frozenset[str]:
    matches = compile_selector(selector)
    return frozenset(
        name.name
        for name, value in tables[Table.NODE].items()
        if isinstance(value, Node) and matches(dict(value.labels))
    )


def _peer(name: str, peer: BgpPeer, tables: Tables) -> topology.Peer:
    local: frozenset[str] | None = None
    if peer.node:
        local = frozenset({peer.node})
    elif peer.node_selector is not None:
        local = _select(peer.node_selector, tables)
    remote = _select(peer.peer_selector, tables) if peer.peer_selector is not None else frozenset[str]()
    hold_s = peer.hold_time_s or 90
    settings = topology.SessionSettings(hold_time_s=hold_s, keepalive_s=peer.keepalive_s or hold_s // 3)
    return topology.Peer(
        name=name,
        local_nodes=local,
        address=None if peer.peer_selector is not None else peer.peer_address,
        remote_nodes=remote,
        asn=peer.as_number or 0,
        local_asn=peer.local_as_number or 0,
        port=peer.peer_port,
        use_source=peer.use_node_source,
        ttl_security_hops=peer.ttl_security_hops or 0,
        allow_own_asn=peer.allow_local_as,
        settings=settings,
    )


def _restrict(
    announced: Iterable[Announcement], neighbors: frozenset[bytes], addresses: Mapping[str, frozenset[bytes]]
) -> Iterator[Statement]:
    """Keeps what is for some peers from all other neighbours; a peer that is not there yet is told nothing."""
    prefixes_for: dict[frozenset[bytes], list[PrefixRange]] = {}
    for one in announced:
        if one.peers:
            told = frozenset(address for name in one.peers for address in addresses.get(name, ()))
            prefix = BgpPrefix(*one.prefix)
            prefixes_for.setdefault(neighbors - told, []).append(PrefixRange(prefix, prefix.length, prefix.length))
    for others, prefixes in sorted(prefixes_for.items(), key=lambda item: sorted(item[0])):
        if others:
            for ranges in _by_family(sorted(prefixes, key=lambda one: one.prefix)):
                yield Statement(Match(tuple(sorted(others)), prefixes=ranges, origin=RouteOrigin.LOCAL), accept=False)


@dataclass(frozen=True, slots=True)
class _PassedOn:
    """Which blocks that other nodes taught go to other ASes: none but those of `exported`, nor any of `hidden`."""

    exported: tuple[BgpPrefix, ...] = ()
    hidden: tuple[BgpPrefix, ...] = ()


def _passed_on(tables: Tables, router: topology.Node, mesh: topology.Mesh) -> _PassedOn:
    if mesh.enabled and router.cluster_id is None:
        return _PassedOn()
    pools = [pool for pool in tables[Table.POOL].values() if isinstance(pool, IpPool)]
    hidden, exported = (
        tuple(sorted(BgpPrefix(*pool.cidr) for pool in pools if pool.disable_bgp_export is closed))
        for closed in (True, False)
    )
    return _PassedOn(exported, hidden)


def _exports(router: topology.Node, neighbors: Mapping[bytes, Neighbor], passed_on: _PassedOn) -> Iterator[Statement]:
    external = tuple(sorted(address for address, one in neighbors.items() if one.asn != (one.local_asn or router.asn)))
    internal = tuple(sorted(neighbors.keys() - set(external)))
    if external:
        for accept, prefixes in ((False, passed_on.hidden), (True, passed_on.exported)):
            for ranges in _by_family(PrefixRange(one, one.length, len(one.address) * 8) for one in prefixes):
                yield Statement(Match(external, prefixes=ranges, origin=RouteOrigin.INTERNAL), accept)
        for origin in (RouteOrigin.INTERNAL, RouteOrigin.EXTERNAL):
            yield Statement(Match(external, origin=origin), accept=False)
    if internal and router.cluster_id is None:
        yield Statement(Match(internal, origin=RouteOrigin.EXTERNAL), accept=False)


def _by_family(ranges: Iterable[PrefixRange]) -> Iterator[tuple[PrefixRange, ...]]:
    """A statement holds prefixes of one family."""
    given = tuple(ranges)
    for size in (4, 16):
        one_family = tuple(one for one in given if len(one.prefix.address) == size)
        if one_family:
            yield one_family
