"""Law 2 as a curve: what one change costs in the calculation, over the size of the cluster.

`python -m tests.bench calc`: CPU time from an etcd value to the Changes it asks for, by number of endpoints (all on
other nodes) and policies (100 of them apply here). Flat lines are the claim.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from felixpy.calc.graph import Graph
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.translate import Translator
from felixpy.resources.codec import Decoder
from felixpy.resources.tables import Decoded

CALICO = "/calico/resources/v3/projectcalico.org"
NODE = "n1"
ACTIVE = 100
ROUNDS = 31
BIG = 5_000
"""Pods of one namespace whose label changes, where there are so many."""
SIZES = tuple((endpoints, policies) for endpoints in (1_000, 10_000, 50_000) for policies in (100, 1_000, 3_000))


def render(kind: str, plural: str, name: str, spec: object, namespace: str = "", **labels: str) -> tuple[bytes, bytes]:
    """Key and value of a resource."""
    meta = {"name": name, "labels": labels} | ({"namespace": namespace} if namespace else {})
    place = f"{namespace}/{name}" if namespace else name
    body = {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": meta, "spec": spec}
    return f"{CALICO}/{plural}/{place}".encode(), json.dumps(body).encode()


def endpoint(
    node: str, number: int, device: str, profiles: tuple[str, ...] = ("open",), **labels: str
) -> tuple[bytes, bytes]:
    """A WorkloadEndpoint with an address made of its number."""
    address = f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}/32"
    spec = {"node": node, "interfaceName": device, "ipNetworks": [address], "profiles": profiles}
    return render("WorkloadEndpoint", "workloadendpoints", f"{node}-cni-p{number}-eth0", spec, "default", **labels)


def policy(number: int, action: str = "Allow") -> tuple[bytes, bytes]:
    """A policy with three rules; the first `ACTIVE` apply to this node's pod."""
    selector = "role == 'server'" if number < ACTIVE else f"app == 'app{number % 200}' && has(role)"
    rules = [
        {
            "action": action,
            "protocol": "TCP",
            "source": {"selector": f"app == 'app{(number * 7 + rule) % 200}' && env == 'e{(number + rule) % 10}'"},
            "destination": {"ports": [8000 + rule, "9000:9100"]},
        }
        for rule in range(3)
    ]
    spec = {"tier": "default", "order": number, "selector": selector, "types": ["Ingress"], "ingress": rules}
    return render("GlobalNetworkPolicy", "globalnetworkpolicies", f"default.p{number}", spec)


def namespace(**labels: str) -> tuple[bytes, bytes]:
    """The Namespace of the first `BIG` endpoints."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "big", "labels": labels}}
    return b"/felixpy/resources/core/v1/namespaces/big", json.dumps(body).encode()


def of_a_team(team: str) -> tuple[bytes, bytes]:
    """A policy for this node's pod that lets in a team's namespaces."""
    rule = {"action": "Allow", "source": {"namespaceSelector": f"team == '{team}'"}}
    spec = {"tier": "default", "selector": "role == 'server'", "types": ["Ingress"], "ingress": [rule]}
    return render("GlobalNetworkPolicy", "globalnetworkpolicies", f"default.{team}", spec)


def cluster(endpoints: int, policies: int) -> Iterator[tuple[bytes, bytes]]:
    """Everything that the agent reads at start."""
    allow = [{"action": "Allow"}]
    yield render("Profile", "profiles", "open", {"ingress": allow, "egress": allow})
    yield endpoint(NODE, 1, "cali1", role="server", app="app1", env="e1")
    yield namespace(team="red")
    yield from map(of_a_team, ("red", "blue"))
    for number in range(2, endpoints + 2):
        profiles = ("open", "kns.big") if number < BIG + 2 else ("open",)
        yield endpoint(f"r{number // 100}", number, "", profiles, app=f"app{number % 200}", env=f"e{number % 10}")
    for number in range(policies):
        yield policy(number)


@dataclass
class Pipeline:
    """From a key and value to what the kernel has to change."""

    def __post_init__(self) -> None:
        self.decoder = Decoder(NODE)
        self.graph = Graph(NODE)
        self.translator = Translator(self.graph.sets.members)

    def take(self, key: bytes, value: bytes | None) -> None:
        """One change, without a flush."""
        decoded = self.decoder.decode(key, value)
        assert isinstance(decoded, Decoded)
        self.graph.update(decoded.ref, decoded.value)

    def flush(self) -> Changes:
        """What the changes so far ask for."""
        changes = Changes()
        self.translator.translate(self.graph.flush(), changes)
        return changes


def time_change(pipeline: Pipeline, make: Callable[[int], tuple[bytes, bytes]]) -> float:
    """Median microseconds from a value to its Changes."""
    times = []
    for turn in range(ROUNDS):
        key, value = make(turn)
        begin = time.process_time()
        pipeline.take(key, value)
        changes = pipeline.flush()
        times.append(time.process_time() - begin)
        assert changes, "a change that asks for nothing measures nothing"
    return statistics.median(times) * 1e6


def main() -> None:
    """Prints the table."""
    columns = f"{'load s':>7} {'rule µs':>8} {'remote label µs':>15} {'local pod µs':>12} {'namespace µs':>12}"
    print(f"{'endpoints':>9} {'policies':>8} {columns}   (a namespace of {BIG} pods, or all)")
    for endpoints, policies in SIZES:
        pipeline = Pipeline()
        values = list(cluster(endpoints, policies))
        gc.collect()
        gc.disable()
        begin = time.process_time()
        for key, value in values:
            pipeline.take(key, value)
        pipeline.flush()
        load_s = time.process_time() - begin
        gc.freeze()
        gc.enable()
        rule = time_change(pipeline, lambda turn: policy(7, ("Deny", "Allow")[turn % 2]))
        label = time_change(pipeline, lambda turn: endpoint("r0", 50, "", app="app0", env=("e0", "none")[turn % 2]))
        pod = time_change(pipeline, lambda turn: endpoint(NODE, 250_000 + turn, f"cali{turn}x", app="new"))
        team = time_change(pipeline, lambda turn: namespace(team=("blue", "red")[turn % 2]))
        row = f"{load_s:7.2f} {rule:8.0f} {label:15.0f} {pod:12.0f} {team:12.0f}"
        print(f"{endpoints:9} {policies:8} {row}", flush=True)
        gc.unfreeze()
