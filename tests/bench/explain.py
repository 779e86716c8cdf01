"""felixctl explain in a large cluster: seconds from the command to its answer, over endpoints and policies.

`python -m tests.bench explain`: real etcd on loopback, the command as a person types it; the best of three.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.calc import cluster, endpoint
from tests.support.etcd import Etcd

FELIXCTL = Path(sys.executable).with_name("felixctl")
SIZES = ((1_000, 100), (10_000, 1_000), (50_000, 3_000))


def ask(url: str, *arguments: str) -> float:
    """Seconds that one question takes."""
    environment = {**os.environ, "FELIXPY_ETCD": url}
    begin = time.perf_counter()
    done = subprocess.run(
        [FELIXCTL, "explain", *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (0, 1), done.stderr
    return time.perf_counter() - begin


def main() -> None:
    """Prints the table."""
    print(f"{'endpoints':>9} {'policies':>8} {'by name s':>9} {'by address s':>12}")
    with Etcd() as etcd:
        for endpoints, policies in SIZES:
            etcd.delete_prefix("/")
            etcd.put_all((*cluster(endpoints, policies), endpoint("r0", 2, "cali2", app="app2", env="e2")))
            named = min(ask(etcd.url, "cali2", "n1-cni-p1-eth0", "tcp/8000") for _ in range(3))
            numbered = min(ask(etcd.url, "10.64.0.2", "10.64.0.1", "tcp/8000") for _ in range(3))
            print(f"{endpoints:9} {policies:8} {named:9.2f} {numbered:12.2f}", flush=True)
