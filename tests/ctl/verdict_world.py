"""Small clusters of two nodes as keys and values, made by chance: every kind that policy reads, few values of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

from felixpy.ctl.explain.cluster import read_cluster
from felixpy.ctl.verdicts.world import World
from felixpy.datastore.model import KeyValue

Json = dict[str, Any]
Keys = dict[str, Json]
T = TypeVar("T")

CALICO = "/calico/resources/v3/projectcalico.org"
OURS = "/felixpy/resources"
PODS = ("p1", "p2", "p3", "p4", "p5")
NODE_OF = {"p1": "n1", "p2": "n1", "p3": "n1", "p4": "n2", "p5": "n2"}
NODES = {"n1": ("10.9.0.1", "fd09::1"), "n2": ("10.9.0.2", "fd09::2")}
SECOND = {"n1": ("10.9.1.1", "fd09:1::1")}
"""Addresses of nodes, on eth0, and on eth1."""
VIP = "10.96.0.1"
BALANCED = "192.0.2.200"
"""What a balancer outside gave the Service."""
SELECTORS = ("all()", "a == 'x'", "a != 'x'", "has(b)", "!has(b)", "a in {'x', 'y'} && has(b)", "name == 'p2'")
NETS = (
    "10.9.0.0/24",
    "10.0.0.0/24",
    "10.0.0.2/31",
    "10.0.0.1/32",
    "192.0.2.0/25",
    "192.0.2.7/32",
    "10.96.0.0/24",
    "0.0.0.0/0",
    "fd00::/64",
    "::/0",
)
TYPES = (["Ingress"], ["Egress"], ["Ingress", "Egress"])
HOST_FIELDS = (
    {"applyOnForward": True},
    {"applyOnForward": True, "preDNAT": True},
    {"applyOnForward": True, "doNotTrack": True},
)
OPTIONS = (
    {"allowIPIPPacketsFromWorkloads": True},
    {"vxlanPort": 4790},
    {"defaultEndpointToHostAction": "Accept"},
    {
        "failsafeInboundHostPorts": [{"protocol": "TCP", "port": 80, "net": "192.0.2.0/25"}],
        "failsafeOutboundHostPorts": [],
    },
    {},
)
PORTS = (80, 443, "1:79", "web", "dns", "8000:9000")


def device(pod: str) -> str:
    return f"cali{pod}"


def addresses(pod: str) -> tuple[str, str]:
    return f"10.0.0.{pod[1:]}", f"fd00::{pod[1:]}"


class Maker:
    """The same seed makes the same cluster, and the same changes of it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def pick(self, values: Sequence[T]) -> T:
        return self.random.choice(values)

    def once_in(self, times: int) -> bool:
        return self.random.randrange(times) == 0

    def labels(self) -> Json:
        return {name: self.pick("xyz") for name in "ab" if not self.once_in(3)}

    def entity(self, ported: bool) -> Json:
        if not ported and self.once_in(12):
            return {"services": {"name": "web", "namespace": "ns1"}}
        made: Json = {}
        for field, values in (
            ("selector", SELECTORS),
            ("notSelector", SELECTORS[1:]),
            ("namespaceSelector", ("env == 'x'", "all()", "global()")),
        ):
            if self.once_in(5):
                made[field] = self.pick(values)
        for field in ("nets", "notNets"):
            if self.once_in(6):
                made[field] = self.random.sample(NETS, 2)
        for field in ("ports", "notPorts"):
            if ported and self.once_in(3):
                made[field] = self.random.sample(PORTS, 2)
        return made

    def rule(self) -> Json:
        protocol = self.pick((None, None, "TCP", "TCP", "UDP", "ICMP", "ICMPv6", 132))
        rule: Json = {"action": self.pick(("Allow", "Allow", "Allow", "Deny", "Pass", "Log"))}
        if protocol is not None:
            rule["protocol"] = protocol
        elif self.once_in(4):
            rule |= self.pick(({"ipVersion": 4}, {"ipVersion": 6}, {"notProtocol": "TCP"}))
        if protocol in ("ICMP", "ICMPv6") and self.once_in(2):
            rule[self.pick(("icmp", "notICMP"))] = self.pick(({"type": 8}, {"type": 128, "code": 0}, {"type": 3}))
        ported = protocol in ("TCP", "UDP", 132)
        return {**rule, "source": self.entity(ported and self.once_in(3)), "destination": self.entity(ported)}

    def rules(self) -> list[Json]:
        return [self.rule() for _ in range(self.pick((0, 1, 2, 3)))]

    def policy(self) -> Json:
        on_hosts = self.pick(({}, {}, *HOST_FIELDS))
        return {
            **on_hosts,
            "tier": self.pick(("default", "default", "first", "absent")),
            "order": self.pick((None, 1, 2)),
            "selector": self.pick(SELECTORS),
            "types": ["Ingress"] if "preDNAT" in on_hosts else self.pick(TYPES),
            "ingress": self.rules(),
            "egress": self.rules(),
        }

    def host(self, name: str) -> Json:
        node = name.partition("-")[0]
        profiles = self.pick(([], ["pr1"], ["projectcalico-default-allow"]))
        own = list(NODES[node])
        where: Json = {
            "all": {"interfaceName": "*"},
            "first": self.pick(
                ({"interfaceName": "eth0"}, {"interfaceName": "eth0", "expectedIPs": own}, {"expectedIPs": own})
            ),
            "second": {"interfaceName": "eth1", "expectedIPs": list(SECOND["n1"])},
        }[name.partition("-")[2]]
        return {"node": node, "profiles": profiles, **where}

    def kubernetes_policy(self) -> Json:
        peer = self.pick(
            (
                {"podSelector": {"matchLabels": {"a": "x"}}},
                {"namespaceSelector": {}},
                {"ipBlock": {"cidr": "10.0.0.0/24", "except": ["10.0.0.2/32"]}},
            )
        )
        port = self.pick(({"port": 80}, {"port": "web"}, {"port": 400, "endPort": 500, "protocol": "UDP"}))
        selected = {"podSelector": {"matchLabels": self.pick(({}, {"a": "x"}))}}
        return {**selected, "policyTypes": ["Ingress"], "ingress": [{"from": [peer], "ports": [port]}]}

    def endpoint(self, pod: str) -> Json:
        ports = [{"name": "web", "protocol": "TCP", "port": self.pick((80, 8080))}]
        return {
            "node": NODE_OF[pod],
            "orchestrator": "k8s",
            "pod": pod,
            "endpoint": "eth0",
            "interfaceName": device(pod),
            "ipNetworks": [f"{one}/{128 if ':' in one else 32}" for one in addresses(pod)],
            "profiles": ["kns.ns1", "pr1"],
            "ports": ports if self.once_in(2) else [],
        }

    def object(self, key: str) -> Json:
        """A value for a key of `KEYS`."""
        kind, name = KEYS[key], key.rpartition("/")[2]
        spec: dict[str, Callable[[], Json]] = {
            "policy": self.policy,
            "kubernetes": self.kubernetes_policy,
            "tier": lambda: {"order": self.pick((1, 5)), "defaultAction": self.pick(("Deny", "Pass"))},
            "profile": lambda: {"ingress": self.rules(), "egress": self.rules(), "labelsToApply": self.labels()},
            "set": lambda: {"nets": self.random.sample(NETS, self.pick((0, 1, 3)))},
            "endpoint": lambda: self.endpoint(name.split("-")[2]),
            "options": lambda: self.pick(OPTIONS),
            "host": lambda: self.host(name),
            "pool": lambda: {
                "cidr": "10.0.0.0/24",
                "vxlanMode": self.pick(("Never", "Always", "Always", "CrossSubnet")),
            },
            "node": lambda: {"bgp": {"ipv4Address": f"{NODES[name][0]}/24", "ipv6Address": f"{NODES[name][1]}/64"}},
        }
        meta: Json = {"name": name, "namespace": "ns1", "labels": self.labels()}
        if kind == "endpoint":
            own = {"projectcalico.org/namespace": "ns1", "projectcalico.org/orchestrator": "k8s"}
            meta["labels"] |= {**own, "name": name.split("-")[2]}
        if kind == "namespace":
            meta["labels"] = self.pick(({"env": "x"}, {"env": "y"}, {}))
        if kind == "slice":
            meta["labels"] = {"kubernetes.io/service-name": "web"}
            ends = [{"addresses": [addresses(one)[0]]} for one in self.random.sample(PODS, 2)]
            port = {"name": "http", "port": self.pick((80, 443)), "protocol": "TCP"}
            return {"metadata": meta, "addressType": "IPv4", "ports": [port], "endpoints": ends}
        if kind == "service":
            port = {"name": "http", "port": self.pick((80, 80, 81)), "protocol": "TCP"}
            policy = self.pick(("Cluster", "Cluster", "Local"))
            own = {"clusterIP": VIP, "clusterIPs": [VIP], "ports": [port], "internalTrafficPolicy": policy}
            if self.once_in(2):
                ranges = self.pick(([], ["10.0.0.0/30"], ["10.0.0.0/24", "192.0.2.0/25"]))
                own |= {"type": "LoadBalancer", "loadBalancerClass": "x/y", "loadBalancerSourceRanges": ranges}
                return {"metadata": meta, "spec": own, "status": {"loadBalancer": {"ingress": [{"ip": BALANCED}]}}}
            return {"metadata": meta, "spec": own}
        return {"metadata": meta, **({"spec": spec[kind]()} if kind in spec else {})}

    def cluster(self) -> Keys:
        """Every endpoint and node, and most of the rest; host endpoints in two of three clusters."""
        bare = self.once_in(3)
        return {
            key: self.object(key)
            for key, kind in KEYS.items()
            if kind in KEPT or not (self.once_in(3) or (bare and kind == "host"))
        }

    def changed(self, cluster: Keys) -> Keys:
        """The cluster with one or two objects anew, or without them."""
        after = dict(cluster)
        for key in self.random.sample(tuple(KEYS), self.pick((1, 1, 2))):
            if KEYS[key] in ("node", "pool"):
                continue
            if key in after and KEYS[key] != "endpoint" and self.once_in(3):
                del after[key]
            else:
                after[key] = self.object(key)
        return after


KEPT = ("endpoint", "node", "pool")
KEYS: dict[str, str] = {
    **{f"{CALICO}/workloadendpoints/ns1/{NODE_OF[pod]}-k8s-{pod}-eth0": "endpoint" for pod in PODS},
    **{f"{CALICO}/nodes/{name}": "node" for name in NODES},
    **{f"{CALICO}/hostendpoints/{name}": "host" for name in ("n1-first", "n1-second", "n1-all", "n2-all")},
    **{f"{CALICO}/globalnetworkpolicies/g{number}": "policy" for number in range(3)},
    **{f"{CALICO}/networkpolicies/ns1/n{number}": "policy" for number in range(3)},
    **{f"{OURS}/networking.k8s.io/v1/networkpolicies/ns1/k{number}": "kubernetes" for number in range(2)},
    f"{CALICO}/ippools/pool": "pool",
    f"{CALICO}/tiers/default": "tier",
    f"{CALICO}/tiers/first": "tier",
    f"{CALICO}/profiles/pr1": "profile",
    f"{CALICO}/globalnetworksets/s1": "set",
    f"{CALICO}/networksets/ns1/s2": "set",
    f"{CALICO}/felixconfigurations/default": "options",
    f"{OURS}/core/v1/namespaces/ns1": "namespace",
    f"{OURS}/core/v1/pods/ns1/p1": "pod",
    f"{OURS}/core/v1/pods/ns1/p2": "pod",
    f"{OURS}/discovery.k8s.io/v1/endpointslices/ns1/web-1": "slice",
    f"{OURS}/core/v1/services/ns1/web": "service",
}
"""Every key there may be, and what is at it."""


def items(cluster: Keys) -> list[KeyValue]:
    """As the datastore holds them."""
    return [KeyValue(key.encode(), json.dumps(value).encode(), 1) for key, value in cluster.items()]


def worlds(one: Keys, other: Keys) -> tuple[World, World]:
    """A cluster as the command reads it, and what a change makes of that."""
    before = World(read_cluster(items(one)))
    changed = {key: other.get(key) for key in {**one, **other} if one.get(key) != other.get(key)}
    changes = {key: None if body is None else json.dumps(body).encode() for key, body in changed.items()}
    return before, World(before.cluster.changed(changes), before)
