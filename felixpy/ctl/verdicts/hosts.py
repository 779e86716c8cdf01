"""What host endpoints decide about what comes in and goes out by a node's own interfaces.

In: a World; out: Judges by interface and place. An interface that no host endpoint names may be governed by the one for
`*`. What a host endpoint that is found by its addresses governs is called by the first of these. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from felixpy.addresses import Address, format_address
from felixpy.calc.intent import Stage, TierIntent
from felixpy.calc.options import Options
from felixpy.calc.policy.hosts import EVERY_INTERFACE, derive_claims
from felixpy.calc.policy.peers import node_addresses
from felixpy.calc.policy.tiers import sort_stages
from felixpy.ctl.verdicts.world import Judge, World, of_direction
from felixpy.dataplane.chains.base import own_host_rules
from felixpy.dataplane.chains.host import ALWAYS, Direction, Guards, Place, failsafe_rules
from felixpy.dataplane.chains.tunnels import render_input
from felixpy.dataplane.rules import Accept, Return, Rule
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import HostEndpoint, Node

UNGUARDED = ""
"""As an interface's name: one that no host endpoint governs."""
Path = tuple[Judge, ...]
"""Judges in the order in which they decide; a packet goes on to the next while it is not denied."""


class Door(NamedTuple):
    """An interface of a node, with the addresses that are known to be on it."""

    node: str
    interface: str
    addresses: frozenset[Address] = frozenset()


class Hosts:
    """The host endpoints of a World."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.by_node: dict[str, dict[Name, HostEndpoint]] = {}
        for ref, one in world.holders.items():
            if isinstance(one, HostEndpoint):
                self.by_node.setdefault(one.node, {})[ref.name] = one
        self._stages: dict[Name, Mapping[Stage, tuple[TierIntent, ...]]] = {}
        self._failsafes: dict[tuple[Options, Place], tuple[Rule, ...]] = {}
        self._tunnels: dict[str, Path] = {}

    def into_node(self, door: Door) -> Path:
        """On the way in to the node itself; what its tunnels drop is dropped whatever else is said."""
        return (*self._tunnels_of(door.node), *self._path(door, "in", Stage.UNTRACKED, Stage.PRE_DNAT, Stage.NORMAL))

    def _tunnels_of(self, node: str) -> Path:
        """What decides about packets of tunnels that the node has an end of."""
        found = self._tunnels.get(node)
        if found is None:
            drops = render_input(self.world.tunnels_of(node))
            judges = (self.world.same(Judge("in", (), (), (*drops, Rule(Return())))),) if drops else ()
            found = self._tunnels[node] = judges
        return found

    def out_of_node(self, door: Door) -> Path:
        """On the way out from the node itself."""
        return self._path(door, "out", Stage.UNTRACKED, Stage.NORMAL)

    def before_forwarding(self, door: Door) -> Path:
        """On the way in of what passes through."""
        return self._path(door, "in", Stage.UNTRACKED, Stage.PRE_DNAT, Stage.FORWARD)

    def after_forwarding(self, door: Door) -> Path:
        """On the way out of what passes through."""
        return self._path(door, "out", Stage.FORWARD)

    def of_workload(self, node: str) -> tuple[Path, Path]:
        """Of what a workload sends, before its own policies: where it is forwarded, and where it is for the node."""
        door = Door(node, EVERY_INTERFACE)
        early = self._path(door, "in", Stage.PRE_DNAT)
        return (*early, *self._path(door, "in", Stage.FORWARD)), early

    def to_own_node(self, name: Name) -> Judge:
        """What decides about what a workload sends to its own node, before the node has its say."""
        out, _ = self.world.judges(name)
        discovery, _ = own_host_rules(self.world.options_of(self.world.endpoints[name].node))
        return self.world.same(Judge("out", out.tiers, out.profiles, (*discovery, *out.first)))

    def own_node_action(self, node: str) -> Path:
        """A node's say about what its own workloads send to it (defaultEndpointToHostAction)."""
        discovery, action = own_host_rules(self.world.options_of(node))
        last = self.world.same(Judge("in", (), (), (*discovery, *action, Rule(Accept()))))
        return (*self._tunnels_of(node), last)

    def _path(self, door: Door, direction: Direction, *stages: Stage) -> Path:
        found = (self._judge(door, Place(stage, direction)) for stage in stages)
        return tuple(one for one in found if one is not None)

    def _judge(self, door: Door, place: Place) -> Judge | None:
        """What decides at a place about what passes a door; None where that is nothing."""
        hosts = self.by_node.get(door.node)
        if not hosts:
            return None
        claims = derive_claims(hosts, {door.interface: door.addresses})
        for interface in (door.interface, EVERY_INTERFACE):
            name = claims.get(interface)
            if name is not None and (place.stage in ALWAYS or place.stage in self._stages_of(name)):
                return self._judge_of(name, hosts[name], place)
        return None

    def _judge_of(self, name: Name, host: HostEndpoint, place: Place) -> Judge | None:
        tiers = of_direction(self._stages_of(name).get(place.stage, ()), place.direction)
        is_normal = place.stage is Stage.NORMAL
        if not tiers and not is_normal:
            return None
        profiles = self.world.known(host.profiles) if is_normal else ()
        first = self._failsafes_of(host.node, place) if place.stage is not Stage.FORWARD else ()
        return self.world.same(Judge(place.direction, tiers, profiles, first, place.stage))

    def _stages_of(self, name: Name) -> Mapping[Stage, tuple[TierIntent, ...]]:
        found = self._stages.get(name)
        if found is None:
            found = self._stages[name] = sort_stages(self.world.matched(Ref(Table.HOST, name)), self.world.tiers)
        return found

    def _failsafes_of(self, node: str, place: Place) -> tuple[Rule, ...]:
        options = self.world.options_of(node)
        found = self._failsafes.get((options, place))
        if found is None:
            guards = Guards(options, self.world.peers.bgp_ports)
            found = self._failsafes[options, place] = failsafe_rules(place, guards)
        return found


def doors_of(before: Hosts, after: Hosts, node: str) -> tuple[Door, ...]:
    """The interfaces of a node that host endpoints tell apart in one of two worlds.

    One that nobody governs is among them where none of the others is known to have the node's own address.
    """
    own = _addresses_of(before, node) | _addresses_of(after, node)
    options = after.world.options_of(node)
    hosts = [one for each in (before, after) for one in each.by_node.get(node, {}).values()]
    named: dict[str, frozenset[Address]] = {}
    for host in sorted(hosts, key=lambda one: (not one.interface, one.interface)):
        expected = frozenset(host.expected_addresses)
        if host.interface == EVERY_INTERFACE or options.is_workload(host.interface):
            continue
        if host.interface:
            named[host.interface] = named.get(host.interface, frozenset()) | (expected or own)
        elif expected and not any(expected & addresses for addresses in named.values()):
            named[format_address(min(expected))] = expected
    doors = [Door(node, name, addresses) for name, addresses in sorted(named.items())]
    if any(host.interface == EVERY_INTERFACE for host in hosts):
        doors.append(Door(node, EVERY_INTERFACE, own))
    elif not any(door.addresses & own for door in doors):
        doors.append(Door(node, UNGUARDED, own))
    return tuple(doors)


def concerned_nodes(before: Hosts, after: Hosts) -> list[str]:
    """Nodes that have host endpoints in one of two worlds, or deal otherwise with what their workloads send to them."""
    stored = {name.name for hosts in (before, after) for name in hosts.world.cluster.tables[Table.NODE]}
    actions = {
        node
        for node in stored
        if before.world.options_of(node).endpoint_to_host != after.world.options_of(node).endpoint_to_host
    }
    return sorted({*before.by_node, *after.by_node, *actions})


def unaddressed(before: Hosts, after: Hosts) -> list[str]:
    """Nodes with a host endpoint and no known address on its interface: nobody can be said to send to them."""
    nodes = {*before.by_node, *after.by_node}
    return sorted(
        node
        for node in nodes
        if any(door.interface != UNGUARDED and not door.addresses for door in doors_of(before, after, node))
    )


def _addresses_of(hosts: Hosts, node: str) -> frozenset[Address]:
    found = hosts.world.cluster.tables[Table.NODE].get(Name("", node))
    return frozenset(node_addresses(found)) if isinstance(found, Node) else frozenset()
