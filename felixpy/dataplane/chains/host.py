"""Host endpoints → their chains at each stage, the dispatch by interface, and the ports that stay open. Pure.

    untracked  raw hooks, before conntrack: an allowed packet is not tracked and passes all later stages
    pre-dnat   prerouting before translation: an allowed packet passes all later stages
    forward    what passes through: without policy it passes
    normal     what the host receives and sends: without policy, profiles decide, and then it is dropped

Only the last two end a tier with its default. What the host must keep to stay in the cluster passes before any policy,
except on the way through. Source: felix/rules/endpoints.go, felix/rules/static.go, felix/rules/dispatch.go; loopback is
no interface of a host endpoint for all interfaces here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from felixpy.addresses import Address, Prefix, host_prefix
from felixpy.calc.intent import HostEndpointIntent, Stage
from felixpy.calc.options import DEFAULTS, Options
from felixpy.calc.policy.peers import BGP_PORT, PeersIntent
from felixpy.dataplane.chains.causes import Cause
from felixpy.dataplane.chains.endpoint import ACCEPTED, conntrack_rules, render_profiles, render_tier, tier_ends
from felixpy.dataplane.chains.naming import chain_name
from felixpy.dataplane.chains.report import marks_of_policy
from felixpy.dataplane.objects import Chain, DataType, Object, Set, SetType
from felixpy.dataplane.rules import (
    Accept,
    Dispatch,
    FamilyIs,
    Goto,
    IcmpIs,
    InterfaceIs,
    Jump,
    Match,
    NetIn,
    NoTrack,
    PortIn,
    ProtocolIs,
    Return,
    Rule,
    SetHas,
    SetMark,
    Side,
)
from felixpy.dataplane.sets import VERSIONS, Version, merge_prefixes
from felixpy.resources.kinds import Name
from felixpy.resources.types import FailsafePort

Direction = Literal["in", "out"]
"""Into the host by the interface, or out of it."""

NODES: Mapping[Version, Set] = {
    4: Set("nodes4", SetType.IPV4, interval=True),
    6: Set("nodes6", SetType.IPV6, interval=True),
}
NEIGHBOURS: Mapping[Version, Set] = {
    4: Set("bgp-peers4", SetType.IPV4, interval=True),
    6: Set("bgp-peers6", SetType.IPV6, interval=True),
}
"""Addresses of the cluster's nodes and of those outside that speak its tunnels; of its nodes and the BGP peers."""

_IPIP, _TCP, _UDP = 4, 6, 17
_LINK_LOCAL_ICMP = (130, 131, 132, 133, 134, 135, 136, 137, 143)
"""ICMPv6 without which a host has no IPv6: multicast listener, router and neighbour discovery (RFC 4890 §4.4.1)."""


class Place(NamedTuple):
    """A stage, and the direction that is judged there."""

    stage: Stage
    direction: Direction

    @property
    def chain(self) -> str:
        """The chain that looks the interface up."""
        side = "from-host" if self.direction == "in" else "to-host"
        return side if self.stage is Stage.NORMAL else f"{side}-{self.stage}"

    @property
    def map(self) -> Set:
        """Interface → the chain of the endpoint that governs it."""
        return Set(f"{self.chain}-interface", SetType.INTERFACE, DataType.VERDICT)


PLACES = (
    Place(Stage.UNTRACKED, "in"),
    Place(Stage.PRE_DNAT, "in"),
    Place(Stage.FORWARD, "in"),
    Place(Stage.NORMAL, "in"),
    Place(Stage.UNTRACKED, "out"),
    Place(Stage.NORMAL, "out"),
    Place(Stage.FORWARD, "out"),
)
ALWAYS = (Stage.NORMAL, Stage.FORWARD)
"""Stages at which every host endpoint has chains."""


class Reserved(NamedTuple):
    """A server that the host must reach: address and TCP port."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class Guards:
    """What the base chains must know to guard this host's interfaces.

    `named`: places at which an interface of its own name is looked up. `others`: the host endpoint that governs every
    other interface, by place. `reserved`: where the host itself must get to over TCP (its datastore).
    """

    options: Options = DEFAULTS
    bgp_ports: tuple[int, ...] = (BGP_PORT,)
    named: frozenset[Place] = frozenset()
    others: Mapping[Place, str] = field(default_factory=dict)
    reserved: tuple[Reserved, ...] = ()

    def has(self, place: Place) -> bool:
        """Whether packets must pass here."""
        return place in self.named or place in self.others

    @property
    def any(self) -> bool:
        """Whether there is any host endpoint."""
        return bool(self.named or self.others)


def places_of(host: HostEndpointIntent) -> tuple[Place, ...]:
    """Where a host endpoint has chains."""
    return tuple(place for place in PLACES if place.stage in ALWAYS or place.stage in host.stages)


def host_chain(place: Place, name: Name) -> str:
    """The name of a host endpoint's chain."""
    return chain_name(f"hep-{place.stage}-{place.direction}", str(name))


def render_host(name: Name, host: HostEndpointIntent, options: Options = DEFAULTS) -> tuple[Chain, ...]:
    """All chains of one host endpoint."""
    return tuple(Chain(host_chain(place, name), _render_place(place, host, options)) for place in places_of(host))


def _render_place(place: Place, host: HostEndpointIntent, options: Options) -> tuple[Rule, ...]:
    stage, direction = place
    rules: list[Rule] = []
    if stage is not Stage.UNTRACKED:
        rules += conntrack_rules(direction, options)
    if stage is not Stage.FORWARD:
        rules.append(Rule(Jump(failsafe_chain(place))))
    rules.append(Rule(SetMark(0, marks_of_policy(options))))
    done = (Rule(NoTrack(), (ACCEPTED,)),) if stage is Stage.UNTRACKED else ()
    for tier in host.stages.get(stage, ()):
        rules += render_tier(direction, tier, ends=stage in ALWAYS, when_accepted=done)
    if stage is Stage.NORMAL:
        rules += render_profiles(direction, host.profiles)
    return tuple(rules)


def host_tier_ends(host: HostEndpointIntent) -> frozenset[Cause]:
    """The ends of tiers that its chains may come to."""
    return frozenset(
        cause
        for stage, direction in places_of(host)
        if stage in ALWAYS
        for cause in tier_ends(direction, host.stages.get(stage, ()))
    )


def failsafe_chain(place: Place) -> str:
    """The chain of what stays open; before conntrack it must let answers pass as well."""
    return f"failsafe-{'untracked-' if place.stage is Stage.UNTRACKED else ''}{place.direction}"


def host_objects(guards: Guards) -> tuple[Object, ...]:
    """The dispatch at every place in use, and the failsafe chains; nothing without host endpoints."""
    if not guards.any:
        return ()
    places = [place for place in PLACES if guards.has(place)]
    failsafes = {failsafe_chain(place): place for place in places if place.stage is not Stage.FORWARD}
    return (
        *(place.map for place in places if place in guards.named),
        *(Chain(place.chain, _dispatch(place, guards)) for place in places),
        *(Chain(name, failsafe_rules(place, guards)) for name, place in failsafes.items()),
    )


def _dispatch(place: Place, guards: Guards) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    if place in guards.named:
        rules.append(Rule(Dispatch("in_interface" if place.direction == "in" else "out_interface", place.map.name)))
    if place in guards.others:
        if place.stage is not Stage.FORWARD:
            rules.append(Rule(Return(), (InterfaceIs(place.direction, "lo"),)))
        if place.direction == "out" and place.stage is not Stage.FORWARD:
            rules += [Rule(Return(), (match,)) for match in workload_interfaces("out", guards.options)]
        rules.append(Rule(Goto(guards.others[place])))
    return tuple(rules)


def workload_interfaces(direction: Direction, options: Options) -> tuple[InterfaceIs, ...]:
    """Matches, any of which a workload's interface satisfies."""
    return tuple(InterfaceIs(direction, f"{prefix}*") for prefix in options.interface_prefixes)


def failsafe_rules(place: Place, guards: Guards) -> tuple[Rule, ...]:
    """Accepts of what is always open in one direction; untracked, also of the answers of the other direction."""
    remote: Side = "source" if place.direction == "in" else "destination"
    inward, outward = guards.options.failsafe_in, guards.options.failsafe_out
    asked, answered = (inward, outward) if place.direction == "in" else (outward, inward)
    rules = [*_open(asked, remote, "destination"), *_keep(guards, remote, "destination")]
    if place.stage is Stage.UNTRACKED:
        rules += [*_open(answered, remote, "source"), *_keep(guards, remote, "source")]
    rules += _reach(guards.reserved, remote, "destination" if place.direction == "out" else "source")
    discovery = (Rule(Accept(), (FamilyIs(6), IcmpIs(6, kind)), "neighbour discovery") for kind in _LINK_LOCAL_ICMP)
    return (*rules, *discovery)


def _open(ports: Iterable[FailsafePort], remote: Side, at: Side) -> Iterable[Rule]:
    for one in ports:
        matches: list[Match] = [ProtocolIs(one.protocol), PortIn(at, ((one.port, one.port),))]
        if one.net is not None:
            matches = [FamilyIs(4 if one.net.version == 4 else 6), NetIn(remote, (one.net,)), *matches]
        yield Rule(Accept(), tuple(matches), "failsafe")


def _reach(reserved: Iterable[Reserved], remote: Side, at: Side) -> Iterable[Rule]:
    """Both ways, so that a connection that conntrack has not seen begin (or has forgotten) goes on."""
    for address, port in reserved:
        matches = (NetIn(remote, (host_prefix(address),)), ProtocolIs(_TCP), PortIn(at, ((port, port),)))
        yield Rule(Accept(), matches, "this node's datastore")


def _keep(guards: Guards, remote: Side, at: Side) -> Iterable[Rule]:
    """What the node needs to be one of the cluster: BGP, and tunnels from and to other nodes."""
    bgp = PortIn(at, tuple((port, port) for port in guards.bgp_ports))
    vxlan = PortIn("destination", ((guards.options.vxlan_port, guards.options.vxlan_port),))
    for version in VERSIONS:
        yield Rule(Accept(), (SetHas(remote, NEIGHBOURS[version].name, version), ProtocolIs(_TCP), bgp), "BGP")
        if at == "destination":
            node = SetHas(remote, NODES[version].name, version)
            yield Rule(Accept(), (node, ProtocolIs(_UDP), vxlan), "VXLAN between nodes")
    if at == "destination":
        yield Rule(Accept(), (SetHas(remote, NODES[4].name, 4), ProtocolIs(_IPIP)), "IPIP between nodes")


def peer_members(peers: PeersIntent, options: Options = DEFAULTS) -> Mapping[Set, frozenset[Prefix]]:
    """What the sets of peers hold."""
    return {
        targets[version]: frozenset(one for one in prefixes if one.version == version)
        for targets, prefixes in (
            (NODES, merge_prefixes((*peers.nodes, *options.external_nodes))),
            (NEIGHBOURS, merge_prefixes(peers.neighbours)),
        )
        for version in VERSIONS
    }
