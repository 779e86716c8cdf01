"""What one Service address more or less costs the speaker of a node, by how many there are, and nodes.

`python -m tests.bench.vips`: in milliseconds, from scratch as at the start, and then a change at a time: the
announcements, the plan of the speaker, the filter of learned routes, and the operations for gobgpd.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address
from statistics import median
from typing import ParamSpec, TypeVar

from birdpy.fib import Fib, RouteFilter
from birdpy.gobgp.plan import Actual, Agreed, plan
from birdpy.gobgp.policies import policy_mark
from birdpy.intent import BgpIntent, Direction
from felixpy.addresses import Prefix, parse_address, parse_prefix
from felixpy.calc.announcing.announce import AnnounceDelta
from felixpy.calc.announcing.announcements import Announcement, Why
from felixpy.calc.bgp.speaker import BgpPlan, derive_bgp, reannounce
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Node, NodeAddress
from felixpy.resources.view import View

SIZES = ((10, 100), (500, 2_000), (5_000, 20_000))
CHANGES = 20
P = ParamSpec("P")
T = TypeVar("T")


def main() -> None:
    """Prints a row a size."""
    print("  nodes     VIPs   from scratch   speaker   filter   operations   (ms a change)")
    for nodes, vips in SIZES:
        measure(nodes, vips)


def measure(nodes: int, vips: int) -> None:
    view = View()
    for number in range(nodes):
        address = parse_address(str(ip_address(0xAC100000 + number)))
        node = Node(ipv4=NodeAddress(address, parse_prefix("172.16.0.0/12")))
        view.put(Ref(Table.NODE, Name("", f"n{number}")), node)
    announced = {one.prefix: one for one in map(announcement, range(vips))}
    scratch, made = timed(derive_bgp, view.tables, "n0", announced.values())
    assert isinstance(made, BgpPlan)
    fib = Fib(RouteFilter())
    fib.set_filter(made.route_filter)
    rows = []
    for number in range(vips, vips + CHANGES):
        one = announcement(number)
        announced = {**announced, one.prefix: one}
        before = made
        actual = actual_of(before.intent)
        speaker, made = timed(reannounce, before, AnnounceDelta({one.prefix: one}))
        assert made is not None
        filtered, _ = timed(fib.set_filter, made.route_filter)
        operations, _ = timed(plan, made.intent, actual, 4, Agreed(before.intent, actual))
        rows.append((speaker, filtered, operations))
    columns = [f"{median(column) * 1e3:.2f}" for column in zip(*rows, strict=True)]
    print(f"{nodes:7} {vips:8} {scratch * 1e3:14.1f} {columns[0]:>9} {columns[1]:>8} {columns[2]:>12}", flush=True)


def announcement(number: int) -> Announcement:
    return Announcement(Prefix(parse_address(str(ip_address(0xCB000000 + number))), 32), Why.SERVICE)


def actual_of(intent: BgpIntent) -> Actual:
    """A gobgpd that holds all of it."""
    marks = {direction: policy_mark(direction, intent.policy) for direction in Direction}
    return Actual(intent.speaker, intent.neighbors, dict(intent.advertisements), marks, intent.policy)


def timed(call: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> tuple[float, T]:
    """Seconds, and what came of it."""
    begin = time.perf_counter()
    result = call(*arguments, **more)
    return time.perf_counter() - begin, result


if __name__ == "__main__":
    main()
