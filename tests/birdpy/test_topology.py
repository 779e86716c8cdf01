"""Neighbours of a node: mesh, reflectors, explicit peers."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdpy.addresses import format_address, parse_address
from birdpy.intent import Reflection
from birdpy.topology import Mesh, Node, Peer, Wish, derive_sessions, mesh_side_is_passive

MESH = Mesh()
OFF = Mesh(enabled=False)


def node(name: str, *addresses: str, asn: int = 64512, cluster_id: str | None = None) -> Node:
    identity = None if cluster_id is None else parse_address(cluster_id)
    return Node(name, tuple(parse_address(address) for address in addresses), asn, identity)


A = node("a", "10.0.0.1", "fd00::1")
B = node("b", "10.0.0.2", "fd00::2")
C = node("c", "10.0.0.10")
REFLECTOR = node("r", "10.0.0.20", cluster_id="224.0.0.1")


def addresses(neighbors: Iterable[bytes]) -> list[str]:
    return [format_address(address) for address in neighbors]


def test_mesh_has_one_session_per_node_and_common_family() -> None:
    assert addresses(derive_sessions(A, [A, B, C], [], MESH).neighbors) == ["10.0.0.2", "10.0.0.10", "fd00::2"]


def test_each_session_carries_the_family_of_its_address() -> None:
    assert [n.families for n in derive_sessions(A, [A, B], [], MESH).neighbors.values()] == [(4,), (6,)]


def test_reflectors_are_not_in_the_mesh() -> None:
    assert addresses(derive_sessions(C, [A, C, REFLECTOR], [], MESH).neighbors) == ["10.0.0.1"]
    assert derive_sessions(REFLECTOR, [A, C, REFLECTOR], [], MESH).neighbors == {}


@pytest.mark.parametrize(
    ("own", "remote"), [("10.0.0.2", "10.0.0.10"), ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::a")]
)
def test_exactly_one_side_of_a_pair_waits(own: str, remote: str) -> None:
    left, right = parse_address(own), parse_address(remote)
    assert mesh_side_is_passive(left, right) != mesh_side_is_passive(right, left)


def test_the_waiting_side_is_the_one_that_calico_would_pick() -> None:
    assert mesh_side_is_passive(parse_address("10.0.0.10"), parse_address("10.0.0.2"))


def test_nodes_of_different_as_use_multihop() -> None:
    other = node("o", "10.0.0.3", asn=64999)
    (neighbor,) = derive_sessions(C, [C, other], [], MESH).neighbors.values()
    assert (neighbor.asn, neighbor.multihop_ttl) == (64999, 255)


def test_a_reflector_takes_clients_and_not_reflectors_of_its_own_cluster() -> None:
    twin = node("r2", "10.0.0.21", cluster_id="224.0.0.1")
    peer = Peer("to-reflectors", remote_nodes=frozenset({"r", "r2"}))
    neighbors = derive_sessions(REFLECTOR, [A, C, REFLECTOR, twin], [peer], OFF).neighbors
    assert addresses(neighbors) == ["10.0.0.1", "10.0.0.10", "10.0.0.21"]
    assert neighbors[C.addresses[0]].reflection == Reflection(parse_address("224.0.0.1"))
    assert neighbors[twin.addresses[0]].reflection is None


def test_a_client_has_the_reflectors_only() -> None:
    peer = Peer("to-reflectors", remote_nodes=frozenset({"r"}))
    (neighbor,) = derive_sessions(C, [A, C, REFLECTOR], [peer], OFF).neighbors.values()
    assert neighbor.reflection is None
    assert neighbor.address == REFLECTOR.addresses[0]


def test_the_reverse_peering_is_made_unless_refused() -> None:
    peer = Peer("some-to-b", local_nodes=frozenset({"a"}), remote_nodes=frozenset({"b"}))
    assert addresses(derive_sessions(B, [A, B, C], [peer], OFF).neighbors) == ["10.0.0.1", "fd00::1"]
    one_way = Peer("some-to-b", local_nodes=frozenset({"a"}), remote_nodes=frozenset({"b"}), two_way=False)
    assert derive_sessions(B, [A, B, C], [one_way], OFF).neighbors == {}


def test_ttl_security_is_for_both_ends_of_a_peering_of_nodes() -> None:
    peer = Peer("b-to-a", frozenset({"b"}), remote_nodes=frozenset({"a"}), wish=Wish(ttl_security_hops=2))
    for here, there in ((A, B), (B, A)):
        neighbors = derive_sessions(here, [A, B], [peer], OFF).neighbors
        assert {one.ttl_security_hops for one in neighbors.values()} == {2}
        assert addresses(neighbors) == [format_address(address) for address in there.addresses]


def test_a_peer_of_some_nodes_leaves_the_others_alone() -> None:
    tor = Peer("tor", local_nodes=frozenset({"a"}), address=parse_address("10.0.0.254"), wish=Wish(asn=65000))
    assert addresses(derive_sessions(A, [A, B], [tor], OFF).neighbors) == ["10.0.0.254"]
    assert derive_sessions(B, [A, B], [tor], OFF).neighbors == {}


def test_one_session_per_address_and_the_global_peer_wins() -> None:
    everywhere = Peer("z-global", address=B.addresses[0], wish=Wish(asn=1))
    here = Peer("a-here", local_nodes=frozenset({"a"}), address=B.addresses[0], wish=Wish(asn=2))
    assert derive_sessions(A, [A, B], [here, everywhere], MESH).neighbors[B.addresses[0]].asn == 1


def test_nobody_peers_with_itself() -> None:
    me = Peer("me", address=A.addresses[0], wish=Wish(asn=64512))
    assert derive_sessions(A, [A], [me], OFF).neighbors == {}


def test_session_settings_reach_every_session() -> None:
    mesh = Mesh(wish=Wish(password="secret", hold_time_s=9, keepalive_s=3))
    assert {(n.password, n.hold_time_s) for n in derive_sessions(A, [A, B], [], mesh).neighbors.values()} == {
        ("secret", 9)
    }


@given(st.permutations([A, B, C, REFLECTOR]))
def test_the_order_of_nodes_does_not_matter(nodes: list[Node]) -> None:
    assert list(derive_sessions(A, nodes, [], MESH).neighbors) == list(
        derive_sessions(A, [A, B, C, REFLECTOR], [], MESH).neighbors
    )


TOR = parse_address("10.0.0.254")
CLAIMS = st.builds(
    Peer,
    st.sampled_from(["p", "q", "m/r", "m/s"]),
    st.sampled_from([None, frozenset({"a"}), frozenset({"b"})]),
    st.sampled_from([TOR, B.addresses[0], A.addresses[0]]),
    wish=st.builds(
        Wish,
        asn=st.sampled_from([None, 64512, 65000]),
        hold_time_s=st.sampled_from([None, 9, 30]),
        password=st.sampled_from([None, "x"]),
    ),
    two_way=st.booleans(),
    joins=st.booleans(),
    refused=st.sampled_from([False, False, True]),
)


@given(st.lists(CLAIMS, max_size=4, unique_by=lambda peer: peer.name), st.randoms())
def test_sessions_do_not_depend_on_the_order_of_peers_and_nobody_is_guessed(peers: list[Peer], rng: Random) -> None:
    sessions = derive_sessions(A, [A, B, C], peers, MESH)
    shuffled = list(peers)
    rng.shuffle(shuffled)
    assert derive_sessions(A, [A, B, C], shuffled, MESH) == sessions
    by_name = {peer.name: peer for peer in peers}
    for address, names in sessions.peers.items():
        owners = [by_name[name] for name in names]
        assert not any(peer.refused for peer in owners)
        assert sum(not peer.joins for peer in owners) <= 1, "of those that do not join one has it"
        for field in ("hold_time_s", "password"):
            asked = {value for peer in owners if (value := getattr(peer.wish, field)) is not None}
            assert len(asked) <= 1, "nobody is guessed"
            if asked:
                assert getattr(sessions.neighbors[address], field) in asked
    for conflict in sessions.conflicts:
        assert (conflict.address in sessions.neighbors) or not conflict.overruled or any(p.refused for p in peers)
        assert len(conflict.peers) >= 2
