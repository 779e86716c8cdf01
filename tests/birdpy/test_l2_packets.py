"""ARP and ND frames: golden bytes, what peers need to find in them, and that broken frames are nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from birdpy.addresses import parse_address
from birdpy.l2.packets import (
    ARP_ETHERTYPE,
    BROADCAST,
    IPV6_ETHERTYPE,
    Assertion,
    Claim,
    Question,
    Stamp,
    parse_frame,
    render_announcement,
    render_answer,
    render_probe,
)

MAC, PEER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
VIP4, VIP6 = parse_address("10.9.0.100"), parse_address("fd09::100")
PEER4, PEER6 = parse_address("10.9.0.2"), parse_address("fe80::2")
STAMP = Stamp(True, Claim(7, 0x1122334455667788))
STAMP_HEX = "666c78320100000000071122334455667788"


def test_the_answer_to_who_has() -> None:
    # Ethernet; Ethernet/IPv4 reply; sender (MAC, VIP); target (asker); claim where others have padding
    assert render_answer(Question(VIP4, PEER, PEER4, True), MAC, STAMP).hex() == (
        "020000000002" "020000000001" "0806"
        "0001" "0800" "06" "04" "0002"
        "020000000001" "0a090064"
        "020000000002" "0a090002" + STAMP_HEX
    )  # fmt: skip


def test_an_arp_frame_is_of_the_shortest_length() -> None:
    assert len(render_answer(Question(VIP4, PEER, PEER4, True), MAC, STAMP)) == 60


def test_gratuitous_arp_in_both_forms() -> None:
    request, reply = render_announcement(VIP4, MAC, STAMP)
    assert request.hex().startswith(
        "ffffffffffff" "020000000001" "0806" "0001080006040001" "020000000001" "0a090064" "000000000000" "0a090064"
    )  # fmt: skip
    assert reply.hex().startswith(
        "ffffffffffff" "020000000001" "0806" "0001080006040002" "020000000001" "0a090064" "ffffffffffff" "0a090064"
    )  # fmt: skip


def test_the_answer_to_a_solicitation() -> None:
    frame = render_answer(Question(VIP6, PEER, PEER6, True), MAC, STAMP)
    assert frame.hex() == (
        "020000000002" "020000000001" "86dd"
        "60000000" "0038" "3a" "ff"
        "fd090000000000000000000000000100" "fe800000000000000000000000000002"
        "88" "00" "2af5" "60000000" "fd090000000000000000000000000100"
        "0201" "020000000001"
        "fd03" + STAMP_HEX + "00000000"
    )  # fmt: skip
    assert ones_complement_sum(frame) == 0xFFFF


def test_a_solicitation_without_source_is_answered_to_all_nodes() -> None:
    frame = render_answer(Question(VIP6, PEER, b"", True), MAC, STAMP)
    assert frame[38:54] == parse_address("ff02::1")
    assert frame[58] == 0x20, "override, and not solicited"


def test_an_unsolicited_advertisement_goes_to_all_nodes() -> None:
    (frame,) = render_announcement(VIP6, MAC, STAMP)
    assert frame[:6].hex() == "333300000001"
    assert frame[38:54] == parse_address("ff02::1")
    assert ones_complement_sum(frame) == 0xFFFF


def test_a_probe_enters_no_neighbour_table() -> None:
    everybody = render_probe(VIP4, MAC, b"", None, STAMP)
    assert everybody[:6] == BROADCAST
    assert everybody[28:32] == bytes(4), "RFC 5227: the sender's address is 0"
    assert render_probe(VIP4, MAC, b"", PEER, STAMP)[:6] == PEER


def test_a_solicitation_goes_to_the_group_of_its_address() -> None:
    frame = render_probe(parse_address("fd09::12:3456"), MAC, PEER6, None, STAMP)
    assert frame[:6].hex() == "3333ff123456"
    assert frame[38:54] == parse_address("ff02::1:ff12:3456")
    assert ones_complement_sum(frame) == 0xFFFF


def test_what_is_sent_is_understood() -> None:
    for address, own in ((VIP4, b""), (VIP6, PEER6)):
        assert parse_frame(render_probe(address, MAC, own, None, STAMP)) == Question(address, MAC, own, True, STAMP)
        assert parse_frame(render_probe(address, MAC, own, PEER, STAMP)) == Question(address, MAC, own, False, STAMP)
        for frame in render_announcement(address, MAC, STAMP):
            assert parse_frame(frame) == Assertion(address, MAC, STAMP)
        answer = render_answer(Question(address, PEER, PEER4 if own == b"" else PEER6, True), MAC, STAMP)
        assert parse_frame(answer) == Assertion(address, MAC, STAMP)


def test_a_solicitation_without_source_link_option_is_answered_to_its_sender() -> None:
    """Linux sends its unicast probes of neighbours so (RFC 4861 §7.2.2 allows it)."""
    body = bytes.fromhex("87000000" "00000000") + VIP6  # fmt: skip
    pseudo = PEER6 + VIP6 + len(body).to_bytes(4, "big") + bytes((0, 0, 0, 58)) + body
    checksum = 0xFFFF - fold(pseudo)
    body = body[:2] + checksum.to_bytes(2, "big") + body[4:]
    frame = MAC + PEER + bytes.fromhex("86dd" "60000000" "0018" "3a" "ff") + PEER6 + VIP6 + body  # fmt: skip
    assert parse_frame(frame) == Question(VIP6, PEER, PEER6, False, None)
    assert parse_frame(frame[:21] + b"\xfe" + frame[22:]) is None, "a hop limit of 254 came through a router"
    assert parse_frame(frame[:-1] + b"\x01") is None, "the checksum is wrong"


def test_frames_of_others_carry_no_claim() -> None:
    padding = bytes(18)
    frame = render_probe(VIP4, MAC, b"", None, STAMP)[:42]
    assert parse_frame(frame) == parse_frame(frame + padding) == Question(VIP4, MAC, b"", True, None)


@given(st.binary(max_size=120))
def test_any_bytes_are_something_or_nothing(data: bytes) -> None:
    for ethertype in (ARP_ETHERTYPE, IPV6_ETHERTYPE):
        parse_frame(MAC + PEER + ethertype.to_bytes(2, "big") + data)


@given(st.integers(0, 200), st.integers(0, 7))
def test_a_frame_with_a_wrong_bit_is_never_taken_for_another_address(place: int, bit: int) -> None:
    frame = bytearray(render_answer(Question(VIP6, PEER, PEER6, True), MAC, STAMP))
    place = 22 + place % (len(frame) - 22)
    frame[place] ^= 1 << bit
    assert parse_frame(bytes(frame)) is None


def fold(data: bytes) -> int:
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ones_complement_sum(frame: bytes) -> int:
    """Over the ICMPv6 message and its pseudo header: 0xFFFF where the checksum is right (RFC 1071 §1)."""
    body = frame[54:]
    return fold(frame[22:54] + len(body).to_bytes(4, "big") + bytes((0, 0, 0, 58)) + body)
