"""How soon a Service address that becomes ready is announced: from the write in etcd to the neighbour.

`python -m tests.bench.announce [RUNS]`: n2 serves an address by policy Local, and its endpoint becomes ready, and
unready, again and again; n1, a BGP neighbour, learns it and puts it into its kernel. Counted from before the write.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from tests.agent.cluster import Cluster, two_nodes
from tests.support.wait import eventually

RUNS = 100
VIP = "172.30.0.1"
OURS = "/felixpy/resources"


def put_service(made: Cluster) -> None:
    """A Service with an address."""
    spec = {
        "type": "LoadBalancer",
        "ports": [{"port": 80, "protocol": "TCP"}],
        "externalTrafficPolicy": "Local",
    }
    made.etcd.put(f"{OURS}/core/v1/services/a/web", {"metadata": {"name": "web", "namespace": "a"}, "spec": spec})
    made.etcd.put(f"/felixpy/grants/addresses/{VIP}", {"address": VIP, "services": ["a/web"]})


def put_endpoint(made: Cluster, ready: bool) -> None:
    """Its only endpoint, on n2."""
    body: dict[str, Any] = {
        "metadata": {"name": "web", "namespace": "a", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.64.9.1"], "nodeName": "n2", "conditions": {"ready": ready}}],
        "ports": [{"port": 80, "protocol": "TCP"}],
    }
    made.etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/a/web", body)


def wait_for(monitor: subprocess.Popen[str], gone: bool) -> float:
    """When n1's kernel told of the address, coming or going."""
    assert monitor.stdout is not None
    for line in monitor.stdout:
        if VIP in line and line.startswith("Deleted") == gone:
            return time.perf_counter()
    raise RuntimeError("the monitor has ended")


def main(runs: int = RUNS) -> None:
    """Prints both ways."""
    with two_nodes("agent,bgp") as made:
        put_service(made)
        put_endpoint(made, ready=False)
        made.start()
        eventually(lambda: established(made), within_s=40)
        argv = made.n1.namespace.enter_argv(["stdbuf", "-oL", "ip", "monitor", "route"])
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as monitor:
            times: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(runs):
                for ready in (True, False):
                    time.sleep(0.05)
                    begin = time.perf_counter()
                    put_endpoint(made, ready)
                    times[ready].append((wait_for(monitor, gone=not ready) - begin) * 1e3)
            monitor.terminate()
    for ready, words in ((True, "ready to announced, and in the neighbour's kernel"), (False, "unready to withdrawn")):
        some = sorted(times[ready])
        p99 = some[-(-len(some) * 99 // 100) - 1]
        median = statistics.median(some)
        print(f"{words}: median {median:.1f} ms, p99 {p99:.1f} ms, longest {some[-1]:.1f} ms of {runs}")


def established(made: Cluster) -> bool:
    said = json.loads(made.felixctl("status", "n2", "-o", "json").out)
    return any(one["established"] for one in said["bgp"]["sessions"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
