"""Random policies, host endpoints and a Service on two nodes with real agents: what explain says, and packets do."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from felixpy.ctl.explain.cluster import Cluster, read_cluster
from felixpy.ctl.explain.flow import explain_flows
from felixpy.ctl.explain.parties import find_party
from felixpy.ctl.explain.text import lost_answer, render_flow
from felixpy.ctl.explain.traffic import parse_traffic
from felixpy.dataplane.judging.verdict import Fate
from felixpy.datastore.model import KeyValue
from tests.agent.cluster import ADDRESSES, two_nodes
from tests.agent.cluster import Cluster as Machines
from tests.agent.node import PORT, Json, Pod, resource
from tests.agent.probe import Probe, probe_all
from tests.dataplane.truth import render_table
from tests.support.netns import Namespace
from tests.support.wait import eventually

FLOWS = 24
VIP, NODE_PORT = "10.96.0.10", 30080
SELECTORS = ("all()", "a == 'x'", "a != 'x'", "has(b)", "!has(b)", "a in {'x', 'y'} && has(b)", "name == 'p2'")
NETS = ("10.65.1.0/24", "10.65.2.2/32", "10.98.0.0/24", "10.65.0.0/16", "fd65:1::/64", "fd65:2::/64")
TYPES = (["Ingress"], ["Egress"], ["Ingress", "Egress"])


@dataclass(frozen=True)
class Scene:
    """Pods p1, p2 on n1 (10.65.1.1, .2) and p3, p4 on n2 (10.65.2.3, .4), in both families."""

    machines: Machines
    pods: Sequence[Pod]

    @property
    def ends(self) -> dict[str, Namespace]:
        """Who may send, by a word that explain knows."""
        pods = {pod.name: pod.namespace for pod in self.pods}
        return {**pods, "n1": self.machines.n1.namespace, "n2": self.machines.n2.namespace}

    def try_flows(self, said: Mapping[tuple[str, Probe], bool]) -> dict[tuple[str, Probe], bool]:
        """Which flows get through; those that fare otherwise than is said are given another chance, and more time."""
        seen = self.send(list(said))
        return seen | self.send([flow for flow in said if said[flow] != seen[flow]], 4.0)

    def send(self, flows: Sequence[tuple[str, Probe]], wait_s: float = 1.0) -> dict[tuple[str, Probe], bool]:
        """Which flows get through; all senders at once."""
        by_sender = {source: [probe for sender, probe in flows if sender == source] for source, _ in flows}
        with ThreadPoolExecutor() as pool:
            answers = pool.map(lambda source: probe_all(self.ends[source], by_sender[source], wait_s), by_sender)
            found = dict(zip(by_sender, answers, strict=True))
        return {
            (source, probe): got
            for source, probes in by_sender.items()
            for probe, got in zip(probes, found[source], strict=True)
        }

    def cluster(self) -> Cluster:
        """What is in etcd now."""
        items = self.machines.etcd.get_prefix("/").items()
        return read_cluster(KeyValue(key.encode(), value.encode(), 1) for key, value in items)


@contextmanager
def two_nodes_with_pods() -> Iterator[Scene]:
    """The scene, its agents in sync and its pods reachable."""
    with two_nodes("agent") as machines:
        pods = []
        for node, other, number in ((machines.n1, machines.n2, 1), (machines.n2, machines.n1, 2)):
            node.namespace.add_address("eth0", f"fd98::{number}/64")
            bgp = {"ipv4Address": f"{ADDRESSES[node.name]}/24", "ipv6Address": f"fd98::{number}/64"}
            node.put("nodes", resource("Node", node.name, {"bgp": bgp}))
            node.namespace.sysctl(ipv4__conf__all__rp_filter=0, ipv4__conf__eth0__rp_filter=0)
            away = 3 - number
            node.namespace.ip("route", "add", f"10.65.{away}.0/24", "via", ADDRESSES[other.name])
            node.namespace.ip("route", "add", f"fd65:{away}::/64", "via", f"fd98::{away}")
            node.namespace.ip("route", "add", "10.96.0.0/24", "via", ADDRESSES[other.name])
            for last in (2 * number - 1, 2 * number):
                pods.append(node.pod(f"p{last}", f"10.65.{number}.{last}", f"fd65:{number}::{last}"))
        for pod in pods:
            pod.write()
        put_service(machines)
        machines.start()
        eventually(lambda: pods[0].reaches(pods[3]) and pods[0].reaches(pods[3], 1), what="p1 reaches p4")
        yield Scene(machines, pods)


class Author:
    """Writes policies by chance."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def entity(self, ported: bool) -> Json:
        made: Json = {}
        if self.random.random() < 0.4:
            made["selector"] = self.random.choice(SELECTORS)
        if self.random.random() < 0.15:
            made["notSelector"] = self.random.choice(SELECTORS[1:])
        if self.random.random() < 0.2:
            made[self.random.choice(("nets", "notNets"))] = self.random.sample(NETS, 2)
        if ported and self.random.random() < 0.5:
            made[self.random.choice(("ports", "ports", "notPorts"))] = [
                self.random.choice((PORT, 81, "82:9000", "web"))
            ]
        return made

    def rule(self) -> Json:
        protocol = self.random.choice((None, None, "TCP", "TCP", "UDP", "ICMP", "ICMPv6"))
        rule: Json = {"action": self.random.choice(("Allow", "Allow", "Allow", "Deny", "Pass", "Log"))}
        if protocol is not None:
            rule["protocol"] = protocol
        if protocol is None and self.random.random() < 0.2:
            rule["ipVersion"] = self.random.choice((4, 6))
        ported = protocol in ("TCP", "UDP")
        return {**rule, "source": self.entity(False), "destination": self.entity(ported)}

    def rules(self) -> list[Json]:
        return [self.rule() for _ in range(self.random.randint(0, 3))]

    def write(self, machines: Machines, pods: Sequence[Pod]) -> None:
        """Everything anew: labels, tiers, policies, a network set."""
        node = machines.n1
        for plural in ("globalnetworkpolicies", "networkpolicies"):
            machines.etcd.delete_prefix(f"/calico/resources/v3/projectcalico.org/{plural}/")
        for pod in pods:
            pod.write({label: self.random.choice("xyz") for label in "ab" if self.random.random() < 0.7})
        first = {"order": 10, "defaultAction": self.random.choice(("Pass", "Pass", "Deny"))}
        node.put("tiers", resource("Tier", "first", first))
        node.put("globalnetworksets", resource("GlobalNetworkSet", "nets", {"nets": NETS[:2]}, {"b": "set"}))
        for number in range(self.random.randint(2, 4)):
            tier = self.random.choice(("first", "default", "default"))
            spec: dict[str, Any] = {
                "tier": tier,
                "order": self.random.choice((1, 1, 2)),
                "selector": self.random.choice(SELECTORS),
                "types": self.random.choice(TYPES),
                "ingress": self.rules(),
                "egress": self.rules(),
            }
            if number % 2:
                node.put("networkpolicies", resource("NetworkPolicy", f"{tier}.p{number}", spec, namespace="default"))
            else:
                node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", f"{tier}.p{number}", spec))
        self.write_hosts(machines)

    def host_policy(self) -> Json:
        """What a policy for hosts says besides its rules."""
        types = self.random.choice(TYPES)
        if self.random.random() < 0.4:
            types = self.random.choice((["Ingress"], ["Ingress", "Egress"]))
            return {"applyOnForward": True, "doNotTrack": True, "selector": "has(host)", "types": types}
        fields: Json = self.random.choice(({}, {"applyOnForward": True}, {"applyOnForward": True}))
        if self.random.random() < 0.3:
            fields, types = {"applyOnForward": True, "preDNAT": True}, ["Ingress"]
        return {**fields, "selector": "has(host)", "types": types}

    def broad_rules(self) -> list[Json]:
        """One that many packets meet, or none: policies that are not tracked see answers by themselves."""
        protocol = self.random.choice(("TCP", "TCP", "UDP", "ICMP", None))
        rule: Json = {"action": self.random.choice(("Allow", "Allow", "Allow", "Deny"))}
        if protocol is not None:
            rule["protocol"] = protocol
        if protocol in ("TCP", "UDP"):
            rule |= self.random.choice(({}, {"source": {"ports": [PORT]}}, {"destination": {"ports": [PORT]}}))
        return [rule] if self.random.random() < 0.8 else []

    def write_hosts(self, machines: Machines) -> None:
        """Host endpoints for some nodes, and policies for them; and a Service with an endpoint on either node."""
        node = machines.n1
        machines.etcd.delete_prefix("/calico/resources/v3/projectcalico.org/hostendpoints/")
        for name in ADDRESSES:
            if self.random.random() < 0.6:
                spec = {"node": name, "interfaceName": self.random.choice(("eth0", "*")), "profiles": ["open"]}
                labels = {"host": name, "a": self.random.choice("xyz")}
                node.put("hostendpoints", resource("HostEndpoint", name, spec, labels))
        for number in range(self.random.randint(0, 2)):
            rules = {"ingress": self.rules(), "egress": self.rules()}
            spec = {"tier": "default", "order": 0, **rules, **self.host_policy()}
            if "doNotTrack" in spec:
                spec |= {way: [*self.broad_rules(), *spec[way]] for way in ("ingress", "egress")}
            if "preDNAT" in spec:
                del spec["egress"]
            node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", f"default.h{number}", spec))

    def flows(self, scene: Scene, count: int = FLOWS) -> list[tuple[str, Probe]]:
        """Who sends what to whom: mostly between pods, some from and to nodes."""
        addresses = [address for pod in scene.pods for address in pod.addresses] * 2 + [*ADDRESSES.values(), VIP]
        chosen: dict[tuple[str, Probe], None] = {}
        while len(chosen) < count:
            kind = self.random.choice(("tcp", "tcp", "tcp", "udp", "icmp"))
            source, address = self.random.choice(list(scene.ends)), self.random.choice(addresses)
            port = {"tcp": self.random.choice((PORT, 81, 82)), "udp": PORT, "icmp": 0}[kind]
            own = address in ADDRESSES.values()
            if own and kind == "tcp" and self.random.random() < 0.5:
                port = NODE_PORT
            if address == VIP:
                kind, port = "tcp", 80
            if not (own and (kind == "udp" or address == ADDRESSES.get(source))):
                chosen[source, Probe(kind, address, port)] = None
        return list(chosen)


def predict(cluster: Cluster, source: str, probe: Probe) -> bool:
    """What explain says; a refusal reaches the sender as an answer does."""
    flows = _flows(cluster, source, probe)
    return all(flow.fate in (Fate.ACCEPTED, Fate.REJECTED) and lost_answer(flow) is None for flow in flows)


def is_decided(cluster: Cluster, source: str, probe: Probe) -> bool:
    """Whether all endpoints of a Service that may be chosen fare alike."""
    return len({(flow.fate, lost_answer(flow) is None) for flow in _flows(cluster, source, probe)}) == 1


def put_service(machines: Machines) -> None:
    """One of all nodes and of a cluster address, with an endpoint on either node."""
    meta = {"name": "web", "namespace": "default"}
    port: Json = {"name": "", "protocol": "TCP", "port": 80, "targetPort": PORT, "nodePort": NODE_PORT}
    spec = {"type": "NodePort", "clusterIP": VIP, "clusterIPs": [VIP], "ports": [port]}
    machines.etcd.put("/felixpy/resources/core/v1/services/default/web", {"metadata": meta, "spec": spec})
    slice_ = {
        "metadata": {**meta, "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "protocol": "TCP", "port": PORT}],
        "endpoints": [{"addresses": ["10.65.1.2"], "nodeName": "n1"}, {"addresses": ["10.65.2.4"], "nodeName": "n2"}],
    }
    machines.etcd.put("/felixpy/resources/discovery.k8s.io/v1/endpointslices/default/web-1", slice_)


def _flows(cluster: Cluster, source: str, probe: Probe) -> Sequence[Any]:
    word = "icmp" if probe.kind == "icmp" else f"{probe.kind}/{probe.port}"
    ends = find_party(cluster, source), find_party(cluster, probe.address)
    return explain_flows(cluster, *ends, parse_traffic(word))


def words(allowed: bool) -> str:
    """As explain says it."""
    return "allowed" if allowed else "denied"


@dataclass(frozen=True)
class Outcome:
    """A world's flows: how many there were, how many got through, and what to read where explain was wrong."""

    flows: int
    allowed: int
    wrong: str


def try_world(scene: Scene, seed: int, count: int = FLOWS) -> Outcome:
    """Writes the world of a seed, waits until both nodes have it, and tries flows."""
    author = Author(seed)
    author.write(scene.machines, scene.pods)
    waited = scene.machines.felixctl("status", "--wait")
    assert waited.code == 0, waited.out + waited.err
    for node in (scene.machines.n1, scene.machines.n2):
        node.namespace.run("conntrack", "-F")  # an echo of the world before has this one's numbers
    cluster = scene.cluster()
    flows = [flow for flow in author.flows(scene, count) if is_decided(cluster, *flow)]
    said = {flow: predict(cluster, *flow) for flow in flows}
    seen = scene.try_flows(said)
    rows, wrong = [], []
    for source, probe in flows:
        asked, done = said[source, probe], seen[source, probe]
        rows.append((source, f"{probe.kind} {probe.address} {probe.port}", words(asked), words(done)))
        if asked != done:
            wrong += [line.text for flow in _flows(cluster, source, probe) for line in render_flow(cluster, flow, True)]
    table = "\n".join((render_table(("from", "to", "explain", "packets"), rows), *wrong)) if wrong else ""
    return Outcome(len(flows), sum(seen.values()), table)
