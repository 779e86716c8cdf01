"""Two subnets with a router between them: VXLAN from one to the other, plain routes inside one."""

from __future__ import annotations

import pytest

from tests.lab import claims
from tests.lab.ground import REPOSITORY
from tests.lab.prove import router_sessions
from tests.lab.sight import way
from tests.lab.topology import Topology, load_topology
from tests.lab.world import World
from tests.support.wait import eventually


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load_topology(REPOSITORY / "containerlab/two-subnets.clab.yml")


test_what_the_lab_claims = claims.test_what_the_lab_claims


@pytest.mark.parametrize(
    ("node", "of", "by"),
    [
        ("n1", "web-2", "172.31.1.12"),
        ("n1", "shell-3", "vxlan"),
        ("n3", "web-1", "vxlan"),
        ("n2", "web-1", "172.31.1.11"),
    ],
)
def test_only_what_leaves_the_subnet_is_tunnelled(world: World, node: str, of: str, by: str) -> None:
    place = world.lab.topology.node(node)
    if by != "vxlan":
        assert way(world, place, of).gateway == by
    else:
        assert way(world, place, of).device == "vxlan.calico"
        assert way(world, place, of, 6).device == "vxlan-v6.calico"


def test_the_router_has_a_session_with_each_node_in_its_subnet(world: World) -> None:
    wanted = {"n1", "n2", "n3", "n1v6", "n2v6", "n3v6"}
    eventually(lambda: router_sessions(world) == dict.fromkeys(wanted, "Established"), 20, 0.2)
