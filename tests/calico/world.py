"""Clusters in Calico's own JSON, made from a seed: everything that decides about packets on node n1.

Endpoints, addresses and packets are those of tests/dataplane/meaning_world. One tier: Calico 3.28 has no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from felixpy.dataplane.judging.packet import Packet
from felixpy.resources.scalars import PORTED
from tests.agent.node import CALICO, Json, resource
from tests.dataplane.meaning_world import ICMP, ICMP6, LOCAL, NODE, OTHER, SCTP, TCP, UDP, Maker

HOST = {len(address): address for address in LOCAL}
SELECTORS = (
    "all()",
    "a == 'x'",
    "a != 'x'",
    "has(b)",
    "!has(b)",
    "a in {'x', 'y'} && has(b)",
    "a == 'z' || b starts with 'y'",
    "a contains 'x' || b ends with 'z'",
    "b not in {'x'}",
    "inherited == 'y'",
    "pcns.env == 'x'",
    "has(pcns.projectcalico.org/name)",
    "projectcalico.org/namespace == 'ns2'",
    "projectcalico.org/serviceaccount == 'robot'",
    "has(projectcalico.org/orchestrator)",
)
SPACES = ("env == 'x'", "has(env)", "!has(env)", "all()", "projectcalico.org/name == 'ns2'", "global()")
ACCOUNTS: tuple[Json, ...] = (
    {"names": ["robot"]},
    {"selector": "all()"},
    {"selector": "role == 'r'"},
    {"names": ["robot", "x"]},
)
NETS = {
    4: ("10.0.0.0/24", "10.0.0.2/31", "10.0.0.1/32", "10.0.1.0/30", "192.0.2.0/25", "192.0.2.7/32", "0.0.0.0/0"),
    6: ("fd00::/64", "fd00::2/127", "fd00:1::1/128", "2001:db8::/32", "::/0"),
}
EVERY_NET = (*NETS[4], *NETS[6])
PORTS: tuple[int | str, ...] = (80, 53, "1:79", "81:443", "8080:65535", "1:65535")
NAMED: tuple[Json, ...] = (
    {"name": "web", "protocol": "TCP", "port": 80},
    {"name": "web", "protocol": "TCP", "port": 8080},
    {"name": "dns", "protocol": "UDP", "port": 53},
    {"name": "web", "protocol": "UDP", "port": 80},
)
PROFILES = ("pr1", "pr2", "kns.ns1", "ksa.ns1.robot", "absent", "projectcalico-default-allow")
WORDS: Mapping[int, str | int] = {TCP: "TCP", UDP: "UDP", ICMP: "ICMP", ICMP6: "ICMPv6", SCTP: "SCTP", OTHER: OTHER}


class Author(Maker):
    """Writes clusters as people do; the same seed writes the same one."""

    def entity_of(self, protocol: int | None, version: int) -> Json:
        """One side of a rule; networks of a rule are of one family."""
        some_less = [net for net in NETS[version] if not net.endswith("/0")]
        parts: dict[str, Callable[[], Any]] = {
            "nets": lambda: list(self.some(NETS[version], 1, 3)),
            "notNets": lambda: list(self.some(some_less, 1)),
            "selector": lambda: self.pick(SELECTORS),
            "notSelector": lambda: self.pick(SELECTORS),
            "namespaceSelector": lambda: self.pick(SPACES),
            "serviceAccounts": lambda: self.pick(ACCOUNTS),
        }
        if protocol in PORTED:
            parts["ports"] = lambda: list(self.some((*PORTS, "web", "dns"), 1, 3))
            parts["notPorts"] = lambda: list(self.some((*PORTS[:5], "web", "dns"), 1))
        return {name: parts[name]() for name in self.some(tuple(parts), 0, self.pick((0, 1, 1, 1, 2, 3)))}

    def rule_of(self) -> Json:
        """A rule of a policy or a profile."""
        protocol = self.pick((None, None, None, TCP, TCP, TCP, UDP, UDP, ICMP, ICMP6, SCTP, OTHER))
        made: Json = {"action": self.pick(("Allow", "Allow", "Allow", "Deny", "Pass", "Log"))}
        if protocol is not None:
            made["protocol"] = WORDS[protocol]
        elif self.once_in(3):
            made["notProtocol"] = WORDS[self.pick((TCP, UDP, SCTP))]
        if self.once_in(3):
            made["ipVersion"] = self.pick((4, 6))
        if protocol in (ICMP, ICMP6):
            made["ipVersion"] = 4 if protocol == ICMP else 6
            if self.once_in(2):
                code = self.pick(({}, {"code": 0}, {"code": 1}))
                made[self.pick(("icmp", "notICMP"))] = {"type": self.pick((3, 8, 128)), **code}
        version = made.get("ipVersion") or self.pick((4, 6))
        sides = {"source": self.entity_of(protocol, version), "destination": self.entity_of(protocol, version)}
        return {**made, **{name: side for name, side in sides.items() if side}}

    def rules_of(self) -> list[Json]:
        return [self.rule_of() for _ in range(self.pick((0, 1, 2, 3, 4)))]

    def policy_of(self) -> Json:
        """What policies of both kinds have; 3.28 knows neither a tier nor an order beside numbers."""
        types = self.pick((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        made: Json = {"selector": self.pick(SELECTORS), "types": types}
        if not self.once_in(4):
            made["order"] = self.pick((1, 1, 2, 0.5, -3))
        if self.once_in(5):
            made["serviceAccountSelector"] = self.pick(("role == 'r'", "all()", "has(role)"))
        for way in types:
            made[way.lower()] = self.rules_of()
        return made

    def global_policy_of(self) -> Json:
        made = self.policy_of()
        if self.once_in(5):
            made["namespaceSelector"] = self.pick(SPACES[:-1])
        how = self.pick(("", "", "", "applyOnForward", "doNotTrack", "preDNAT"))
        if how:
            made |= {how: True, "applyOnForward": True}
        if how == "preDNAT":
            made.pop("egress", None)
            made |= {"types": ["Ingress"], "ingress": made.get("ingress", self.rules_of())}
        return made

    def profile_of(self) -> Json:
        given = self.pick(({}, {"inherited": "y"}, {"a": "x", "inherited": "z"}))
        return {"ingress": self.rules_of(), "egress": self.rules_of(), "labelsToApply": given}

    def words_for(self, namespace: str, account: str) -> dict[str, str]:
        """The labels that Calico's client gives a WorkloadEndpoint besides its own."""
        given = {"projectcalico.org/namespace": namespace, "projectcalico.org/orchestrator": "k8s"}
        return given | ({"projectcalico.org/serviceaccount": account} if account else {})

    def workload_of(self, name: str, node: str, addresses: tuple[str, ...], device: str) -> tuple[str, Json]:
        namespace, account = self.pick(("ns1", "ns1", "ns2")), self.pick(("robot", "robot", "x", ""))
        wep = f"{node}-k8s-{name}-eth0"
        spec: Json = {
            "node": node,
            "orchestrator": "k8s",
            "pod": name,
            "endpoint": "eth0",
            "containerID": name * 4,
            "interfaceName": device,
            "ipNetworks": [f"{one}/{128 if ':' in one else 32}" for one in addresses],
            "profiles": list(self.some((f"kns.{namespace}", f"ksa.{namespace}.{account or 'x'}", *PROFILES[:2]), 1, 3)),
            "ports": list(self.some(NAMED)),
        }
        if account:
            spec["serviceAccountName"] = account
        labels = dict(self.labels()) | self.words_for(namespace, account)
        return f"workloadendpoints/{namespace}/{wep}", resource("WorkloadEndpoint", wep, spec, labels, namespace)

    def host_of(self, name: str, node: str, interface: str, expected: tuple[str, ...]) -> tuple[str, Json]:
        spec: Json = {"node": node, "expectedIPs": list(expected), "profiles": list(self.some(PROFILES))}
        spec["ports"] = list(self.some(NAMED))
        if interface:
            spec["interfaceName"] = interface
        return f"hostendpoints/{name}", resource("HostEndpoint", name, spec, dict(self.labels()))

    def write(self) -> dict[str, Json]:
        """Everything there is, by key."""
        made: dict[str, Json] = dict(self._fixed())
        for number in (1, 2, 3):
            both = f"10.0.0.{number}", f"fd00::{number}"
            if not self.once_in(12):
                addresses = self.pick((*[both] * 12, both[:1], both[1:]))
                made |= [self.workload_of(f"p{number}", NODE, addresses, f"cali{number}")]
        for name in ("r1", "r2"):
            addresses = self.some(("10.0.1.1", "10.0.1.2", "10.0.0.2", "fd00:1::1"), 1)
            made |= [self.workload_of(name, "n2", addresses, "cali0")]
        for number in range(self.pick((0, 1, 1, 2))):
            interface = self.pick(("eth0", "*", ""))
            expected = ("192.0.2.1", "2001:db8::1") if not interface else ()
            made |= [self.host_of(f"h{number}", NODE, interface, expected)]
        made |= [self.host_of("h9", "n2", "eth0", self.some(("192.0.2.7", "2001:db8::7"), 1))]
        for name in ("pr1", "pr2"):
            made[f"profiles/{name}"] = resource("Profile", name, self.profile_of())
        nets = [{"nets": list(self.some(EVERY_NET, 0, 4))} for _ in range(2)]
        made["globalnetworksets/s1"] = resource("GlobalNetworkSet", "s1", nets[0], dict(self.labels()))
        made["networksets/ns1/s2"] = resource("NetworkSet", "s2", nets[1], dict(self.labels()), "ns1")
        for number in range(self.random.randint(0, 4)):
            name, space = f"default.a{number}", self.pick(("ns1", "ns2"))
            made[f"globalnetworkpolicies/{name}"] = resource("GlobalNetworkPolicy", name, self.global_policy_of())
            name = f"default.p{number}"
            made[f"networkpolicies/{space}/{name}"] = resource("NetworkPolicy", name, self.policy_of(), None, space)
        return {f"{CALICO}/{key}": body for key, body in made.items()}

    def _fixed(self) -> Mapping[str, Json]:
        """The parts that every cluster has; kube-controllers write the profiles of namespaces and accounts."""
        allow = {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}
        made: dict[str, Json] = {}
        for space in ("ns1", "ns2"):
            own = {"pcns.projectcalico.org/name": space} | ({"pcns.env": self.pick("xy")} if self.once_in(2) else {})
            made[f"profiles/kns.{space}"] = resource("Profile", f"kns.{space}", {**allow, "labelsToApply": own})
            for account in ("robot", "x"):
                role = {"pcsa.role": "r"} if self.once_in(2) else {}
                name = f"ksa.{space}.{account}"
                own = {"pcsa.projectcalico.org/name": account, **role}
                made[f"profiles/{name}"] = resource("Profile", name, {"labelsToApply": own})
        guid = {"clusterGUID": "f" * 32, "datastoreReady": True, "calicoVersion": "v3.28.5"}
        made["clusterinformations/default"] = resource("ClusterInformation", "default", guid)
        for number, name in enumerate((NODE, "n2"), 1):
            bgp = {"ipv4Address": f"192.0.2.{number}/24", "ipv6Address": f"2001:db8::{number}/64"}
            made[f"nodes/{name}"] = resource("Node", name, {"bgp": bgp})
        return made

    def packet(self) -> Packet:
        """As of the dataplane's tests, with some that the host itself sends or gets."""
        packet = super().packet()
        if self.once_in(4):
            return replace(packet, in_interface="", source=HOST[len(packet.source)])
        if packet.in_interface == "eth0" and self.once_in(3):
            return replace(packet, destination=HOST[len(packet.destination)])
        return packet
