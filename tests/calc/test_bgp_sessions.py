"""Whom a node peers with, out of resources as they stand in etcd: Calico's, MetalLB's, and both for one neighbour."""

from __future__ import annotations

from dataclasses import replace

import pytest

from birdpy.addresses import anyone_in, format_address, parse_address
from birdpy.addresses import parse_prefix as parse_prefix_of_bgp
from birdpy.fib import LOCAL_PREF_TOP
from birdpy.gobgp.versions import find_impossible
from birdpy.intent import ANY_AS, Bfd, NextHopRule, RouteOrigin, Statement
from felixpy.addresses import parse_prefix
from felixpy.calc.announcing.announcements import Announcement, Why
from felixpy.calc.bgp.scene import HostFacts
from felixpy.resources.bgp_types import SecretKey
from tests.calc.bgp_telling import tells
from tests.calc.bgp_world import ME, OTHER_TOR, PASSWORD, TOR, World

BY_SECRET: dict[str, object] = {"secretKeyRef": {"name": "tor", "key": "password"}}


def test_calicos_peer_is_as_calico_would_have_it() -> None:
    plain = World().calico().tor
    assert (plain.asn, plain.port, plain.hold_time_s, plain.multihop_ttl, plain.ttl_security_hops) == (
        65000, 179, 90, 255, 0,
    )  # fmt: skip
    assert (plain.graceful_restart.enabled, plain.graceful_restart.restart_time_s) == (True, 120)
    assert plain.source == parse_address("192.0.2.1")
    asked = World().calico(
        peerIP=f"{TOR}:1790", localASNumber=65010, sourceAddress="None", ttlSecurity=2, keepaliveTime="50s",
        maxRestartTime="1m", numAllowedLocalASNumbers=200,
    ).tor  # fmt: skip
    assert (asked.port, asked.local_asn, asked.source, asked.allow_own_asn) == (1790, 65010, None, 200)
    assert (asked.ttl_security_hops, asked.multihop_ttl) == (2, 0), "they exclude each other"
    assert (asked.keepalive_s, asked.hold_time_s, asked.graceful_restart.restart_time_s) == (50, 150, 60)


def test_times_fit_into_an_open_message() -> None:
    tor = World().calico(maxRestartTime="2h", keepaliveTime="24h").tor
    assert (tor.graceful_restart.restart_time_s, tor.hold_time_s, tor.keepalive_s) == (4095, 65535, 65535)
    assert not World().calico(maxRestartTime="0s").tor.graceful_restart.enabled
    assert World().calico(keepaliveTime="0s").tor.keepalive_s == 30


def test_the_port_of_a_peer_that_is_a_node_is_the_nodes() -> None:
    world = World().put("BGPConfiguration", "node.n2", {"listenPort": 1179}).calico(peerIP="192.0.2.2", asNumber=64512)
    assert world.intent.neighbors[parse_address("192.0.2.2")].port == 1179


def test_a_peering_of_some_with_a_node_has_its_way_back_unless_manual() -> None:
    there = World().calico("to-me", node="n2", peerIP="192.0.2.1", asNumber=64512)
    assert there.addresses == ["192.0.2.2"]
    assert (
        World().calico("to-me", node="n2", peerIP="192.0.2.1", asNumber=64512, reversePeering="Manual").addresses == []
    )
    assert World().calico("to-me", node="n2", peerIP="192.0.2.1", asNumber=64999).addresses == [], (
        "another AS than ours"
    )
    by_label = World().calico("to-me", nodeSelector="name == 'n2'", peerSelector="name == 'n1'")
    assert set(by_label.addresses) == {"192.0.2.2", "2001:db8::2"}


def test_a_mesh_with_a_restart_time_and_a_password() -> None:
    world = World().put("BGPConfiguration", "default", {"nodeMeshPassword": BY_SECRET, "nodeMeshMaxRestartTime": "30s"})
    assert world.addresses == [], "not without its password"
    ((what, why),) = world.refused
    assert what == "BGPConfiguration default"
    assert "no Secret kube-system/tor" in why
    neighbors = world.secret().intent.neighbors.values()
    assert len(neighbors) == 4
    assert {(one.password, one.graceful_restart.restart_time_s) for one in neighbors} == {(PASSWORD, 30)}


def test_bind_mode_and_router_id() -> None:
    world = World().put("BGPConfiguration", "node.n1", {"bindMode": "NodeIP"})
    speaker = world.intent.speaker
    assert speaker is not None
    assert [format_address(one) for one in speaker.listen_addresses] == ["192.0.2.1", "2001:db8::1"]
    assert format_address(speaker.router_id) == "192.0.2.1"
    moved = world.metallb(routerID="9.9.9.9").intent.speaker
    assert moved is not None
    assert format_address(moved.router_id) == "9.9.9.9"
    torn = world.metallb("m/other", peerAddress=OTHER_TOR, routerID="8.8.8.8")
    assert [what for what, _ in torn.refused] == ["BGPPeer.metallb.io m/other", "BGPPeer.metallb.io m/tor"]


def test_metallbs_peer_is_as_metallb_would_have_it() -> None:
    plain = World().metallb().tor
    assert (plain.asn, plain.port, plain.hold_time_s, plain.multihop_ttl, plain.source) == (65000, 179, 90, 0, None)
    assert not plain.graceful_restart.enabled
    asked = World().metallb(
        myASN=65010, peerPort=1790, holdTime="30s", keepaliveTime="5s", connectTime="7s", sourceAddress="192.0.2.9",
        ebgpMultiHop=True, enableGracefulRestart=True, dualStackAddressFamily=True,
    ).tor  # fmt: skip
    assert (asked.local_asn, asked.port, asked.hold_time_s, asked.keepalive_s) == (65010, 1790, 30, 5)
    assert (asked.connect_retry_s, asked.source, asked.multihop_ttl) == (7, parse_address("192.0.2.9"), 255)
    assert (asked.graceful_restart.enabled, asked.versions) == (True, (4, 6))
    slow = World().metallb(keepaliveTime="40s").tor
    assert (slow.hold_time_s, slow.keepalive_s) == (120, 40), "three times as long, where it is not said"
    assert World().metallb(peerASN=None, dynamicASN="internal").tor.asn == 64512
    assert World().metallb(peerASN=None, dynamicASN="external").tor.asn == ANY_AS
    assert World().calico().metallb(peerASN=None, dynamicASN="external").tor.asn == 65000


def test_metallbs_peer_is_for_the_nodes_that_it_selects() -> None:
    assert World().metallb(nodeSelectors=[{"matchLabels": {"name": "n1"}}]).addresses == [TOR]
    assert World().metallb(nodeSelectors=[{"matchLabels": {"name": "n2"}}]).addresses == []


def test_a_neighbour_that_both_want_has_one_session_with_what_either_asks() -> None:
    world = World().calico(maxRestartTime="10s").metallb(holdTime="30s")
    assert world.addresses == [TOR]
    assert (world.tor.hold_time_s, world.tor.graceful_restart.restart_time_s, world.tor.multihop_ttl) == (30, 10, 255)
    assert world.plan.asked_by[parse_address(TOR)] == ("tor", "m/tor")
    assert world.refused == []


@pytest.mark.parametrize(
    ("calico", "metallb", "field"),
    [
        ({}, {"peerASN": 65001}, "asn"),
        ({}, {"myASN": 65010}, "local_asn"),
        ({"keepaliveTime": "10s"}, {"keepaliveTime": "5s"}, "keepalive_s"),
        ({"peerIP": f"{TOR}:180"}, {"peerPort": 181}, "port"),
        ({"password": BY_SECRET}, {"password": "other"}, "password"),
    ],
)
def test_what_contradicts_is_named_at_both_and_gives_no_session(
    calico: dict[str, object], metallb: dict[str, object], field: str
) -> None:
    world = World().secret().calico(**calico).metallb(**metallb)
    assert world.addresses == []
    assert world.refused == [
        ("BGPPeer tor", f"no session with {TOR}: BGPPeer.metallb.io m/tor asks for another {field}"),
        ("BGPPeer.metallb.io m/tor", f"no session with {TOR}: BGPPeer tor asks for another {field}"),
    ]
    assert PASSWORD not in repr(world.plan)


def test_of_two_of_metallbs_peers_neither_wins() -> None:
    world = World().metallb("m/one", holdTime="30s").metallb("m/two", holdTime="60s")
    assert world.addresses == []
    assert [what for what, _ in world.refused] == ["BGPPeer.metallb.io m/one", "BGPPeer.metallb.io m/two"]
    assert World().metallb("m/one").metallb("m/two").addresses == [TOR]


def test_of_two_of_calicos_peers_the_global_one_wins_and_the_other_is_told() -> None:
    world = World().calico("a-here", node=ME, asNumber=65001).calico("z-global")
    assert world.tor.asn == 65000
    assert world.refused == [("BGPPeer a-here", f"BGPPeer z-global has the session with {TOR}, with another asn")]


def test_what_else_the_other_one_asks_for_is_told_as_well() -> None:
    world = World().put("BGPFilter", "some", {}).calico("a").calico("b", filters=["some"], nextHopMode="Self")
    assert world.refused == [
        ("BGPPeer b", f"BGPPeer a has the session with {TOR}, with another filters, nextHopMode"),
    ]
    same = World().put("BGPFilter", "some", {}).calico("a", filters=["some"]).calico("b", filters=["some"])
    assert same.refused == []


def test_a_password_comes_from_a_secret_or_a_file_and_without_it_there_is_no_session() -> None:
    world = World().calico(password=BY_SECRET)
    assert world.addresses == []
    assert world.plan.password_files == {SecretKey("tor", "password")}
    assert world.secret().tor.password == PASSWORD
    assert world.plan.password_files == frozenset()
    assert world.secret(password="anew").tor.password == "anew"
    filed = World(HostFacts({SecretKey("tor", "password"): PASSWORD})).calico(password=BY_SECRET)
    assert filed.tor.password == PASSWORD
    assert World().calico(password=BY_SECRET).secret(password="x" * 81).addresses == []
    assert World().calico(password=BY_SECRET).secret(key="other").addresses == []


def test_nor_does_the_mesh_give_a_session_that_its_peer_closes() -> None:
    world = (
        World()
        .put("BGPConfiguration", "default", {"nodeToNodeMeshEnabled": True})
        .calico(peerIP="192.0.2.2", asNumber=64512, password=BY_SECRET)
    )
    assert set(world.addresses) == {"192.0.2.3", "2001:db8::2", "2001:db8::3"}


def test_metallbs_password_is_in_the_secret_of_its_namespace() -> None:
    world = World().metallb(passwordSecret={"name": "tor"}).secret("kube-system/tor")
    assert world.addresses == []
    assert world.secret("m/tor").tor.password == PASSWORD
    assert World().metallb(password="plain").tor.password == "plain"


def test_no_password_is_in_anything_that_is_printed() -> None:
    world = World().secret().calico(password=BY_SECRET).metallb(peerAddress=OTHER_TOR, password=PASSWORD)
    assert {one.password for one in world.intent.neighbors.values()} == {PASSWORD}
    assert PASSWORD not in repr((world.plan, dict(world.view.tables)))


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        ({"filters": ["nowhere"]}, "there is no BGPFilter nowhere"),
    ],
)
def test_what_calicos_peer_cannot_have_is_said(peer: dict[str, object], why: str) -> None:
    world = World().calico(**peer)
    assert world.addresses == []
    ((what, said),) = world.refused
    assert (what, why in said) == ("BGPPeer tor", True)


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        ({"vrf": "red"}, "vrf"),
        ({"holdTime": "0s"}, "holdTime 0"),
        ({"bfdProfile": "none"}, "there is no BFDProfile m/none"),
        ({"bfdProfile": "echo"}, "echoMode"),
        ({"passwordSecret": {"name": "none"}}, "there is no Secret m/none"),
    ],
)
def test_what_metallbs_peer_cannot_have_is_said(peer: dict[str, object], why: str) -> None:
    world = World().put("BFDProfile", "m/echo", {"echoMode": True}).metallb(**peer)
    assert world.addresses == []
    ((what, said),) = world.refused
    assert (what, why in said) == ("BGPPeer.metallb.io m/tor", True)


HEARD = parse_address("fe80::1%eth0")
LINK: dict[str, object] = {"peerAddress": None, "peerASN": None, "dynamicASN": "external", "interface": "eth0"}


def on_link(*heard: str) -> World:
    """A world in which these routers are heard."""
    return World(HostFacts(routers={format_address(one).partition("%")[2]: one for one in map(parse_address, heard)}))


def test_a_link_is_a_session_of_both_families_with_whoever_is_heard_there() -> None:
    world = on_link("fe80::1%eth0").metallb(**LINK)
    assert world.plan.listens_on == {"eth0"}
    neighbor = world.intent.neighbors[HEARD]
    assert (neighbor.families, neighbor.asn, neighbor.source) == ((4, 6), ANY_AS, None)
    assert exports(world) == [], "each family goes with the address that the session has"
    assert world.refused == []
    assert set(find_impossible(world.intent, 3)) == {HEARD}


@pytest.mark.parametrize(
    ("heard", "peer", "why"),
    [
        ((), {}, "no router is heard on eth0"),
        (("fe80::1%eth1",), {}, "no router is heard on eth0"),
        (("fe80::1%bond0", "fe80::1%eth0"), {}, "the routers on bond0 and eth0 have one address, fe80::1"),
        (("fe80::1%eth0",), {"sourceAddress": "192.0.2.1"}, "sourceAddress: not with interface"),
        (("fe80::1%eth0",), {"ebgpMultiHop": True}, "ebgpMultiHop: not with interface"),
    ],
)
def test_a_link_without_its_own_router_gives_no_session(
    heard: tuple[str, ...], peer: dict[str, object], why: str
) -> None:
    world = on_link(*heard).metallb(**{**LINK, **peer})
    assert world.addresses == []
    ((what, said),) = world.refused
    assert (what, why in said) == ("BGPPeer.metallb.io m/tor", True)


def test_what_is_for_some_peers_is_kept_from_a_link_and_goes_to_it_where_it_is_named() -> None:
    vip = Announcement(parse_prefix("203.0.113.1"), Why.SERVICE, peers=("tor",))
    world = on_link("fe80::1%eth0").metallb().metallb("m/link", **LINK)
    for announced, kept_from in ((vip, HEARD), (replace(vip, peers=("link",)), parse_address(TOR))):
        (restricted,) = [one for one in world.derive(announced).intent.policy.exports if one.match.prefixes]
        assert restricted.match.neighbors == (kept_from,)


def test_what_another_node_cannot_have_is_none_of_our_concern() -> None:
    world = World().calico(node="n2", filters=["nowhere"])
    world.metallb(nodeSelectors=[{"matchLabels": {"name": "n2"}}], vrf="red")
    assert world.refused == []


def test_a_bfd_profile() -> None:
    spec: dict[str, object] = {"receiveInterval": 100, "transmitInterval": 200, "detectMultiplier": 5}
    assert World().put("BFDProfile", "m/fast", spec).metallb(bfdProfile="fast").tor.bfd == Bfd(200, 100, 5)


def test_a_way_to_the_peer() -> None:
    world = World().calico(peerIP="198.51.100.1", reachableBy=TOR)
    ((prefix, gateway),) = world.plan.gateways.items()
    assert (str(prefix), format_address(gateway)) == ("198.51.100.1/32", TOR)
    assert prefix in world.plan.route_filter.own_prefixes, "what is learned does not replace it"


def exports(world: World) -> list[Statement]:
    return [one for one in world.intent.policy.exports if one.accept is None]


@pytest.mark.parametrize(
    ("peer", "rule"),
    [
        ({"nextHopMode": "Self"}, NextHopRule.SELF),
        ({"nextHopMode": "Keep"}, NextHopRule.UNCHANGED),
        ({"keepOriginalNextHop": True}, NextHopRule.UNCHANGED),
        ({"keepOriginalNextHop": True, "asNumber": 64512}, None),
        ({"nextHopMode": "Auto"}, None),
    ],
)
def test_what_becomes_of_next_hops(peer: dict[str, object], rule: NextHopRule | None) -> None:
    found = exports(World().calico(**peer))
    assert {one.change.next_hop for one in found} == ({rule} if rule else set())
    assert all(one.match.neighbors == (parse_address(TOR),) for one in found)
    if rule is NextHopRule.UNCHANGED:
        assert {one.match.origin for one in found} == {RouteOrigin.INTERNAL, RouteOrigin.EXTERNAL}, "ours have none"


def test_a_session_that_carries_both_families_gives_each_its_next_hop() -> None:
    (found,) = exports(World().metallb(dualStackAddressFamily=True))
    assert (found.match.version, found.change.next_hop) == (6, parse_address("2001:db8::1"))


def test_communities_of_prefixes_of_the_node_replace_those_of_all() -> None:
    default: dict[str, object] = {
        "nodeToNodeMeshEnabled": False,
        "communities": [{"name": "inside", "value": "64512:1:2"}],
        "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["inside", "64512:7"]}],
    }
    world = World().put("BGPConfiguration", "default", default).calico()
    (found,) = exports(world)
    (prefix,) = found.match.prefixes or ()
    assert (found.match.neighbors, str(prefix.prefix), prefix.shortest, prefix.longest) == (None, "10.0.0.0/8", 8, 32)
    assert (found.change.add_communities, found.change.add_large_communities) == ((64512 << 16 | 7,), ((64512, 1, 2),))
    assert exports(world.put("BGPConfiguration", "node.n1", {"prefixAdvertisements": []})) == []


def test_a_block_of_a_pool_that_is_not_exported_goes_out_by_a_filter_alone() -> None:
    hidden = Announcement(parse_prefix("10.0.0.0/26"), Why.BLOCK)
    rule = {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"}
    world = World().calico().calico("other", peerIP=OTHER_TOR, filters=["open"])
    world.put("BGPFilter", "open", {"importV4": [rule]})

    def told() -> list[str]:
        plan = world.derive(hidden=(hidden,))
        path = parse_prefix_of_bgp("10.0.0.0/26")
        if path not in plan.intent.advertisements:
            return []
        return [one for one in (TOR, OTHER_TOR) if tells(plan.intent, "10.0.0.0/26", one, RouteOrigin.LOCAL)]

    assert told() == []
    world.put("BGPFilter", "open", {"exportV4": [rule]})
    assert told() == [OTHER_TOR]


def test_what_should_go_with_a_community_that_nobody_knows_does_not_go() -> None:
    given: dict[str, object] = {"asNumber": 65, "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["no"]}]}
    world = World().put("BGPConfiguration", "default", given)
    assert world.refused == [("BGPConfiguration", "nothing in 10.0.0.0/8 is announced: no community is named no")]
    held = [one for one in world.intent.policy.exports if one.match.prefixes and one.match.neighbors is None]
    assert [one.accept for one in held] == [False]
    speaker = world.intent.speaker
    assert speaker is not None
    assert speaker.asn == 65, "the rest of the configuration holds"


def test_blocks_carry_the_normal_priority_and_service_addresses_their_own() -> None:
    block = Announcement(parse_prefix("10.0.0.0/26"), Why.BLOCK)
    vip = Announcement(parse_prefix("203.0.113.1"), Why.SERVICE)
    world = World(announced=(block, vip))
    assert [one.local_pref for one in world.intent.advertisements.values()] == [LOCAL_PREF_TOP - 1024, None]
    world.put("BGPConfiguration", "default", {"ipv4NormalRoutePriority": 500})
    assert [one.local_pref for one in world.intent.advertisements.values()] == [LOCAL_PREF_TOP - 500, None]


def test_an_advertisement_names_metallbs_peers_without_their_namespace() -> None:
    vip = Announcement(parse_prefix("203.0.113.1"), Why.SERVICE, peers=("tor",))
    world = World(announced=(vip,)).metallb().metallb("m/other", peerAddress=OTHER_TOR)
    (restricted,) = [one for one in world.intent.policy.exports if one.match.prefixes]
    assert restricted.match.neighbors == (parse_address(OTHER_TOR),)


def test_a_longer_path_is_told_to_other_ases_alone_with_the_as_that_they_know_us_by() -> None:
    vip = Announcement(parse_prefix("203.0.113.1"), Why.SERVICE, prepend=2)
    plain = Announcement(parse_prefix("203.0.113.2"), Why.SERVICE)
    world = World(announced=(vip, plain)).calico().metallb("m/other", peerAddress=OTHER_TOR, localASN=64999)
    world.calico("inside", peerSelector="name == 'n2'")
    longer = [one for one in world.intent.policy.exports if one.change.prepend]
    assert [(one.match.neighbors, one.change.prepend) for one in longer] == [
        ((parse_address(TOR),), (64512, 2)),
        ((parse_address(OTHER_TOR),), (64999, 2)),
    ]
    assert {str(it.prefix) for one in longer for it in one.match.prefixes or ()} == {"203.0.113.1/32"}
    assert all(one.accept is None and one.match.origin is RouteOrigin.LOCAL for one in longer)


def test_what_is_for_some_peers_goes_to_no_other_whatever_its_filter_accepts() -> None:
    vip = Announcement(parse_prefix("203.0.113.1"), Why.SERVICE, peers=("tor",))
    plain = Announcement(parse_prefix("203.0.113.2"), Why.SERVICE)
    world = World(announced=(vip, plain)).calico().calico("other", peerIP=OTHER_TOR, filters=["open"])
    world.put("BGPFilter", "open", {"exportV4": [{"action": "Accept"}]})
    told = [(text, one) for text in ("203.0.113.1", "203.0.113.2") for one in (TOR, OTHER_TOR)]
    assert [one for one in told if tells(world.intent, *one, RouteOrigin.LOCAL)] == [told[0], *told[2:]]


def test_a_filter_decides_before_what_is_passed_on_by_nature() -> None:
    """In the mesh other ASes are told of this node's own alone, but where a filter accepts more, or less."""
    world = World().put("BGPConfiguration", "default", {"nodeToNodeMeshEnabled": True}).calico(filters=["some"])
    rules = [
        {"action": "Accept", "cidr": "10.1.0.0/16", "matchOperator": "In", "source": "RemotePeers"},
        {"action": "Reject", "cidr": "10.2.0.0/16", "matchOperator": "In"},
    ]
    world.put("BGPFilter", "some", {"exportV4": rules})
    seen = {
        (text, origin): tells(world.intent, text, TOR, origin)
        for text in ("10.1.0.0/26", "10.2.0.0/26", "10.3.0.0/26")
        for origin in (RouteOrigin.LOCAL, RouteOrigin.INTERNAL)
    }
    assert [one for one, told in seen.items() if told] == [
        ("10.1.0.0/26", RouteOrigin.LOCAL),
        ("10.1.0.0/26", RouteOrigin.INTERNAL),
        ("10.3.0.0/26", RouteOrigin.LOCAL),
    ]


def test_a_prefix_in_place_of_an_address_waits_for_whoever_connects_from_it() -> None:
    world = World().calico(peerIP="192.0.2.0/24", filters=["some"]).put("BGPFilter", "some", {})
    plan = world.calico("one", peerIP=OTHER_TOR, asNumber=65001).plan
    anyone = anyone_in(parse_prefix_of_bgp("192.0.2.0/24"))
    neighbor = plan.intent.neighbors[anyone]
    assert (neighbor.passive, neighbor.source, neighbor.asn) == (True, None, 65000)
    assert plan.visitors == {anyone}
    assert plan.intent.policy.apart == (anyone, parse_address(OTHER_TOR)), "who has a session of his own is not meant"
    assert plan.refusals == ()


def test_what_no_field_asks_for_stands_in_annotations() -> None:
    notes = {"felixpy.io/prefix-limit": "1000", "felixpy.io/long-lived-restart-time": "1h"}
    spec = {"peerIP": TOR, "asNumber": 65000}
    calico = (
        World().put("BGPPeer", "tor", spec, "projectcalico.org", metadata={"name": "tor", "annotations": notes}).tor
    )
    assert (calico.prefix_limit, calico.graceful_restart.long_lived_s, calico.graceful_restart.restart_time_s) == (
        1000, 3600, 120,
    )  # fmt: skip
    given = {"myASN": 64512, "peerASN": 65000, "peerAddress": TOR, "enableGracefulRestart": True}
    metallb = World().put("BGPPeer", "m/tor", given, "metallb.io", metadata={"name": "tor", "annotations": notes}).tor
    assert (metallb.prefix_limit, metallb.graceful_restart.long_lived_s) == (1000, 3600)
    meshed = World().put("BGPConfiguration", "default", {"asNumber": 64512}, metadata={"annotations": notes})
    assert {one.graceful_restart.long_lived_s for one in meshed.intent.neighbors.values()} == {3600}
