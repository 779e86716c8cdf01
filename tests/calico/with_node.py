"""A whole Calico node beside one of ours: routes, pods, tunnels, policy, and what Calico collects of our addresses.

n1 is ours and has pod a; c1 is Calico's (calico_node) and has pod b; they share a subnet and an etcd.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from felixpy.ctl.explain.cluster import read_cluster
from felixpy.datastore.model import KeyValue
from tests.agent.node import CALICO, PORT, Json, Node, resource
from tests.agent.policy.meaning import predict
from tests.agent.probe import Probe, probe_all
from tests.agent.sandbox import Sandbox
from tests.calico.calico_node import PROGRAM, CalicoNode, CalicoPod
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import NameServer, tcp_ok
from tests.support.wait import eventually

OURS, THEIRS = ("10.98.0.1", "fd98::1"), ("10.98.0.2", "fd98::2")
POOLS = {"four": ("10.64.0.0/20", 26), "six": ("fd64::/116", 122)}
BOTH = {"assign_ipv4": "true", "assign_ipv6": "true"}
SELECTORS = ("all()", "a == 'x'", "a != 'x'", "has(b)", "!has(b)", "a in {'x', 'y'} && has(b)")
RESYNC_S = 90
"""Felix and BIRD notice a change at once, or at their next look around."""


@dataclass(frozen=True)
class Pod:
    """A pod by its namespace, its addresses of both families and its endpoint's key, whoever wired it."""

    name: str
    namespace: Namespace
    addresses: Sequence[str]
    key: str

    def reaches(self, other: Pod) -> bool:
        return all(tcp_ok(self.namespace, address, PORT, wait_s=0.5) for address in other.addresses)


@dataclass(frozen=True)
class Scene:
    """One node and one pod of each."""

    ours: Node
    theirs: CalicoNode
    a: Pod
    b: Pod

    def reach_each_other(self) -> bool:
        return self.a.reaches(self.b) and self.b.reaches(self.a)

    def calico(self, *words: str, stdin: str = "") -> str:
        """Calico's own programs, on our node."""
        environment = {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": "http://127.0.0.1:2379"}
        return self.ours.namespace.run(PROGRAM, *words, stdin=stdin, env=environment, timeout_s=60)


def put_pool(node: Node, name: str, **spec: str) -> None:
    """`spec` is how packets travel."""
    cidr, size = POOLS[name]
    usual = {"ipipMode": "Never", "vxlanMode": "Never", "nodeSelector": "all()", "natOutgoing": True}
    node.put("ippools", resource("IPPool", name, {**usual, "cidr": cidr, "blockSize": size, **spec}))


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Everything runs, and both pods are there."""
    with ExitStack() as stack:
        node = stack.enter_context(Node("agent,bgp,controllers", "n1"))
        there = stack.enter_context(Namespace.create("c"))
        here, away = ([f"{four}/24", f"{six}/64"] for four, six in (OURS, THEIRS))
        link_namespaces(node.namespace, "eth0", there, "eth0", left_addresses=here, right_addresses=away)
        for namespace, gateways in ((node.namespace, THEIRS), (there, OURS)):
            for gateway in gateways:
                namespace.ip("-6" if ":" in gateway else "-4", "route", "add", "default", "via", gateway)
        for name in POOLS:
            put_pool(node, name)
        node.agent.start()
        eventually(lambda: node.etcd.get(f"{CALICO}/nodes/n1"), within_s=30)
        calico = stack.enter_context(CalicoNode("c1", there, f"http://{OURS[0]}:2379")).start()
        sandbox = Sandbox(node, "a", stack.enter_context(Namespace.create("s")))
        addresses = eventually(lambda: sandbox.add(ipam=BOTH), within_s=30)
        stack.enter_context(NameServer(sandbox.netns, "a", PORT))
        pod = CalicoPod(calico, "b").add()
        stack.callback(pod.close)
        stack.callback(pod.delete)
        keys = [f"{CALICO}/workloadendpoints/default/{name}-eth0" for name in ("n1-cni-ca", "c1-cni-cb")]
        yield Scene(
            node,
            calico,
            Pod("a", sandbox.netns, addresses, keys[0]),
            Pod("b", pod.namespace, pod.addresses, keys[1]),
        )


def test_sessions_are_up_and_pods_of_both_reach_each_other(scene: Scene) -> None:
    for version in (4, 6):
        eventually(
            lambda version=version: "Established" in scene.theirs.birdc(version, "show", "protocols"),  # type: ignore[misc]
            within_s=RESYNC_S,
        )
    eventually(scene.reach_each_other, within_s=RESYNC_S)
    assert "c1: Calico's Felix runs there" in scene.ours.felixctl("status").err
    assert not [line for line in scene.theirs.confd.log.read_text().splitlines() if "Validation failed" in line]


@pytest.mark.parametrize("mode", ["Always", "CrossSubnet", "Never"])
def test_both_take_the_same_way_whatever_the_pool_says(scene: Scene, mode: str) -> None:
    """Pools change one after the other: Calico's allocator of tunnel addresses misses what changes while it works."""
    etcd, field = scene.ours.etcd, {"four": "ipv4VXLANTunnelAddr", "six": "ipv6VXLANTunnelAddr"}
    for name in POOLS:
        put_pool(scene.ours, name, vxlanMode=mode)
        eventually(
            lambda name=name: (field[name] in (etcd.get(f"{CALICO}/nodes/c1") or "")) is (mode != "Never"),  # type: ignore[misc]
            within_s=RESYNC_S,
        )
    device = "vxlan.calico" if mode == "Always" else "eth0"

    def leads_by_it() -> bool:
        ways = (scene.ours.namespace, scene.b), (scene.theirs.namespace, scene.a)
        return all(device in here.ip("route", "get", pod.addresses[0]) for here, pod in ways)

    eventually(leads_by_it, within_s=RESYNC_S)
    eventually(scene.reach_each_other, within_s=RESYNC_S)


def rule(rng: random.Random, family: int) -> Json:
    """One of a policy, that packets between the two pods may meet."""
    protocol = rng.choice((None, "TCP", "TCP", "UDP", "ICMP" if family == 4 else "ICMPv6"))
    made: Json = {"action": rng.choice(("Allow", "Allow", "Deny", "Pass", "Log")), "ipVersion": family}
    if protocol is not None:
        made["protocol"] = protocol
    for side in ("source", "destination"):
        entity: Json = {}
        if rng.random() < 0.4:
            entity["selector"] = rng.choice(SELECTORS)
        if rng.random() < 0.2:
            entity["notSelector"] = rng.choice(SELECTORS[1:])
        if protocol in ("TCP", "UDP") and side == "destination" and rng.random() < 0.5:
            entity[rng.choice(("ports", "notPorts"))] = [rng.choice((PORT, 81, "82:9000"))]
        made |= {side: entity} if entity else {}
    return made


def write_policies(scene: Scene, rng: random.Random) -> None:
    """Labels, policies of both kinds and a profile for both pods, anew."""
    etcd = scene.ours.etcd
    for plural in ("globalnetworkpolicies", "networkpolicies"):
        etcd.delete_prefix(f"{CALICO}/{plural}/")
    for pod in (scene.a, scene.b):
        body = json.loads(etcd.get(pod.key) or "")
        own = {name: text for name, text in body["metadata"]["labels"].items() if "/" in name}
        body["metadata"]["labels"] = own | {name: rng.choice("xyz") for name in "ab" if rng.random() < 0.7}
        etcd.put(pod.key, body)
    for number in range(rng.randint(1, 4)):
        rules = {way: [rule(rng, rng.choice((4, 4, 6))) for _ in range(rng.randint(0, 3))] for way in WAYS}
        types = rng.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        spec: Json = {"order": rng.choice((1, 1, 2)), "selector": rng.choice(SELECTORS), "types": types}
        spec |= {way: rules[way] for way in WAYS if way.title() in types}
        if number % 2:
            body = resource("NetworkPolicy", f"default.p{number}", spec, namespace="default")
            scene.ours.put("networkpolicies", body)
        else:
            scene.ours.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", f"default.a{number}", spec))


WAYS = ("ingress", "egress")


@pytest.mark.parametrize("seed", range(int(os.environ.get("SEEDS", "8"))))
def test_policy_means_the_same_at_both_ends(scene: Scene, seed: int) -> None:
    """What explain says, packets do in both directions: Felix decides about one end of each, and we about the other."""
    write_policies(scene, random.Random(seed))
    items = scene.ours.etcd.get_prefix("/").items()
    cluster = read_cluster(KeyValue(key.encode(), value.encode(), 1) for key, value in items)
    for source, target in ((scene.a, scene.b), (scene.b, scene.a)):
        kinds = (("tcp", PORT), ("tcp", 81), ("udp", PORT), ("icmp", 0))
        probes = [Probe(kind, address, port) for address in target.addresses for kind, port in kinds]
        said = [predict(cluster, source.addresses[":" in probe.address], probe) for probe in probes]

        def seen(source: Pod = source, probes: list[Probe] = probes) -> list[bool]:
            return list(probe_all(source.namespace, probes))

        eventually(lambda said=said, seen=seen: seen() == said, within_s=15, what=f"{source.name}: {said}")  # type: ignore[misc]


def test_the_collector_takes_no_address_that_is_in_use(scene: Scene) -> None:
    node = scene.ours
    for plural in ("globalnetworkpolicies", "networkpolicies"):
        node.etcd.delete_prefix(f"{CALICO}/{plural}/")
    put_pool(node, "four", vxlanMode="CrossSubnet")
    eventually(lambda: "TunnelAddr" in (node.etcd.get(f"{CALICO}/nodes/n1") or ""), within_s=30)
    for name in ("n1", "c1"):
        body = json.loads(node.etcd.get(f"{CALICO}/nodes/{name}") or "")
        body["spec"]["orchRefs"] = [{"nodeName": name, "orchestrator": "k8s"}]
        node.etcd.put(f"{CALICO}/nodes/{name}", body)
    with ExitStack() as stack:
        pods = [Sandbox(node, name, stack.enter_context(Namespace.create("s")), "shop") for name in ("web", "gone")]
        for pod in pods:
            stack.callback(pod.call, "DEL")
        held = {pod.name: pod.add(ipam=BOTH) for pod in pods}
        before = allocated(node)
        there = [{"namespace": "shop", "name": "web", "node": "n1", "ips": held["web"]}]
        kubernetes = json.dumps({"nodes": ["n1", "c1"], "pods": there})
        scene.calico("collect", "6", "2s", stdin=kubernetes)
        assert before - allocated(node) == set(held["gone"]), "what Kubernetes does not know, and nothing else"
        assert scene.a.addresses[0] in allocated(node)
        handles = " ".join(node.etcd.get_prefix("/calico/ipam/v2/handle/"))
        assert "cweb" in handles
        assert "cgone" not in handles


def allocated(node: Node) -> set[str]:
    """Every address that some block gives to somebody."""
    found = set()
    for text in node.etcd.get_prefix("/calico/ipam/v2/assignment/").values():
        block = json.loads(text)
        first = ipaddress.ip_network(block["cidr"])
        found |= {str(first[place]) for place, index in enumerate(block["allocations"]) if index is not None}
    return found
