"""Floating addresses: packets to them reach the pod, whose policies decide; with both back ends and both families."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.agent.node import CALICO, PORT, Node, Pod, resource
from tests.agent.sandbox import Sandbox
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import NameServer, ask_tcp, ask_udp, tcp_ok
from tests.support.wait import eventually

POD4, POD6 = "10.65.0.2", "fd65::2"
FLOATING = {4: ("192.0.2.1", POD4), 6: ("2001:db8::1", POD6)}


@dataclass(frozen=True)
class World:
    """A node with pods a and b and a neighbour outside, which sends all that it sends through the node."""

    node: Node
    a: Pod
    b: Pod
    outside: Namespace

    def enable(self, word: str = "Enabled") -> None:
        self.node.put("felixconfigurations", resource("FelixConfiguration", "default", {"floatingIPs": word}))

    def give(self, pod: Pod, *pairs: tuple[str, str]) -> None:
        """Writes the pod's endpoint with these floating addresses."""
        pod.write()
        body = json.loads(self.node.etcd.get_prefix(pod.key)[pod.key])
        body["spec"]["ipNATs"] = [{"externalIP": external, "internalIP": internal} for external, internal in pairs]
        self.node.etcd.put(pod.key, body)

    def heard(self, source: Namespace, address: str, wait_s: float = 3) -> str:
        """Who answers there over TCP, and whom they see."""
        return ask_tcp(source, address, PORT, wait_s=wait_s) or ""

    def reached(self, source: Namespace, address: str) -> bool:
        """Whether somebody answers there soon."""
        return tcp_ok(source, address, PORT, wait_s=0.3)


@pytest.fixture(params=["nftables", "iptables-legacy"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("FELIXPY_BACKEND", request.param)
    with ExitStack() as stack:
        node = stack.enter_context(Node())
        outside = stack.enter_context(Namespace.create("o"))
        link_namespaces(
            node.namespace, "up0", outside, "eth0",
            left_addresses=["10.9.0.1/24", "fd09::1/64"], right_addresses=["10.9.0.2/24", "fd09::2/64"],
        )  # fmt: skip
        for via in ("10.9.0.1", "fd09::1"):
            outside.ip("-6" if ":" in via else "-4", "route", "add", "default", "via", via)
        made = World(node, node.pod("a", POD4, POD6), node.pod("b", "10.65.0.3", "fd65::3"), outside)
        made.b.write()
        node.agent.start()
        yield made


def test_a_floating_address_from_everywhere(world: World) -> None:
    world.give(world.a, *FLOATING.values())
    world.enable()
    for version, (external, internal) in FLOATING.items():
        from_outside, from_b = {4: ("10.9.0.2", "10.65.0.3"), 6: ("fd09::2", "fd65::3")}[version]
        eventually(lambda: world.heard(world.outside, external, 0.3) == f"a {from_outside}")  # noqa: B023
        assert world.heard(world.b.namespace, external) == f"a {from_b}"
        assert world.heard(world.a.namespace, external) == f"a {external}", "the pod hears itself by that address"
        assert world.heard(world.node.namespace, external).startswith("a "), "the node itself"
        assert ask_udp(world.outside, external, PORT) == "a"
        routes = world.node.namespace.ip(f"-{version}", "route", "show", external)
        assert f"dev {world.a.device}" in routes
        assert world.heard(world.outside, internal).startswith("a "), "and by the address of its own"


def test_the_pods_policy_decides(world: World) -> None:
    world.give(world.a, *FLOATING.values())
    world.enable()
    eventually(lambda: world.heard(world.outside, "192.0.2.1", 0.3))
    allowed = {"action": "Allow", "destination": {"nets": [f"{POD4}/32"]}, "source": {"nets": ["10.9.0.2/32"]}}
    world.node.policy("own", "name == 'a'", ingress=[allowed])
    eventually(lambda: not world.reached(world.b.namespace, "192.0.2.1"))
    assert world.heard(world.outside, "192.0.2.1") == "a 10.9.0.2", "rules see the pod's own address"
    assert not world.reached(world.outside, "2001:db8::1")


def test_a_floating_address_moves_and_goes(world: World) -> None:
    world.give(world.a, FLOATING[4])
    world.enable()
    eventually(lambda: world.heard(world.outside, "192.0.2.1", 0.3).startswith("a "))
    world.give(world.a)
    world.give(world.b, ("192.0.2.1", "10.65.0.3"), ("192.0.2.2", "10.65.0.3"))
    eventually(lambda: world.heard(world.outside, "192.0.2.1", 0.3).startswith("b "))
    assert world.heard(world.outside, "192.0.2.2").startswith("b ")
    assert world.heard(world.b.namespace, "192.0.2.2") == "b 192.0.2.1", "the lowest one stands for the pod"
    world.enable("Disabled")
    eventually(lambda: not world.reached(world.outside, "192.0.2.1"))
    assert world.node.namespace.ip("route", "show", "192.0.2.1") == ""
    assert world.heard(world.outside, "10.65.0.3").startswith("b ")


def test_two_pods_that_claim_one_address(world: World) -> None:
    """The first endpoint by name has it, whoever came first; the other gets it when that one goes."""
    world.give(world.b, ("192.0.2.1", "10.65.0.3"))
    world.enable()
    eventually(lambda: world.heard(world.outside, "192.0.2.1", 0.3).startswith("b "))
    world.give(world.a, FLOATING[4])
    eventually(lambda: world.heard(world.outside, "192.0.2.1", 0.3).startswith("a "))
    world.node.etcd.delete(world.a.key)
    eventually(lambda: world.heard(world.outside, "192.0.2.1", 0.3).startswith("b "))


def test_an_annotated_pod_through_cni(world: World) -> None:
    node = world.node
    world.enable()
    node.put("ippools", resource("IPPool", "main", {"cidr": "10.64.0.0/24", "ipipMode": "Never"}))
    asked = {"cni.projectcalico.org/floatingIPs": '["192.0.2.9"]'}
    body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "web", "annotations": asked}}
    node.etcd.put("/felixpy/resources/core/v1/pods/web/p", {**body, "spec": {"nodeName": "n1"}})
    node.etcd.put("/felixpy/resources/core/v1/namespaces/web", {"kind": "Namespace", "metadata": {"name": "web"}})
    with Namespace.create("s") as netns:
        sandbox = Sandbox(node, "p", netns, "web")
        offered = {"feature_control": {"floating_ips": True}}
        refused = eventually(lambda: sandbox.call("ADD").code == 7 and sandbox.call("ADD"), what="not offered")
        assert "feature_control.floating_ips" in refused.details
        sandbox.add(**offered)
        server = NameServer(netns, "p", PORT)
        try:
            assert tcp_ok(world.outside, "192.0.2.9", PORT), "when ADD returns, the address is there"
        finally:
            server.stop()
        sandbox.delete()
        assert node.etcd.get_prefix(f"{CALICO}/workloadendpoints/web/") == {}
