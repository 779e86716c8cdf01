"""Who talks BGP with whom: the node mesh, route reflectors and explicit peers, as neighbours of one node.

In: nodes, peers (whose selectors are already evaluated to node names) and the mesh's settings. Out: this node's
neighbours, one per address, whoever asked for it, and where those who did contradict each other. Decides no attribute
of a route. Source: Calico's confd client.go (updatePeersV1: who wins, reverse peerings) and bgp_processor.go (mesh,
passive sides), RFC 4456 (reflection).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from operator import attrgetter

from birdpy.addresses import Version, format_address, version_of
from birdpy.intent import (
    BGP_PORT,
    DEFAULT_CONNECT_RETRY_S,
    DEFAULT_HOLD_TIME_S,
    HOLD_TIME_S_MAX,
    MULTIHOP_TTL_MAX,
    Bfd,
    GracefulRestart,
    Neighbor,
    Reflection,
)

KERNELS_CHOICE = b""
"""A source address that is left to the kernel."""


@dataclass(frozen=True, slots=True)
class Node:
    """A router of the cluster; `addresses` at most one per family. `cluster_id` (4 bytes) makes it a reflector."""

    name: str
    addresses: tuple[bytes, ...]
    asn: int
    cluster_id: bytes | None = None
    port: int = BGP_PORT


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks of a session. None leaves it to others who want the same one, and then to the defaults."""

    asn: int | None = None
    local_asn: int | None = None
    port: int | None = None
    source: bytes | None = None
    password: str | None = field(default=None, repr=False)
    hold_time_s: int | None = None
    keepalive_s: int | None = None
    connect_retry_s: int | None = None
    passive: bool | None = None
    multihop_ttl: int | None = None
    ttl_security_hops: int | None = None
    allow_own_asn: int | None = None
    prefix_limit: int | None = None
    versions: tuple[Version, ...] | None = None
    graceful_restart: GracefulRestart | None = None
    bfd: Bfd | None = None


_FIELDS = tuple(one.name for one in fields(Wish))
_values = attrgetter(*_FIELDS)


@dataclass(frozen=True, slots=True)
class Mesh:
    """The node-to-node mesh: off, or with these settings for every session of it; `refused`: it has none."""

    enabled: bool = True
    wish: Wish = Wish()
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """An explicit peering of some nodes (None: of all) with an address, or with the nodes that a selector chose.

    Exactly one of `address`, `remote_nodes` and `workloads` is set: the last are addresses of processes on this very
    node, which connect to it. `two_way`: remote nodes get the reverse peering without having
    to name it. Of peers that claim one address one has the session, but those that `join` have it together with
    the others. `defaults` hold for what nobody asks for. One that is `refused` leaves its addresses without a session.
    `besides` is what else is asked with it, by name (filters, ...): who loses the session to another loses that, too.
    """

    name: str
    local_nodes: frozenset[str] | None = None
    address: bytes | None = None
    remote_nodes: frozenset[str] = frozenset()
    workloads: tuple[bytes, ...] = ()
    wish: Wish = Wish()
    defaults: Wish = Wish()
    use_source: bool = True
    two_way: bool = True
    joins: bool = False
    refused: bool = False
    besides: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Peers that want one session and ask contradictory things of it, which are its `fields`.

    `overruled`: the first of them has the session all the same; else there is none.
    """

    address: bytes
    peers: tuple[str, ...]
    fields: tuple[str, ...]
    overruled: bool = False


@dataclass(frozen=True, slots=True)
class Sessions:
    """`peers` are the names of those whose session it is, by the neighbour's address; none for the mesh."""

    neighbors: Mapping[bytes, Neighbor] = field(default_factory=dict)
    peers: Mapping[bytes, tuple[str, ...]] = field(default_factory=dict)
    conflicts: tuple[Conflict, ...] = ()


class _Rank(IntEnum):
    """Who has a session that several claim: Calico's order."""

    GLOBAL = 0
    OF_SOME = 1
    REVERSE = 2
    MESH = 3


@dataclass(frozen=True, slots=True)
class _Claim:
    rank: _Rank
    name: str
    joins: bool
    refused: bool
    wish: Wish
    defaults: Wish
    node: Node | None
    besides: tuple[tuple[str, object], ...] = ()


def derive_sessions(me: Node, nodes: Iterable[Node], peers: Iterable[Peer], mesh: Mesh) -> Sessions:
    """The sessions of `me`.

    Shape   one per remote address; where several claim an address, a peer of all nodes wins over a peer of some, that
            over a reverse peering, that over the mesh, and among equals the first by name.
    Missing an address family that `me` has no address in yields no session; nobody peers with itself.
    """
    by_name = {node.name: node for node in nodes}
    by_address = {address: node for node in by_name.values() for address in node.addresses}
    claims: dict[bytes, list[_Claim]] = {}
    for peer in peers:
        for address, claim in _claims(me, by_name, by_address, peer):
            claims.setdefault(address, []).append(claim)
    if mesh.enabled and me.cluster_id is None:
        for address, claim in _mesh_claims(me, by_name, mesh):
            claims.setdefault(address, []).append(claim)
    neighbors: dict[bytes, Neighbor] = {}
    owners: dict[bytes, tuple[str, ...]] = {}
    conflicts: list[Conflict] = []
    for address in sorted(claims.keys() - set(me.addresses)):
        ordered = sorted(claims[address], key=lambda claim: (claim.rank, claim.name))
        having = _having(ordered)
        names = tuple(claim.name for claim in having if claim.name)
        conflicts += _find_overruled(address, ordered, having)
        if any(claim.refused for claim in having):
            continue
        different = differing_fields([_spelt_out(claim.wish, me) for claim in having]) if len(having) > 1 else ()
        if different:
            conflicts.append(Conflict(address, names, different))
            continue
        neighbors[address] = _neighbor(me, address, having)
        owners[address] = names
    return Sessions(neighbors, owners, tuple(conflicts))


def find_peer_addresses(me: Node, nodes: Iterable[Node], peers: Iterable[Peer]) -> Mapping[str, frozenset[bytes]]:
    """The addresses that each peer, by its name, means for `me`, whichever peer's settings their sessions have."""
    by_name = {node.name: node for node in nodes}
    by_address = {address: node for node in by_name.values() for address in node.addresses}
    return {peer.name: frozenset(address for address, _ in _claims(me, by_name, by_address, peer)) for peer in peers}


def mesh_side_is_passive(own: bytes, remote: bytes) -> bool:
    """Whether `own` waits for `remote` to connect.

    Compares the addresses as text: the rule of Calico's own nodes. Any total order makes exactly one side of each pair
    wait; a different one than theirs would leave pairs in a shared mesh in which both do.
    """
    return format_address(remote) > format_address(own)


def differing_fields(wishes: Sequence[Wish]) -> tuple[str, ...]:
    """What they ask for in different ways."""
    columns = zip(*map(_values, wishes), strict=True)
    return tuple(name for name, column in zip(_FIELDS, columns, strict=True) if len(set(column) - {None}) > 1)


def _spelt_out(wish: Wish, me: Node) -> Wish:
    """Who names no AS means the node's own, which is as much as naming it."""
    return replace(wish, local_asn=wish.local_asn or me.asn)


def fill(wishes: Iterable[Wish]) -> Wish:
    """Each field from the first wish that gives it."""
    columns = zip(*map(_values, wishes), strict=True)
    return Wish(*(next((value for value in column if value is not None), None) for column in columns))


def _having(ordered: Sequence[_Claim]) -> Sequence[_Claim]:
    """Those whose session it is: the first that does not join, and all that do; the mesh where there is nobody else."""
    explicit = [claim for claim in ordered if claim.rank is not _Rank.MESH]
    if not explicit:
        return ordered[:1]
    first = [claim for claim in explicit if not claim.joins][:1]
    return [*first, *(claim for claim in explicit if claim.joins)]


def _find_overruled(address: bytes, ordered: Collection[_Claim], having: Collection[_Claim]) -> Iterator[Conflict]:
    """Explicit peers that lose the session to another and would have had it otherwise."""
    for claim in ordered:
        if claim.rank in (_Rank.GLOBAL, _Rank.OF_SOME) and claim not in having:
            winner = next(one for one in having if not one.joins)
            besides = (name for name, asked in claim.besides if asked != dict(winner.besides).get(name))
            different = (*differing_fields([winner.wish, claim.wish]), *besides)
            if different:
                yield Conflict(address, (winner.name, claim.name), different, overruled=True)


def _mesh_claims(me: Node, nodes: Mapping[str, Node], mesh: Mesh) -> Iterator[tuple[bytes, _Claim]]:
    for node in nodes.values():
        if node.name == me.name or node.cluster_id is not None:
            continue
        for own, remote in _address_pairs(me, node):
            yield remote, _Claim(_Rank.MESH, "", False, mesh.refused, mesh.wish, _towards(own, remote, node), node)


def _claims(
    me: Node, nodes: Mapping[str, Node], by_address: Mapping[bytes, Node], peer: Peer
) -> Iterator[tuple[bytes, _Claim]]:
    applies = peer.local_nodes is None or me.name in peer.local_nodes
    rank = _Rank.GLOBAL if peer.local_nodes is None else _Rank.OF_SOME
    remotes = peer.remote_nodes if applies else frozenset[str]()
    if peer.address is not None and applies:
        yield peer.address, _explicit(me, by_address.get(peer.address), peer, rank)
    for address in peer.workloads if applies else ():
        yield address, _explicit(me, None, peer, rank)
    for remote, node, own in _sides(me, nodes, remotes):
        yield remote, _towards_node(node, peer, rank, (own, remote))
    if not peer.two_way:
        return
    others = (frozenset(nodes) if peer.local_nodes is None else peer.local_nodes) - remotes
    if peer.address is not None:
        met = peer.address in me.addresses and peer.wish.asn in (None, me.asn) and peer.wish.port in (None, me.port)
        for remote, node, own in _sides(me, nodes, others if met else ()):
            if own == peer.address:
                yield remote, _towards_node(node, peer, _Rank.REVERSE, (own, remote))
    elif me.name in peer.remote_nodes:
        for remote, node, own in _sides(me, nodes, others):
            yield remote, _towards_node(node, peer, _Rank.REVERSE, (own, remote))


def _sides(me: Node, nodes: Mapping[str, Node], names: Iterable[str]) -> Iterator[tuple[bytes, Node, bytes]]:
    for name in names:
        if name in nodes and name != me.name:
            for own, remote in _address_pairs(me, nodes[name]):
                yield remote, nodes[name], own


def _explicit(me: Node, node: Node | None, peer: Peer, rank: _Rank) -> _Claim:
    """A peering with an address, which may be that of a node. The port of such a one follows from the node.

    Both sides connect: who waits would change when the node comes or goes, and with it the session.
    """
    address = peer.address or b""
    own = next((own for own in me.addresses if len(own) == len(address)), None)
    known = Wish()
    if node is not None and peer.wish.asn in (None, node.asn):
        known = Wish(port=node.port)
    source = own if peer.use_source and own is not None else KERNELS_CHOICE
    defaults = fill((peer.defaults, known, Wish(source=source)))
    return _Claim(rank, peer.name, peer.joins, peer.refused, peer.wish, defaults, node, peer.besides)


def _towards_node(node: Node, peer: Peer, rank: _Rank, addresses: tuple[bytes, bytes]) -> _Claim:
    """A peering with a node: its AS and port are the node's own. TTL security is for both ends, as Calico has it."""
    own, remote = addresses
    wish = replace(peer.wish, asn=None, local_asn=None, port=None, multihop_ttl=None)
    known = _towards(own, remote, node)
    defaults = fill((known if peer.use_source else replace(known, source=KERNELS_CHOICE), peer.defaults))
    return _Claim(rank, peer.name, peer.joins, peer.refused, wish, defaults, node, peer.besides)


def _towards(own: bytes, remote: bytes, node: Node) -> Wish:
    waits = mesh_side_is_passive(own, remote)
    return Wish(node.asn, port=node.port, source=own, passive=waits, multihop_ttl=MULTIHOP_TTL_MAX)


def _neighbor(me: Node, address: bytes, having: Sequence[_Claim]) -> Neighbor:
    wish = fill([*(claim.wish for claim in having), *(claim.defaults for claim in having)])
    asn = wish.asn if wish.asn is not None else me.asn
    own_asn = wish.local_asn or me.asn
    hold_s = _hold_time(wish)
    node = having[0].node
    reflects = me.cluster_id is not None and asn == own_asn and (node is None or node.cluster_id != me.cluster_id)
    return Neighbor(
        address,
        asn,
        local_asn=wish.local_asn or 0,
        port=wish.port or BGP_PORT,
        source=wish.source or None,
        password=wish.password or "",
        hold_time_s=hold_s,
        keepalive_s=min(wish.keepalive_s or hold_s // 3, hold_s),
        connect_retry_s=wish.connect_retry_s or DEFAULT_CONNECT_RETRY_S,
        passive=wish.passive or False,
        multihop_ttl=0 if wish.ttl_security_hops or asn == own_asn else wish.multihop_ttl or 0,
        ttl_security_hops=wish.ttl_security_hops or 0,
        allow_own_asn=wish.allow_own_asn or 0,
        reflection=Reflection(me.cluster_id) if reflects and me.cluster_id is not None else None,
        versions=wish.versions or (version_of(address),),
        prefix_limit=wish.prefix_limit or 0,
        graceful_restart=wish.graceful_restart or GracefulRestart(),
        bfd=wish.bfd,
    )


def _hold_time(wish: Wish) -> int:
    """What is asked for, else the default, or three times the keepalive where that is more. GoBGP has no session
    without one."""
    asked = wish.hold_time_s or max(DEFAULT_HOLD_TIME_S, 3 * (wish.keepalive_s or 0))
    return min(asked, HOLD_TIME_S_MAX)


def _address_pairs(me: Node, node: Node) -> Iterator[tuple[bytes, bytes]]:
    for own in me.addresses:
        for remote in node.addresses:
            if len(own) == len(remote):
                yield own, remote
