"""Both families for everything; Services of both, and of one alone."""

from __future__ import annotations

import pytest

from tests.lab import claims
from tests.lab.ground import REPOSITORY
from tests.lab.sight import sessions, way
from tests.lab.topology import Topology, load_topology
from tests.lab.world import World
from tests.support.wait import eventually


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load_topology(REPOSITORY / "containerlab/dual-stack.clab.yml")


test_what_the_lab_claims = claims.test_what_the_lab_claims


@pytest.mark.parametrize(("name", "versions"), [("web", {4, 6}), ("old", {4}), ("new", {6})])
def test_a_service_has_the_families_that_it_asks_for(world: World, name: str, versions: set[int]) -> None:
    eventually(lambda: {v for v in (4, 6) if world.service_address(v, name=name)} == versions, 20, 0.2)


@pytest.mark.parametrize("version", [4, 6])
def test_the_router_reaches_each_block_through_its_node(world: World, version: int) -> None:
    nodes = {"web-1": 11, "web-2": 12, "shell-3": 13}
    network = "172.27.0." if version == 4 else "2001:db8:27::"
    wanted = {name: f"{network}{node}" for name, node in nodes.items()}
    eventually(lambda: {name: way(world, world.router, name, version).gateway for name in nodes} == wanted, 20, 0.2)


def test_the_two_families_have_sessions_of_their_own(world: World) -> None:
    wanted = {f"{network}{number}" for network in ("172.27.0.", "2001:db8:27::") for number in (1, 12, 13)}
    eventually(lambda: sessions(world, world.lab.topology.node("n1")).keys() == wanted, 30, 0.5)
