"""One node with 500 pods that 50 policies each concern: its start, and one endpoint's change.

`python -m tests.bench crowd`: the agent as people start it, real veths, nftables. The change is one more label of one
pod, which takes it out of a policy, and another action of one policy's rule; what it costs the kernel is the agent's
own word: from the ops to the kernel's answer.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.agent.node import CALICO, Node, resource
from tests.bench.bgp import cpu_seconds
from tests.support.wait import eventually

PODS, POLICIES, CHANGES, WARM_UP = 500, 50, 31, 4
APPLIED = re.compile(r": (\d+) ops in ([0-9.]+) ms")


def endpoint(number: int, **labels: str) -> tuple[bytes, bytes]:
    """Pod `number`, which every policy concerns unless its label `out` says otherwise."""
    name = f"n1-cni-p{number}-eth0"
    spec = {
        "node": "n1",
        "orchestrator": "cni",
        "workload": f"p{number}",
        "endpoint": "eth0",
        "interfaceName": f"cali{number}",
        "ipNetworks": [f"10.65.{number >> 8}.{number & 255}/32", f"fd65::{number:x}/128"],
        "profiles": ["open"],
    }
    body = resource("WorkloadEndpoint", name, spec, {"role": "server", "app": f"app{number % 20}", **labels}, "default")
    return f"{CALICO}/workloadendpoints/default/{name}".encode(), json.dumps(body).encode()


def policies() -> list[tuple[bytes, bytes]]:
    """Each lets in another app, at three ports."""
    made = []
    for number in range(POLICIES):
        rules = [
            {
                "action": "Allow",
                "protocol": "TCP",
                "source": {"selector": f"app == 'app{(number + rule) % 20}'"},
                "destination": {"ports": [8000 + rule, "9000:9100"]},
            }
            for rule in range(3)
        ]
        spec = {"tier": "default", "order": number, "types": ["Ingress"], "ingress": rules}
        spec["selector"] = f"role == 'server' && out != '{number}'"
        body = resource("GlobalNetworkPolicy", f"default.p{number}", spec)
        made.append((f"{CALICO}/globalnetworkpolicies/default.p{number}".encode(), json.dumps(body).encode()))
    return made


def routes(node: Node) -> int:
    """Pods that have a route, which come after their rules."""
    return node.namespace.ip("-4", "-N", "route", "show", "proto", "176").count("\n")


def batches(node: Node) -> list[tuple[int, float]]:
    """Ops and milliseconds of what the agent applied lately."""
    found = (
        APPLIED.search(line) for line in node.agent.tail(400).splitlines() if "packets" in line or "kernel" in line
    )
    return [(int(one[1]), float(one[2])) for one in found if one is not None]


def say(what: str, figure: float, unit: str) -> None:
    print(f"  {what:<60} {figure:9.2f} {unit}", flush=True)


def main() -> None:
    """Prints the figures."""
    with Node() as node:
        node.etcd.put_all([endpoint(number) for number in range(1, PODS + 1)] + policies())
        lines = [f"link add cali{number} type veth peer name peer{number}" for number in range(1, PODS + 1)]
        lines += [f"link set cali{number} up" for number in range(1, PODS + 1)]
        node.namespace.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        for what in ("start", "restart, nothing to do"):
            before, begin = node.agent.tail(400).count("in sync"), time.perf_counter()
            node.agent.start()
            eventually(lambda before=before: node.agent.tail(400).count("in sync") > before, 60, 0.02)
            eventually(lambda: routes(node) == PODS, 60, 0.02)
            say(f"{what}: to {PODS} pods with {POLICIES} policies each", time.perf_counter() - begin, "s")
            say("of which on a processor", cpu_seconds(node.agent.pid), "s")
            if what == "start":
                node.agent.stop()
                node.agent = node.make_agent()
        rules = policies()
        plain = {"ports": [8000]}
        measure(node, "one endpoint's change", lambda turn: endpoint(7, **({"out": "3"} if turn % 2 == 0 else {})))
        measure(node, "one policy's change, ranges of ports in it", lambda turn: changed(rules[3], turn))
        measure(node, "one policy's change, a port in it", lambda turn: changed(rules[3], turn, plain))


def changed(policy: tuple[bytes, bytes], turn: int, destination: object = None) -> tuple[bytes, bytes]:
    """A policy whose first rule denies every other time, and (where that is said) has another destination."""
    key, value = policy
    body = json.loads(value)
    for rule in body["spec"]["ingress"]:
        rule["destination"] = destination or rule["destination"]
    body["spec"]["ingress"][0]["action"] = ("Deny", "Allow")[turn % 2]
    return key, json.dumps(body).encode()


def processor_ms(pid: int) -> float:
    """What the process's first thread has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def measure(node: Node, what: str, make: Callable[[int], tuple[bytes, bytes]]) -> None:
    """Prints what a change takes, and what of it the kernel and a processor do."""
    seen = []
    for turn in range(-WARM_UP, CHANGES):
        before = len(batches(node))
        key, value = make(turn)
        begin, spent = time.perf_counter(), processor_ms(node.agent.pid)
        node.etcd.put(key.decode(), value.decode())
        eventually(lambda before=before: len(batches(node)) > before, 10, 0.005)
        took = time.perf_counter() - begin
        if turn >= 0:
            seen.append((took * 1e3, *batches(node)[-1], processor_ms(node.agent.pid) - spent))
    medians = [statistics.median(one[place] for one in seen) for place in range(4)]
    say(f"{what}: from the write to the agent's word", medians[0], "ms")
    say("of which from the ops to the kernel's answer", medians[2], "ms")
    say("on a processor, all of the change", medians[3], "ms")
    say("ops", medians[1], "")
