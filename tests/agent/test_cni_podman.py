"""Containers without Kubernetes: podman, our network configuration, and an agent with an etcd of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from felixpy.cni.install import render_conflist
from tests.agent.podman import Podman
from tests.support.netns import Namespace
from tests.support.packets import NameServer, ask_tcp, ping_ok
from tests.support.process import Daemon
from tests.support.wait import eventually

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
OTHERS = "/usr/lib/cni"

pytestmark = pytest.mark.skipif(
    shutil.which("podman") is None or not Path(OTHERS, "portmap").exists(),
    reason="podman and containernetworking-plugins",
)


@dataclass(frozen=True)
class Machine:
    """One machine: its namespace, its agent's directory, podman."""

    namespace: Namespace
    run_dir: Path
    podman: Podman

    def endpoints(self) -> list[str]:
        """Names of the endpoints, as felixctl lists them."""
        done = subprocess.run(
            self.namespace.enter_argv([PROGRAMS / "felixctl", "get", "workloadendpoints", "-A", "-o", "json"]),
            capture_output=True,
            text=True,
            env={**os.environ, "FELIXPY_ETCD": "local", "FELIXPY_RUN_DIR": str(self.run_dir)},
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return [one["metadata"]["name"] for one in found.get("items", [found])]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix=f"pm{os.getpid()}-") as directory, Namespace.create("m") as namespace:
        namespace.add_address("lo", "10.98.0.1/32")
        namespace.sysctl(ipv4__ip_forward=1)
        run_dir = Path(directory, "felixpy")
        flags = ["--etcd", "local", "--node", "n1", "--roles", "agent", "--run-dir", str(run_dir)]
        agent = Daemon(
            [PROGRAMS / "felixpy", *flags, "--default-pool", "10.64.0.0/24"],
            Path(directory, "agent.log"),
            netns=namespace.name,
        )
        template = (ROOT / "deploy" / "containers.conflist").read_bytes()
        conflist = render_conflist(template, str(run_dir), frozenset({"portmap"}))
        with agent, Podman(namespace, Path(directory, "podman"), conflist, [str(ROOT / "build"), OTHERS]) as podman:
            podman.make_image()
            eventually(lambda: "made the default pools" in agent.tail(200), within_s=30)
            yield Machine(namespace, run_dir, podman)


def test_two_containers_ping_each_other(machine: Machine) -> None:
    (a, first), (b, second) = machine.podman.run("a"), machine.podman.run("b")
    assert ping_ok(a, second)
    assert ping_ok(b, first)
    assert ping_ok(machine.namespace, first)
    assert len(machine.endpoints()) == 2
    machine.podman("rm", "--force", "--time", "0", "a", "b")
    assert machine.endpoints() == []
    assert not ping_ok(machine.namespace, first, wait_s=0.3)


def test_a_container_comes_again(machine: Machine) -> None:
    machine.podman.run("again")
    machine.podman("stop", "--time", "0", "again")
    assert machine.endpoints() == []
    machine.podman("start", "again")
    _, address = machine.podman.find("again")
    assert ping_ok(machine.namespace, address)
    machine.podman("rm", "--force", "--time", "0", "again")


def test_an_asked_address_and_a_published_port(machine: Machine) -> None:
    netns, address = machine.podman.run("web", "--ip", "10.64.0.50", "--publish", "8080:80")
    assert address == "10.64.0.50"
    server = NameServer(netns, "web", 80)
    try:
        eventually(lambda: (ask_tcp(machine.namespace, "10.98.0.1", 8080) or "").startswith("web"))
    finally:
        server.stop()
    machine.podman("rm", "--force", "--time", "0", "web")
