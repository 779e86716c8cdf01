"""Endpoints → their two chains, their entries in the dispatch maps, their routes and their sysctls. Pure.

The order inside an endpoint's chain is Calico's: conntrack, clear the marks, encapsulation from the workload, each
tier (policies until one allows or passes, then the tier's default), profiles, drop. Source: felix/rules/endpoints.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from felixpy.addresses import host_prefix
from felixpy.calc.intent import EndpointIntent, PolicyId
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
from felixpy.dataplane.policy_chains import chain_name, policy_chain, profile_chain
from felixpy.dataplane.rules import (
    MARK_ACCEPT,
    MARK_PASS,
    Accept,
    CtState,
    CtStateIn,
    Drop,
    Jump,
    MarkIs,
    Match,
    PortIn,
    ProtocolIs,
    Return,
    Rule,
    SetMark,
)
from felixpy.resources.types import TierDefault

FROM_ENDPOINTS = Set("from-endpoint", SetType.INTERFACE, DataType.VERDICT)
TO_ENDPOINTS = Set("to-endpoint", SetType.INTERFACE, DataType.VERDICT)

_ESTABLISHED = CtStateIn(frozenset({CtState.ESTABLISHED, CtState.RELATED}))
_INVALID = CtStateIn(frozenset({CtState.INVALID}))
_NOT_PASSED = MarkIs(0, MARK_PASS)
_ACCEPTED = MarkIs(MARK_ACCEPT, MARK_ACCEPT)
_VXLAN_PORT = 4789
_IPIP = 4
_UDP = 17


@dataclass(frozen=True, slots=True)
class EndpointObjects:
    """What one endpoint is in the kernel: objects, and the entries it adds to the dispatch maps."""

    objects: tuple[Object, ...]
    members: Mapping[Set, Mapping[bytes, bytes]]


def render_endpoint(endpoint: EndpointIntent) -> EndpointObjects:
    """All of one endpoint's objects."""
    device = endpoint.interface
    leaving, reaching = chain_name("from", device), chain_name("to", device)
    key = device.encode()
    routes = tuple(
        Route(host_prefix(address), ROUTE_PROTOCOL_WORKLOAD, device=device, link_scope=len(address) == 4)
        for address in endpoint.addresses
    )
    return EndpointObjects(
        objects=(
            Chain(leaving, render_direction(endpoint, "out")),
            Chain(reaching, render_direction(endpoint, "in")),
            *device_sysctls(device, {len(address) for address in endpoint.addresses}),
            *routes,
        ),
        members={
            FROM_ENDPOINTS: {key: f"goto {leaving}".encode()},
            TO_ENDPOINTS: {key: f"goto {reaching}".encode()},
        },
    )


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


def render_direction(endpoint: EndpointIntent, direction: str) -> tuple[Rule, ...]:
    """The rules of one of its chains; `in` is towards the workload."""
    rules = [
        Rule(Accept(), (_ESTABLISHED,)),
        Rule(Drop(), (_INVALID,)),
        Rule(SetMark(0, MARK_ACCEPT | MARK_PASS)),
    ]
    if direction == "out":
        rules += [
            Rule(
                Drop(), (ProtocolIs(_UDP), PortIn("destination", ((_VXLAN_PORT, _VXLAN_PORT),))), "VXLAN of a workload"
            ),
            Rule(Drop(), (ProtocolIs(_IPIP),), "IPIP of a workload"),
        ]
    for tier in endpoint.tiers:
        policies = tier.ingress if direction == "in" else tier.egress
        if policies:
            rules += _tier(direction, tier.name, tier.default_action, policies)
    for profile in endpoint.profiles:
        rules += [Rule(Jump(profile_chain(direction, profile))), Rule(Return(), (_ACCEPTED,))]
    rules.append(Rule(Drop(), (), "no profile allows it"))
    return tuple(rules)


def _tier(direction: str, name: str, default: TierDefault, policies: Iterable[PolicyId]) -> list[Rule]:
    rules = [Rule(SetMark(0, MARK_PASS))]
    checked: tuple[Match, ...] = ()
    for identity in policies:
        rules += [Rule(Jump(policy_chain(direction, identity)), checked), Rule(Return(), (_ACCEPTED,))]
        checked = (_NOT_PASSED,)
    if default is TierDefault.DENY:
        rules.append(Rule(Drop(), (_NOT_PASSED,), f"end of tier {name}"))
    return rules
