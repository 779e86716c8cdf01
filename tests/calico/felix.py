"""What Felix's own calculation says of a packet on a node: its messages to its dataplane, read as the dataplane does.

In: the lines of `calico calculate NODE`; out: whether a packet passes. Knows nothing of what felixpy calculates.
Source: felix/proto/felixbackend.proto; felix/rules/{endpoints,static,policy,dispatch}.go for the order of things.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from felixpy.addresses import Address, format_address
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.rules import CtState
from tests.agent.node import Json

UPLINK = "eth0"
TCP, UDP, ICMP, ICMP6, IPIP, VXLAN_PORT = 6, 17, 1, 58, 4, 4789
NUMBERS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMP6, "sctp": 132, "udplite": 136}
NEIGHBOUR_DISCOVERY = {130, 131, 132, 133, 135, 136}
CONNECTED = (CtState.ESTABLISHED, CtState.RELATED)
FAILSAFE_IN = {(TCP, port) for port in (22, 179, 2379, 2380, 5473, 6443, 6666, 6667)} | {(UDP, 68)}
FAILSAFE_OUT = {(TCP, port) for port in (179, 2379, 2380, 5473, 6443, 6666, 6667)} | {(UDP, 53), (UDP, 67)}


class Said(StrEnum):
    """What policies, or a stage of a packet's way, make of it."""

    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"
    NOTHING = "nothing"


@dataclass
class Felix:
    """Its messages, by what they are about."""

    policies: dict[str, Json] = field(default_factory=dict)
    profiles: dict[str, Json] = field(default_factory=dict)
    sets: dict[str, list[str]] = field(default_factory=dict)
    workloads: list[Json] = field(default_factory=list)
    hosts: dict[str, Json] = field(default_factory=dict)
    routes: list[Json] = field(default_factory=list)
    tunnel_ends: list[Json] = field(default_factory=list)
    pools: dict[str, Json] = field(default_factory=dict)

    def workload(self, interface: str = "", address: str = "") -> Json | None:
        """The local workload behind an interface, or that has an address."""
        for one in self.workloads:
            nets = [net.partition("/")[0] for net in (*one.get("ipv4_nets", ()), *one.get("ipv6_nets", ()))]
            if (interface and one["name"] == interface) or address in nets:
                return one
        return None

    def host(self, own: Iterable[str]) -> Json | None:
        """What governs the uplink, which has the addresses `own`: by its name, or by what it expects; the first."""
        for _, one in sorted(self.hosts.items()):
            expected = {*one.get("expected_ipv4_addrs", ()), *one.get("expected_ipv6_addrs", ())}
            if one.get("name") == UPLINK or (not one.get("name") and expected & set(own)):
                return one
        return self.everything

    @property
    def everything(self) -> Json | None:
        """What governs every interface that nothing else does."""
        return next((one for _, one in sorted(self.hosts.items()) if one.get("name") == "*"), None)


def read_felix(lines: Iterable[str]) -> Felix:
    """Its messages; each a line that begins with its type."""
    felix = Felix()
    for line in lines:
        kind, _, text = line.partition(" ")
        body: Json = json.loads(text)
        match kind:
            case "ActivePolicyUpdate":
                felix.policies[body["id"]["name"]] = body["policy"]
            case "ActiveProfileUpdate":
                felix.profiles[body["id"]["name"]] = body["profile"]
            case "IPSetUpdate":
                felix.sets[body["id"]] = body.get("members") or []
            case "IPSetDeltaUpdate":
                held = set(felix.sets[body["id"]]) | set(body.get("added_members", ()))
                felix.sets[body["id"]] = sorted(held - set(body.get("removed_members", ())))
            case "WorkloadEndpointUpdate":
                felix.workloads.append(body["endpoint"])
            case "HostEndpointUpdate":
                felix.hosts[body["id"]["endpoint_id"]] = body["endpoint"]
            case "RouteUpdate":
                felix.routes.append(body)
            case "VXLANTunnelEndpointUpdate":
                felix.tunnel_ends.append(body)
            case "IPAMPoolUpdate":
                felix.pools[body["pool"]["cidr"]] = body["pool"]
    return felix


class Way:
    """One packet on its way through a node."""

    def __init__(self, felix: Felix, packet: Packet, local: frozenset[Address]) -> None:
        self.felix, self.packet = felix, packet
        self.source, self.destination = format_address(packet.source), format_address(packet.destination)
        self.from_workload = packet.in_interface.startswith("cali")
        self.for_host = packet.destination in local
        self.sender = felix.workload(packet.in_interface) if self.from_workload else None
        self.target = None if self.for_host else felix.workload(address=self.destination)
        self.uplink = felix.host(map(format_address, local))

    def passes(self) -> bool:
        """Whether it gets to where it is going."""
        if not self.packet.in_interface:
            return self.leaves_host()
        if self.from_workload and (self.sender is None or self.sender is not self.felix.workload(address=self.source)):
            return False
        if self.accepted_early() is Said.DENY:
            return False
        if self.for_host:
            return self.reaches_host()
        return self.is_forwarded()

    def leaves_host(self) -> bool:
        """Policies that are not tracked, then normal ones; workloads of the node are always reached."""
        if self.target is not None or self.uplink is None:
            return True
        early = self.untracked(self.uplink, "egress_policies")
        if early is not Said.NOTHING:
            return early is Said.ALLOW
        return self.normal(self.uplink, "egress_policies")

    def accepted_early(self) -> Said:
        """What policies say that are not tracked, or come before translation."""
        if not hasattr(self, "_early"):
            self._early = Said.NOTHING
            if not self.from_workload and self.uplink is not None:
                self._early = self.untracked(self.uplink, "ingress_policies")
                if self._early is Said.ALLOW:
                    self.untracks()
            if self._early is Said.NOTHING and self.packet.state not in CONNECTED:
                self._early = self.before_translation()
        return self._early

    def untracks(self) -> None:
        """From here on it belongs to no connection."""
        self.packet = replace(self.packet, state=CtState.UNTRACKED)

    def untracked(self, host: Json, way: str) -> Said:
        tiers = host.get("untracked_tiers") or ()
        if not tiers:
            return Said.NOTHING
        opened, answered = (FAILSAFE_IN, FAILSAFE_OUT) if way == "ingress_policies" else (FAILSAFE_OUT, FAILSAFE_IN)
        ends = (self.packet.protocol, self.packet.destination_port), (self.packet.protocol, self.packet.source_port)
        if ends[0] in opened or ends[1] in answered:
            return Said.NOTHING
        return unless_passed(self.decide(tiers, way))

    def before_translation(self) -> Said:
        own = None if self.from_workload else self.uplink
        host = own if own and own.get("pre_dnat_tiers") else self.felix.everything
        tiers = (host or {}).get("pre_dnat_tiers") or ()
        if not tiers:
            return Said.NOTHING
        if self.packet.state is CtState.INVALID:
            return Said.DENY
        if (self.packet.protocol, self.packet.destination_port) in FAILSAFE_IN:
            return Said.NOTHING
        return unless_passed(self.decide(tiers, "ingress_policies"))

    def reaches_host(self) -> bool:
        packet = self.packet
        if self.from_workload:
            if (
                packet.version == 6
                and packet.protocol == ICMP6
                and packet.icmp
                and packet.icmp[0] in NEIGHBOUR_DISCOVERY
            ):
                return True
            return packet.state in CONNECTED
        if self.accepted_early() is Said.ALLOW or self.uplink is None:
            return True
        return self.normal(self.uplink, "ingress_policies")

    def is_forwarded(self) -> bool:
        """Policies for what passes, around those of workloads."""
        accepted = self.accepted_early() is Said.ALLOW
        inbound = self.felix.everything if self.from_workload else self.uplink
        outbound = self.felix.everything if self.target is not None else self.uplink
        if not accepted and inbound is not None:
            found = self.forwarded(inbound, "ingress_policies")
            if found is Said.DENY:
                return False
            if found is Said.PASS:
                return True
        if self.sender is not None:
            if self.packet.state in CONNECTED:
                return True
            if self.is_tunnel() or not self.normal(self.sender, "egress_policies", workload=True):
                return False
        if self.target is not None:
            if self.packet.state in CONNECTED:
                return True
            if not self.normal(self.target, "ingress_policies", workload=True):
                return False
        return outbound is None or self.forwarded(outbound, "egress_policies") is not Said.DENY

    def is_tunnel(self) -> bool:
        packet = self.packet
        return packet.protocol == IPIP or (packet.protocol == UDP and packet.destination_port == VXLAN_PORT)

    def forwarded(self, host: Json, way: str) -> Said:
        """PASS where the packet is part of a connection."""
        if self.packet.state in CONNECTED:
            return Said.PASS
        if self.packet.state is CtState.INVALID:
            return Said.DENY
        tiers = [one for one in host.get("forward_tiers") or () if one.get(way)]
        found = self.decide(tiers, way)
        return Said.DENY if tiers and found is Said.NOTHING else unless_passed(found)

    def normal(self, endpoint: Json, way: str, workload: bool = False) -> bool:
        """A tier of policies ends with a denial, unless one of them passes; then the profiles; then no."""
        if self.packet.state in CONNECTED:
            return True
        if self.packet.state is CtState.INVALID:
            return False
        opened = FAILSAFE_IN if way == "ingress_policies" else FAILSAFE_OUT
        if not workload and (self.packet.protocol, self.packet.destination_port) in opened:
            return True
        tiers = [one for one in endpoint.get("tiers") or () if one.get(way)]
        found = self.decide(tiers, way)
        if found in (Said.ALLOW, Said.DENY):
            return found is Said.ALLOW
        if tiers and found is Said.NOTHING:
            return False
        rules = "inbound_rules" if way == "ingress_policies" else "outbound_rules"
        for name in endpoint.get("profile_ids") or ():
            found = self.first(self.felix.profiles.get(name, {}).get(rules) or ())
            if found in (Said.ALLOW, Said.DENY):
                return found is Said.ALLOW
        return False

    def decide(self, tiers: Sequence[Json], way: str) -> Said:
        """The first policy that says something; there is one tier."""
        rules = "inbound_rules" if way == "ingress_policies" else "outbound_rules"
        for tier in tiers:
            for name in tier.get(way) or ():
                found = self.first(self.felix.policies[name].get(rules) or ())
                if found is not Said.NOTHING:
                    return found
        return Said.NOTHING

    def first(self, rules: Iterable[Json]) -> Said:
        for rule in rules:
            action = str(rule["action"]).replace("next-tier", "pass")
            if action != "log" and self.matches(rule):
                return Said(action)
        return Said.NOTHING

    def matches(self, rule: Json) -> bool:
        packet = self.packet
        if rule.get("ip_version", packet.version) != packet.version or not self.exists(rule):
            return False
        if "protocol" in rule and number(rule["protocol"]) != packet.protocol:
            return False
        if "not_protocol" in rule and number(rule["not_protocol"]) == packet.protocol:
            return False
        return self.icmp(rule) and self.side(rule, "src") and self.side(rule, "dst")

    def exists(self, rule: Json) -> bool:
        """Not where all nets of a list are of the other family, nor where everything is excluded."""
        for name in ("src_net", "not_src_net", "dst_net", "not_dst_net"):
            nets = [ipaddress.ip_network(net) for net in rule.get(name) or ()]
            own = [net for net in nets if net.version == self.packet.version]
            if nets and not own:
                return False
            if name.startswith("not") and any(net.prefixlen == 0 for net in own):
                return False
        return True

    def icmp(self, rule: Json) -> bool:
        """ICMP types mean those of the packet's family."""
        for name, expected in (("Icmp", True), ("NotIcmp", False)):
            match = rule.get(name)
            if match is None:
                continue
            ((kind, value),) = match.items()
            if self.packet.icmp is None:
                return False
            if kind.endswith("TypeCode"):
                same = (value.get("type", 0), value.get("code", 0)) == self.packet.icmp
            else:
                same = value == self.packet.icmp[0]
            if same is not expected:
                return False
        return True

    def side(self, rule: Json, name: str) -> bool:
        address = self.source if name == "src" else self.destination
        port = self.packet.source_port if name == "src" else self.packet.destination_port
        if (nets := rule.get(f"{name}_net")) and not inside(address, nets):
            return False
        if inside(address, rule.get(f"not_{name}_net") or ()):
            return False
        if not all(self.is_in(one, address) for one in rule.get(f"{name}_ip_set_ids") or ()):
            return False
        if any(self.is_in(one, address) for one in rule.get(f"not_{name}_ip_set_ids") or ()):
            return False
        ranges, named = rule.get(f"{name}_ports") or (), rule.get(f"{name}_named_port_ip_set_ids") or ()
        if (ranges or named) and not (within(port, ranges) or self.is_named(named, address, port)):
            return False
        excluded = within(port, rule.get(f"not_{name}_ports") or ())
        return not excluded and not self.is_named(rule.get(f"not_{name}_named_port_ip_set_ids") or (), address, port)

    def is_in(self, set_id: str, address: str) -> bool:
        return inside(address, self.felix.sets[set_id])

    def is_named(self, set_ids: Iterable[str], address: str, port: int) -> bool:
        for member in (one for set_id in set_ids for one in self.felix.sets[set_id]):
            holder, _, rest = member.partition(",")
            protocol, _, known = rest.partition(":")
            same = ipaddress.ip_address(holder.partition("/")[0]) == ipaddress.ip_address(address)
            if same and (NUMBERS[protocol], int(known)) == (self.packet.protocol, port):
                return True
        return False


def unless_passed(said: Said) -> Said:
    """What is passed on is for a later stage to decide."""
    return Said.NOTHING if said is Said.PASS else said


def number(protocol: Json) -> int:
    """A protocol by its number."""
    said = protocol["NumberOrName"]
    return int(said["Number"]) if "Number" in said else NUMBERS[said["Name"].lower()]


def inside(address: str, nets: Iterable[str]) -> bool:
    """Whether an address is in one of the networks."""
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in nets)


def within(port: int, ranges: Iterable[Json]) -> bool:
    """Whether a port is in one of the ranges."""
    return any(one.get("first", 0) <= port <= one.get("last", 0) for one in ranges)
