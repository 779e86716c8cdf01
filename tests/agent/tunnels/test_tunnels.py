"""VXLAN between nodes of two subnets, without BGP: real packets between pods, both families, every mode.

A router joins the subnets and knows no pod: what is not encapsulated between n1 and n2 is lost there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_network

import pytest

from tests.agent.node import CALICO, Json, Node, resource
from tests.agent.sandbox import Sandbox
from tests.support.netns import Namespace, add_bridge, link_namespaces
from tests.support.packets import FlowMeter, ping_ok
from tests.support.wait import eventually

POOLS = {"pool4": ("10.64.0.0/20", 26), "pool6": ("fd64::/112", 122)}
SUBNETS = {"n1": (1, 1), "n2": (2, 1), "n3": (1, 3)}
"""Subnet and host number of each node; n1 and n3 are in one subnet."""
VXLAN, VXLAN6 = "vxlan.calico", "vxlan-v6.calico"
BOTH = {"assign_ipv4": "true", "assign_ipv6": "true"}


@dataclass
class Pod:
    """A pod with an address of each family."""

    netns: Namespace
    four: str
    six: str

    def reaches(self, other: Pod, size_bytes: int = 56) -> bool:
        """Whether both of the other's addresses answer."""
        return all(ping_ok(self.netns, one, wait_s=1.5, size_bytes=size_bytes) for one in (other.four, other.six))


@dataclass
class Ground:
    """Three nodes, each with a pod, and the router between their subnets."""

    nodes: dict[str, Node]
    pods: dict[str, Pod]
    router: Namespace

    def use(self, **spec: str) -> None:
        """Says how the pools' traffic travels."""
        for name, (cidr, size) in POOLS.items():
            whole = {"cidr": cidr, "blockSize": size, "ipipMode": "Never", "vxlanMode": "Never", **spec}
            self.nodes["n1"].put("ippools", resource("IPPool", name, whole))

    def use_vxlan(self, mode: str) -> None:
        """VXLAN in that mode, and the pods of both subnets reach each other."""
        self.use(vxlanMode=mode)
        a, b = self.pods["n1"], self.pods["n2"]
        eventually(lambda: a.reaches(b) and b.reaches(a), what=f"pods across subnets, {mode}")

    def reach(self, *names: str) -> bool:
        one, other = (self.pods[name] for name in names)
        return one.reaches(other) and other.reaches(one)

    def node_spec(self, name: str) -> Json:
        value = self.nodes["n1"].etcd.get(f"{CALICO}/nodes/{name}")
        assert value is not None
        spec: Json = json.loads(value)["spec"]
        return spec


def node_addresses(name: str) -> tuple[str, str]:
    subnet, host = SUBNETS[name]
    return f"192.0.{subnet}.{host}/24", f"2001:db8:{subnet}::{host}/64"


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with ExitStack() as stack:
        router = stack.enter_context(Namespace.create("r"))
        router.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        n1 = stack.enter_context(Node(name="n1"))
        nodes = {"n1": n1}
        for name in ("n2", "n3"):
            nodes[name] = stack.enter_context(
                Node(name=name, initialised=False, etcd=n1.etcd, etcd_address="192.0.1.1")
            )
        for name, node in nodes.items():
            subnet, _ = SUBNETS[name]
            link_namespaces(node.namespace, "up0", router, name, left_addresses=node_addresses(name))
        add_bridge(router, "one", ["n1", "n3"], ["192.0.1.254/24", "2001:db8:1::fe/64"])
        add_bridge(router, "two", ["n2"], ["192.0.2.254/24", "2001:db8:2::fe/64"])
        for name, node in nodes.items():
            subnet, _ = SUBNETS[name]
            node.namespace.ip("route", "add", "default", "via", f"192.0.{subnet}.254")
            node.namespace.ip("-6", "route", "add", "default", "via", f"2001:db8:{subnet}::fe")
            four, six = node_addresses(name)
            spec = {"bgp": {"ipv4Address": four, "ipv6Address": six}, "orchRefs": [{"nodeName": name}]}
            n1.put("nodes", resource("Node", name, spec))
        made = Ground(nodes, {}, router)
        made.use()
        for name, node in nodes.items():
            node.agent.start()
            eventually(lambda node=node: "in sync" in node.log())  # type: ignore[misc]
            sandbox = Sandbox(node, f"p{name}", stack.enter_context(Namespace.create("s")))
            four, six = eventually(lambda sandbox=sandbox: sandbox.add(ipam=BOTH))  # type: ignore[misc]
            made.pods[name] = Pod(sandbox.netns, four, six)
        try:
            yield made
        except BaseException:
            for node in nodes.values():
                print(node.log())
            raise


def sent_packets(node: Node, device: str) -> int:
    """Packets that went into a device."""
    (link,) = json.loads(node.namespace.ip("-j", "-s", "link", "show", device))
    return int(link["stats64"]["tx"]["packets"])


def received_packets(node: Node, device: str) -> int:
    """Packets that came out of a device."""
    (link,) = json.loads(node.namespace.ip("-j", "-s", "link", "show", device))
    return int(link["stats64"]["rx"]["packets"])


def tunnel_state(node: Node) -> list[str]:
    """Everything about tunnels that a node's kernel holds."""
    words = [
        *node.namespace.ip("-d", "link", "show", "type", "vxlan").splitlines(),
        *node.namespace.ip("route", "show", "proto", "176").splitlines(),
        *node.namespace.ip("-6", "route", "show", "proto", "176").splitlines(),
        *node.namespace.ip("nexthop", "show").splitlines(),
        *node.namespace.ip("-4", "address", "show", "dev", VXLAN).splitlines(),
    ]
    for device in (VXLAN, VXLAN6):
        words += node.namespace.ip("neigh", "show", "dev", device, "nud", "permanent").splitlines()
        words += node.namespace.run("bridge", "fdb", "show", "dev", device).splitlines()
    return sorted(word.strip().partition(": ")[2] if ": vxlan" in word else word.strip() for word in words)


def test_without_a_tunnel_subnets_do_not_reach_each_other(ground: Ground) -> None:
    ground.use()
    eventually(lambda: VXLAN not in ground.nodes["n1"].namespace.ip("link"))
    assert not ground.reach("n1", "n2")


def test_always_goes_through_the_tunnel_even_in_one_subnet(ground: Ground) -> None:
    ground.use_vxlan("Always")
    eventually(lambda: ground.reach("n1", "n3"))
    for device in (VXLAN, VXLAN6):
        before = sent_packets(ground.nodes["n1"], device)
        assert ground.reach("n1", "n3")
        assert ground.reach("n1", "n2")
        assert sent_packets(ground.nodes["n1"], device) >= before + 4


def test_cross_subnet_goes_direct_where_it_can(ground: Ground) -> None:
    ground.use_vxlan("CrossSubnet")
    n1 = ground.nodes["n1"]
    eventually(lambda: "dev up0" in n1.namespace.ip("route", "get", ground.pods["n3"].four))

    def sent() -> list[int]:
        """Into either tunnel; the kernel itself sends something there now and then."""
        return [sent_packets(n1, device) for device in (VXLAN, VXLAN6)]

    eventually(lambda: (before := sent()) and ground.reach("n1", "n3") and sent() == before, what="past the tunnels")
    before = sent()
    assert ground.reach("n1", "n2")
    assert all(sent_packets(n1, device) > was for device, was in zip((VXLAN, VXLAN6), before, strict=True))


def test_the_mtu_is_what_the_underlay_leaves(ground: Ground) -> None:
    ground.use_vxlan("Always")
    a, b = ground.pods["n1"], ground.pods["n2"]
    for pod in (a, b):
        eventually(lambda pod=pod: "mtu 1430 " in pod.netns.ip("link", "show", "eth0"), what="the smaller of both")  # type: ignore[misc]
    for address, headers in ((b.four, 28), (b.six, 48)):
        assert ping_ok(a.netns, address, size_bytes=1430 - headers)
        assert not ping_ok(a.netns, address, size_bytes=1430 - headers + 1)
    n1 = ground.nodes["n1"].namespace
    assert "mtu 1450 " in n1.ip("link", "show", VXLAN)
    assert "mtu 1430 " in n1.ip("link", "show", VXLAN6)


def test_the_devices_follow_the_underlays_mtu_live(ground: Ground) -> None:
    ground.use_vxlan("Always")
    n1 = ground.nodes["n1"].namespace
    try:
        n1.ip("link", "set", "up0", "mtu", "1400")
        eventually(lambda: "mtu 1350" in n1.ip("link", "show", VXLAN) and "mtu 1330" in n1.ip("link", "show", VXLAN6))
    finally:
        n1.ip("link", "set", "up0", "mtu", "1500")
    eventually(lambda: "mtu 1450" in n1.ip("link", "show", VXLAN))


def test_what_others_break_is_repaired(ground: Ground) -> None:
    ground.use_vxlan("Always")
    node = ground.nodes["n1"]
    eventually(lambda: ground.reach("n1", "n3"))
    good = tunnel_state(node)
    hop = next(line.split()[1] for line in node.namespace.ip("nexthop").splitlines() if f"dev {VXLAN}" in line)
    four, six = (
        next(line.split()[0] for line in node.namespace.ip(family, "route").splitlines() if "nhid" in line)
        for family in ("-4", "-6")
    )
    own = next(line.split()[1] for line in node.namespace.ip("route").splitlines() if line.startswith("blackhole"))
    neighbour = node.namespace.ip("neigh", "show", "dev", VXLAN, "nud", "permanent").split()
    for damage in (
        ("ip", "link", "del", VXLAN),
        ("ip", "link", "del", VXLAN6),
        ("ip", "link", "set", VXLAN, "down"),
        ("ip", "link", "set", VXLAN, "mtu", "1200"),
        ("ip", "link", "set", VXLAN, "address", "02:00:00:00:00:01"),
        ("ip", "address", "flush", "dev", VXLAN),
        ("ip", "neigh", "del", neighbour[0], "dev", VXLAN),
        ("bridge", "fdb", "del", neighbour[2], "dev", VXLAN),
        ("ip", "nexthop", "del", "id", hop),
        *(("ip", family, "route", "del", route, "metric", "512") for family, route in (("-4", four), ("-6", six))),
        ("ip", "route", "del", "blackhole", own, "metric", "4096"),
        ("ip", "link", "set", "up0", "down"),
    ):
        node.namespace.run(*damage)
        if damage[-2:] == ("up0", "down"):
            node.namespace.ip("link", "set", "up0", "up")
            node.namespace.ip("route", "replace", "default", "via", "192.0.1.254")
            node.namespace.ip("-6", "address", "replace", node_addresses("n1")[1], "dev", "up0", "nodad")
            node.namespace.ip("-6", "route", "replace", "default", "via", "2001:db8:1::fe")
        eventually(lambda: tunnel_state(node) == good, within_s=8, what=f"repair after {damage}")
    eventually(lambda: ground.reach("n1", "n2"))


def test_a_restart_touches_nothing_and_loses_no_packet(ground: Ground) -> None:
    ground.use_vxlan("CrossSubnet")
    node, b = ground.nodes["n1"], ground.pods["n2"]
    eventually(lambda: ground.reach("n1", "n3"))
    spec, before = ground.node_spec("n1"), node.log().count("in sync")
    with FlowMeter(ground.pods["n1"].netns, b.netns, b.four) as flow:
        node.agent.kill()
        node.agent.start()
        eventually(lambda: node.log().count("in sync") > before)
        ground.nodes["n2"].put("networksets", resource("NetworkSet", "tick", {"nets": []}, namespace="default"))
        eventually(lambda: ground.reach("n1", "n2"))
        report = flow.stop()
    assert (report.sent > 300, report.lost) == (True, 0)
    assert "kernel, " not in node.log().rpartition("in sync")[2], "there was nothing to do"
    assert ground.node_spec("n1") == spec


def say_address(ground: Ground, name: str, address: str) -> None:
    """A node's IPv4 address becomes another of those that its host has."""
    spec = ground.node_spec(name)
    bgp = {**spec["bgp"], "ipv4Address": f"{address}/24"}
    ground.nodes[name].put("nodes", resource("Node", name, {**spec, "bgp": bgp}))


@pytest.mark.parametrize(
    ("mode", "name", "address"),
    [("Always", "n2", "192.0.2.77"), ("CrossSubnet", "n3", "192.0.1.77")],
    ids=["through a tunnel", "in one subnet"],
)
def test_a_nodes_new_address_moves_what_leads_to_it_and_no_route(
    ground: Ground, mode: str, name: str, address: str
) -> None:
    """In a tunnel that is the FDB entry, in one subnet the nexthop; and the sets of nodes and of peers."""
    ground.use_vxlan(mode)
    n1 = ground.nodes["n1"]
    n1.put("ippools", resource("IPPool", "many", {"cidr": "10.70.0.0/20", "vxlanMode": mode, "disabled": True}))
    blocks = [f"10.70.{n // 4}.{n % 4 * 64}" for n in range(32)]
    for first in blocks:
        value = {"cidr": f"{first}/26", "affinity": f"host:{name}", "allocations": [None] * 64, "attributes": []}
        n1.etcd.put(f"/calico/ipam/v2/assignment/ipv4/block/{first}-26", value)
    eventually(lambda: all(f"{first}/26" in n1.namespace.ip("route") for first in blocks))
    eventually(lambda: ground.reach("n1", "n2") and ground.reach("n1", "n3"))
    routes = n1.namespace.ip("route", "show", "proto", "176")
    lines = len(n1.log().splitlines())
    before = ground.node_spec(name)["bgp"]["ipv4Address"].partition("/")[0]
    ground.nodes[name].namespace.add_address("up0", f"{address}/24")
    say_address(ground, name, address)
    try:
        leading = ("bridge", "fdb", "show", "dev", VXLAN) if mode == "Always" else ("ip", "nexthop", "show")
        eventually(lambda: f" {address} " in f"{n1.namespace.run(*leading)} ".replace("\n", " \n"))
        eventually(lambda: ground.reach("n1", name))
        now = n1.namespace.ip("route", "show", "proto", "176")
        assert now.replace(address, before) == routes
        said = [line.partition(" ops")[0] for line in n1.log().splitlines()[lines:] if "kernel, " in line]
        assert sum(int(line.rpartition(" ")[2]) for line in said) <= 5, said
    finally:
        say_address(ground, name, before)
        n1.drop("ippools", "many")
        for first in blocks:
            n1.etcd.delete(f"/calico/ipam/v2/assignment/ipv4/block/{first}-26")
    eventually(lambda: ground.reach("n1", name))


def test_packets_of_a_tunnel_that_no_node_sent_are_dropped(ground: Ground) -> None:
    ground.use_vxlan("Always")
    n1 = ground.nodes["n1"]
    (vtep,) = json.loads(n1.namespace.ip("-j", "link", "show", VXLAN))
    router, pod = ground.router, ground.pods["n1"]
    try:
        router.ip(
            "link", "add", "vx", "type", "vxlan", "id", "4096", "dstport", "4789", "local", "192.0.1.254", "nolearning"
        )
        router.add_address("vx", "203.0.113.9/32")
        router.run("bridge", "fdb", "add", vtep["address"], "dev", "vx", "dst", "192.0.1.1")
        router.ip("neigh", "add", "203.0.113.1", "lladdr", vtep["address"], "dev", "vx")
        router.ip("route", "add", f"{pod.four}/32", "via", "203.0.113.1", "dev", "vx", "onlink")
        before = received_packets(n1, VXLAN)
        ping_ok(router, pod.four, wait_s=0.2)
        assert received_packets(n1, VXLAN) == before
        n1.put("nodes", resource("Node", "n9", {"bgp": {"ipv4Address": "192.0.1.254/24"}}))
        eventually(lambda: ping_ok(router, pod.four, wait_s=0.2) or received_packets(n1, VXLAN) > before)
    finally:
        n1.drop("nodes", "n9")
        router.ip("link", "del", "vx")


def test_addresses_of_own_blocks_that_nobody_has_go_nowhere(ground: Ground) -> None:
    ground.use_vxlan("Always")
    n1, pod = ground.nodes["n1"], ground.pods["n1"]
    own = [line for line in n1.namespace.ip("route", "show", "type", "blackhole").splitlines() if "proto 176" in line]
    prefix = ip_network(own[0].split()[1])
    held = n1.namespace.ip("route") + n1.namespace.ip("address").replace("/32", " ")
    unused = next(str(one) for one in prefix if f"{one} " not in held)
    assert not n1.namespace.succeeds("ip", "route", "get", unused)
    assert ping_ok(n1.namespace, pod.four), "and mask no pod"
    assert ping_ok(n1.namespace, pod.six)


def test_own_tunnel_addresses_are_in_the_node_while_a_pool_asks_for_them(ground: Ground) -> None:
    ground.use_vxlan("Always")
    spec = ground.node_spec("n2")
    assert spec["ipv4VXLANTunnelAddr"].startswith("10.64.")
    assert spec["ipv6VXLANTunnelAddr"].startswith("fd64::")
    assert spec["vxlanTunnelMACAddr"].startswith("66:")
    assert spec["orchRefs"] == [{"nodeName": "n2"}], "what we do not know stays"
    etcd = ground.nodes["n1"].etcd
    assert etcd.get("/calico/ipam/v2/handle/vxlan-tunnel-addr-n2") is not None
    ground.use()
    eventually(lambda: "ipv4VXLANTunnelAddr" not in ground.node_spec("n2"))
    eventually(lambda: etcd.get("/calico/ipam/v2/handle/vxlan-tunnel-addr-n2") is None)
    assert ground.node_spec("n2")["bgp"] == spec["bgp"]
    for node in ground.nodes.values():
        eventually(lambda node=node: "vxlan" not in node.namespace.ip("link"))  # type: ignore[misc]
        assert "nhid" not in node.namespace.ip("route")


def test_pods_keep_talking_while_the_mode_changes(ground: Ground) -> None:
    ground.use_vxlan("Always")
    eventually(lambda: ground.reach("n1", "n3"))
    far, near = ground.pods["n2"], ground.pods["n3"]
    n1 = ground.nodes["n1"].namespace
    with (
        FlowMeter(ground.pods["n1"].netns, far.netns, far.four, port=7701) as to_far,
        FlowMeter(ground.pods["n1"].netns, near.netns, near.six, port=7702) as to_near,
    ):
        for mode, device in (("CrossSubnet", "dev up0"), ("Always", f"dev {VXLAN}")):
            ground.use(vxlanMode=mode)
            eventually(lambda device=device: device in n1.ip("route", "get", near.four))  # type: ignore[misc]
        eventually(lambda: ground.reach("n1", "n3"))
        lost = to_far.stop().lost, to_near.stop().lost
    assert lost == (0, 0)
