"""Clusters and packets made from a seed, for the meaning of rules: few values, so that packets meet them often.

Local endpoints p1 to p3 are 10.0.0.1 to .3 and fd00::1 to ::3 behind cali1 to cali3 of n1; r1 and r2 are elsewhere and
may share addresses. Made with `random` and not with strategies, which are forty times slower here; `shrink` leaves
out what a failure does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from felixpy.addresses import Address, parse_address, parse_prefix
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.rules import CtState
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import (
    EntityMatch,
    IcmpMatch,
    NetworkSet,
    Policy,
    PolicyRule,
    Profile,
    RuleAction,
    Tier,
    TierDefault,
)
from felixpy.resources.resource import Resource
from felixpy.resources.scalars import PORTED
from felixpy.resources.service_types import Backend, BackendGroup, BackendPort, EndpointSlice
from felixpy.resources.tables import POLICY_TABLES, Ref, Table
from felixpy.resources.types import HostEndpoint, LabelPairs, NamedPort, Namespace, WorkloadEndpoint
from felixpy.selector import parse_selector

T = TypeVar("T")
Cluster = dict[Table, dict[Name, Resource]]

NODE = "n1"
LOCAL = frozenset({parse_address("192.0.2.1"), parse_address("2001:db8::1")})
TCP, UDP, ICMP, ICMP6, SCTP, IPIP, OTHER = 6, 17, 1, 58, 132, 4, 253
SELECTORS = tuple(
    parse_selector(text)
    for text in (
        "all()",
        "a == 'x'",
        "a != 'x'",
        "has(b)",
        "!has(b)",
        "a in {'x', 'y'} && has(b)",
        "a == 'z' || b starts with 'y'",
        "pcns.env == 'x'",
        "has(pcns.projectcalico.org/name)",
        "b not in {'x'}",
        "inherited == 'y'",
    )
)
NETS = tuple(
    parse_prefix(text)
    for text in (
        "10.0.0.0/24",
        "10.0.0.2/31",
        "10.0.0.1/32",
        "10.0.1.0/30",
        "192.0.2.0/25",
        "192.0.2.7/32",
        "0.0.0.0/0",
        "fd00::/64",
        "fd00::2/127",
        "fd00:1::1/128",
        "2001:db8::/32",
        "::/0",
    )
)
NAMED = (NamedPort("web", TCP, 80), NamedPort("web", TCP, 8080), NamedPort("dns", UDP, 53), NamedPort("web", UDP, 80))
PORTS = (0, 53, 79, 80, 80, 80, 81, 443, 4789, 8080, 8080, 65535)
RANGES = ((80, 80), (53, 53), (0, 79), (81, 443), (8080, 65535), (0, 65535))
PROFILES = ("pr1", "pr2", "kns.ns1", "absent", "projectcalico-default-allow")
PEOPLE = {
    4: (
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.1",
        "10.0.0.2",
        "10.0.1.1",
        "10.0.1.2",
        "192.0.2.7",
        "198.51.100.9",
    ),
    6: ("fd00::1", "fd00::2", "fd00::3", "fd00::1", "fd00::2", "fd00:1::1", "2001:db8::7"),
}
DEVICES = {"cali1": ("10.0.0.1", "fd00::1"), "cali2": ("10.0.0.2", "fd00::2"), "cali9": ("10.0.0.9", "fd00::9")}
PROTOCOLS = (*[TCP] * 6, *[UDP] * 4, ICMP, ICMP, ICMP6, ICMP6, SCTP, IPIP, OTHER)


class Maker:
    """Makes values by chance; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def once_in(self, times: int) -> bool:
        return self.random.randrange(times) == 0

    def pick(self, values: Sequence[T]) -> T:
        return self.random.choice(values)

    def some(self, values: Sequence[T], least: int = 0, most: int = 2) -> tuple[T, ...]:
        """Some of the values, each once."""
        return tuple(self.random.sample(values, min(len(values), self.random.randint(least, most))))

    def labels(self) -> LabelPairs:
        return tuple((name, self.pick(("x", "y", "z"))) for name in ("a", "b") if not self.once_in(3))

    def entity(self, protocol: int | None) -> EntityMatch:
        parts: dict[str, Callable[[], Any]] = {
            "nets": lambda: self.some(NETS, 1, 3),
            "not_nets": lambda: self.some(NETS, 1),
            "selector": lambda: self.pick(SELECTORS),
            "not_selector": lambda: self.pick(SELECTORS),
        }
        if protocol in PORTED or (protocol is None and self.once_in(2)):
            parts |= {
                "port_names": lambda: self.some(("web", "dns"), 1),
                "not_port_names": lambda: self.some(("web", "dns"), 1),
            }
        if protocol in PORTED:
            parts |= {"ports": lambda: self.some(RANGES, 1), "not_ports": lambda: self.some(RANGES[:5], 1)}
        if self.once_in(10) and protocol not in PORTED:
            return EntityMatch(service=Name("ns1", self.pick(("web", "none"))))
        chosen = self.some(tuple(parts), 0, self.pick((0, 1, 1, 1, 2, 3)))
        return EntityMatch(**{name: parts[name]() for name in chosen})

    def rule(self) -> PolicyRule:
        protocol = self.pick((None, None, None, TCP, TCP, TCP, UDP, UDP, ICMP, ICMP6, SCTP, OTHER))
        made = PolicyRule(
            self.pick((*RuleAction, RuleAction.ALLOW, RuleAction.ALLOW)),
            version=self.pick((None, None, None, 4, 6)),
            protocol=protocol,
            not_protocol=self.pick((TCP, UDP, ICMP, ICMP6)) if protocol is None and self.once_in(3) else None,
            source=self.entity(protocol),
            destination=self.entity(protocol),
        )
        if protocol not in (ICMP, ICMP6) or self.once_in(2):
            return made
        icmp = IcmpMatch(self.pick((3, 8, 128)), self.pick((None, 0, 1)))
        return replace(made, icmp=icmp) if self.once_in(2) else replace(made, not_icmp=icmp)

    def rules(self) -> tuple[PolicyRule, ...]:
        return tuple(self.rule() for _ in range(self.pick((0, 1, 2, 3, 4))))

    def policy(self) -> Policy:
        return Policy(
            tier=self.pick(("default", "first", "late", "absent")),
            order=self.pick((None, 1.0, 1.0, 2.0)),
            selector=self.pick(SELECTORS),
            applies_ingress=not self.once_in(3),
            applies_egress=not self.once_in(3),
            ingress=self.rules(),
            egress=self.rules(),
            do_not_track=self.once_in(12),
        )

    def tier(self) -> Tier:
        return Tier(self.pick((None, 1.0, 5.0)), self.pick((TierDefault.DENY, TierDefault.PASS)))

    def profile(self) -> Profile:
        given = self.pick(((), (("inherited", "y"),), (("a", "x"), ("inherited", "z"))))
        return Profile(self.rules(), self.rules(), given)

    def ports(self) -> tuple[NamedPort, ...]:
        return self.some(NAMED)

    def local_endpoint(self, number: int) -> WorkloadEndpoint:
        both = parse_address(f"10.0.0.{number}"), parse_address(f"fd00::{number}")
        addresses = self.pick((*[both] * 12, both[:1], both[1:], ()))
        profiles = self.some(PROFILES, 1, 3)
        return WorkloadEndpoint(NODE, f"cali{number}", addresses, self.labels(), profiles, self.ports())

    def remote_endpoint(self) -> WorkloadEndpoint:
        addresses = self.some(tuple(map(parse_address, ("10.0.1.1", "10.0.1.2", "10.0.0.2", "fd00:1::1"))), 1)
        return WorkloadEndpoint("n2", "", addresses, self.labels(), self.some(PROFILES), self.ports())

    def host(self) -> HostEndpoint:
        addresses = self.some(tuple(map(parse_address, ("192.0.2.7", "192.0.2.1", "2001:db8::7"))), 1)
        return HostEndpoint("n2", "*", addresses, self.labels(), self.some(PROFILES), self.ports())

    def own_host(self) -> HostEndpoint:
        """A host endpoint of the node itself, which the definition does not know."""
        return HostEndpoint(NODE, self.pick(("eth0", "*")), (), self.labels(), self.some(PROFILES), self.ports())

    def host_policy(self) -> Policy:
        """A policy as host endpoints have them: before tracking, before translation, or for what passes through."""
        how = self.pick(({"do_not_track": True}, {"pre_dnat": True}, {"apply_on_forward": True}))
        return replace(self.policy(), **{"do_not_track": False, "apply_on_forward": True, **how})

    def with_hosts(self, cluster: Cluster) -> Cluster:
        """The cluster with one or two host endpoints on the node, and policies that may be for them."""
        hosts = {Name("", f"own{number}"): self.own_host() for number in range(self.pick((1, 2)))}
        policies = {Name("", f"host{number}"): self.host_policy() for number in range(self.pick((1, 2, 3)))}
        return {
            **cluster,
            Table.HOST: {**cluster[Table.HOST], **hosts},
            Table.GLOBAL_POLICY: {**cluster[Table.GLOBAL_POLICY], **policies},
        }

    def network_set(self) -> NetworkSet:
        return NetworkSet(self.some(NETS, 0, 4), self.labels(), self.some(PROFILES))

    def namespace(self) -> Namespace:
        return Namespace(self.pick(((), (("env", "x"),))))

    def slice(self) -> EndpointSlice:
        """Some pods behind the Service web."""
        addresses = self.some(tuple(map(parse_address, ("10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::2"))), 0, 3)
        backends = tuple(Backend((address,), "", not self.once_in(4), True) for address in addresses)
        ports = self.some((BackendPort("http", TCP, 80), BackendPort("dns", UDP, 53), BackendPort("alt", TCP, 8080)))
        return EndpointSlice("web", (BackendGroup(backends, ports),))

    def cluster(self) -> Cluster:
        """A cluster, all tables there."""
        tables: Cluster = {table: {} for table in Table}
        for number in (1, 2, 3):
            if not self.once_in(12):
                tables[Table.WORKLOAD][Name("ns1", f"p{number}")] = self.local_endpoint(number)
        makers: tuple[tuple[Table, str, str, Callable[[], Resource]], ...] = (
            (Table.WORKLOAD, "ns1", "r1", self.remote_endpoint),
            (Table.WORKLOAD, "ns1", "r2", self.remote_endpoint),
            (Table.HOST, "", "h1", self.host),
            (Table.GLOBAL_NETWORK_SET, "", "s1", self.network_set),
            (Table.NETWORK_SET, "ns1", "s2", self.network_set),
            (Table.PROFILE, "", "pr1", self.profile),
            (Table.PROFILE, "", "pr2", self.profile),
            (Table.PROFILE, "", "kns.ns1", self.profile),
            (Table.TIER, "", "default", self.tier),
            (Table.TIER, "", "first", self.tier),
            (Table.TIER, "", "late", self.tier),
            (Table.NAMESPACE, "", "ns1", self.namespace),
            (Table.SLICE, "ns1", "web-1", self.slice),
            (Table.SLICE, "ns1", "web-2", self.slice),
        )
        for table, space, name, make in makers:
            if not self.once_in(4):
                tables[table][Name(space, name)] = make()
        for table in POLICY_TABLES:
            space = "" if table is Table.GLOBAL_POLICY else "ns1"
            for number in range(self.random.randint(0, 3)):
                tables[table][Name(space, f"p{number}")] = self.policy()
        return tables

    def packet(self) -> Packet:
        """Mostly a new connection, with the sender's own address, to some pod."""
        version = self.pick((4, 4, 6))
        device = self.pick((*["cali1"] * 5, *["cali2"] * 3, *["eth0"] * 4, "cali9"))
        own = device in DEVICES and not self.once_in(20)
        source = DEVICES[device][version // 6] if own else self.pick(PEOPLE[version])
        own_host = self.once_in(20)
        destination = ("192.0.2.1", "2001:db8::1")[version // 6] if own_host else self.pick(PEOPLE[version])
        protocol = self.pick(PROTOCOLS)
        icmp = None
        if protocol == (ICMP if version == 4 else ICMP6):
            icmp = self.pick((0, 3, 8, 128, 135)), self.pick((0, 1))
        ports = (self.pick(PORTS), self.pick(PORTS)) if protocol in PORTED else (0, 0)
        state = self.pick(tuple(CtState)) if self.once_in(12) else CtState.NEW
        return Packet(_address(source), _address(destination), protocol, device, *ports, icmp, state)


def _address(text: str) -> Address:
    return parse_address(text)


def resources_of(cluster: Cluster) -> Iterator[tuple[Ref, Resource]]:
    """Every resource, with its identity."""
    for table, named in cluster.items():
        for name, one in named.items():
            yield Ref(table, name), one


def shrink(cluster: Cluster, fails: Callable[[Cluster], bool]) -> Cluster:
    """A part of the cluster, and of its policies' rules, with which it still fails."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _less(cluster):
            if fails(candidate):
                cluster, smaller = candidate, True
                break
    return cluster


def _less(cluster: Cluster) -> Iterator[Cluster]:
    for table, named in cluster.items():
        for name, one in named.items():
            yield {**cluster, table: {other: value for other, value in named.items() if other != name}}
            if isinstance(one, Policy | Profile):
                for field in ("ingress", "egress"):
                    held: tuple[PolicyRule, ...] = getattr(one, field)
                    for index in range(len(held)):
                        fewer: dict[str, Any] = {field: held[:index] + held[index + 1 :]}
                        yield {**cluster, table: {**named, name: replace(one, **fewer)}}
