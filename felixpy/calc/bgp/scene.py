"""Who is who around one node, whatever it announces: nodes, peers that are asked for, and the sessions of that. Pure.

What cannot be had is named, with its reason, and never half done.
Source: Calico's BGPConfiguration and BGPPeer (api/pkg/apis/projectcalico/v3), confd's bgp_processor.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from birdpy import topology
from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import format_address, version_of
from birdpy.topology import Wish
from felixpy.calc.bgp.peers import (
    Around,
    Asked,
    Passwords,
    Refusal,
    Tables,
    conflict_refusals,
    derive_asked,
    object_of,
    restart_within,
)
from felixpy.calc.bgp.settings import Configuration, derive_router, read_settings
from felixpy.calc.bgp.workloads import Selected
from felixpy.resources.bgp_types import BgpConfiguration, BgpPeer, SecretKey
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Table
from felixpy.resources.types import Node


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
class Scene:
    """Who is who for one node, whatever it announces: settings, nodes, what was asked for, and the sessions of that."""

    tables: Tables
    node: str
    me: Node
    facts: HostFacts
    settings: Configuration
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
    settings = read_settings(tables, node)
    nodes = {
        name.name: derive_router(name.name, value, settings, tables)
        for name, value in tables[Table.NODE].items()
        if isinstance(value, Node)
    }
    asked = derive_asked(tables, node, passwords, Around(facts.routers, workloads))
    mesh, refusals = _mesh(settings.default, passwords)
    sessions = topology.derive_sessions(nodes[node], nodes.values(), asked.peers, mesh)
    told = topology.find_peer_addresses(nodes[node], nodes.values(), asked.peers)
    return Scene(tables, node, me, facts, settings, nodes, passwords, asked, mesh, refusals, sessions, told)


def find_refusals(scene: Scene) -> Iterator[Refusal]:
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


def find_wanted_files(scene: Scene) -> frozenset[SecretKey]:
    """Passwords of Calico's objects that are in no Secret of the datastore."""
    peers = (peer for peer in scene.tables[Table.BGP_PEER].values() if isinstance(peer, BgpPeer))
    asked = (scene.settings.default.mesh_password, *(peer.password for peer in peers))
    return frozenset(key for key in asked if key is not None and not scene.passwords.is_stored(key))
