"""felixctl diff of a policy in a large cluster: seconds from the command to every pair that fares otherwise.

`python -m tests.bench verdicts`: real etcd on loopback, the command as a person types it; the best of three. A hundred
pods to an app; each app has policies of its own that let in three other apps, so every pod is judged. Then files of
many changed policies that share no net and no port.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.bench.calc import endpoint, render
from tests.support.etcd import Etcd

FELIXCTL = Path(sys.executable).with_name("felixctl")
SIZES = ((1_000, 100), (10_000, 1_000), (50_000, 3_000))
TOUCHED = 100
MANY = 3_000
MANY_ENDPOINTS = 10_000
MANY_APPS = (MANY, TOUCHED)


def policy(name: str, app: int, others: range, action: str = "Allow") -> dict[str, Any]:
    """Lets others reach an app, or not; a rule for each of them."""
    rules = [
        {
            "action": action,
            "protocol": "TCP",
            "source": {"selector": f"app == 'app{other}'"},
            "destination": {"ports": [8000 + other % 7, "9000:9100"]},
        }
        for other in others
    ]
    return {
        "tier": "default",
        "order": len(name),
        "selector": f"app == 'app{app}'",
        "types": ["Ingress"],
        "ingress": rules,
    }


def cluster(endpoints: int, policies: int) -> Iterator[tuple[bytes, bytes]]:
    """Everything."""
    apps = max(endpoints // TOUCHED, 10)
    yield render("Profile", "profiles", "open", {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]})
    yield render("Tier", "tiers", "default", {"order": 1_000_000})
    for number in range(endpoints):
        yield endpoint(
            f"r{number // 100}", number + 1, f"cali{number}", app=f"app{number % apps}", env=f"e{number % 7}"
        )
    for number in range(policies):
        first = number * 7 % apps
        spec = policy(f"p{number}", number % apps, range(first, first + 3))
        yield render("GlobalNetworkPolicy", "globalnetworkpolicies", f"default.p{number}", spec)


def many(apps: int, port: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and specs of policies for as many apps, each with nets and ports of its own; `port` makes them others."""
    for number in range(MANY):
        net = f"172.{16 + number // 4096}.{number // 16 % 256}.{number % 16 * 16}/28"
        other = {"selector": f"app == 'app{(number * 7 + 1) % apps}'"}
        ranges = [1_000 + number, f"{20_000 + number * 4}:{20_001 + number * 4 + port}"]
        rules = [
            {"action": "Allow", "protocol": "TCP", "source": {"nets": [net]}, "destination": {"ports": ranges}},
            {
                "action": "Allow",
                "protocol": "TCP",
                "source": other,
                "destination": {"ports": [2 + number % 900 + port]},
            },
        ]
        selector = f"app == 'app{number % apps}'"
        types = ["Ingress"]
        yield f"m{number}", {"tier": "default", "order": number, "selector": selector, "types": types, "ingress": rules}


def document(spec: Mapping[str, Any], name: str = "new") -> str:
    """A policy as people write it."""
    meta = {"name": name}
    return yaml.safe_dump(
        {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": meta, "spec": dict(spec)}
    )


def ask(url: str, text: str) -> tuple[float, float, int]:
    """Seconds that the answer takes, those of them on a processor, and how many pairs it tells of."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        begin, busy = time.perf_counter(), _busy_s()
        done = subprocess.run(
            [FELIXCTL, "diff", "-f", file.name, "-o", "json"],
            env={**os.environ, "FELIXPY_ETCD": url},
            capture_output=True,
            text=True,
            timeout=300,
        )
        taken, busy = time.perf_counter() - begin, _busy_s() - busy
    assert done.returncode == 1, done.stderr
    return taken, busy, int(json.loads(done.stdout)["pairs"])


def _busy_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Prints the table."""
    some = document({**policy("n", 0, range(1, 3), "Deny"), "order": 0})
    everything = document({**policy("n", 0, range(0)), "order": 0, "ingress": [{"action": "Deny"}]})
    columns = f"{'two rules s':>11} {'cpu s':>6} {'pairs':>6} {'deny all s':>11} {'cpu s':>6} {'pairs':>6}"
    print(f"{'endpoints':>9} {'policies':>8} {columns}")
    with Etcd() as etcd:
        for endpoints, policies in SIZES:
            etcd.delete_prefix("/")
            etcd.put_all(list(cluster(endpoints, policies)))
            one, busy, pairs = min(ask(etcd.url, some) for _ in range(3))
            other, more_busy, more = min(ask(etcd.url, everything) for _ in range(3))
            row = f"{one:11.2f} {busy:6.2f} {pairs:6} {other:11.2f} {more_busy:6.2f} {more:6}"
            print(f"{endpoints:9} {policies:8} {row}", flush=True)
        print(f"{'endpoints':>9} {'changed':>8} {'apps':>6} {'s':>7} {'cpu s':>6} {'pairs':>8}")
        for apps in MANY_APPS:
            etcd.delete_prefix("/")
            endpoints = (
                endpoint(f"r{number // 100}", number + 1, f"cali{number}", app=f"app{number % apps}")
                for number in range(MANY_ENDPOINTS)
            )
            stored = (
                render("GlobalNetworkPolicy", "globalnetworkpolicies", f"default.{name}", spec)
                for name, spec in many(apps, 0)
            )
            etcd.put_all([*cluster(0, 0), *endpoints, *stored])
            text = "---\n".join(document(spec, name) for name, spec in many(apps, 1))
            taken, busy, pairs = ask(etcd.url, text)
            print(f"{MANY_ENDPOINTS:9} {MANY:8} {apps:6} {taken:7.2f} {busy:6.2f} {pairs:8}", flush=True)
