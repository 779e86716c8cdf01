"""What one wrong object may not do: close the node to every other pod."""

from __future__ import annotations

from tests.agent.conftest import Scene
from tests.support.wait import eventually


def test_an_endpoint_of_an_unfit_device_closes_nobody_else(scene: Scene) -> None:
    c = scene.node.pod("c", "10.65.0.4")
    odd = scene.node.pod("odd", "10.65.0.9")
    odd.device = "workload"
    odd.write()
    c.write()
    eventually(lambda: c.reaches(scene.b) and scene.b.reaches(c), what="c and b reach each other")
    chains = scene.node.nft("list", "chains")
    assert f"ep-from-{c.device}" in chains
    assert "ep-from-workload" not in chains
    assert '"workload"' not in scene.node.nft("list", "map", "inet", "felixpy", "from-endpoint")
