"""Who talks BGP with whom: the node mesh, route reflectors and explicit peers, as neighbours of one node.

In: nodes, peers (whose selectors are already evaluated to node names) and the mesh's settings. Out: this node's
neighbours, one per address. Decides no attribute of a route. Source: Calico's confd templates and bgp_processor.go
(mesh and reverse peerings), RFC 4456 (reflection).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from birdpy.addresses import Version, format_address, version_of
from birdpy.intent import (
    BGP_PORT,
    DEFAULT_HOLD_TIME_S,
    MULTIHOP_TTL_MAX,
    Bfd,
    GracefulRestart,
    Neighbor,
    Reflection,
)

_GRACEFUL = GracefulRestart()


@dataclass(frozen=True, slots=True)
class Node:
    """A router of the cluster; `addresses` at most one per family. `cluster_id` (4 bytes) makes it a reflector."""

    name: str
    addresses: tuple[bytes, ...]
    asn: int
    cluster_id: bytes | None = None
    port: int = BGP_PORT


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What sessions of one kind share. `maximum_restart_s` is the graceful restart time."""

    password: str = ""
    hold_time_s: int = DEFAULT_HOLD_TIME_S
    keepalive_s: int = DEFAULT_HOLD_TIME_S // 3
    graceful_restart: GracefulRestart = _GRACEFUL


@dataclass(frozen=True, slots=True)
class Mesh:
    """The node-to-node mesh: off, or with these settings for every session of it."""

    enabled: bool = True
    settings: SessionSettings = SessionSettings()


@dataclass(frozen=True, slots=True)
class Peer:
    """An explicit peering of some nodes (None: of all) with an address, or with the nodes that a selector chose.

    Exactly one of `address` and `remote_nodes` is set. `asn` 0 is the remote node's own. `two_way`: the remote nodes
    get the reverse peering without having to name it. `ttl_security_hops` above 0 is also how far the peer may be.
    """

    name: str
    local_nodes: frozenset[str] | None = None
    address: bytes | None = None
    remote_nodes: frozenset[str] = frozenset()
    asn: int = 0
    local_asn: int = 0
    port: int = BGP_PORT
    use_source: bool = True
    passive: bool = False
    multihop_ttl: int = 0
    ttl_security_hops: int = 0
    allow_own_asn: int = 0
    prefix_limit: int = 0
    versions: tuple[Version, ...] = ()
    two_way: bool = True
    settings: SessionSettings = SessionSettings()
    bfd: Bfd | None = None


def derive_neighbors(me: Node, nodes: Iterable[Node], peers: Iterable[Peer], mesh: Mesh) -> Mapping[bytes, Neighbor]:
    """The sessions of `me`, by the neighbour's address.

    Shape   one per remote address; where several claim an address, a peer of all nodes wins over a peer of some, that
            over the mesh, and among equals the first by name.
    Missing an address family that `me` has no address in yields no session; nobody peers with itself.
    """
    by_name = {node.name: node for node in nodes}
    ordered = sorted(peers, key=lambda peer: (peer.local_nodes is not None, peer.name))
    found: dict[bytes, Neighbor] = {}
    for peer in ordered:
        for neighbor in _neighbors_of_peer(me, by_name, peer):
            found.setdefault(neighbor.address, neighbor)
    if mesh.enabled and me.cluster_id is None:
        for neighbor in _neighbors_of_mesh(me, by_name, mesh):
            found.setdefault(neighbor.address, neighbor)
    own = frozenset(me.addresses)
    return {address: found[address] for address in sorted(found) if address not in own}


def find_peer_addresses(me: Node, nodes: Iterable[Node], peers: Iterable[Peer]) -> Mapping[str, frozenset[bytes]]:
    """The addresses that each peer, by its name, means for `me`, whichever peer's settings their sessions have."""
    by_name = {node.name: node for node in nodes}
    return {peer.name: frozenset(one.address for one in _neighbors_of_peer(me, by_name, peer)) for peer in peers}


def mesh_side_is_passive(own: bytes, remote: bytes) -> bool:
    """Whether `own` waits for `remote` to connect.

    Compares the addresses as text: the rule of Calico's own nodes. Any total order makes exactly one side of each pair
    wait; a different one than theirs would leave pairs in a shared mesh in which both do.
    """
    return format_address(remote) > format_address(own)


def _neighbors_of_mesh(me: Node, nodes: Mapping[str, Node], mesh: Mesh) -> Iterator[Neighbor]:
    for name in sorted(nodes):
        node = nodes[name]
        if name == me.name or node.cluster_id is not None:
            continue
        for own, remote in _address_pairs(me, node):
            yield _session(
                Neighbor(remote, node.asn, port=node.port, source=own, passive=mesh_side_is_passive(own, remote)),
                mesh.settings,
                multihop_ttl=MULTIHOP_TTL_MAX if node.asn != me.asn else 0,
            )


def _neighbors_of_peer(me: Node, nodes: Mapping[str, Node], peer: Peer) -> Iterator[Neighbor]:
    applies = peer.local_nodes is None or me.name in peer.local_nodes
    if peer.address is not None:
        if applies:
            yield _explicit(me, peer, peer.address)
        return
    remotes = peer.remote_nodes if applies else frozenset[str]()
    if peer.two_way and me.name in peer.remote_nodes:
        remotes |= frozenset(nodes) if peer.local_nodes is None else peer.local_nodes
    for name in sorted(remotes & nodes.keys() - {me.name}):
        for own, remote in _address_pairs(me, nodes[name]):
            yield _towards_node(me, nodes[name], peer, (own, remote))


def _explicit(me: Node, peer: Peer, address: bytes) -> Neighbor:
    own = next((own for own in me.addresses if version_of(own) == version_of(address)), None)
    asn = peer.asn or me.asn
    neighbor = Neighbor(
        address,
        asn,
        local_asn=peer.local_asn,
        port=peer.port,
        source=own if peer.use_source else None,
        passive=peer.passive,
        ttl_security_hops=peer.ttl_security_hops,
        allow_own_asn=peer.allow_own_asn,
        versions=peer.versions,
        prefix_limit=peer.prefix_limit,
        bfd=peer.bfd,
    )
    return _session(neighbor, peer.settings, peer.multihop_ttl)


def _towards_node(me: Node, node: Node, peer: Peer, addresses: tuple[bytes, bytes]) -> Neighbor:
    own, remote = addresses
    is_client = me.cluster_id is not None and node.asn == me.asn and node.cluster_id != me.cluster_id
    neighbor = Neighbor(
        remote,
        node.asn,
        port=node.port,
        source=own if peer.use_source else None,
        passive=mesh_side_is_passive(own, remote),
        allow_own_asn=peer.allow_own_asn,
        reflection=Reflection(me.cluster_id) if is_client and me.cluster_id is not None else None,
        versions=peer.versions,
        bfd=peer.bfd,
    )
    return _session(neighbor, peer.settings, MULTIHOP_TTL_MAX if node.asn != me.asn else 0)


def _session(neighbor: Neighbor, settings: SessionSettings, multihop_ttl: int) -> Neighbor:
    return replace(
        neighbor,
        password=settings.password,
        hold_time_s=settings.hold_time_s,
        keepalive_s=settings.keepalive_s,
        graceful_restart=settings.graceful_restart,
        multihop_ttl=multihop_ttl,
    )


def _address_pairs(me: Node, node: Node) -> Iterator[tuple[bytes, bytes]]:
    for own in me.addresses:
        for remote in node.addresses:
            if len(own) == len(remote):
                yield own, remote
