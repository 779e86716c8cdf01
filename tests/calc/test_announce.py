"""What a node announces and what stays silent, and the incremental form against the one from scratch."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import Prefix, parse_address, parse_prefix
from felixpy.calc.announcing.advertisements import EXCLUDE_LABEL
from felixpy.calc.announcing.announce import AnnounceCalc
from felixpy.calc.announcing.announcements import Announcement, Why
from felixpy.calc.announcing.from_scratch import derive_announcements
from felixpy.calc.reasons import Reason
from felixpy.calc.services.arbitration import ServiceCalc
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Broken
from felixpy.resources.service_types import AddressPool, BgpAdvertisement, CommunityAliases, L2Advertisement
from felixpy.resources.tables import Decoded, Ref, Table
from felixpy.resources.types import (
    Block,
    BlockAffinity,
    FelixConfiguration,
    FloatingAddress,
    IpPool,
    Node,
    WorkloadEndpoint,
)
from felixpy.resources.view import View
from felixpy.selector import parse_selector
from tests.calc.service_world import (
    ANNOUNCE_CHANGES,
    LOCAL,
    ME,
    OTHER,
    UDP,
    Change,
    backend,
    grant,
    service,
    service_of,
    service_ranges,
    slice_of,
    workload,
)

VIP = parse_prefix("203.0.113.1")


class World:
    """The calculations as the agent feeds them."""

    def __init__(self, *changes: Change) -> None:
        self.services, self.announce, self.view = ServiceCalc(ME), AnnounceCalc(ME), View()
        self.see(*changes)

    def see(self, *changes: Change) -> World:
        for change in changes:
            self.view.put(*change)
            self.services.update(*change)
            self.announce.update(*change)
        delta = self.services.flush()
        self.announce.update_frontends(delta)
        self.announce.update_routed(delta)
        self.delta = self.announce.flush()
        return self

    def announced(self) -> dict[str, Why]:
        return {str(prefix): one.why for prefix, one in self.announce.announcements.items()}

    def silent(self) -> dict[str, Reason]:
        return {str(prefix): one.reason for prefix, one in self.announce.silences.items()}


def block(text: str, node: str, **borrowed: str) -> Change:
    """`borrowed` gives the holder of address number N as `aN`."""
    first = parse_address(text.partition("-")[0])
    pairs = tuple((parse_address(f"10.0.0.{first[3] + int(key[1:])}"), holder) for key, holder in borrowed.items())
    return Ref(Table.BLOCK, Name("", text)), Block(node, pairs)


def affinity(text: str, state: str) -> Change:
    return Ref(Table.AFFINITY, Name(ME, text)), BlockAffinity(state)


def node(*labels: str) -> Change:
    return Ref(Table.NODE, Name("", ME)), Node(labels=tuple((label, "") for label in labels))


def advertisement(name: str, **values: object) -> Change:
    return Ref(Table.BGP_ADVERTISEMENT, Name("metallb-system", name)), BgpAdvertisement(**values)  # type: ignore[arg-type]


def metallb(table: Table, name: str, value: AddressPool | CommunityAliases | L2Advertisement | None) -> Change:
    return Ref(table, Name("metallb-system", name)), value


def served(**policy: object) -> tuple[Change, ...]:
    """A Service that has the VIP and one ready endpoint on another node."""
    return (
        grant("203.0.113.1", "a/x"),
        service("a/x", service_of(**policy)),  # type: ignore[arg-type]
        slice_of("a/1", "x", backend("10.0.1.1", OTHER)),
    )


def test_what_is_silent_is_as_of_the_last_flush() -> None:
    """A status may be asked for while half of a new state has come."""
    world = World(grant("203.0.113.1", "a/x"), block("10.0.0.0-26", ME), affinity("10.0.0.0-26", "pending"))
    before = world.silent()
    assert before.keys() == {"203.0.113.1/32", "10.0.0.0/26"}
    for ref, _ in (grant("203.0.113.1", "a/x"), block("10.0.0.0-26", ME)):
        world.announce.update(ref, None)
    assert world.silent() == before
    world.announce.flush()
    assert world.silent() == {}


def test_blocks_of_this_node_are_announced_and_those_of_others_are_not() -> None:
    assert World(block("10.0.0.0-26", ME), block("10.0.0.64-26", OTHER)).announced() == {"10.0.0.0/26": Why.BLOCK}


def test_a_block_waits_for_its_affinity() -> None:
    world = World(block("10.0.0.0-26", ME), affinity("10.0.0.0-26", "pending"))
    assert world.silent() == {"10.0.0.0/26": Reason.AFFINITY_PENDING}
    assert world.see(affinity("10.0.0.0-26", "confirmed")).announced() == {"10.0.0.0/26": Why.BLOCK}


@pytest.mark.parametrize("used", [True, False])
def test_a_block_that_is_given_back_is_announced_while_addresses_of_it_are_held(used: bool) -> None:
    held = Ref(Table.BLOCK, Name("", "10.0.0.0-26")), Block(ME, used=used)
    pool = Ref(Table.POOL, Name("", "p")), IpPool(parse_prefix("10.0.0.0/16"), 26)
    world = World(pool, held, affinity("10.0.0.0-26", "pendingDeletion"))
    assert world.announced() == ({"10.0.0.0/26": Why.BLOCK} if used else {})
    assert world.silent() == ({} if used else {"10.0.0.0/26": Reason.AFFINITY_ENDING})


def test_a_borrowed_address_is_announced_alone_by_who_holds_it() -> None:
    world = World(block("10.0.0.64-26", OTHER, a1=ME, a2="n3"))
    assert world.announced() == {"10.0.0.65/32": Why.BORROWED}


def test_a_pool_that_is_not_exported_keeps_its_blocks_silent() -> None:
    pool = Ref(Table.POOL, Name("", "p"))
    hidden = IpPool(parse_prefix("10.0.0.0/16"), 26, disable_bgp_export=True)
    world = World(block("10.0.0.0-26", ME), block("10.0.0.64-26", OTHER, a1=ME), (pool, hidden))
    assert world.announced() == {}
    assert set(world.silent().values()) == {Reason.EXPORT_DISABLED}
    assert [str(one.prefix) for one in world.announce.hidden] == ["10.0.0.0/26", "10.0.0.65/32"]
    assert world.delta
    assert len(world.see((pool, IpPool(parse_prefix("10.0.0.0/16"), 26))).announced()) == 2
    assert world.announce.hidden == ()


def test_a_block_of_a_deleted_pool_is_announced_while_addresses_of_it_are_held() -> None:
    pool = Ref(Table.POOL, Name("", "p"))
    empty = Ref(Table.BLOCK, Name("", "10.0.0.0-26")), Block(ME, used=False)
    world = World(empty, block("10.0.0.64-26", ME), (pool, IpPool(parse_prefix("10.0.0.0/16"), 26)))
    assert len(world.announced()) == 2
    assert world.see((pool, None)).delta.drops == {parse_prefix("10.0.0.0/26")}
    assert world.silent() == {"10.0.0.0/26": Reason.NO_POOL}
    assert world.announced() == {"10.0.0.64/26": Why.BLOCK}


@pytest.mark.parametrize(("allocations", "used"), [([None, None], False), ([None, 0], True)])
def test_a_block_is_used_while_an_address_of_it_is_held(allocations: list[int | None], used: bool) -> None:
    key = b"/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-31"
    body = {"cidr": "10.0.0.0/31", "affinity": f"host:{ME}", "allocations": allocations, "attributes": [{}]}
    found = Decoder(ME).decode(key, json.dumps(body).encode())
    assert isinstance(found, Decoded)
    assert found.value == Block(ME, used=used)


def floating(node: str, *externals: str) -> Change:
    pod = parse_address("10.0.0.1")
    pairs = tuple(FloatingAddress(parse_address(one), pod) for one in externals)
    return Ref(Table.WORKLOAD, Name("a", "w")), WorkloadEndpoint(node, "cali1", (pod,), (), (), floating=pairs)


def felix(word: str) -> Change:
    return Ref(Table.FELIX_CONFIGURATION, Name("", "default")), FelixConfiguration((("floatingIPs", word),))


def test_floating_addresses_are_announced_where_the_workload_is() -> None:
    pool = Ref(Table.POOL, Name("", "f")), IpPool(parse_prefix("192.0.2.0/24"), 26, node_selector=None)
    world = World(pool, floating(ME, "192.0.2.1", "198.51.100.1"))
    assert world.silent() == dict.fromkeys(("192.0.2.1/32", "198.51.100.1/32"), Reason.FLOATING_DISABLED)
    world.see(felix("Enabled"))
    assert world.announced() == {"192.0.2.1/32": Why.FLOATING}
    assert world.silent() == {"198.51.100.1/32": Reason.NOT_IN_POOL}
    assert world.see(floating(OTHER, "192.0.2.1")).announced() == {}
    world.see(floating(ME, "192.0.2.1"), (pool[0], replace(pool[1], disable_bgp_export=True)))
    assert world.silent() == {"192.0.2.1/32": Reason.EXPORT_DISABLED}


def test_a_service_address_is_announced_where_any_node_has_an_endpoint() -> None:
    assert World(*served()).announced() == {"203.0.113.1/32": Why.SERVICE}


@pytest.mark.parametrize(("state", "reason"), [("gone", Reason.NO_ENDPOINT), ("terminating", None), ("ready", None)])
def test_without_a_serving_endpoint_it_is_withdrawn(state: str, reason: Reason | None) -> None:
    world = World(*served()).see(slice_of("a/1", "x", backend("10.0.1.1", OTHER, state)))
    assert world.silent().get("203.0.113.1/32") == reason
    assert (world.delta.drops == {VIP}) == (reason is not None)


def test_local_policy_is_announced_only_where_an_endpoint_is() -> None:
    world = World(*served(external_policy=LOCAL))
    assert world.silent() == {"203.0.113.1/32": Reason.NO_LOCAL_ENDPOINT}
    assert world.see(slice_of("a/2", "x", backend("10.0.0.1", ME))).announced() == {"203.0.113.1/32": Why.SERVICE}


def test_an_excluded_node_announces_blocks_but_no_service() -> None:
    world = World(*served(), block("10.0.0.0-26", ME), node(EXCLUDE_LABEL))
    assert (world.announced(), world.silent()) == (
        {"10.0.0.0/26": Why.BLOCK},
        {"203.0.113.1/32": Reason.NODE_EXCLUDED},
    )


def test_a_node_that_drains_asks_its_neighbours_to_send_elsewhere_first() -> None:
    world = World(*served(), block("10.0.0.0-26", ME), advertisement("one", communities=("65000:1",), local_pref=200))
    world.announce.drain(False)
    assert world.see(node(EXCLUDE_LABEL)).announce.announcements == {
        parse_prefix("10.0.0.0/26"): Announcement(parse_prefix("10.0.0.0/26"), Why.BLOCK),
        VIP: Announcement(VIP, Why.SERVICE, 200, ("65000:1", "65535:0")),
    }
    world.announce.drain(True)
    assert world.see().silent() == {"203.0.113.1/32": Reason.NODE_EXCLUDED}


def test_policy_local_tells_how_many_endpoints_are_here() -> None:
    here = slice_of("a/2", "x", backend("10.0.0.1", ME), backend("10.0.0.2", ME))
    assert World(*served(external_policy=LOCAL), here).announce.announcements[VIP].endpoints == 2
    assert World(*served(), here).announce.announcements[VIP].endpoints is None


def test_an_aggregate_has_the_endpoints_of_all_its_addresses() -> None:
    here = slice_of("a/2", "x", backend("10.0.0.1", ME), backend("10.0.0.2", ME))
    world = World(*served(external_policy=LOCAL), here, advertisement("wide", aggregation4=24))
    wide = parse_prefix("203.0.113.0/24")
    assert world.see(grant("203.0.113.2", "a/x")).announce.announcements[wide].endpoints == 4
    everywhere = service("a/z", service_of(port=81)), slice_of("a/3", "z", backend("10.0.0.9", OTHER))
    assert world.see(grant("203.0.113.3", "a/z"), *everywhere).announce.announcements[wide].endpoints is None


def test_a_granted_address_without_its_service_is_silent() -> None:
    assert World(grant("203.0.113.1", "a/x")).silent() == {"203.0.113.1/32": Reason.NO_SERVICE}


def test_a_shared_address_stays_while_one_of_its_services_has_an_endpoint() -> None:
    world = World(*served()).see(
        grant("203.0.113.1", "a/x", "b/z"), service("b/z", service_of(port=53, protocol=UDP)), slice_of("b/1", "z")
    )
    assert world.announced() == {"203.0.113.1/32": Why.SERVICE}


@pytest.mark.parametrize(
    ("values", "labels", "announced"),
    [
        ({}, (), True),
        ({"pools": ("default",)}, (), True),
        ({"pools": ("gold",)}, (), False),
        ({"node_selectors": (parse_selector("has(rack)"),)}, (), False),
        ({"node_selectors": (parse_selector("has(rack)"),)}, ("rack",), True),
    ],
)
def test_advertisements_narrow_by_pool_and_node(
    values: dict[str, object], labels: tuple[str, ...], announced: bool
) -> None:
    world = World(*served(), advertisement("one", **values), node(*labels))
    assert (VIP in world.announce.announcements) == announced
    assert announced or world.silent() == {"203.0.113.1/32": Reason.NOT_ADVERTISED}


@pytest.mark.parametrize(
    ("values", "announced"),
    [
        ({"pool_selectors": (parse_selector("tier == 'gold'"),)}, True),
        ({"pool_selectors": (parse_selector("tier == 'tin'"),)}, False),
        ({"pools": ("default",), "pool_selectors": (parse_selector("tier == 'tin'"),)}, True),
        ({"service_selectors": (parse_selector("has(public)"),)}, True),
        ({"service_selectors": (parse_selector("!has(public)"),)}, False),
    ],
)
def test_advertisements_select_pools_and_services_by_label(values: dict[str, object], announced: bool) -> None:
    pool = metallb(Table.ADDRESS_POOL, "default", AddressPool((), labels=(("tier", "gold"),)))
    world = World(*served(label="public"), advertisement("one", **values), pool)
    assert (VIP in world.announce.announcements) == announced


def test_an_advertisement_waits_for_the_numbers_of_its_communities() -> None:
    world = World(*served(), advertisement("one", communities=("quiet", "65000:1")), advertisement("open"))
    assert world.silent() == {"203.0.113.1/32": Reason.UNKNOWN_COMMUNITY}
    assert not world.announced(), "nor does the other one announce what may be meant to stay inside"
    aliases = CommunityAliases((("quiet", "65535:65281"),))
    world.see(metallb(Table.COMMUNITY, "names", aliases))
    assert world.announce.announcements[VIP].communities == ("65000:1", "65535:65281")
    assert world.see(metallb(Table.COMMUNITY, "names", None)).delta.drops == {VIP}


def test_with_layer2_advertisements_alone_nothing_goes_over_bgp() -> None:
    layer2 = metallb(Table.L2_ADVERTISEMENT, "l2", L2Advertisement())
    world = World(*served(), layer2)
    assert world.silent() == {"203.0.113.1/32": Reason.NOT_ADVERTISED}
    assert world.see(advertisement("one")).announced() == {"203.0.113.1/32": Why.SERVICE}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"aggregationLength": 33}, "spec.aggregationLength"),
        ({"aggregationLength": 0}, "spec.aggregationLength"),
        ({"aggregationLengthV6": 129}, "spec.aggregationLengthV6"),
        ({"localPref": -1}, "spec.localPref"),
        ({"communities": ["65000:1", "4200000001:100"]}, "spec.communities[1]"),
        ({"communities": ["a:b"]}, "spec.communities[0]"),
        ({"communities": ["large:1:2"]}, "spec.communities[0]"),
        ({"communities": ["large:1:2:4294967296"]}, "spec.communities[0]"),
    ],
)
def test_a_value_that_bgp_cannot_carry_is_named(spec: dict[str, object], field: str) -> None:
    key = b"/felixpy/resources/metallb.io/v1beta1/bgpadvertisements/metallb-system/one"
    found = Decoder(ME).decode(key, json.dumps({"metadata": {"name": "one"}, "spec": spec}).encode())
    assert isinstance(found, Broken)
    assert found.field == field


def test_communities_are_read_as_numbers_whatever_their_form() -> None:
    spec = {"communities": [{"name": "quiet", "value": "65535:65281"}, {"name": "far", "value": "large:64512:01:2"}]}
    key = b"/felixpy/resources/metallb.io/v1beta1/communities/metallb-system/names"
    found = Decoder(ME).decode(key, json.dumps({"metadata": {"name": "names"}, "spec": spec}).encode())
    assert isinstance(found, Decoded)
    assert found.value == CommunityAliases((("quiet", "65535:65281"), ("far", "64512:1:2")))


def test_several_advertisements_give_several_prefixes_with_their_own_attributes() -> None:
    world = World(
        *served(),
        advertisement("one", communities=("65000:1",), local_pref=100),
        advertisement("two", communities=("65000:2",), peers=("tor",)),
        advertisement("wide", aggregation4=24, peers=("tor",)),
    )
    wide = parse_prefix("203.0.113.0/24")
    assert world.announce.announcements == {
        VIP: Announcement(VIP, Why.SERVICE, 100, ("65000:1", "65000:2")),
        wide: Announcement(wide, Why.SERVICE, peers=("tor",)),
    }


def test_an_aggregate_stays_until_its_last_address_goes() -> None:
    world = World(*served(), advertisement("wide", aggregation4=24), grant("203.0.113.2", "a/x"))
    wide = parse_prefix("203.0.113.0/24")
    assert not world.see((Ref(Table.GRANT, Name("", "203.0.113.1")), None)).delta
    assert world.see((Ref(Table.GRANT, Name("", "203.0.113.2")), None)).delta.drops == {wide}


@pytest.mark.parametrize("ranges", [{"cluster": "10.96.0.0/16"}, {"balanced": "203.0.113.0/24"}])
def test_a_range_goes_out_whole_from_every_node_that_is_not_excluded(ranges: dict[str, str]) -> None:
    (text,) = ranges.values()
    world = World(service_ranges(**ranges))  # type: ignore[arg-type]
    assert world.announced() == {text: Why.RANGE}
    assert world.see(node(EXCLUDE_LABEL)).silent() == {text: Reason.NODE_EXCLUDED}
    assert world.see(node(), (Ref(Table.BGP_CONFIGURATION, Name("", "default")), None)).announced() == {}


def test_an_address_of_a_range_goes_out_alone_only_where_its_endpoints_are() -> None:
    ranges = service_ranges("198.51.100.0/24", cluster="10.96.0.0/16")
    local = service("a/x", service_of("ClusterIP", cluster="10.96.0.9", external="198.51.100.9", external_policy=LOCAL))
    world = World(ranges, local, slice_of("a/1", "x", backend("10.0.1.1", OTHER)))
    whole = {"198.51.100.0/24": Why.RANGE, "10.96.0.0/16": Why.RANGE}
    assert world.announced() == whole
    assert set(world.silent().values()) == {Reason.NO_LOCAL_ENDPOINT}
    alone = {"198.51.100.9/32": Why.SERVICE, "10.96.0.9/32": Why.SERVICE}
    assert world.see(slice_of("a/1", "x", backend("10.0.0.1", ME))).announced() == whole | alone
    everywhere = service("a/x", service_of("ClusterIP", cluster="10.96.0.9", external="198.51.100.9"))
    assert world.see(everywhere).announced() == whole, "any node will do"


def test_a_range_of_one_address_needs_an_endpoint_anywhere() -> None:
    world = World(service_ranges("198.51.100.9/32"), service("a/x", service_of("ClusterIP", external="198.51.100.9")))
    assert (world.announced(), world.silent()) == ({}, {"198.51.100.9/32": Reason.NO_ENDPOINT})
    assert world.see(slice_of("a/1", "x", backend("10.0.1.1", OTHER))).announced() == {"198.51.100.9/32": Why.SERVICE}


@pytest.mark.parametrize(
    ("ranges", "announced"),
    [
        (service_ranges(balanced="203.0.113.0/24"), {"203.0.113.0/24": Why.RANGE}),
        (service_ranges(balanced="203.0.113.0/24", aggregate=False), {"203.0.113.1/32": Why.SERVICE}),
        (service_ranges(balanced="203.0.113.1/32"), {"203.0.113.1/32": Why.SERVICE}),
        (service_ranges(balanced="192.0.2.0/24"), {"192.0.2.0/24": Why.RANGE}),
    ],
)
def test_load_balancer_ranges_say_how_granted_addresses_go_out(ranges: Change, announced: dict[str, Why]) -> None:
    world = World(*served(), ranges)
    assert world.announced() == announced
    outside = "192.0.2.0/24" in announced
    assert world.silent() == ({"203.0.113.1/32": Reason.OUTSIDE_RANGES} if outside else {})
    mine = world.see(advertisement("mine")).announced()
    assert mine == announced | {"203.0.113.1/32": Why.SERVICE}, "a BGPAdvertisement is as good as a range"


def test_a_borrowed_address_leads_to_its_device() -> None:
    world = World(block("10.0.0.64-26", OTHER, a1=ME), workload("a/w", "10.0.0.65"))
    assert world.announce.announcements[parse_prefix("10.0.0.65")].interface == "cali1"


def test_other_nodes_blocks_are_not_kept() -> None:
    world = World(*(block(f"10.{high}.{low}.0-26", OTHER) for high in range(4) for low in range(200)))
    assert not world.announce._blocks


@settings(max_examples=250)
@given(st.lists(st.tuples(st.lists(ANNOUNCE_CHANGES, min_size=1, max_size=6), st.booleans()), max_size=12))
def test_incremental_and_from_scratch_agree_over_any_sequence(batches: list[tuple[list[Change], bool]]) -> None:
    world = World()
    kept: dict[Prefix, Announcement] = {}
    for batch, drained in batches:
        world.announce.drain(drained)
        world.see(*batch)
        assert not world.delta.drops - kept.keys()
        kept = {prefix: one for prefix, one in kept.items() if prefix not in world.delta.drops} | world.delta.puts
        announced, silent = derive_announcements(world.view.tables, ME, drained)
        assert kept == announced == world.announce.announcements
        assert world.announce.silences == silent


def test_a_block_key_that_is_no_cidr_reaches_no_calculation() -> None:
    key = b"/calico/ipam/v2/assignment/ipv4/block/nonsense"
    assert isinstance(Decoder(ME).decode(key, b'{"cidr":"10.0.0.0/26","affinity":"host:n1"}'), Broken)
    assert Decoder(ME).decode(key, None) is not None
