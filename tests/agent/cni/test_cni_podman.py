"""Containers without Kubernetes: podman, our network configuration, and an agent with an etcd of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from felixpy.cni.install import render_conflist
from tests.agent.cni.podman import IMAGE, Podman
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import NameServer, ask_tcp, ask_udp, ping_ok
from tests.support.process import Daemon
from tests.support.wait import eventually

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(sys.executable).parent
OTHERS = "/usr/lib/cni"

pytestmark = pytest.mark.skipif(
    shutil.which("podman") is None or not Path(OTHERS, "portmap").exists(),
    reason="podman and containernetworking-plugins",
)


@dataclass(frozen=True)
class Machine:
    """One machine (10.9.0.1): its namespace, its agent's directory, podman; and a neighbour outside."""

    namespace: Namespace
    run_dir: Path
    podman: Podman
    outside: Namespace
    agent: Daemon

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
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"pm{os.getpid()}-"))
        namespace, outside = (stack.enter_context(Namespace.create(name)) for name in ("m", "o"))
        link_namespaces(
            namespace, "up0", outside, "eth0", left_addresses=["10.9.0.1/24"], right_addresses=["10.9.0.2/24"]
        )
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
            yield Machine(namespace, run_dir, podman, outside, agent)


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


def test_a_restart_keeps_the_asked_address(machine: Machine) -> None:
    _, address = machine.podman.run("again", "--ip", "10.64.0.60", "--mac-address", "02:00:00:00:00:60")
    assert address == "10.64.0.60"
    machine.podman("restart", "--time", "0", "again")
    netns, address = machine.podman.find("again")
    assert address == "10.64.0.60"
    assert "02:00:00:00:00:60" in netns.ip("link", "show", "eth0")
    assert ping_ok(machine.namespace, address)
    machine.podman("rm", "--force", "--time", "0", "again")


def test_a_published_port_is_open_to_all_and_no_other_is(machine: Machine) -> None:
    netns, address = machine.podman.run("web", "--publish", "8080:80", "--publish", "5353:53/udp")
    machine.outside.ip("route", "replace", "10.64.0.0/24", "via", "10.9.0.1")
    servers = [NameServer(netns, "web", port) for port in (80, 53, 81)]
    try:
        for asker in (machine.namespace, machine.outside):
            eventually(lambda: (ask_tcp(asker, "10.9.0.1", 8080) or "").startswith("web"))  # noqa: B023
        assert ask_tcp(machine.outside, "10.9.0.1", 8080) == "web 10.9.0.2", "they are seen as who they are"
        assert ask_udp(machine.outside, "10.9.0.1", 5353) == "web"
        assert ask_tcp(machine.outside, address, 81, wait_s=0.3) is None
    finally:
        for server in servers:
            server.stop()
    machine.podman("rm", "--force", "--time", "0", "web")
    assert ask_tcp(machine.outside, "10.9.0.1", 8080, wait_s=0.3) is None


def test_a_container_on_two_networks(machine: Machine) -> None:
    """Each network's containers reach it by its address there."""
    both, first = machine.podman.run("both", network="felixpy,other")
    _, second = machine.podman.find("both", "other")
    (one, _), (two, _) = machine.podman.run("one"), machine.podman.run("two", network="other")
    assert ping_ok(one, first)
    assert ping_ok(two, second)
    assert not ping_ok(one, second, wait_s=0.3), "it is of another network"
    assert {link["ifname"] for link in json.loads(both.ip("-json", "link"))} >= {"eth0", "eth1"}
    assert len(machine.endpoints()) == 4
    machine.podman("rm", "--all", "--force", "--time", "0")
    assert machine.endpoints() == []


def test_a_pod_of_containers_has_one_endpoint(machine: Machine) -> None:
    infra = ["--infra-image", IMAGE, "--infra-command", "/pause"]
    machine.podman("pod", "create", "--name", "pod", "--network", "felixpy", "--publish", "8081:80", *infra)
    machine.podman("run", "--detach", "--pod", "pod", "--name", "inner", IMAGE)
    assert len(machine.endpoints()) == 1
    (pod,) = json.loads(machine.podman("inspect", "inner"))
    netns = machine.podman.attach(pod["State"]["Pid"])
    server = NameServer(netns, "pod", 80)
    try:
        eventually(lambda: (ask_tcp(machine.outside, "10.9.0.1", 8081) or "").startswith("pod"))
    finally:
        server.stop()
    machine.podman("pod", "rm", "--force", "--time", "0", "pod")
    assert machine.endpoints() == []


def test_containers_outlive_the_agent_and_go_without_it(machine: Machine) -> None:
    a, _ = machine.podman.run("a")
    _, second = machine.podman.run("b")
    machine.agent.kill()
    assert ping_ok(a, second)
    machine.podman("rm", "--force", "--time", "0", "b")
    machine.agent.start()
    eventually(lambda: len(machine.endpoints()) == 1, within_s=20, what="the DEL is done")
    assert not ping_ok(a, second, wait_s=0.3)
    machine.podman("rm", "--all", "--force", "--time", "0")
