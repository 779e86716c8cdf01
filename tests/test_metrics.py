"""The figures that follow from a process's status."""

from __future__ import annotations

from felixpy.metrics import derive_families
from felixpy.status import BgpStatus, NodeStatus, SessionStatus

UP = SessionStatus("10.0.0.2", 64512, "Established", True, 60, received=7, accepted=5, advertised=2)
DOWN = SessionStatus("10.0.0.3", 64512, "Active", False, 5, "no connection")


def test_bgp_tells_of_each_session_and_of_the_routes_in_the_kernel() -> None:
    bgp = BgpStatus(generation=4, sessions=(UP, DOWN), learned=9, installed=8, phase="frozen")
    found = {family.name: dict(family.rows) for family in derive_families(NodeStatus("n1", ("bgp",), bgp=bgp))}
    assert found["metallb_bgp_session_up"] == {("10.0.0.2",): 1, ("10.0.0.3",): 0}
    assert found["felixpy_bgp_session_state_seconds"] == {("10.0.0.2",): 60, ("10.0.0.3",): 5}
    assert found["felixpy_bgp_session_down"] == {("10.0.0.3", "no connection"): 1}
    assert found["felixpy_bgp_prefixes_accepted"][("10.0.0.2",)] == 5
    assert (found["felixpy_bgp_routes_learned"], found["felixpy_bgp_routes_installed"]) == ({(): 9}, {(): 8})
    assert found["felixpy_bgp_routes_frozen"] == {(): 1}
