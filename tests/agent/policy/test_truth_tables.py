"""What each feature of a policy lets through: TCP, UDP and ICMP of both families, between two pods of one node.

A failure shows the truth table: what should get through, and what does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.agent.conftest import Scene
from tests.agent.node import CALICO, PORT, Json, Node, resource
from tests.agent.probe import Probe, probe_all
from tests.dataplane.truth import render_table
from tests.support.wait import eventually

OURS = "/felixpy/resources"
ADMIN = f"{OURS}/policy.networking.k8s.io"
A4, A6, B4, B6 = "10.65.0.2", "fd65::2", "10.65.0.3", "fd65::3"
PROBES = {
    **{kind: Probe(kind, B4, PORT) for kind in ("tcp", "udp", "icmp")},
    **{f"{kind}6": Probe(kind, B6, PORT) for kind in ("tcp", "udp", "icmp")},
}
EVERYTHING = frozenset(PROBES)
ALLOW, EVERYONE = {"action": "Allow"}, {"namespaces": {}}
WAIT_S = 0.25


class Case(NamedTuple):
    """What is written (at keys, in order), and what gets through then."""

    name: str
    through: str
    written: tuple[tuple[str, Json], ...]


def calico(plural: str, kind: str, name: str, spec: Json, labels: dict[str, str] | None = None) -> tuple[str, Json]:
    return f"{CALICO}/{plural}/{name}", resource(kind, name, spec, labels)


def policy(*ingress: Json, name: str = "default.one", **spec: Any) -> tuple[str, Json]:
    """A GlobalNetworkPolicy for what comes to b."""
    whole = {"tier": "default", "order": 5, "selector": "name == 'b'", "types": ["Ingress"], "ingress": list(ingress)}
    return calico("globalnetworkpolicies", "GlobalNetworkPolicy", name, {**whole, **spec})


def in_namespace(plural: str, kind: str, name: str, spec: Json) -> tuple[str, Json]:
    return f"{CALICO}/{plural}/default/{name}", resource(kind, name, spec, None, "default")


def rule(name: str, through: str, *rules: Json, also: tuple[tuple[str, Json], ...] = ()) -> Case:
    """A case of one policy that allows what its rules match."""
    return Case(name, through, (*also, policy(*({**ALLOW, **one} for one in rules))))


def admin(version: str, plural: str, name: str, **spec: Any) -> tuple[str, Json]:
    return f"{ADMIN}/{version}/{plural}/{name}", {"metadata": {"name": name}, "spec": {"subject": EVERYONE, **spec}}


def slices(service: str, port: int, address: str) -> tuple[str, Json]:
    body: Json = {
        "metadata": {"name": service, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"name": "", "protocol": "TCP", "port": port}],
    }
    return f"{OURS}/discovery.k8s.io/v1/endpointslices/default/{service}", body


TCP, UDP, ICMP = {"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "ICMP"}
FROM_A = {"selector": "name == 'a'"}
NET_SET = calico("globalnetworksets", "GlobalNetworkSet", "n", {"nets": [f"{A4}/32"]}, {"kind": "net"})
OWN_SET = (
    f"{CALICO}/networksets/default/n",
    resource("NetworkSet", "n", {"nets": ["10.65.0.0/25", "fd65::/64"]}, {"kind": "own"}, "default"),
)
TCP_ONLY = calico("profiles", "Profile", "open", {"ingress": [{**ALLOW, **TCP}], "egress": [ALLOW]})

CASES = (
    rule("protocol", "tcp tcp6", TCP),
    rule("protocol by number", "udp udp6", {"protocol": 17}),
    rule("notProtocol", "udp icmp udp6 icmp6", {"notProtocol": "TCP"}),
    rule("port", "udp udp6", {**UDP, "destination": {"ports": [PORT]}}, {**TCP, "destination": {"ports": [1, "2:9"]}}),
    rule(
        "notPorts",
        "tcp tcp6",
        {**TCP, "destination": {"notPorts": ["1:100"]}},
        {**UDP, "destination": {"notPorts": [PORT]}},
    ),
    rule("named port", "tcp tcp6", {**TCP, "destination": {"ports": ["web"]}}),
    rule("named port of any protocol", "tcp udp tcp6 udp6", {"destination": {"ports": ["web"]}}),
    rule("icmp", "icmp icmp6", {**ICMP, "icmp": {"type": 8}}, {"protocol": "ICMPv6", "icmp": {"type": 128, "code": 0}}),
    rule("notICMP", "icmp6", {**ICMP, "notICMP": {"type": 8}}, {"protocol": "ICMPv6", "notICMP": {"type": 1}}),
    rule("ipVersion", "tcp6 udp6 icmp6", {"ipVersion": 6}),
    rule("nets", "tcp udp icmp", {"source": {"nets": [f"{A4}/32"]}}),
    rule(
        "notNets",
        "tcp6 udp6 icmp6",
        {"source": {"notNets": [f"{A6[:-1]}9/128"]}},
        {"source": {"nets": ["10.9.0.0/16"]}},
    ),
    rule("selector", "tcp tcp6", {**TCP, "source": FROM_A}, {**UDP, "source": {"selector": "name == 'c'"}}),
    rule(
        "notSelector",
        "udp udp6",
        {**TCP, "source": {"notSelector": "name == 'a'"}},
        {**UDP, "source": {"notSelector": "name == 'c'"}},
    ),
    rule(
        "serviceAccounts",
        "tcp tcp6",
        {**TCP, "source": {"serviceAccounts": {"names": ["robot"]}}},
        {**UDP, "source": {"serviceAccounts": {"names": ["x"]}}},
    ),
    rule("GlobalNetworkSet", "tcp udp icmp", {"source": {"selector": "kind == 'net'"}}, also=(NET_SET,)),
    rule(
        "Service as source",
        "tcp udp icmp",
        {"source": {"services": {"name": "from", "namespace": "default"}}},
        also=(slices("from", 1, A4),),
    ),
    Case(
        "NetworkSet of a namespace",
        "icmp icmp6",
        (
            OWN_SET,
            in_namespace(
                "networkpolicies",
                "NetworkPolicy",
                "default.np",
                {
                    "selector": "name == 'b'",
                    "types": ["Ingress"],
                    "ingress": [
                        {**ALLOW, **one, "source": {"selector": "kind == 'own'"}}
                        for one in (ICMP, {"protocol": "ICMPv6"})
                    ],
                },
            ),
        ),
    ),
    Case("egress", "udp udp6", (policy(selector="name == 'a'", types=["Egress"], egress=[{**ALLOW, **UDP}]),)),
    Case(
        "Service as destination",
        "tcp",
        (
            slices("to", PORT, B4),
            policy(
                selector="name == 'a'",
                types=["Egress"],
                egress=[{**ALLOW, "destination": {"services": {"name": "to", "namespace": "default"}}}],
            ),
        ),
    ),
    Case("Deny before Allow", "udp icmp udp6 icmp6", (policy({"action": "Deny", **TCP}, ALLOW),)),
    Case("Log goes on", "tcp tcp6", (policy({"action": "Log"}, {**ALLOW, **TCP}),)),
    Case(
        "order",
        "tcp tcp6",
        (policy({**ALLOW, **TCP}, {"action": "Deny"}), policy(ALLOW, name="default.later", order=6)),
    ),
    Case("Pass to the profile", "udp icmp udp6 icmp6", (policy({"action": "Deny", **TCP}, {"action": "Pass"}),)),
    Case(
        "Pass to the next tier",
        "udp udp6",
        (
            calico("tiers", "Tier", "first", {"order": 1, "defaultAction": "Deny"}),
            policy({"action": "Pass", **UDP}, {"action": "Pass", **TCP}, name="first.gate", tier="first"),
            policy({**ALLOW, **UDP}),
        ),
    ),
    Case(
        "a tier that passes",
        "tcp tcp6",
        (
            calico("tiers", "Tier", "first", {"order": 1, "defaultAction": "Pass"}),
            policy(name="first.gate", tier="first"),
            policy({**ALLOW, **TCP}),
        ),
    ),
    Case("a profile", "tcp tcp6", (TCP_ONLY,)),
    Case(
        "NetworkPolicy of Kubernetes",
        "tcp",
        (
            (
                f"{OURS}/networking.k8s.io/v1/networkpolicies/default/k",
                {
                    "metadata": {"name": "k", "namespace": "default"},
                    "spec": {
                        "podSelector": {"matchLabels": {"name": "b"}},
                        "ingress": [
                            {
                                "from": [{"ipBlock": {"cidr": "10.65.0.0/24", "except": ["10.65.0.128/25"]}}],
                                "ports": [{"protocol": "TCP", "port": PORT - 1, "endPort": PORT + 1}],
                            }
                        ],
                    },
                },
            ),
        ),
    ),
    Case(
        "ClusterNetworkPolicy",
        "udp icmp udp6 icmp6",
        (
            admin(
                "v1alpha2",
                "clusternetworkpolicies",
                "c",
                tier="Admin",
                priority=1,
                ingress=[{"action": "Deny", "from": [EVERYONE], "protocols": [{"tcp": {}}]}],
            ),
        ),
    ),
    Case(
        "ClusterNetworkPolicy, Pass and Baseline",
        "tcp tcp6",
        (
            admin(
                "v1alpha2",
                "clusternetworkpolicies",
                "c",
                tier="Admin",
                priority=1,
                ingress=[
                    {"action": "Accept", "from": [EVERYONE], "protocols": [{"tcp": {}}]},
                    {"action": "Pass", "from": [EVERYONE]},
                ],
            ),
            admin(
                "v1alpha2",
                "clusternetworkpolicies",
                "d",
                tier="Baseline",
                priority=1,
                ingress=[{"action": "Deny", "from": [EVERYONE]}],
            ),
        ),
    ),
    Case(
        "AdminNetworkPolicy, networks",
        "udp icmp tcp6 udp6 icmp6",
        (
            admin(
                "v1alpha1",
                "adminnetworkpolicies",
                "a",
                priority=1,
                egress=[
                    {
                        "action": "Deny",
                        "to": [{"networks": [f"{B4}/32"]}],
                        "ports": [{"portNumber": {"protocol": "TCP", "port": PORT}}],
                    }
                ],
            ),
        ),
    ),
    Case(
        "AdminNetworkPolicy, nodes",
        "tcp udp tcp6 udp6",
        (
            calico(
                "nodes", "Node", "n2", {"bgp": {"ipv4Address": f"{B4}/24", "ipv6Address": f"{B6}/64"}}, {"role": "db"}
            ),
            calico("nodes", "Node", "n3", {"bgp": {"ipv4Address": "10.65.0.9/24"}}, {"role": "web"}),
            admin(
                "v1alpha1",
                "adminnetworkpolicies",
                "a",
                priority=1,
                egress=[
                    {
                        "action": "Allow",
                        "to": [{"nodes": {"matchLabels": {"role": "db"}}}],
                        "ports": [{"portNumber": {"protocol": one, "port": PORT}} for one in ("TCP", "UDP")],
                    },
                    {"action": "Deny", "to": [{"nodes": {}}]},
                ],
            ),
        ),
    ),
    Case(
        "BaselineAdminNetworkPolicy, named port",
        "icmp icmp6",
        (
            admin(
                "v1alpha1",
                "baselineadminnetworkpolicies",
                "default",
                ingress=[{"action": "Deny", "from": [EVERYONE], "ports": [{"namedPort": "web"}]}],
            ),
        ),
    ),
)
ON_NFT_VARIANT = {"notProtocol", "notPorts", "named port of any protocol", "icmp", "notICMP", "notNets", "Log goes on"}
ON_NFT_VARIANT |= {"Service as destination", "a profile", "Pass to the next tier", "NetworkPolicy of Kubernetes"}
"""One case for each kind of match and action: both variants of iptables are given the same text."""
TRIED = [
    pytest.param(backend, case, id=f"{backend}-{case.name}")
    for backend in ("nftables", "iptables-legacy", "iptables-nft")
    for case in CASES
    if backend != "iptables-nft" or case.name in ON_NFT_VARIANT
]


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Two pods that Kubernetes made, of account `robot`; port `web` of b is served over TCP and UDP."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FELIXPY_BACKEND", request.param)
        with Node() as node:
            a, b = node.pod("a", A4, A6), node.pod("b", B4, B6)
            labels = {"projectcalico.org/orchestrator": "k8s", "projectcalico.org/serviceaccount": "robot"}
            for pod in (a, b):
                pod.write(labels)
            body = json.loads(node.etcd.get_prefix(b.key)[b.key])
            body["spec"]["ports"] = [{"name": "web", "protocol": one, "port": PORT} for one in ("TCP", "UDP")]
            node.etcd.put(b.key, body)
            node.agent.start()
            yield Scene(node, a, b)


def seen(scene: Scene) -> frozenset[str]:
    """What gets from a to b now."""
    found = probe_all(scene.a.namespace, list(PROBES.values()), WAIT_S)
    return frozenset(name for name, through in zip(PROBES, found, strict=True) if through)


@pytest.mark.parametrize(("scene", "case"), TRIED, indirect=["scene"], scope="module")
def test_what_gets_through(scene: Scene, case: Case) -> None:
    etcd, wanted = scene.node.etcd, frozenset(case.through.split())
    eventually(lambda: seen(scene) == EVERYTHING, within_s=30, what="all is open")
    before = etcd.get_prefix(f"{CALICO}/profiles/")
    for key, body in case.written:
        etcd.put(key, body)
    try:
        eventually(lambda: seen(scene) == wanted)
    except AssertionError:
        found = seen(scene)
        rows = [(name, "through" if name in wanted else "-", "through" if name in found else "-") for name in PROBES]
        pytest.fail(f"{case.name}\n{render_table(('packet', 'wanted', 'found'), rows)}", pytrace=False)
    finally:
        for key, _ in case.written:
            etcd.delete(key)
        for key, value in before.items():
            etcd.put(key, json.loads(value))
