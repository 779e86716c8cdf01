"""What counts as left behind, and above all what does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from felixpy.cni.endpoint import Identity, derive_endpoint, parse_recorded
from felixpy.cni.leaks import Place, Recorded, find_orphans, judge_endpoints, parse_place
from felixpy.cni.plan import Attachment, Claim, PodFacts
from felixpy.dataplane.pod import PodLink
from ipam.addresses import parse_address, parse_prefix
from ipam.audit import Suspicions
from ipam.block import assign, new_block
from ipam.model import Block, node_owner

HERE = Place("boot2", "4026531840")
BEFORE = Place("boot1", "4026531840")
ELSEWHERE = Place("boot2", "4026531999")
POD = Attachment("n1", "net", "c1", "eth0", "default", "web")
NOW = datetime(2026, 8, 22, tzinfo=UTC)


def block(*allocations: tuple[str, dict[str, str]]) -> Block:
    """10.0.0.0/29 of n1 with these handles and owners on its first addresses."""
    made = new_block(parse_prefix("10.0.0.0/29"), node_owner("n1"), NOW)
    for ordinal, (handle, owner) in enumerate(allocations):
        made = assign(made, ordinal, handle, owner)
    return made


def test_a_place_is_written_and_read() -> None:
    link = PodLink("cali1", "eth0", POD.owner, bytes(6))
    write = derive_endpoint(Claim(POD, frozenset()), link, PodFacts(), (), Identity("u", "2026-01-01T00:00:00Z", HERE))
    assert parse_recorded(write.value) == Recorded(POD, HERE)
    for text in ("", "boot", "/1", "boot/"):
        assert parse_place(text) is None


def test_endpoints_by_place_and_device() -> None:
    for place, device, gone, missing in (
        (HERE, True, False, False),
        (HERE, False, False, True),
        (BEFORE, False, True, False),
        (BEFORE, True, False, False),  # the same container was wired again after the boot
        (ELSEWHERE, False, False, False),  # the agent looks in another namespace than the one with the pods
        (None, False, False, False),  # another's endpoint
    ):
        judgement = judge_endpoints([Recorded(POD, place)], [POD.owner] if device else [], HERE)
        assert (POD in judgement.gone, POD in judgement.missing) == (gone, missing), (place, device)


def test_addresses_without_endpoint() -> None:
    pod = {"node": "n1", "namespace": "default", "pod": "web"}
    world = block(
        ("net.orphan", pod),
        ("net.recorded", pod),
        ("k8s-pod-network.calicos", pod),
        ("net.others", {**pod, "node": "n2"}),
        ("ipip-tunnel-addr-n1", {"node": "n1", "type": "ipipTunnelAddress"}),
        ("by-hand", {}),
    )
    found = find_orphans([world], "n1", {"net.recorded"}, {parse_address("10.0.0.2")})
    assert [(one.handle_id, one.address) for one in found] == [("net.orphan", parse_address("10.0.0.0"))]


def test_a_handle_one_of_whose_addresses_is_alive_is_left_alone() -> None:
    pod = {"node": "n1", "pod": "web"}
    world = block(("net.two", pod), ("net.two", pod))
    assert find_orphans([world], "n1", (), {parse_address("10.0.0.1")}) == frozenset()
    assert len(find_orphans([world], "n1", (), ())) == 2


def test_an_address_that_is_given_out_anew_is_another_suspect() -> None:
    pod = {"node": "n1", "pod": "web"}
    (first,) = find_orphans([block(("net.a", pod))], "n1", (), ())
    again = replace(block(("net.a", pod)), sequence_of={0: first.sequence + 1})
    assert find_orphans([again], "n1", (), ()) != {first}


def test_a_suspicion_counts_from_its_last_break() -> None:
    suspicions: Suspicions[str] = Suspicions()
    assert suspicions.look({"a", "b"}, 0, 10) == ()
    assert suspicions.look({"a"}, 5, 10) == ()
    assert suspicions.look({"a", "b"}, 9, 10) == ()
    assert suspicions.look({"a", "b"}, 10, 10) == ("a",)
    assert suspicions.look({"b"}, 19, 10) == ("b",)
