"""Which blocks are reached through which tunnel, and the incremental form against the one from scratch."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import format_address, parse_address, parse_prefix
from felixpy.calc.tunnel_plan import (
    Direct,
    Encapsulated,
    HostDevices,
    Tunnel,
    Unreached,
    Way,
    derive_address_pools,
)
from felixpy.calc.tunnels import TunnelCalc, TunnelDelta, derive_tunnels
from felixpy.resources.types import IpPool
from felixpy.resources.view import View
from felixpy.selector import parse_selector
from tests.calc.tunnel_world import (
    ALWAYS,
    CROSS,
    FAR,
    HOST,
    ME,
    MOVED_HOST,
    NEAR,
    NEVER,
    NODES,
    STEPS,
    Change,
    Step,
    block,
    configuration,
    full_node,
    node,
    pool,
)

FAR_BLOCK, NEAR_BLOCK, OWN_BLOCK = "10.0.3.0/26", "10.0.2.0/26", "10.0.1.0/26"
BLOCKS = (block(OWN_BLOCK, ME), block(NEAR_BLOCK, NEAR), block(FAR_BLOCK, FAR))


class World:
    """The calculation as the agent feeds it."""

    def __init__(self, *changes: Change, host: HostDevices = HOST) -> None:
        self.calc = TunnelCalc(ME)
        self.calc.put_devices(host)
        self.see(*changes)

    def see(self, *changes: Change) -> TunnelDelta:
        for change in changes:
            self.calc.update(*change)
        self.delta = self.calc.flush()
        return self.delta

    def ways(self) -> dict[str, str]:
        """Where each destination leads, in words."""
        intent = self.calc.intent
        hops = {one.number: one.hop for one in intent.hops.values() if one.number is not None}
        words: dict[str, str] = {}
        for routes in intent.blocks.values():
            for destination, towards in routes.items():
                hop = hops[towards] if isinstance(towards, int) else towards
                match hop:
                    case None:
                        words[str(destination)] = "blackhole"
                    case Direct(gateway, device):
                        words[str(destination)] = f"{format_address(gateway)} dev {device}"
                    case Encapsulated(tunnel, gateway, remote, _):
                        words[str(destination)] = f"{format_address(gateway)} dev {tunnel} to {format_address(remote)}"
        return words


def test_an_always_tunnel_carries_every_foreign_block() -> None:
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16", vxlan=ALWAYS))
    assert world.ways() == {
        OWN_BLOCK: "blackhole",
        NEAR_BLOCK: "10.0.2.2 dev vxlan.calico to 192.0.2.2",
        FAR_BLOCK: "10.0.3.2 dev vxlan.calico to 192.0.3.3",
    }


def test_across_subnets_only() -> None:
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16", ipip=CROSS))
    assert world.ways() == {
        OWN_BLOCK: "blackhole",
        NEAR_BLOCK: "192.0.2.2 dev eth0",
        FAR_BLOCK: "192.0.3.3 dev tunl0 to 192.0.3.3",
    }


def test_vxlan_over_ipv6_goes_by_the_far_devices_link_local_address() -> None:
    world = World(*NODES, block("fd00:0:0:3::/122", FAR), pool("six", "fd00::/48", vxlan=ALWAYS))
    (intent,) = world.calc.intent.hops.values()
    assert isinstance(intent.hop, Encapsulated)
    assert intent.hop.mac.hex(":") == "66:90:c0:29:2a:8a", "sha1 of n3-v6, as Calico has it"
    assert world.ways() == {"fd00:0:0:3::/122": "fe80::6490:c0ff:fe29:2a8a dev vxlan-v6.calico to 2001:db8:3::3"}


def test_pools_without_a_tunnel_get_no_routes_but_own_blocks_their_blackholes() -> None:
    world = World(*NODES, *BLOCKS, block("10.0.1.64/32", ME), pool("a", "10.0.0.0/16"))
    assert world.ways() == {OWN_BLOCK: "blackhole"}
    assert not world.calc.intent.devices


def test_the_smallest_pool_that_holds_a_block_decides() -> None:
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16", vxlan=ALWAYS), pool("b", "10.0.2.0/24"))
    assert set(world.ways()) == {OWN_BLOCK, FAR_BLOCK}
    world.see((pool("b", "10.0.2.0/24")[0], None))
    assert set(world.ways()) == {OWN_BLOCK, NEAR_BLOCK, FAR_BLOCK}


def test_borrowed_addresses_go_to_their_holders() -> None:
    blocks = (block(OWN_BLOCK, ME, a3=FAR), block(NEAR_BLOCK, NEAR, a5=ME, a6=FAR), block(FAR_BLOCK, "", a7=NEAR))
    world = World(*NODES, *blocks, pool("a", "10.0.0.0/16", vxlan=ALWAYS))
    near, far = (f"10.0.{n}.2 dev vxlan.calico to 192.0.{s}.{n}" for n, s in ((2, 2), (3, 3)))
    assert world.ways() == {
        OWN_BLOCK: "blackhole",
        "10.0.1.3/32": far,
        NEAR_BLOCK: near,
        "10.0.2.6/32": far,
        "10.0.3.7/32": near,
    }


def test_a_nodes_new_address_moves_its_next_hop_and_no_route() -> None:
    many = [block(f"10.0.{n}.0/26", FAR) for n in range(3, 200)]
    world = World(*NODES, *many, pool("a", "10.0.0.0/16", vxlan=CROSS))
    delta = world.see(node(FAR, "192.0.2.33/24", vxlan_tunnel4="10.0.3.2"))
    assert not delta.blocks
    (changed,) = delta.hops.values()
    assert changed is not None
    assert changed.hop == Direct(parse_address("192.0.2.33"), "eth0"), "it came into our subnet"


@pytest.mark.parametrize(
    ("changes", "host", "why"),
    [
        ([(NODES[2][0], None)], HOST, Unreached.NO_NODE),
        ([node(FAR, vxlan_tunnel4="10.0.3.2")], HOST, Unreached.NO_ADDRESS),
        ([node(FAR, "192.0.3.3/24")], HOST, Unreached.NO_TUNNEL_ADDRESS),
        ([node(FAR, "192.0.2.1/24", vxlan_tunnel4="10.0.3.2")], HOST, Unreached.SAME_ADDRESS),
        ([node(ME)], HOST, Unreached.NO_OWN_ADDRESS),
        ([], {}, Unreached.NO_UNDERLAY),
    ],
)
def test_what_cannot_be_reached_is_dropped_and_says_why(
    changes: list[Change], host: HostDevices, why: Unreached
) -> None:
    world = World(*NODES, block(FAR_BLOCK, FAR), pool("a", "10.0.0.0/16", vxlan=ALWAYS), host=host)
    world.see(*changes)
    assert world.ways() == {FAR_BLOCK: "blackhole"}
    assert world.calc.intent.unreached[Way(FAR, Tunnel.VXLAN, ALWAYS)] is why
    world.calc.put_devices(HOST)
    delta = world.see(*NODES)
    assert set(delta.blocks) == {parse_prefix(FAR_BLOCK)}, "and is reached once that is mended"
    assert world.ways() == {FAR_BLOCK: "10.0.3.2 dev vxlan.calico to 192.0.3.3"}


def test_the_device_follows_the_underlay_and_what_is_configured() -> None:
    pools = (pool("a", "10.0.0.0/16", vxlan=ALWAYS), pool("b", "10.9.0.0/16", ipip=ALWAYS))
    world = World(*NODES, *pools, pool("six", "fd00::/48", vxlan=CROSS))
    devices = world.calc.intent.devices
    assert {tunnel: one.mtu for tunnel, one in devices.items()} == {
        Tunnel.VXLAN: 1450,
        Tunnel.VXLAN_V6: 1430,
        Tunnel.IPIP: 1480,
    }
    vxlan = devices[Tunnel.VXLAN]
    assert (vxlan.parent, vxlan.vni, vxlan.port) == ("eth0", 4096, 4789)
    assert (vxlan.local, vxlan.address) == (parse_address("192.0.2.1"), parse_address("10.0.1.2"))
    world.see(configuration("default", vxlanMTU=1400, vxlanVNI=7), configuration("node.n1", vxlanMTU=1300))
    assert (world.calc.intent.devices[Tunnel.VXLAN].mtu, world.calc.intent.devices[Tunnel.VXLAN].vni) == (1300, 7)
    world.calc.put_devices(MOVED_HOST)
    world.see()
    assert set(world.calc.intent.devices) == {Tunnel.VXLAN, Tunnel.IPIP}
    assert world.calc.intent.devices[Tunnel.IPIP].mtu == 8980
    assert world.calc.intent.unreached[Tunnel.VXLAN_V6] is Unreached.NO_UNDERLAY


def test_a_mode_that_changes_moves_the_routes_to_the_new_way() -> None:
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16"))
    for mode, near in ((ALWAYS, "10.0.2.2 dev vxlan.calico to 192.0.2.2"), (CROSS, "192.0.2.2 dev eth0")):
        world.see(pool("a", "10.0.0.0/16", vxlan=mode))
        assert world.ways()[NEAR_BLOCK] == near
    delta = world.see(pool("a", "10.0.0.0/16", vxlan=NEVER))
    assert world.ways() == {OWN_BLOCK: "blackhole"}
    assert delta.devices == {Tunnel.VXLAN: None}
    assert set(delta.hops.values()) == {None}


def test_where_two_ways_have_one_number_the_lower_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Way, "number", 1 << 31)
    world = World(*NODES, *BLOCKS, pool("a", "10.0.0.0/16", vxlan=ALWAYS))
    near, far = "10.0.2.2 dev vxlan.calico to 192.0.2.2", "10.0.3.2 dev vxlan.calico to 192.0.3.3"
    assert (world.ways()[NEAR_BLOCK], world.ways()[FAR_BLOCK]) == (near, far)
    assert [one.number for _, one in sorted(world.calc.intent.hops.items())] == [1 << 31, None]
    world.see(full_node(FAR, 3, 33))
    assert world.ways()[FAR_BLOCK] == "10.0.33.2 dev vxlan.calico to 192.0.3.33", "its routes carry the hop"
    world.see((BLOCKS[1][0], None))
    assert [one.number for one in world.calc.intent.hops.values()] == [1 << 31]


def test_own_addresses_come_from_the_pools_that_are_for_this_node() -> None:
    named = {
        "all": pool("a", "10.0.0.0/16", vxlan=ALWAYS),
        "off": pool("b", "10.1.0.0/16", vxlan=ALWAYS, disabled=True),
        "other": pool("c", "10.2.0.0/16", vxlan=ALWAYS, node_selector=parse_selector("rack == 'b'")),
        "rack": pool("d", "10.3.0.0/16", ipip=CROSS, node_selector=parse_selector("rack == 'a'")),
        "pods": pool("e", "10.4.0.0/16", ipip=CROSS, allowed_uses=("Workload",)),
        "plain": pool("f", "10.5.0.0/16"),
    }
    pools = [value for _, value in named.values() if isinstance(value, IpPool)]
    assert derive_address_pools(pools, (("rack", "a"),)) == {
        Tunnel.VXLAN: (parse_prefix("10.0.0.0/16"),),
        Tunnel.IPIP: (parse_prefix("10.3.0.0/16"),),
    }


@pytest.mark.parametrize("numbers", [1 << 32, 3])
@settings(max_examples=150, deadline=None)
@given(history=st.lists(st.tuples(STEPS, st.booleans()), max_size=40))
def test_any_history_ends_as_from_scratch(numbers: int, history: list[tuple[Step, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if numbers == 3:
            full = Way.number.fget  # type: ignore[attr-defined]
            patch.setattr(Way, "number", property(lambda way: full(way) % 3))
        calc, view, host = TunnelCalc(ME), View(), dict(HOST)
        calc.put_devices(host)
        seen: tuple[dict[object, object], ...] = ({}, {}, {})
        for step, flush in [*history, (HOST, True)]:
            if isinstance(step, dict):
                host = step
                calc.put_devices(host)
            else:
                view.put(*step)
                calc.update(*step)
            if flush:
                delta = calc.flush()
                for kept, part in zip(seen, (delta.devices, delta.hops, delta.blocks), strict=True):
                    kept.update(part)
                intent = derive_tunnels(view.tables, ME, host)
                assert calc.intent == intent
                held = [{key: one for key, one in kept.items() if one is not None} for kept in seen]
                assert held == [intent.devices, intent.hops, intent.blocks], "the deltas add up"
