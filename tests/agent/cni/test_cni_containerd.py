"""Pods of containerd, as kubelet asks for them, on the configuration list of the DaemonSet."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from felixpy.cni.install import render_conflist
from tests.agent.cni.containerd import Containerd
from tests.agent.node import CALICO, PORT, Node, resource
from tests.agent.sandbox import PLUGIN
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import NameServer, ask_tcp, ping_ok
from tests.support.wait import eventually

ROOT = Path(__file__).parents[3]
OTHERS = Path("/usr/lib/cni")
PODS = "/felixpy/resources/core/v1/pods/web"

pytestmark = pytest.mark.skipif(
    shutil.which("containerd") is None or not (OTHERS / "portmap").exists(),
    reason="containerd and containernetworking-plugins",
)


@dataclass(frozen=True)
class Machine:
    """A node (10.9.0.1) with an agent and containerd, and a neighbour outside."""

    node: Node
    containerd: Containerd
    outside: Namespace

    def put_pod(self, name: str, **annotations: str) -> None:
        """Writes the Pod, as it comes from the API."""
        meta = {"name": name, "namespace": "web", "annotations": annotations}
        body = {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": {"nodeName": "n1"}}
        self.node.etcd.put(f"{PODS}/{name}", body)

    def endpoints(self) -> list[dict[str, object]]:
        return [json.loads(value) for value in self.node.etcd.get_prefix(f"{CALICO}/workloadendpoints/").values()]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with ExitStack() as stack:
        node = stack.enter_context(Node())
        outside = stack.enter_context(Namespace.create("o"))
        link_namespaces(
            node.namespace, "up0", outside, "eth0", left_addresses=["10.9.0.1/24"], right_addresses=["10.9.0.2/24"]
        )
        for name, cidr in (("main", "10.64.0.0/24"), ("six", "fd64::/112")):
            spec = {"cidr": cidr, "ipipMode": "Never", "vxlanMode": "Never"}
            node.put("ippools", resource("IPPool", name, spec))
        node.namespace.add_address("lo", "10.98.0.1/32", "fd98::1/128")
        web = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "web"}}
        node.etcd.put("/felixpy/resources/core/v1/namespaces/web", web)
        node.agent.start()
        eventually(lambda: "in sync" in node.log())
        template = json.loads((ROOT / "deploy" / "10-felixpy.conflist").read_text())
        template["plugins"][0]["ipam"]["assign_ipv6"] = True
        conflist = render_conflist(
            json.dumps(template).encode(), str(node.run_dir), frozenset({"portmap", "bandwidth"})
        )
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"cd{os.getpid()}-")))
        containerd = stack.enter_context(Containerd(node.namespace, base, conflist, [PLUGIN.parent, OTHERS]))
        yield Machine(node, containerd, outside)


def test_a_pod_from_start_to_end(machine: Machine) -> None:
    assert machine.containerd.conditions() == {}
    machine.put_pod("a")
    machine.put_pod("b")
    first, second = (machine.containerd.run_pod(name, "web") for name in ("a", "b"))
    a, _ = machine.containerd.find(first)
    _, addresses = machine.containerd.find(second)
    assert [":" in address for address in addresses] == [False, True]
    assert all(ping_ok(a, address) for address in addresses)
    assert {one["spec"]["pod"] for one in machine.endpoints()} == {"a", "b"}  # type: ignore[index]
    machine.containerd.remove(second)
    assert not ping_ok(a, addresses[0], wait_s=0.3)
    machine.containerd.remove(first)
    assert machine.endpoints() == []


def test_a_host_port_and_bandwidth(machine: Machine) -> None:
    limits = {"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "8M"}
    machine.put_pod("served")
    pod = machine.containerd.run_pod("served", "web", ports={8080: PORT}, annotations=limits)
    netns, _ = machine.containerd.find(pod)
    server = NameServer(netns, "served", PORT)
    try:
        assert (ask_tcp(machine.outside, "10.9.0.1", 8080) or "").startswith("served")
    finally:
        server.stop()
    assert machine.node.namespace.run("tc", "qdisc").count("rate 8Mbit") == 2
    machine.containerd.remove(pod)
    eventually(lambda: "rate 8Mbit" not in machine.node.namespace.run("tc", "qdisc"))


def test_an_annotated_pod(machine: Machine) -> None:
    machine.put_pod("asked", **{"cni.projectcalico.org/ipAddrs": '["10.64.0.99"]'})
    pod = machine.containerd.run_pod("asked", "web")
    assert machine.containerd.find(pod)[1] == ["10.64.0.99"]
    machine.containerd.remove(pod)


def test_the_agent_is_away(machine: Machine) -> None:
    machine.put_pod("stays")
    machine.put_pod("none")
    pod = machine.containerd.run_pod("stays", "web")
    machine.node.agent.kill()
    try:
        with pytest.raises(grpc.RpcError) as raised:
            machine.containerd.run_pod("none", "web")
        assert "the agent is not running" in str(raised.value.details())  # type: ignore[attr-defined]
        machine.containerd.restart()
        machine.containerd.remove(pod)
    finally:
        machine.node.agent.start()
    eventually(lambda: machine.endpoints() == [], within_s=20, what="the kept DEL is done")
    again = eventually(lambda: machine.containerd.run_pod("none", "web"))
    machine.containerd.remove(again)
    assert machine.node.etcd.get_prefix("/calico/ipam/v2/handle/") == {}
