"""Service addresses by BGP and at layer 2 beside each other; an old ConfigMap of MetalLB pasted as it was."""

from __future__ import annotations

import json

import pytest

from tests.lab import claims
from tests.lab.ground import REPOSITORY
from tests.lab.sight import gateways
from tests.lab.topology import Node, Topology, load_topology
from tests.lab.world import World
from tests.support.netns import Namespace
from tests.support.packets import ask_tcp
from tests.support.wait import eventually

NODES = {4: "172.26.0.1{}", 6: "2001:db8:26::1{}"}
CLIENT = {4: "172.26.9.2", 6: "2001:db8:26:9::2"}


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load_topology(REPOSITORY / "containerlab/load-balancer.clab.yml")


test_what_the_lab_claims = claims.test_what_the_lab_claims


def vip(world: World, service: str, version: int) -> str:
    return str(eventually(lambda: world.service_address(version, name=service), 20))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("service", "nodes"), [("web", (1, 2, 3)), ("local", (1, 2)), ("office", ())])
def test_the_router_hears_of_what_bgp_announces_from_those_who_serve(
    world: World, service: str, nodes: tuple[int, ...], version: int
) -> None:
    address = vip(world, service, version)
    wanted = {NODES[version].format(node) for node in nodes}
    eventually(lambda: gateways(world, world.router, address) == wanted, 20, 0.2, f"{address} via {wanted}")


@pytest.mark.parametrize("version", [4, 6])
def test_the_client_s_address_is_kept_where_the_traffic_policy_is_local(world: World, version: int) -> None:
    address = vip(world, "local", version)
    said = eventually(lambda: ask_tcp(world.client, address, 80), 20)
    assert str(said).split()[1] == CLIENT[version]


@pytest.mark.parametrize("version", [4, 6])
def test_a_machine_on_the_subnet_gets_one_node_s_mac(world: World, version: int) -> None:
    address = vip(world, "office", version)
    eventually(lambda: ask_tcp(desk(world), address, 80), 20)
    assert mac_at_desk(world, address) in {mac_of(world, node) for node in world.nodes}


def test_a_node_that_is_cut_off_loses_its_addresses_to_another(world: World) -> None:
    address = vip(world, "office", 4)
    eventually(lambda: ask_tcp(desk(world), address, 80), 20)
    owner = next(node for node in world.nodes if mac_of(world, node) == mac_at_desk(world, address))
    port = f"eth{owner.name[1:]}"
    world.lab.run(world.router, "ip", "link", "set", port, "down")
    try:
        eventually(lambda: mac_at_desk(world, address) not in ("", mac_of(world, owner)), 20, 0.1)
        eventually(lambda: ask_tcp(desk(world), address, 80), 20)
    finally:
        world.lab.run(world.router, "ip", "link", "set", port, "up")
    eventually(lambda: mac_at_desk(world, address) == mac_of(world, owner), 30, 0.2, "the best of the ranks is back")


def desk(world: World) -> Namespace:
    return world.lab.namespace("desk")


def mac_at_desk(world: World, address: str) -> str:
    """What the machine's neighbour table has; "" for nothing."""
    entries = json.loads(desk(world).ip("-j", "neighbour", "show", "to", address))
    return next((str(entry["lladdr"]) for entry in entries if "lladdr" in entry), "")


def mac_of(world: World, node: Node) -> str:
    (link,) = json.loads(world.lab.run(node, "ip", "-j", "link", "show", "eth1"))
    return str(link["address"])
