"""What tunnels cost: a snapshot, one block, one node's new address; and a next hop under many routes in the kernel.

`python -m tests.bench tunnels`, as root. Calculation: CPU time from resources to desired objects, by number of nodes
(4 blocks each). Kernel: the same routes re-pointed by one nexthop object, and rewritten one by one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from felixpy.addresses import Address, Prefix, parse_address
from felixpy.calc.tunnel_plan import HostDevice
from felixpy.calc.tunnels import TunnelCalc
from felixpy.dataplane.changes import Changes, Ledger
from felixpy.dataplane.objects import DeviceAddress, NextHop, Put, Route
from felixpy.dataplane.tunnel_objects import TunnelTables
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.drivers.netlink.socket import in_namespace
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Block, EncapMode, IpPool, Node, NodeAddress
from tests.support.netns import Namespace, link_namespaces

BLOCKS = 4
ROUTES = 10_000
ROUNDS = 7


def address(base: int, number: int) -> Address:
    """The address `number` steps after `base`."""
    return Address((base + number).to_bytes(4, "big"))


def node(number: int, moved: int = 0) -> tuple[Ref, Resource]:
    """A node of 10.128.0.0/9 with a tunnel address in its first block."""
    host = address(10 << 24 | 1 << 23, number + moved + 1)
    held = NodeAddress(host, Prefix(address(10 << 24 | 1 << 23, 0), 24))
    inside = address(10 << 24, number * BLOCKS * 64)
    return Ref(Table.NODE, Name("", f"n{number}")), Node(ipv4=held, vxlan_tunnel4=inside)


def block(number: int, owner: int, *borrowed: tuple[Address, str]) -> tuple[Ref, Resource]:
    """Block `number` of the pool."""
    name = f"10.{number * 64 >> 16 & 255}.{number * 64 >> 8 & 255}.{number * 64 & 255}-26"
    return Ref(Table.BLOCK, Name("", name)), Block(f"n{owner}", borrowed)


def timed(work: Callable[[], object], rounds: int = 1) -> float:
    """Median CPU milliseconds."""
    took = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        took.append((time.process_time() - begin) * 1e3)
    return statistics.median(took)


def calculate() -> None:
    """Rows by number of nodes."""
    print("nodes  blocks  snapshot ms  one block ms  one node's address ms")
    for nodes in (100, 1_000, 5_000):
        calc, tables = TunnelCalc("n0"), TunnelTables(Ledger())
        calc.put_devices({address(10 << 24 | 1 << 23, 1): HostDevice("eth0", 1500)})
        pool = IpPool(Prefix(address(10 << 24, 0), 9), 26, vxlan=EncapMode.ALWAYS)
        resources: list[tuple[Ref, Resource]] = [(Ref(Table.POOL, Name("", "p")), pool)]
        resources += [node(number) for number in range(nodes)]
        resources += [block(number, number // BLOCKS) for number in range(nodes * BLOCKS)]

        def see(changes: list[tuple[Ref, Resource]], calc: TunnelCalc = calc, tables: TunnelTables = tables) -> int:
            for ref, value in changes:
                calc.update(ref, value)
            asked = Changes()
            tables.translate(calc.flush(), asked)
            return len(asked.objects)

        snapshot = timed(lambda see=see, resources=resources: see(resources))  # type: ignore[misc]
        lent = address(10 << 24, 77 * 64 + 3)
        states = iter([block(77, 19, (lent, "n5")), block(77, 19)] * ROUNDS)
        one_block = timed(lambda see=see, states=states: see([next(states)]), ROUNDS)  # type: ignore[misc]
        moves = iter([node(19, 300), node(19)] * ROUNDS)
        one_node = timed(lambda see=see, moves=moves: see([next(moves)]), ROUNDS)  # type: ignore[misc]
        print(f"{nodes:5}  {nodes * BLOCKS:6}  {snapshot:11.1f}  {one_block:12.3f}  {one_node:21.3f}")


def kernel() -> None:
    """One next hop under many routes, replaced; then the routes themselves."""
    with Namespace.create("b") as here, Namespace.create("b") as there:
        link_namespaces(here, "up0", there, "up0")
        with in_namespace(here.path, RouteDriver) as driver:
            driver.apply([Put(DeviceAddress("up0", Prefix(parse_address("192.0.2.1"), 24)))])
            first, second = parse_address("192.0.2.2"), parse_address("192.0.2.3")

            def point(gateway: Address) -> NextHop:
                return NextHop(1 << 31, gateway, "up0", protocol=176)

            prefixes = [Prefix(address(10 << 24, number * 64), 26) for number in range(ROUTES)]
            routes = [Put(Route(prefix, 176, nexthop_id=1 << 31, metric=512)) for prefix in prefixes]
            assert not any(outcome.error for outcome in driver.apply([Put(point(first)), *routes]))
            gateways = iter([second, first] * ROUNDS)
            moved = wall(lambda: driver.apply([Put(point(next(gateways)))]))
            here.sysctl(ipv4__nexthop_compat_mode=0)
            quiet = wall(lambda: driver.apply([Put(point(next(gateways)))]))
            plain = [Put(Route(prefix, 176, device="up0", gateway=first, metric=512)) for prefix in prefixes]
            rewritten = wall(lambda: driver.apply(plain), 1)
    print(f"{ROUTES} routes: their next hop moved in {moved:.2f} ms ({quiet:.2f} with nexthop_compat_mode=0),")
    print(f"              each rewritten in {rewritten:.1f} ms")


def wall(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median wall milliseconds."""
    took = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        took.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(took)


def main() -> None:
    """Both parts."""
    calculate()
    kernel()
