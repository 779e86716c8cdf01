"""Table events read from their bytes, beside protobuf's own reading of the same ones, path by path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdpy.addresses import Prefix, format_address
from birdpy.fib import Path, PathGone, PathPut, Source
from birdpy.gobgp.alike import AlikePaths
from birdpy.gobgp.paths import read_path
from birdpy.gobgp.wire import Message, wire_of

WIRE = wire_of(4)
MESSAGES = WIRE.messages
Key = tuple[Prefix, Source]

PREFIXES = st.one_of(
    st.builds(lambda n, length: Prefix((n << 32 - length).to_bytes(4, "big") if length else bytes(4), length),
              st.integers(0, 255), st.sampled_from([0, 8, 24, 32])),
    st.builds(lambda n: Prefix(b"\xfd" + bytes(14) + bytes([n]), 128), st.integers(0, 255)),
)  # fmt: skip
NEIGHBORS = st.sampled_from(["10.0.0.2", "10.0.0.3", "fe80::1%eth0", ""])
ATTRIBUTES = st.fixed_dictionaries(
    {"next_hop": st.sampled_from(["10.0.0.2", "10.9.9.9"])},
    optional={
        "local_pref": st.sampled_from([0, 100, 2**31 - 512]),
        "communities": st.lists(st.sampled_from([7, 65535 << 16 | 6, 2**32 - 1]), max_size=60),
        "as_path": st.lists(st.integers(1, 2**32 - 1), max_size=40),
    },
)


def attribute_messages(prefix: Prefix, given: dict[str, object]) -> list[Message]:
    found = {"origin": MESSAGES["Origin"](origin=0)}
    if len(prefix.address) == 4:
        found["next_hop"] = MESSAGES["NextHop"](next_hop=given["next_hop"])
    else:
        family = MESSAGES["Family"](afi=2, safi=1)
        hops = [f"fd00::{str(given['next_hop'])[-1]}"]
        found["mp_reach"] = MESSAGES["MpReach"](family=family, next_hops=hops, nlris=[WIRE.nlri(prefix)])
    if "local_pref" in given:
        found["local_pref"] = MESSAGES["LocalPref"](local_pref=given["local_pref"])
    if "communities" in given:
        found["communities"] = MESSAGES["Communities"](communities=given["communities"])
    if "as_path" in given:
        segment = MESSAGES["AsSegment"](type=2, numbers=given["as_path"])
        found["as_path"] = MESSAGES["AsPath"](segments=[segment])
    return list(WIRE.attributes(found))


@st.composite
def paths(draw: st.DrawFn) -> bytes:
    """A path as gobgpd would write it, its age among the fields that we have no name for."""
    prefix, neighbor = draw(PREFIXES), draw(NEIGHBORS)
    attributes = [] if (gone := draw(st.booleans())) else attribute_messages(prefix, draw(ATTRIBUTES))
    head = MESSAGES["Path"](nlri=WIRE.nlri(prefix), attributes=attributes)
    tail = MESSAGES["Path"](is_withdraw=gone, neighbor=neighbor, identifier=draw(st.integers(0, 1)))
    age = MESSAGES["Timestamp"](seconds=draw(st.integers(0, 2**33))).SerializeToString()
    if draw(st.integers(0, 9)) == 0:
        head.ClearField("nlri")
    return bytes(head.SerializeToString() + bytes([0x1A, len(age)]) + age + tail.SerializeToString())


def event_of(bodies: list[bytes]) -> bytes:
    """By hand, since protobuf puts what it does not know, as the age, behind all that it knows."""
    event = b"".join(b"\x12" + varint(len(body)) + body for body in bodies)
    return b"\x1a" + varint(len(event)) + event


def varint(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def one_by_one(replies: list[bytes]) -> list[dict[Key, Path | None]]:
    """The oracle: protobuf reads each path; of a message, what went comes before what is there."""
    found = []
    for reply in replies:
        read = [read_path(WIRE, path) for path in MESSAGES["WatchReply"].FromString(reply).table.paths]
        told = [(prefix, *tail) for prefix, tail in filter(None, read)]
        gone = {(prefix, source): path for prefix, source, path in told if path is None}
        found.append(gone | {(prefix, source): path for prefix, source, path in told if path is not None})
    return found


@given(st.lists(st.lists(paths(), max_size=6), max_size=4))
def test_bytes_and_protobuf_tell_the_same(messages: list[list[bytes]]) -> None:
    alike = AlikePaths(lambda path: read_path(WIRE, MESSAGES["Path"].FromString(path)))
    replies = [event_of(bodies) for bodies in messages]
    seen: list[dict[Key, Path | None]] = []
    for reply, bodies in zip(replies, messages, strict=True):
        events, count = alike.read(reply)
        assert count == len(bodies)
        told: dict[Key, Path | None] = {}
        for event in events:
            if isinstance(event, PathPut):
                told.update(dict.fromkeys(((prefix, event.source) for prefix in event.prefixes), event.path))
            else:
                assert isinstance(event, PathGone)
                told[event.prefix, event.source] = None
        seen.append(told)
    assert seen == one_by_one(replies)


def with_age(prefix: Prefix, attributes: dict[str, object], neighbor: str, age: int) -> bytes:
    head = MESSAGES["Path"](nlri=WIRE.nlri(prefix), attributes=attribute_messages(prefix, attributes))
    seconds = MESSAGES["Timestamp"](seconds=age).SerializeToString()
    tail = MESSAGES["Path"](neighbor=neighbor).SerializeToString()
    return bytes(head.SerializeToString() + bytes([0x1A, len(seconds)]) + seconds + tail)


def test_what_differs_in_anything_but_age_is_told_apart() -> None:
    kinds: list[tuple[dict[str, object], str]] = [
        ({"next_hop": hop, "local_pref": local_pref, "communities": [community]}, neighbor)
        for hop in ("10.0.0.2", "10.0.0.3")
        for local_pref in (100, 101)
        for community in (65535 << 16 | 6, 65535 << 16 | 7)
        for neighbor in ("10.0.0.2", "10.0.0.3")
    ]
    alike = AlikePaths(lambda path: read_path(WIRE, MESSAGES["Path"].FromString(path)))
    for age in (1, 2, 1_800_000_000):
        hosts = [Prefix(b"\x0a\x40\x00" + bytes([number]), 32) for number in range(len(kinds))]
        bodies = [with_age(host, *kind, age) for host, kind in zip(hosts, kinds, strict=True)]
        events, _ = alike.read(event_of(bodies))
        told = {event.prefixes[0]: (event.source, event.path) for event in events if isinstance(event, PathPut)}
        assert told == dict(filter(None, (read_path(WIRE, MESSAGES["Path"].FromString(body)) for body in bodies)))


@pytest.mark.parametrize("neighbor", ["10.0.0.2", "10.0.0.200"])
def test_most_paths_are_never_decoded(neighbor: str) -> None:
    decoded = []

    def decode(path: bytes) -> tuple[Prefix, tuple[Source, Path | None]] | None:
        decoded.append(path)
        return read_path(WIRE, MESSAGES["Path"].FromString(path))

    alike = AlikePaths(decode)
    for first in (b"\x0a\x40", b"\xfd" + bytes(13)):
        hosts = [Prefix(first + bytes([a, b]), len(first) * 8 + 16) for a in range(2) for b in range(250)]
        bodies = [
            MESSAGES["Path"](
                nlri=WIRE.nlri(host), attributes=attribute_messages(host, {"next_hop": "10.0.0.2"}), neighbor=neighbor
            ).SerializeToString()
            for host in hosts
        ]
        (event,), _ = alike.read(event_of(bodies))
        assert isinstance(event, PathPut)
        assert sorted(event.prefixes) == sorted(hosts), format_address(hosts[0].address)
    assert len(decoded) < 20
