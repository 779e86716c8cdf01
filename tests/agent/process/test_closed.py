"""What one wrong object may not do: close the node to every other pod."""

from __future__ import annotations

import json

from felixpy.addresses import parse_address
from felixpy.agent.kernel.dataplane import Dataplane
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import WorkloadEndpoint
from tests.agent.conftest import Scene
from tests.agent.node import CALICO, resource
from tests.fakes.kernel import FakeKernel
from tests.support.wait import eventually, until


def test_an_endpoint_of_an_unfit_device_closes_nobody_else(scene: Scene) -> None:
    c = scene.node.pod("c", "10.65.0.4")
    odd = scene.node.pod("odd", "10.65.0.9")
    odd.device = "workload"
    odd.write()
    c.write()
    eventually(lambda: c.reaches(scene.b) and scene.b.reaches(c), what="c and b reach each other")
    chains = scene.node.nft("list", "chains")
    assert f"ep-from-{c.device}" in chains
    assert "ep-from-workload" not in chains
    assert '"workload"' not in scene.node.nft("list", "map", "inet", "felixpy", "from-endpoint")


IPAM, CORE = "/calico/ipam/v2", "/felixpy/resources/core/v1"
NESTED_KEYS = (
    f"{CALICO}/workloadendpoints/default/n1-k8s-odd-eth0", f"{CALICO}/nodes/n1", f"{CALICO}/ippools/odd",
    f"{IPAM}/assignment/ipv4/block/10.99.0.0-26", f"{IPAM}/host/n1/ipv4/block/10.99.0.0-26", f"{IPAM}/config",
    f"{CORE}/pods/default/odd", f"{CORE}/namespaces/odd", "/felixpy/grants/addresses/10.0.0.1",
    "/felixpy/holders/n1/odd", "/felixpy/answering/n2", "/felixpy/ask/odd",
)  # fmt: skip


def test_text_that_is_no_utf_8_ends_no_agent(scene: Scene) -> None:
    """It stands in fields that nobody reads, of objects that the agent writes back whole: its Node, and a pod of it."""
    node = scene.node
    endpoint = {"node": "n1", "pod": "p", "endpoint": "eth0", "containerID": "c", "interfaceName": "x"}
    pod = resource("WorkloadEndpoint", "n1-k8s-p-eth0", endpoint, namespace="default")
    pod["metadata"]["annotations"] = {"felixpy.io/network": "net"}
    labelled = {"metadata": {"name": "p", "namespace": "default", "labels": {"a": "b"}}, "spec": {"nodeName": "n1"}}
    tunnel = {"cidr": "10.77.0.0/24", "vxlanMode": "Always", "ipipMode": "Never"}
    node.put("ippools", resource("IPPool", "tunnels", tunnel))
    node.etcd.put(f"{CORE}/pods/default/p", labelled)
    spoiled = {
        f"{CALICO}/workloadendpoints/default/n1-k8s-p-eth0": pod,
        f"{CALICO}/nodes/n1": resource("Node", "n1", {"bgp": {"ipv4Address": "10.0.0.1/24"}}),
    }
    for key, body in spoiled.items():
        node.etcd.put_all([(key.encode(), json.dumps({**body, "unread": "?"}).encode().replace(b"?", b"\xff"))])
    eventually(lambda: not node.agent.running or "tunnel addresses are not as they should be" in node.log())
    _still_works(scene)


def test_json_that_is_nested_beyond_any_stack_ends_no_agent(scene: Scene) -> None:
    nested = b'{"nodeName":"n1","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    scene.node.etcd.put_all((key.encode(), nested) for key in NESTED_KEYS)
    _still_works(scene)


def _still_works(scene: Scene) -> None:
    c = scene.node.pod("c", "10.65.0.4")
    c.write()
    eventually(lambda: c.reaches(scene.b), within_s=30, what="c reaches b")
    assert scene.node.agent.running, scene.node.log()


async def test_a_kernel_that_is_silent_at_the_start_is_neither_written_nor_the_end() -> None:
    kernel = FakeKernel()
    dataplane = Dataplane("n1", kernel, dict, lambda _: 0)
    kernel.unreachable = True
    dataplane.flush(1, ServiceDelta({}))
    assert not dataplane.started
    kernel.unreachable = False
    await until(lambda: dataplane.started)
    assert "filter-forward" in kernel.netfilter.chains


async def test_a_repair_that_the_kernel_does_not_answer_is_not_lost() -> None:
    kernel = FakeKernel()
    dataplane = Dataplane("n1", kernel, dict, lambda _: 0)
    dataplane.flush(1, ServiceDelta({}))
    kernel.flush_netfilter()
    kernel.unreachable = True
    dataplane.rules_changed("a flush", certain=True)
    await until(lambda: dataplane.reconciler.stale)
    kernel.unreachable = False
    await until(lambda: "filter-forward" in kernel.netfilter.chains)


async def test_what_two_endpoints_want_on_one_device_is_put_when_it_comes() -> None:
    kernel = FakeKernel()
    dataplane = Dataplane("n1", kernel, dict, lambda _: 0)
    names = (Name("default", "a"), Name("default", "b"))
    for number, name in enumerate(names):
        endpoint = WorkloadEndpoint("n1", "cali1", (parse_address(f"10.65.0.{number}"),), (), ())
        dataplane.update(Ref(Table.WORKLOAD, name), endpoint)
    dataplane.flush(1, ServiceDelta({}))
    dataplane.update(Ref(Table.WORKLOAD, Name("default", "c")), endpoint)
    dataplane.flush(2, ServiceDelta({}))
    dataplane.update(Ref(Table.WORKLOAD, Name("default", "c")), None)
    dataplane.flush(3, ServiceDelta({}))
    kernel.add_device("cali1")
    dataplane.device_changed("cali1", 7, up=True, gone=False)
    assert [dataplane.holds(name) for name in names] == [True, True]
