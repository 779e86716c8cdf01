"""Whom this node must be able to talk to whatever the policies of its host endpoints say: nodes and BGP neighbours.

In: nodes, BGP peers and BGP configurations; out: PeersIntent. Pure. Source: docs/architecture.md (failsafes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from felixpy.addresses import Address, Prefix
from felixpy.resources.bgp_types import BgpConfiguration, BgpPeer, SpeakerPeer
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Node

BGP_PORT = 179


@dataclass(frozen=True, slots=True)
class PeersIntent:
    """`nodes`: addresses of the cluster's nodes. `neighbours`: those of nodes and BGP peers, at `bgp_ports`.

    Whoever may connect from a prefix has that.
    """

    nodes: frozenset[Address] = frozenset()
    neighbours: frozenset[Address | Prefix] = frozenset()
    bgp_ports: tuple[int, ...] = (BGP_PORT,)


def derive_peers(
    nodes: Iterable[Node], peers: Iterable[BgpPeer | SpeakerPeer], configurations: Iterable[BgpConfiguration]
) -> PeersIntent:
    """All of it, from scratch."""
    asked = tuple(peers)
    own = frozenset(address for node in nodes for address in node_addresses(node))
    named = frozenset(address for peer in asked if (address := _address_of(peer)) is not None)
    ports = {BGP_PORT, *(port for peer in asked if (port := _port_of(peer)) is not None)}
    ports |= {one.listen_port for one in configurations if one.listen_port is not None}
    return PeersIntent(own, own | named, tuple(sorted(ports - {0})))


def _address_of(peer: BgpPeer | SpeakerPeer) -> Address | Prefix | None:
    return peer.address if isinstance(peer, SpeakerPeer) else peer.peer_range or peer.peer_address


def _port_of(peer: BgpPeer | SpeakerPeer) -> int | None:
    return peer.port if isinstance(peer, SpeakerPeer) else peer.peer_port


def node_addresses(node: Node) -> tuple[Address, ...]:
    """Where a node can be reached by other nodes."""
    return tuple(one.address for one in (node.ipv4, node.ipv6) if one is not None)


def every_address(node: Node) -> tuple[Address, ...]:
    """All that is known to be a node's own, each once: those of its tunnels too."""
    tunnels = (node.ipip_tunnel, node.vxlan_tunnel4, node.vxlan_tunnel6)
    every = (*node_addresses(node), *(address for address in tunnels if address is not None), *node.others)
    return tuple(dict.fromkeys(every))


_K = TypeVar("_K")
_V = TypeVar("_V")


class Peers:
    """The peers, kept up to date; a node that changes in other ways costs nothing."""

    def __init__(self) -> None:
        self._nodes: dict[Name, Node] = {}
        self._peers: dict[Ref, BgpPeer | SpeakerPeer] = {}
        self._configurations: dict[Name, BgpConfiguration] = {}
        self._dirty = True

    @property
    def nodes(self) -> Mapping[Name, Node]:
        """The nodes of the cluster."""
        return self._nodes

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change; other tables are passed over."""
        match ref.table:
            case Table.NODE:
                old, new = self._nodes.get(ref.name), value if isinstance(value, Node) else None
                before, after = (node_addresses(one) if one is not None else () for one in (old, new))
                _set(self._nodes, ref.name, new)
                self._dirty = self._dirty or before != after
            case Table.BGP_PEER | Table.SPEAKER_PEER:
                _set(self._peers, ref, value if isinstance(value, BgpPeer | SpeakerPeer) else None)
                self._dirty = True
            case Table.BGP_CONFIGURATION:
                _set(self._configurations, ref.name, value if isinstance(value, BgpConfiguration) else None)
                self._dirty = True
            case _:
                pass

    def flush(self) -> PeersIntent | None:
        """All of them, when something about them changed since the last flush."""
        if not self._dirty:
            return None
        self._dirty = False
        return derive_peers(self._nodes.values(), self._peers.values(), self._configurations.values())


def _set(table: dict[_K, _V], name: _K, value: _V | None) -> None:
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value
