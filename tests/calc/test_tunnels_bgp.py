"""What BGP teaches about a tunnelled pool stays out of the kernel: this node has routes of its own there."""

from __future__ import annotations

from birdpy.addresses import Prefix as BgpPrefix
from felixpy.addresses import parse_prefix
from felixpy.calc.bgp.speaker import BgpPlan, derive_bgp
from felixpy.resources.view import View
from tests.calc.tunnel_world import ALWAYS, CROSS, ME, NODES, Change, pool


def admits(text: str, *changes: Change) -> bool:
    view = View()
    for change in (*NODES, *changes):
        view.put(*change)
    plan = derive_bgp(view.tables, ME, ())
    assert isinstance(plan, BgpPlan)
    return plan.route_filter.admits(BgpPrefix(*parse_prefix(text)))


def test_blocks_of_tunnelled_pools_are_not_learned() -> None:
    pools = (
        pool("a", "10.0.0.0/16", vxlan=CROSS),
        pool("b", "10.1.0.0/16", ipip=ALWAYS),
        pool("c", "10.2.0.0/16"),
        pool("six", "fd00::/48", vxlan=ALWAYS),
    )
    learned = ("10.0.3.0/26", "10.1.3.0/26", "10.2.3.0/26", "10.0.0.0/8", "fd00::/122", "fd01::/122")
    assert [text for text in learned if admits(text, *pools)] == ["10.2.3.0/26", "10.0.0.0/8", "fd01::/122"]
