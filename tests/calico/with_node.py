"""A whole Calico node beside one of ours: routes, pods, policy, tunnels' sides, what its programs say of our data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.agent.node import PORT, Node, resource
from tests.agent.sandbox import Sandbox
from tests.calico.calico_node import CalicoNode, CalicoPod
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import NameServer, tcp_ok
from tests.support.wait import eventually

OURS, THEIRS = "10.98.0.1", "10.98.0.2"
OURS6, THEIRS6 = "fd98::1", "fd98::2"


@dataclass(frozen=True)
class Pod:
    """A pod by its namespace and addresses, whoever wired it."""

    name: str
    namespace: Namespace
    addresses: Sequence[str]

    def reaches(self, other: Pod, address: int = 0) -> bool:
        return tcp_ok(self.namespace, other.addresses[address], PORT, wait_s=0.5)


@dataclass(frozen=True)
class Scene:
    """n1 is ours and has pod a; c1 is Calico's and has pod b. One subnet."""

    ours: Node
    theirs: CalicoNode
    a: Pod
    b: Pod


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        node = stack.enter_context(Node("agent,bgp,controllers", "n1"))
        there = stack.enter_context(Namespace.create("c"))
        link_namespaces(
            node.namespace,
            "eth0",
            there,
            "eth0",
            left_addresses=[f"{OURS}/24", f"{OURS6}/64"],
            right_addresses=[f"{THEIRS}/24", f"{THEIRS6}/64"],
        )
        node.namespace.ip("route", "add", "default", "via", THEIRS)
        there.ip("route", "add", "default", "via", OURS)
        there.ip("-6", "route", "add", "default", "via", OURS6)
        node.namespace.ip("-6", "route", "add", "default", "via", THEIRS6)
        pools = {"four": ("10.64.0.0/20", 26), "six": ("fd64::/116", 122)}
        for name, (cidr, size) in pools.items():
            spec = {"cidr": cidr, "blockSize": size, "ipipMode": "Never", "vxlanMode": "Never", "nodeSelector": "all()"}
            node.put("ippools", resource("IPPool", name, {**spec, "natOutgoing": True}))
        node.agent.start()
        eventually(lambda: node.etcd.get_prefix("/calico/resources/v3/projectcalico.org/nodes/n1"), within_s=30)
        calico = stack.enter_context(CalicoNode("c1", there, f"http://{OURS}:2379"))
        calico.start()
        sandbox = Sandbox(node, "a", stack.enter_context(Namespace.create("s")))
        addresses = eventually(sandbox.add, within_s=20)
        stack.enter_context(NameServer(sandbox.netns, "a", PORT))
        pod = CalicoPod(calico, "b")
        stack.callback(pod.close)
        pod.add()
        yield Scene(node, calico, Pod("a", sandbox.netns, addresses), Pod("b", pod.namespace, pod.addresses))


def test_sessions_are_up_and_blocks_go_both_ways(scene: Scene) -> None:
    for version in (4, 6):
        eventually(
            lambda version=version: "Established" in scene.theirs.birdc(version, "show", "protocols"), within_s=60
        )  # type: ignore[misc]
    for here, there in ((scene.a, scene.b), (scene.b, scene.a)):
        for address in (0, 1):
            eventually(lambda here=here, there=there, address=address: here.reaches(there, address), within_s=60)  # type: ignore[misc]
