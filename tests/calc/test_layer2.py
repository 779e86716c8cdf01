"""Which addresses a node contends for at layer 2, and the incremental form against the one from scratch."""

from __future__ import annotations

import json
from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import Address, parse_address
from felixpy.calc.announcing.advertisements import EXCLUDE_LABEL
from felixpy.calc.announcing.layer2 import Layer2Calc, Layer2Vip, derive_layer2, score_node
from felixpy.calc.reasons import Reason
from felixpy.calc.services.arbitration import ServiceCalc
from felixpy.resources.codec import Decoder
from felixpy.resources.documents import AnsweringDoc
from felixpy.resources.kinds import Name, answering_key
from felixpy.resources.resource import Broken
from felixpy.resources.service_types import AddressPool, Answering, AnsweringClaim, L2Advertisement, Preference
from felixpy.resources.tables import Decoded, Ref, Table
from felixpy.resources.types import Node
from felixpy.resources.view import View
from felixpy.selector import parse_selector
from tests.calc.service_world import (
    LOCAL,
    ME,
    OTHER,
    SERVICE_CHANGES,
    Change,
    backend,
    grant,
    service,
    service_of,
    slice_of,
    workload,
)

VIP = "203.0.113.1"


class World:
    """The calculations of one node as the agent feeds them."""

    def __init__(self, *changes: Change, me: str = ME) -> None:
        self.services, self.layer2, self.view = ServiceCalc(me), Layer2Calc(me), View()
        self.see(*changes)

    def see(self, *changes: Change) -> World:
        for change in changes:
            self.view.put(*change)
            self.services.update(*change)
            self.layer2.update(*change)
        self.layer2.update_frontends(self.services.flush())
        self.delta = self.layer2.flush()
        return self

    def vip(self, text: str = VIP) -> Layer2Vip:
        return self.layer2.vips[parse_address(text)]

    def silent(self, text: str = VIP) -> Reason:
        return self.layer2.silences[parse_address(text)].reason


def node(name: str, **labels: str) -> Change:
    return Ref(Table.NODE, Name("", name)), Node(labels=tuple(sorted(labels.items())))


def advertisement(name: str = "a", **values: object) -> Change:
    return Ref(Table.L2_ADVERTISEMENT, Name("metallb-system", name)), L2Advertisement(**values)  # type: ignore[arg-type]


def pool(name: str, **labels: str) -> Change:
    return Ref(Table.ADDRESS_POOL, Name("metallb-system", name)), AddressPool((), labels=tuple(sorted(labels.items())))


def answering(name: str, *claims: tuple[str, str, int]) -> Change:
    """What a node says that it answers for: address, segment, score."""
    said = Answering(tuple(AnsweringClaim(parse_address(one), segment, score) for one, segment, score in claims))
    return Ref(Table.ANSWERING, Name("", name)), said


def gone(change: Change) -> Change:
    return change[0], None


def served(**policy: object) -> tuple[Change, ...]:
    """A Service that has the VIP and one ready endpoint on n2; nodes n1, n2, n3."""
    return (
        grant(VIP, "a/x"),
        service("a/x", service_of(**policy)),  # type: ignore[arg-type]
        slice_of("a/x-1", "x", backend("10.0.0.1", OTHER)),
        *(node(name) for name in (ME, OTHER, "n3")),
    )


def test_without_an_advertisement_nobody_contends() -> None:
    world = World(*served())
    assert not world.layer2.vips
    assert world.silent() is Reason.NOT_LAYER2


def test_all_nodes_contend_and_agree_on_the_order() -> None:
    worlds = [World(*served(), advertisement(), me=name) for name in (ME, OTHER, "n3")]
    orders = {world.vip().nodes for world in worlds}
    assert len(orders) == 1
    assert sorted(world.vip().rank for world in worlds) == [0, 1, 2]
    assert [world.vip().nodes[world.vip().rank] for world in worlds] == [ME, OTHER, "n3"]
    by_rank = sorted((world.vip() for world in worlds), key=lambda vip: vip.rank)
    assert [vip.score for vip in by_rank] == sorted((vip.score for vip in by_rank), reverse=True)


def test_addresses_are_spread_over_the_nodes() -> None:
    names = [f"n{number}" for number in range(4)]
    best = Counter(
        max(names, key=lambda name: score_node(name, Address(bytes((203, 0, 113, last))), 0)) for last in range(200)
    )
    assert all(25 <= best[name] <= 75 for name in names), best


def test_a_node_that_goes_moves_only_its_own_addresses() -> None:
    vips = [f"203.0.113.{last}" for last in range(1, 40)]
    changes = [grant(text, "a/x") for text in vips]
    world = World(*served(), *changes, advertisement())
    before = {text: world.vip(text).nodes for text in vips}
    world.see(gone(node("n3")))
    for text in vips:
        assert world.vip(text).nodes == tuple(name for name in before[text] if name != "n3")


def test_nodes_that_are_not_selected_or_excluded_do_not_contend() -> None:
    rack = (parse_selector("rack == 'r1'"),)
    world = World(*served(), node("n3", rack="r1"), advertisement(node_selectors=rack))
    assert world.silent() is Reason.NOT_LAYER2
    world.see(node(ME, rack="r1"))
    assert set(world.vip().nodes) == {ME, "n3"}
    world.see(node("n3", **{"rack": "r1", EXCLUDE_LABEL: ""}))
    assert world.vip().nodes == (ME,)
    world.see(node(ME, **{"rack": "r1", EXCLUDE_LABEL: ""}))
    assert world.silent() is Reason.NODE_EXCLUDED


def test_the_weights_of_one_advertisement_count_for_its_own_nodes() -> None:
    edge = Preference(60, parse_selector("has(edge)"))
    fast = Preference(50, parse_selector("has(fast)"))
    everybody = (node(ME, edge=""), node(OTHER, edge="", fast=""), node("n3", fast=""))
    world = World(*served(), *everybody, advertisement(preferences=(edge, fast)))
    assert world.vip().nodes == (OTHER, ME, "n3")
    only = (parse_selector("kubernetes.io/none == 'x'"),)
    world.see(advertisement("b", preferences=(Preference(100, parse_selector("has(fast)")),), node_selectors=only))
    assert world.vip().nodes == (OTHER, ME, "n3")
    world.see(advertisement("c", preferences=(Preference(20, parse_selector("!has(edge)")),)))
    assert world.vip().nodes == (OTHER, "n3", ME)


def test_pools_by_name_or_label_and_services_by_label() -> None:
    world = World(*served(label="tier"), advertisement(pools=("gold",)))
    assert world.silent() is Reason.NOT_LAYER2
    world.see(grant(VIP, "a/x", pool="gold"))
    assert world.vip()
    world.see(advertisement(pool_selectors=(parse_selector("has(shiny)"),)))
    assert world.silent() is Reason.NOT_LAYER2
    assert world.see(pool("gold", shiny="")).vip()
    world.see(advertisement(service_selectors=(parse_selector("has(other)"),)))
    assert world.silent() is Reason.NOT_LAYER2
    assert world.see(advertisement(service_selectors=(parse_selector("has(tier)"),))).vip()


def test_interfaces_of_several_advertisements_add_up_and_none_means_all() -> None:
    world = World(*served(), advertisement(interfaces=("eth1",)), advertisement("b", interfaces=("eth0",)))
    assert world.vip().interfaces == ("eth0", "eth1")
    assert world.see(advertisement("c")).vip().interfaces is None


def test_policy_local_lets_only_nodes_with_endpoints_contend() -> None:
    world = World(*served(external_policy=LOCAL), advertisement())
    assert world.silent() is Reason.NO_LOCAL_ENDPOINT
    both = slice_of("a/x-1", "x", backend("10.0.0.1", OTHER), backend("10.0.0.2", ME))
    assert set(world.see(both).vip().nodes) == {ME, OTHER}
    leaving = slice_of("a/x-1", "x", backend("10.0.0.1", OTHER, "gone"), backend("10.0.0.2", ME))
    assert world.see(leaving).vip().nodes == (ME,)


def test_a_service_without_endpoints_that_shares_the_address_adds_no_node() -> None:
    local = slice_of("a/x-1", "x", backend("10.0.0.2", ME))
    world = World(*served(external_policy=LOCAL), advertisement(), local)
    world.see(grant(VIP, "a/x", "a/y"), service("a/y", service_of(port=443)))
    assert world.vip().nodes == (ME,)
    world.see(slice_of("a/y-1", "y", backend("10.0.0.1", OTHER)))
    assert set(world.vip().nodes) == {ME, OTHER, "n3"}


def test_an_endpoint_of_unknown_node_may_be_anywhere() -> None:
    world = World(*served(external_policy=LOCAL), advertisement(), slice_of("a/x-1", "x", backend("10.0.0.1", "")))
    assert world.silent() is Reason.NO_LOCAL_ENDPOINT
    world.see(workload("a/w", "10.0.0.1"))
    assert set(world.vip().nodes) == {ME, OTHER, "n3"}


def test_no_endpoint_at_all_and_nobody_contends() -> None:
    world = World(*served(), advertisement()).see(slice_of("a/x-1", "x"))
    assert world.silent() is Reason.NO_ENDPOINT
    assert world.delta.drops == {parse_address(VIP)}


def test_what_other_nodes_answer_for_is_told_by_segment_and_greatest_score() -> None:
    world = World(*served(), advertisement("one"))
    world.see(
        answering(ME, (VIP, "a", 9)),
        answering(OTHER, (VIP, "a", 1), (VIP, "b", 5)),
        answering("n3", (VIP, "a", 2), ("192.0.2.1", "a", 7)),
    )
    assert world.vip().elsewhere == (("a", 2), ("b", 5))
    assert world.see(gone(answering("n3"))).vip().elsewhere == (("a", 1), ("b", 5))


def test_what_a_node_answers_for_is_read_as_it_writes_it() -> None:
    body = msgspec.json.encode(AnsweringDoc({"10.9.0.0/24": {"10.9.0.100": 7}}))
    decoded = Decoder(ME).decode(answering_key("n2").encode(), body)
    assert decoded == Decoded(*answering("n2", ("10.9.0.100", "10.9.0.0/24", 7)))
    assert isinstance(Decoder(ME).decode(answering_key("n2").encode(), b'{"segments":{"a":{"x":1}}}'), Broken)


def test_a_change_that_means_nothing_here_says_nothing() -> None:
    world = World(*served(), advertisement())
    world.see(slice_of("a/x-1", "x", backend("10.0.0.9", "n3")))
    assert not world.delta
    world.see(node(OTHER))
    assert not world.delta


def test_an_advertisement_is_read_as_metallb_writes_it() -> None:
    key = b"/felixpy/resources/metallb.io/v1beta1/l2advertisements/metallb-system/edge"
    spec = {
        "ipAddressPools": ["gold"],
        "ipAddressPoolSelectors": [{"matchLabels": {"zone": "a"}}],
        "serviceSelectors": [{"matchLabels": {"app": "web"}}],
        "nodeSelectors": [{"matchLabels": {"role": "lb"}}],
        "preferredNodeSelectors": [{"weight": 100, "preference": {"matchLabels": {"edge": "yes"}}}],
        "interfaces": ["eth0"],
    }
    decoded = Decoder(ME).decode(key, json.dumps({"metadata": {"name": "edge"}, "spec": spec}).encode())
    assert isinstance(decoded, Decoded)
    assert decoded.ref == Ref(Table.L2_ADVERTISEMENT, Name("metallb-system", "edge"))
    assert decoded.value == L2Advertisement(
        pools=("gold",),
        pool_selectors=(parse_selector("zone == 'a'"),),
        service_selectors=(parse_selector("app == 'web'"),),
        node_selectors=(parse_selector("role == 'lb'"),),
        preferences=(Preference(100, parse_selector("edge == 'yes'")),),
        interfaces=("eth0",),
    )
    spec["preferredNodeSelectors"] = [{"weight": 0, "preference": {}}]
    broken = Decoder(ME).decode(key, json.dumps({"metadata": {"name": "edge"}, "spec": spec}).encode())
    assert isinstance(broken, Broken)
    assert broken.field == "spec.preferredNodeSelectors[0].weight"


_labels = st.dictionaries(st.sampled_from(["rack", "edge", EXCLUDE_LABEL]), st.just(""), max_size=2)
_selectors = st.sampled_from([(), (parse_selector("has(rack)"),), (parse_selector("!has(rack)"),)])
_own = st.one_of(
    st.builds(lambda name, labels: node(name, **labels), st.sampled_from([ME, OTHER, "n3"]), _labels),
    st.builds(lambda name, labels: pool(name, **labels), st.sampled_from(["default", "gold"]), _labels),
    st.builds(
        lambda name, pools, labelled, selectors, weight, names, services: advertisement(
            name,
            pools=tuple(pools),
            pool_selectors=labelled,
            node_selectors=selectors,
            preferences=(Preference(weight, parse_selector("has(edge)")),),
            interfaces=tuple(names),
            service_selectors=services,
        ),
        st.sampled_from(["one", "two"]),
        st.lists(st.sampled_from(["default", "gold"]), max_size=1),
        _selectors,
        _selectors,
        st.sampled_from([1, 50]),
        st.lists(st.sampled_from(["eth0", "eth1"]), max_size=2, unique=True),
        st.sampled_from([(), (parse_selector("has(x)"),)]),
    ),
)
_answering = st.builds(
    lambda name, claims: answering(name, *claims),
    st.sampled_from([ME, OTHER, "n3"]),
    st.lists(
        st.tuples(st.sampled_from([VIP, "203.0.113.2"]), st.sampled_from(["10.9.0.0/24", "b"]), st.integers(1, 3)),
        max_size=3,
    ),
)
_own = st.one_of(_own, _answering)
_changes = st.one_of(SERVICE_CHANGES, _own, _own.map(gone))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(_changes, max_size=5), max_size=12))
def test_the_incremental_form_is_the_one_from_scratch(batches: list[list[Change]]) -> None:
    world = World(*served(), advertisement("one"))
    told: dict[Address, Layer2Vip] = dict(world.delta.puts)
    for batch in batches:
        world.see(*batch)
        for address in world.delta.drops:
            del told[address]
        told.update(world.delta.puts)
        vips, silent = derive_layer2(world.view.tables, ME)
        assert world.layer2.vips == vips == told
        assert world.layer2.silences == silent
