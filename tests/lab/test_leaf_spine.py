"""Two racks under a fabric of eBGP: each node speaks with its leaf only, and everybody reaches everybody."""

from __future__ import annotations

import pytest

from tests.lab import claims
from tests.lab.ground import REPOSITORY
from tests.lab.sight import sessions, spread, way
from tests.lab.topology import Topology, load_topology
from tests.lab.world import World
from tests.support.packets import tcp_ok
from tests.support.wait import eventually


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load_topology(REPOSITORY / "containerlab/leaf-spine.clab.yml")


test_what_the_lab_claims = claims.test_what_the_lab_claims


@pytest.mark.parametrize(
    ("node", "of", "gateway"),
    [
        ("n1", "shell-2", "172.29.1.12"),
        ("n1", "web-3", "172.29.1.1"),
        ("n4", "web-3", "172.29.2.13"),
        ("n4", "web-1", "172.29.2.1"),
    ],
)
def test_inside_a_rack_nodes_send_to_each_other_and_else_to_the_leaf(
    world: World, node: str, of: str, gateway: str
) -> None:
    assert way(world, world.lab.topology.node(node), of).gateway == gateway


@pytest.mark.parametrize(("node", "leaf"), [("n1", "172.29.1.1"), ("n4", "172.29.2.1")])
def test_a_node_speaks_with_its_leaf_and_nobody_else(world: World, node: str, leaf: str) -> None:
    rack = leaf.split(".")[2]
    wanted = {leaf, f"2001:db8:29:{rack}::1"}
    eventually(lambda: sessions(world, world.lab.topology.node(node)) == dict.fromkeys(wanted, "Established"), 20, 0.2)


@pytest.mark.parametrize(
    ("router", "hops"),
    [("leaf1", {"172.29.1.11", "172.29.1.12"}), ("leaf9", {"eth11", "eth12"}), ("spine1", {"eth1", "eth2"})],
)
def test_a_service_is_spread_at_each_tier_of_the_fabric(world: World, router: str, hops: set[str]) -> None:
    address = eventually(world.service_address, 20)
    eventually(lambda: spread(world, world.lab.topology.node(router), address) == hops, 20, 0.2, f"{hops}")


def test_a_spine_lost_is_a_path_lost_and_nothing_else(world: World) -> None:
    address = eventually(world.service_address, 20)
    leaf = world.lab.topology.node("leaf9")
    configure_spine(world, "neighbor eth9 shutdown")
    try:
        eventually(lambda: spread(world, leaf, address) == {"eth12"}, 20, 0.2)
        assert all(tcp_ok(world.client, address, 80) for _ in range(10))
    finally:
        configure_spine(world, "no neighbor eth9 shutdown")
    eventually(lambda: spread(world, leaf, address) == {"eth11", "eth12"}, 30, 0.2)


def configure_spine(world: World, line: str) -> None:
    """One line of BGP configuration on spine1."""
    steps = [word for step in ("configure terminal", "router bgp 65100", line) for word in ("-c", step)]
    world.lab.run(world.lab.topology.node("spine1"), "vtysh", "--vty_socket", "/run/frr", *steps)
