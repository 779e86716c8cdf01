"""Tunnels in a kernel's terms: what one node's move costs, in which order a mode changes, and what is left over."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import parse_address, parse_prefix
from felixpy.calc.options import DEFAULTS
from felixpy.calc.tunnel_plan import HostDevices, Tunnel, Way, vxlan_mac
from felixpy.calc.tunnels import TunnelCalc, TunnelDelta, derive_tunnels
from felixpy.dataplane.chains.causes import COMMON
from felixpy.dataplane.chains.report import common_chains
from felixpy.dataplane.changes import Changes, Ledger
from felixpy.dataplane.objects import (
    Chain,
    DeviceAddress,
    Drop,
    FdbEntry,
    IpipSettings,
    Key,
    Kind,
    Link,
    Neighbour,
    NextHop,
    Object,
    Op,
    Put,
    Route,
    RouteType,
    Set,
    SetType,
    Sysctl,
    VxlanSettings,
)
from felixpy.dataplane.order import kind_of
from felixpy.dataplane.tunnel_objects import TunnelTables
from felixpy.reconcile import Reconciler
from felixpy.resources.types import Node
from felixpy.resources.view import View
from tests.calc.tunnel_world import (
    ALWAYS,
    CROSS,
    FAR,
    HOST,
    ME,
    NEAR,
    NODES,
    STEPS,
    Change,
    Step,
    block,
    full_node,
    node,
    pool,
)
from tests.fakes.kernel import MAC, FakeKernel

FAR_BLOCK, NEAR_BLOCK, OWN_BLOCK = (parse_prefix(f"10.0.{n}.0/26") for n in (3, 2, 1))
BLOCKS = (block("10.0.1.0/26", ME), block("10.0.2.0/26", NEAR), block("10.0.3.0/26", FAR))
NODE_SETS = (Set("nodes4", SetType.IPV4, interval=True), Set("nodes6", SetType.IPV6, interval=True))
BESIDE = (*NODE_SETS, *common_chains(COMMON, DEFAULTS))


class World:
    """Resources in, a kernel in memory out."""

    def __init__(self, *changes: Change) -> None:
        self.calc = TunnelCalc(ME)
        self.calc.put_devices(HOST)
        self.ledger = Ledger()
        self.tables = TunnelTables(self.ledger)
        self.kernel = FakeKernel(["eth0", "eth1"])
        self.kernel.apply([Put(one) for one in BESIDE])
        self.reconciler = Reconciler(self.kernel, lambda _: {})
        self.see(*changes)

    def see(self, *changes: Change) -> list[Op]:
        """The ops that the changes cost."""
        for change in changes:
            self.calc.update(*change)
        return self.settle()

    def settle(self) -> list[Op]:
        wanted = Changes()
        self.tables.translate(self.calc.flush(), wanted)
        self.reconciler.want(wanted)
        before = len(self.kernel.applied)
        report = self.reconciler.apply()
        assert not report.failed
        return self.kernel.applied[before:]

    def has(self, one: Object) -> bool:
        return self.kernel.objects.get(one.key) == one

    def route(self, text: str) -> Route:
        return next(
            one
            for one in self.kernel.objects.values()
            if isinstance(one, Route) and one.destination == parse_prefix(text)
        )


def rendered(delta: TunnelDelta) -> dict[Key, Object]:
    """All that the objects of a whole intent are."""
    ledger, changes = Ledger(), Changes()
    TunnelTables(ledger).translate(delta, changes)
    return dict(ledger.desired())


def test_vxlan_is_a_device_a_way_per_node_and_routes_over_it() -> None:
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16", vxlan=ALWAYS))
    number = Way(FAR, Tunnel.VXLAN, ALWAYS).number
    gateway = parse_address("10.0.3.2")
    settings = VxlanSettings(4096, 4789, "eth0", parse_address("192.0.2.1"))
    for one in (
        Link("vxlan.calico", settings, 1450, bytes.fromhex("6640b3eab63f")),
        Sysctl("net/ipv4/conf/vxlan.calico/forwarding", "1"),
        DeviceAddress("vxlan.calico", parse_prefix("10.0.1.2")),
        Neighbour("vxlan.calico", gateway, vxlan_mac(FAR, Node(), Tunnel.VXLAN)),
        FdbEntry("vxlan.calico", vxlan_mac(FAR, Node(), Tunnel.VXLAN), parse_address("192.0.3.3")),
        NextHop(number, gateway, "vxlan.calico", onlink=True, protocol=176),
        Route(FAR_BLOCK, 176, nexthop_id=number, metric=512),
        Route(OWN_BLOCK, 176, RouteType.BLACKHOLE, metric=4096),
    ):
        assert world.has(one), one


def test_ipip_is_tunl0_and_the_nodes_own_addresses() -> None:
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16", ipip=CROSS))
    far, near = (Way(name, Tunnel.IPIP, CROSS).number for name in (FAR, NEAR))
    for one in (
        Link("tunl0", IpipSettings(), 1480, MAC),
        DeviceAddress("tunl0", parse_prefix("10.0.1.1")),
        NextHop(far, parse_address("192.0.3.3"), "tunl0", onlink=True, protocol=176),
        NextHop(near, parse_address("192.0.2.2"), "eth0", protocol=176),
        Route(FAR_BLOCK, 176, nexthop_id=far, metric=512),
        Route(NEAR_BLOCK, 176, nexthop_id=near, metric=512),
    ):
        assert world.has(one), one


def test_a_node_that_moves_costs_its_next_hop_whatever_leads_there() -> None:
    many = [block(f"10.0.{n}.0/26", FAR) for n in range(3, 250)]
    world = World(*NODES, *many, pool("a", "10.0.0.0/16", vxlan=CROSS))
    into_our_subnet = world.see(node(FAR, "192.0.2.33/24", vxlan_tunnel4="10.0.3.2"))
    assert sorted(kind_of(op) for op in into_our_subnet) == [Kind.FDB, Kind.NEIGHBOUR, Kind.NEXTHOP]
    back = world.see(full_node(FAR, 3, 3))
    assert sorted(kind_of(op) for op in back) == [Kind.FDB, Kind.NEIGHBOUR, Kind.NEXTHOP]


def test_a_mode_that_changes_leaves_no_destination_without_a_route() -> None:
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16", vxlan=ALWAYS))
    ops = world.see(pool("a", "10.0.0.0/16", vxlan=CROSS))
    routes = [position for position, op in enumerate(ops) if kind_of(op) is Kind.ROUTE]
    hops = [position for position, op in enumerate(ops) if kind_of(op) is Kind.NEXTHOP and isinstance(op, Put)]
    dropped = [position for position, op in enumerate(ops) if kind_of(op) is Kind.NEXTHOP and isinstance(op, Drop)]
    assert all(isinstance(ops[position], Put) for position in routes)
    assert max(hops) < min(routes)
    assert max(routes) < min(dropped)


def test_the_last_tunnelled_pool_takes_all_but_the_blackholes_with_it() -> None:
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16", vxlan=ALWAYS))
    world.see(pool("a", "10.0.0.0/16"))
    left = {key for key in world.kernel.objects if key.id not in (("eth0",), ("eth1",))}
    assert left == {Route(OWN_BLOCK, 176, metric=4096).key}
    assert world.kernel.netfilter.chains["tunnel-input"].rules == ()


def test_what_comes_in_through_a_tunnel_is_filtered_while_there_is_one() -> None:
    world = World(*NODES, pool("a", "10.0.0.0/16", vxlan=ALWAYS), pool("b", "10.9.0.0/16", ipip=ALWAYS))
    assert [rule.comment for rule in world.kernel.netfilter.chains["tunnel-input"].rules] == [
        "IPIP from no node",
        "VXLAN from no node",
    ]


def test_ways_that_share_a_number_do_not_share_a_next_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Way, "number", 1 << 31)
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16", vxlan=ALWAYS))
    assert world.route("10.0.2.0/26").nexthop_id == 1 << 31
    plain = world.route("10.0.3.0/26")
    assert (plain.nexthop_id, plain.gateway, plain.device, plain.onlink, plain.metric) == (
        None,
        parse_address("10.0.3.2"),
        "vxlan.calico",
        True,
        512,
    )


def test_a_restart_finds_nothing_to_do() -> None:
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16", vxlan=CROSS), pool("six", "fd00::/48", vxlan=ALWAYS))
    again = Reconciler(world.kernel, lambda _: {})
    everything = Changes()
    everything.objects.update(world.ledger.desired())
    everything.objects.update({target.key: target for target in BESIDE})
    again.want(everything)
    again.adopt()
    assert again.apply().applied == 0


@settings(max_examples=100, deadline=None)
@given(history=st.lists(st.tuples(STEPS, st.booleans()), max_size=30))
def test_any_history_leaves_the_kernel_as_from_scratch(history: list[tuple[Step, bool]]) -> None:
    world, view = World(), View()
    host: HostDevices = HOST
    for step, flush in [*history, (HOST, True)]:
        if isinstance(step, tuple):
            view.put(*step)
            world.calc.update(*step)
        else:
            host = step
            world.calc.put_devices(host)
        if flush:
            world.settle()
            intent = derive_tunnels(view.tables, ME, host)
            wanted = rendered(TunnelDelta(intent.devices, intent.hops, intent.blocks))
            assert world.ledger.desired() == wanted
            there = {key for key in world.kernel.objects if key.id not in (("eth0",), ("eth1",))}
            lost = {key for key in wanted if key.kind is not Kind.CHAIN} - there
            assert not lost
            assert {key for key in there if key.kind is not Kind.SYSCTL} <= wanted.keys()
            assert isinstance(wanted[Key(Kind.CHAIN, ("tunnel-input",))], Chain)
