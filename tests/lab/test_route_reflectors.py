"""Two nodes reflect the routes of all: no mesh, and the next hops stay those of the owners."""

from __future__ import annotations

import pytest

from tests.lab import claims
from tests.lab.ground import REPOSITORY
from tests.lab.prove import router_sessions
from tests.lab.sight import pod, sessions, way
from tests.lab.topology import Topology, load_topology
from tests.lab.world import SERVER_PORT, World
from tests.support.packets import tcp_ok
from tests.support.wait import eventually


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load_topology(REPOSITORY / "containerlab/route-reflectors.clab.yml")


test_what_the_lab_claims = claims.test_what_the_lab_claims


def test_a_client_speaks_with_the_reflectors_only(world: World) -> None:
    wanted = {"172.28.0.11", "172.28.0.12", "2001:db8:28::11", "2001:db8:28::12"}
    eventually(lambda: sessions(world, world.lab.topology.node("n3")) == dict.fromkeys(wanted, "Established"), 20, 0.2)


@pytest.mark.parametrize(("of", "owner"), [("web-4", "172.28.0.14"), ("shell-2", "172.28.0.12")])
def test_a_reflected_route_leads_to_its_owner(world: World, of: str, owner: str) -> None:
    assert way(world, world.lab.topology.node("n3"), of).gateway == owner


@pytest.mark.parametrize(
    ("of", "owner"), [("web-4", "172.28.0.14"), ("shell-3", "172.28.0.13"), ("web-1", "172.28.0.11")]
)
def test_the_router_sends_to_the_owner_and_not_to_the_reflector(world: World, of: str, owner: str) -> None:
    eventually(lambda: way(world, world.router, of).gateway == owner, 20, 0.2)


def test_one_reflector_is_enough(world: World) -> None:
    place, address = world.pod_namespace(pod(world, "shell-3")), world.pod_address(pod(world, "web-4"))
    assert address is not None
    world.lab.run(world.router, "ip", "link", "set", "eth2", "down")
    try:
        eventually(lambda: router_sessions(world)["n2"] != "Established", 30, 0.2)
        assert all(tcp_ok(place, address, SERVER_PORT) for _ in range(10))
    finally:
        world.lab.run(world.router, "ip", "link", "set", "eth2", "up")
    eventually(lambda: set(router_sessions(world).values()) == {"Established"}, 30, 0.2)
