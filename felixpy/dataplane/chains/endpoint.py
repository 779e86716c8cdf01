"""Endpoints → their two chains, their entries in the dispatch maps, their routes and their sysctls. Pure.

An endpoint's chain goes to the chain of its judgement, which all that are judged alike share: the kernel walks the
rules of a whole table before it takes a change, so that a change costs what the different judgements are, not what the
endpoints are. An entry of a map is never changed, which the kernel would do only after a grace period.
The order inside an endpoint's chain is Calico's: conntrack, clear the marks, encapsulation from the workload, each
tier (policies until one allows or passes, then the tier's default), profiles, drop. Source: felix/rules/endpoints.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from felixpy.addresses import Prefix, host_prefix
from felixpy.calc.intent import EndpointIntent, PolicyId, TierIntent
from felixpy.calc.options import DEFAULTS, Options
from felixpy.dataplane.chains.causes import (
    INVALID,
    IPIP_OF_WORKLOAD,
    NO_PROFILE,
    VXLAN_OF_WORKLOAD,
    Cause,
    Effect,
)
from felixpy.dataplane.chains.floating import floating_members, floating_of
from felixpy.dataplane.chains.naming import chain_name
from felixpy.dataplane.chains.policy import policy_chain, profile_chain
from felixpy.dataplane.chains.report import end_in, marks_of_policy
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_WORKLOAD,
    Chain,
    DataType,
    Object,
    Route,
    Set,
    SetType,
    Sysctl,
)
from felixpy.dataplane.rules import (
    MARK_ACCEPT,
    MARK_PASS,
    Accept,
    CtState,
    CtStateIn,
    Goto,
    Jump,
    MarkIs,
    Match,
    NetIn,
    PortIn,
    ProtocolIs,
    Return,
    Rule,
    SetMark,
)
from felixpy.dataplane.sets import VERSIONS
from felixpy.resources.policy_types import TierDefault

Direction = Literal["in", "out"]
FROM_ENDPOINTS = Set("from-endpoint", SetType.INTERFACE, DataType.VERDICT)
TO_ENDPOINTS = Set("to-endpoint", SetType.INTERFACE, DataType.VERDICT)
SPOOFERS = Set("may-spoof", SetType.INTERFACE, DataType.VERDICT)
"""Interface → the chain that lets through what comes from the addresses which its workload may give as its own."""

_ESTABLISHED = CtStateIn(frozenset({CtState.ESTABLISHED, CtState.RELATED}))
_INVALID = CtStateIn(frozenset({CtState.INVALID}))
_NOT_PASSED = MarkIs(0, MARK_PASS)
ACCEPTED = MarkIs(MARK_ACCEPT, MARK_ACCEPT)
_IPIP = 4
_UDP = 17
POD_METRIC6 = 256
"""Of a pod's IPv6 route: without one it would have the kernel's 1024, and so the key of a learned route."""


@dataclass(frozen=True, slots=True)
class EndpointObjects:
    """What one endpoint is in the kernel: objects, and the entries it adds to the dispatch maps."""

    objects: tuple[Object, ...]
    members: Mapping[Set, Mapping[bytes, bytes]]


def render_endpoint(endpoint: EndpointIntent, options: Options = DEFAULTS) -> EndpointObjects:
    """All of one endpoint's objects; none where its device's name is not a workload's, as no packet would be judged."""
    device = endpoint.interface
    if not options.is_workload(device):
        return EndpointObjects((), {})
    leaving, reaching = endpoint_chain("out", device), endpoint_chain("in", device)
    outward, inward = judgement_chain("out", endpoint), judgement_chain("in", endpoint)
    key = device.encode()
    floating = floating_of(endpoint) if options.floating else ()
    routes = tuple(
        Route(
            host_prefix(address),
            ROUTE_PROTOCOL_WORKLOAD,
            device=device,
            link_scope=len(address) == 4,
            metric=0 if len(address) == 4 else POD_METRIC6,
        )
        for address in (*endpoint.addresses, *(one.external for one in floating))
    )
    spoofing = endpoint.spoofed if options.spoofing else ()
    spoofs = chain_name("spoof", device)
    return EndpointObjects(
        objects=(
            *((Chain(spoofs, _spoof_rules(spoofing)),) if spoofing else ()),
            Chain(outward, render_direction(endpoint, "out", options)),
            Chain(inward, render_direction(endpoint, "in", options)),
            Chain(leaving, (Rule(Goto(outward)),)),
            Chain(reaching, (Rule(Goto(inward)),)),
            *device_sysctls(device, {len(address) for address in endpoint.addresses}),
            *routes,
        ),
        members={
            FROM_ENDPOINTS: {key: f"goto {leaving}".encode()},
            TO_ENDPOINTS: {key: f"goto {reaching}".encode()},
            **({SPOOFERS: {key: f"jump {spoofs}".encode()}} if spoofing else {}),
            **(floating_members(endpoint) if floating else {}),
        },
    )


def _spoof_rules(prefixes: tuple[Prefix, ...]) -> tuple[Rule, ...]:
    by_family = (tuple(one for one in prefixes if one.version == version) for version in VERSIONS)
    return tuple(
        Rule(Accept(), (NetIn("source", some),), "source address that it may use") for some in by_family if some
    )


def endpoint_chain(direction: Direction, device: str) -> str:
    """The name of one of an endpoint's chains, which no fixed chain has, whatever the device is called."""
    return chain_name("ep-from" if direction == "out" else "ep-to", device)


def judgement_chain(direction: Direction, endpoint: EndpointIntent) -> str:
    """The name of the chain that judges one direction of an endpoint: the same for all that are judged alike."""
    tiers = [(tier.name, str(tier.default_action), *map(str, judges)) for tier, judges in _judges(direction, endpoint)]
    digest = blake2b(repr((tiers, endpoint.profiles)).encode(), digest_size=8).hexdigest()
    return chain_name("judge-from" if direction == "out" else "judge-to", digest)


def _judges(direction: Direction, endpoint: EndpointIntent) -> Iterator[tuple[TierIntent, tuple[PolicyId, ...]]]:
    """The tiers that have policies in a direction, with these."""
    for tier in endpoint.tiers:
        policies = tier.ingress if direction == "in" else tier.egress
        if policies:
            yield tier, policies


def device_sysctls(device: str, lengths: set[int]) -> tuple[Sysctl, ...]:
    """What the host side of a pod's veth needs: answer ARP for the gateway, forward, check no reverse path itself.

    Spoofed sources are dropped by the `raw-prerouting` chain, whatever rp_filter the host has elsewhere.
    Source: cni-plugin/pkg/dataplane/linux, felix/dataplane/linux/endpoint_mgr.go.
    """
    found: list[Sysctl] = []
    if 4 in lengths:
        found += [
            Sysctl(f"net/ipv4/conf/{device}/route_localnet", "1"),
            Sysctl(f"net/ipv4/neigh/{device}/proxy_delay", "0"),
            Sysctl(f"net/ipv4/conf/{device}/proxy_arp", "1"),
            Sysctl(f"net/ipv4/conf/{device}/forwarding", "1"),
            Sysctl(f"net/ipv4/conf/{device}/rp_filter", "0"),
        ]
    if 16 in lengths:
        found += [
            Sysctl(f"net/ipv6/conf/{device}/proxy_ndp", "1"),
            Sysctl(f"net/ipv6/conf/{device}/forwarding", "1"),
            Sysctl(f"net/ipv6/conf/{device}/accept_ra", "0"),
        ]
    return tuple(found)


def render_direction(endpoint: EndpointIntent, direction: Direction, options: Options = DEFAULTS) -> tuple[Rule, ...]:
    """The rules that judge one direction of an endpoint; `in` is towards the workload."""
    rules = [*conntrack_rules(direction, options), Rule(SetMark(0, marks_of_policy(options)))]
    if direction == "out":
        rules += encapsulation_rules(options)
    for tier in endpoint.tiers:
        rules += render_tier(direction, tier)
    return (*rules, *render_profiles(direction, endpoint.profiles))


def conntrack_rules(direction: Direction, options: Options) -> tuple[Rule, ...]:
    """Answers of what was allowed pass; what belongs to no connection does not."""
    invalid = (end_in(INVALID[direction], _INVALID),) if options.drop_invalid else ()
    return (Rule(Accept(), (_ESTABLISHED,)), *invalid)


def encapsulation_rules(options: Options) -> list[Rule]:
    """Tunnels by which a workload would go round its own policy."""
    rules = []
    if not options.allow_vxlan_from_workloads:
        port = PortIn("destination", ((options.vxlan_port, options.vxlan_port),))
        rules.append(end_in(VXLAN_OF_WORKLOAD, ProtocolIs(_UDP), port))
    if not options.allow_ipip_from_workloads:
        rules.append(end_in(IPIP_OF_WORKLOAD, ProtocolIs(_IPIP)))
    return rules


def render_tier(
    direction: Direction, tier: TierIntent, ends: bool = True, when_accepted: tuple[Rule, ...] = ()
) -> list[Rule]:
    """The policies of a tier until one decides; then, when it `ends`, its default. Nothing where none applies.

    `when_accepted` are rules for packets that a policy accepted; they go before the return.
    """
    policies = tier.ingress if direction == "in" else tier.egress
    if not policies:
        return []
    rules = [Rule(SetMark(0, MARK_PASS))]
    checked: tuple[Match, ...] = ()
    for identity in policies:
        rules += [
            Rule(Jump(policy_chain(direction, identity)), checked),
            *when_accepted,
            Rule(Return(), (ACCEPTED,)),
        ]
        checked = (_NOT_PASSED,)
    if ends and tier.default_action is TierDefault.DENY:
        rules.append(end_in(tier_end(direction, tier.name), _NOT_PASSED))
    return rules


def render_profiles(direction: Direction, profiles: Iterable[str]) -> list[Rule]:
    """Each profile until one accepts, and the drop of what none did."""
    rules: list[Rule] = []
    for profile in profiles:
        rules += [Rule(Jump(profile_chain(direction, profile))), Rule(Return(), (ACCEPTED,))]
    return [*rules, end_in(NO_PROFILE[direction])]


def tier_end(direction: Direction, tier: str) -> Cause:
    """Why a packet is denied that no policy of a tier decided about."""
    return Cause(Effect.DENY, direction, tier=tier)


def tier_ends(direction: Direction, tiers: Iterable[TierIntent]) -> Iterable[Cause]:
    """The ends that an endpoint's chain may come to."""
    for tier in tiers:
        if tier.default_action is TierDefault.DENY and (tier.ingress if direction == "in" else tier.egress):
            yield tier_end(direction, tier.name)
