"""Who may be told what: the speaker's policy out of pools, peers and the kind of the node; judged path by path."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from birdpy.addresses import parse_address
from birdpy.intent import BgpIntent, RouteOrigin
from felixpy.addresses import parse_prefix as prefix_of
from felixpy.calc.announcing.announcements import Announcement, Why
from felixpy.calc.bgp.speaker import BgpPlan, derive_bgp
from felixpy.resources.bgp import read_bgp_peer
from felixpy.resources.bgp_documents import BgpPeerDoc
from felixpy.resources.bgp_types import BgpConfiguration, BgpPeer
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Node
from felixpy.resources.view import View
from felixpy.selector import parse_selector
from tests.calc.bgp_telling import tells
from tests.calc.tunnel_world import ME, NODES, Change, node_address, pool

TOR, OTHER_TOR, NEAR = "192.0.2.254", "192.0.2.253", "192.0.2.2"
NO_MESH: Change = (Ref(Table.BGP_CONFIGURATION, Name("", "default")), BgpConfiguration(mesh=False))
REFLECTOR: Change = (
    Ref(Table.NODE, Name("", ME)),
    Node(ipv4=node_address("192.0.2.1/24"), route_reflector_cluster_id="1.0.0.1"),
)


def peer(name: str, address: str, asn: int = 65000) -> Change:
    return Ref(Table.BGP_PEER, Name("", name)), BgpPeer(parse_address(address), 179, asn)


def intent_of(*changes: Change, announced: Iterable[Announcement] = ()) -> BgpIntent:
    view = View()
    for change in (*NODES, *changes):
        view.put(*change)
    plan = derive_bgp(view.tables, ME, announced)
    assert isinstance(plan, BgpPlan)
    return plan.intent


@pytest.mark.parametrize("passes_on", [NO_MESH, REFLECTOR], ids=["no mesh", "reflector"])
def test_blocks_of_other_nodes_reach_the_tor_where_no_mesh_would_tell_it(passes_on: Change) -> None:
    intent = intent_of(
        peer("tor", TOR),
        passes_on,
        pool("a", "10.0.0.0/16"),
        pool("hidden", "10.1.0.0/16", disable_bgp_export=True),
        pool("six", "fd00::/48"),
    )
    told = ("10.0.3.0/26", "10.1.3.0/26", "fd00::/122", "172.16.0.0/12")
    assert [text for text in told if tells(intent, text, TOR, RouteOrigin.INTERNAL)] == ["10.0.3.0/26", "fd00::/122"]
    assert not tells(intent, "10.0.3.0/26", TOR, RouteOrigin.EXTERNAL), "no transit"


def test_in_the_mesh_the_tor_is_told_of_this_nodes_own_alone() -> None:
    intent = intent_of(peer("tor", TOR), pool("a", "10.0.0.0/16"))
    told = [origin for origin in RouteOrigin if tells(intent, "10.0.3.0/26", TOR, origin)]
    assert told == [RouteOrigin.LOCAL]
    assert not tells(intent, "10.0.3.0/26", NEAR, RouteOrigin.EXTERNAL)


@pytest.mark.parametrize(
    ("peers", "told"),
    [
        ((), [TOR, OTHER_TOR, NEAR]),
        (("tor",), [TOR]),
        (("tor", "other"), [TOR, OTHER_TOR]),
        (("same tor again",), [TOR]),
        (("nobody",), []),
    ],
)
def test_what_is_for_some_peers_goes_to_no_one_else(peers: tuple[str, ...], told: list[str]) -> None:
    world = (peer("tor", TOR), peer("other", OTHER_TOR), peer("same tor again", TOR))
    vip, six = (Announcement(prefix_of(text), Why.SERVICE, peers=peers) for text in ("203.0.113.1", "2001:db8::1"))
    plain = Announcement(prefix_of("203.0.113.2"), Why.SERVICE)
    intent = intent_of(*world, announced=(vip, six, plain))
    everyone = [TOR, OTHER_TOR, NEAR]
    for text in ("203.0.113.1", "2001:db8::1"):
        assert [one for one in everyone if tells(intent, text, one, RouteOrigin.LOCAL)] == told
    assert all(tells(intent, "203.0.113.2", one, RouteOrigin.LOCAL) for one in everyone)


@pytest.mark.parametrize("text", ["1.2.3.²", "1.2.3.999", "rack seven", "9" * 5000 + ".1.1.1", "fd00::1"])
def test_any_text_can_be_a_cluster_id(text: str) -> None:
    clients = BgpPeer(None, 179, None, peer_selector=parse_selector("all()"))
    reflector = Node(ipv4=node_address("192.0.2.1/24"), route_reflector_cluster_id=text)
    intent = intent_of((REFLECTOR[0], reflector), (Ref(Table.BGP_PEER, Name("", "all")), clients))
    reflection = intent.neighbors[parse_address(NEAR)].reflection
    assert reflection is not None
    assert len(reflection.cluster_id) == 4


@pytest.mark.parametrize(
    "guard", [{"filters": ["no-default"]}, {"password": {"secretKeyRef": {"name": "s", "key": "k"}}}]
)
def test_a_peer_whose_guard_cannot_be_kept_gets_no_session(guard: dict[str, object]) -> None:
    spec = {"peerIP": TOR, "asNumber": 65000}
    open_peer, guarded = (
        read_bgp_peer(msgspec.convert({"metadata": {"name": "tor"}, "spec": one}, BgpPeerDoc))
        for one in (spec, spec | guard)
    )
    ref = Ref(Table.BGP_PEER, Name("", "tor"))
    assert parse_address(TOR) in intent_of((ref, open_peer)).neighbors
    assert parse_address(TOR) not in intent_of((ref, guarded)).neighbors
