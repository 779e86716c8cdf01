"""Which source address leaves the cluster, and what becomes of packets to a Service address that no Service has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.agent.node import PORT, Node, Pod, resource
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import NameServer, ask_tcp
from tests.support.wait import eventually

NODE, NODE6, OUTSIDE, OUTSIDE6 = "192.0.2.1", "2001:db8:2::1", "192.0.2.9", "2001:db8:2::9"
CIDR = "172.31.0.0/16"


@dataclass(frozen=True)
class Scene:
    """A node's pod, and a host outside of the cluster."""

    pod: Pod
    outside: Namespace


@pytest.fixture(params=["nftables", "iptables-legacy"])
def scene(request: pytest.FixtureRequest, node: Node) -> Iterator[Scene]:
    """A pod (10.65.0.2, fd65::2) of pools with natOutgoing, on a node with an outside that knows the way back."""
    with Namespace.create("o") as outside:
        link_namespaces(
            node.namespace,
            "eth0",
            outside,
            "eth0",
            left_addresses=[f"{NODE}/24", f"{NODE6}/64"],
            right_addresses=[f"{OUTSIDE}/24", f"{OUTSIDE6}/64"],
        )
        outside.add_address("lo", "172.31.0.5/32")
        for net, way in (("10.65.0.0/24", NODE), ("192.0.2.77/32", NODE), ("fd65::/64", NODE6)):
            outside.ip("route", "add", net, "via", way)
        node.put("ippools", resource("IPPool", "p4", {"cidr": "10.65.0.0/24", "natOutgoing": True}))
        node.put("ippools", resource("IPPool", "p6", {"cidr": "fd65::/64", "blockSize": 122, "natOutgoing": True}))
        node.put("ippools", resource("IPPool", "far", {"cidr": "192.0.3.0/24"}))
        made = node.pod("a", "10.65.0.2", "fd65::2")
        made.write()
        with NameServer(outside, "out", PORT):
            node.agent = node.make_agent("--backend", request.param)
            node.agent.start()
            eventually(lambda: source(made) == NODE, what="the node's address goes out")
            yield Scene(made, outside)


@pytest.fixture
def pod(scene: Scene) -> Pod:
    return scene.pod


def source(pod: Pod, to: str = OUTSIDE) -> str:
    """The address that the outside sees."""
    return (ask_tcp(pod.namespace, to, PORT, wait_s=0.3) or "none").rpartition(" ")[2]


def configure(node: Node, **spec: object) -> None:
    node.put("felixconfigurations", resource("FelixConfiguration", "default", dict(spec)))


def test_nat_outgoing_its_address_and_its_exclusions(pod: Pod) -> None:
    node = pod.node
    eventually(lambda: source(pod, OUTSIDE6) == NODE6, what="of both families")
    configure(node, natOutgoingAddress="192.0.2.77")
    node.namespace.ip("address", "add", "192.0.2.77/32", "dev", "lo")
    eventually(lambda: source(pod) == "192.0.2.77", what="the address that is set")
    eventually(lambda: source(pod, OUTSIDE6) == NODE6, what="the other family has none set")
    configure(node, natOutgoingExclusions="IPPoolsAndHostIPs")
    eventually(lambda: source(pod) == NODE)
    bgp = {"bgp": {"ipv4Address": f"{OUTSIDE}/24", "ipv6Address": f"{OUTSIDE6}/64"}}
    node.put("nodes", resource("Node", "n9", bgp))
    eventually(lambda: source(pod) == "10.65.0.2", what="to a node a pod goes as itself")
    eventually(lambda: source(pod, OUTSIDE6) == "fd65::2", what="IPv6 as well")
    configure(node, natOutgoingExclusions="IPPoolsOnly")
    eventually(lambda: source(pod) == NODE)
    configure(node, iptablesNATOutgoingInterfaceFilter="wan+")
    eventually(lambda: source(pod) == "10.65.0.2", what="not by this device")
    configure(node, iptablesNATOutgoingInterfaceFilter="eth+")
    eventually(lambda: source(pod) == NODE, what="by this one")


def test_what_no_service_takes_does_not_go_in_circles(pod: Pod) -> None:
    node, target = pod.node, "172.31.0.5"
    node.namespace.ip("route", "add", CIDR, "via", OUTSIDE)
    eventually(lambda: source(pod, target) == NODE, what="a route leads out")
    node.put("bgpconfigurations", resource("BGPConfiguration", "default", {"serviceClusterIPs": [{"cidr": CIDR}]}))
    eventually(lambda: source(pod, target) == "none", what="it ends here")
    assert source(pod) == NODE
    configure(node, serviceLoopPrevention="Disabled")
    eventually(lambda: source(pod, target) == NODE, what="unless it is allowed")
    configure(node, serviceLoopPrevention="Drop")
    eventually(lambda: source(pod, target) == "none", what="it ends here again")


def test_what_goes_out_takes_a_port_of_the_range_that_is_set(scene: Scene) -> None:
    pod, node, outside = scene.pod, scene.pod.node, scene.outside
    outside.run("nft", "add table inet picky")
    outside.run("nft", "add chain inet picky in { type filter hook input priority 0; }")
    outside.run("nft", "add rule inet picky in tcp dport 8080 tcp sport != 40000-40999 drop")
    eventually(lambda: source(pod) == source(pod, OUTSIDE6) == "none", what="ports of any number do not do")
    configure(node, natPortRange="40000:40999")
    eventually(lambda: (source(pod), source(pod, OUTSIDE6)) == (NODE, NODE6), what="only those of the range")
    node.namespace.ip("address", "add", "192.0.2.77/32", "dev", "lo")
    configure(node, natPortRange="40000:40999", natOutgoingAddress="192.0.2.77")
    eventually(lambda: source(pod) == "192.0.2.77", what="with an address that is set, too")
