"""Learned routes come back when others take them, or their device, away; a node that is none falls silent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agent.cluster import ADDRESSES, Cluster, two_nodes
from tests.agent.node import resource
from tests.support.wait import eventually

BLOCK = "10.64.9.0/26"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes that speak BGP; n2 has a block, which n1 has learned."""
    with two_nodes("bgp") as made:
        block = {"cidr": BLOCK, "affinity": "host:n2", "allocations": [None] * 64, "attributes": []}
        made.etcd.put(f"/calico/ipam/v2/assignment/ipv4/block/{BLOCK.replace('/', '-')}", block)
        made.start()
        eventually(lambda: learned(made), within_s=20, what="n1 learns the block")
        yield made


def learned(cluster: Cluster) -> str:
    """What n1 has learned, as `ip` shows it."""
    return cluster.n1.namespace.ip("route", "show", "proto", "177", BLOCK)


@pytest.mark.parametrize(
    "damage",
    [
        [("route", "flush", "proto", "177")],
        [("route", "replace", BLOCK, "dev", "lo", "proto", "177", "metric", "1024")],
        [("link", "set", "eth0", "down"), ("link", "set", "eth0", "up")],
        [("address", "flush", "dev", "eth0"), ("address", "add", f"{ADDRESSES['n1']}/24", "dev", "eth0")],
    ],
    ids=["flush", "replace", "link flap", "address flap"],
)
def test_a_learned_route_that_was_lost_comes_back(cluster: Cluster, damage: list[tuple[str, ...]]) -> None:
    right = learned(cluster)
    assert ADDRESSES["n2"] in right
    for command in damage:
        cluster.n1.namespace.ip(*command)
    eventually(lambda: learned(cluster) == right, within_s=2, what="the route is as before")


@pytest.mark.parametrize("restart", [False, True], ids=["running", "away"])
def test_a_node_without_its_resource_announces_nothing_more(cluster: Cluster, restart: bool) -> None:
    cluster.n1.put("bgppeers", resource("BGPPeer", "n2", {"node": "n1", "peerIP": ADDRESSES["n2"], "asNumber": 64512}))
    eventually(lambda: learned(cluster), what="n1 peers with n2 whether it is a node or not")
    if restart:
        cluster.n2.agent.kill()
    cluster.n2.drop("nodes", "n2")
    if restart:
        assert learned(cluster)
        cluster.n2.agent.start()
    eventually(lambda: not learned(cluster), within_s=15, what="n2 is silent")
    cluster.n2.put("nodes", resource("Node", "n2", {"bgp": {"ipv4Address": f"{ADDRESSES['n2']}/24"}}))
    eventually(lambda: learned(cluster), within_s=30, what="n2 is back")
