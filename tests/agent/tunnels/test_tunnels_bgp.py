"""Tunnels beside BGP: a pool's mode says which of them brings its routes, and changes live."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.agent.cluster import Cluster, two_nodes
from tests.agent.node import Node, resource
from tests.agent.sandbox import Sandbox
from tests.support.netns import Namespace
from tests.support.packets import ping_ok
from tests.support.wait import eventually

POOL = "10.64.0.0/20"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes in one subnet with agent and BGP; a pool without tunnels."""
    with two_nodes("agent,bgp") as made:
        use(made, vxlanMode="Never")
        made.start()
        yield made


def use(cluster: Cluster, **spec: str) -> None:
    """Says how the pool's traffic travels."""
    whole = {"cidr": POOL, "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Never", **spec}
    cluster.n1.put("ippools", resource("IPPool", "pool", whole))


def routes(node: Node, protocol: int) -> list[str]:
    """The pool's routes of one protocol, by what they lead over."""
    lines = node.namespace.ip("route", "show", "proto", str(protocol), "root", POOL).splitlines()
    return [line for line in lines if "via" in line]


def test_a_pools_routes_come_from_bgp_or_from_its_blocks_never_from_both(cluster: Cluster) -> None:
    with ExitStack() as stack:
        pods = {}
        for node in (cluster.n1, cluster.n2):
            sandbox = Sandbox(node, f"p{node.name}", stack.enter_context(Namespace.create("s")))
            pods[node.name] = (sandbox, eventually(sandbox.add)[0])

        def reach() -> bool:
            return ping_ok(pods["n1"][0].netns, pods["n2"][1], wait_s=0.5)

        eventually(lambda: routes(cluster.n1, 177) and reach(), within_s=20, what="learned by BGP")
        assert not routes(cluster.n1, 176)
        for mode, device in (("Always", "dev vxlan.calico"), ("CrossSubnet", "dev eth0")):
            use(cluster, vxlanMode=mode)
            eventually(lambda device=device: device in " ".join(routes(cluster.n1, 176)))  # type: ignore[misc]
            eventually(lambda: not routes(cluster.n1, 177), what="nothing of the pool is learned")
            eventually(reach)
        use(cluster)
        eventually(lambda: routes(cluster.n1, 177) and not routes(cluster.n1, 176), what="learned again")
        eventually(reach)


def test_status_says_which_node_cannot_be_reached_and_why(cluster: Cluster) -> None:
    use(cluster, vxlanMode="Always")
    block = {"cidr": "10.64.9.0/26", "affinity": "host:ghost", "allocations": [None] * 64, "attributes": []}
    cluster.etcd.put("/calico/ipam/v2/assignment/ipv4/block/10.64.9.0-26", block)
    why = "reach ghost through vxlan.calico (Always): the node that holds the addresses has no Node resource"
    eventually(lambda: f"n1, n2: tunnels: not done: {why}" in cluster.felixctl("status").err)
    assert "blackhole 10.64.9.0/26" in cluster.n1.namespace.ip("route"), "what cannot be reached is dropped"
    cluster.etcd.delete("/calico/ipam/v2/assignment/ipv4/block/10.64.9.0-26")
    eventually(lambda: why not in cluster.felixctl("status").err)
