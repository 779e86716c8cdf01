"""Packets told of become flows: counted, bounded, and none of the heads that a network can send breaks it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felixpy.addresses import Address, format_address, parse_address
from felixpy.flows.names import Rank
from felixpy.flows.records import FlowEnd
from felixpy.flows.sighting import Sighting, Traffic, parse_head
from felixpy.flows.table import FlowKey, FlowTable
from tests.flows.heads import A, B, ipv4, ports

SIX, SEVEN = parse_address("fd00::1"), parse_address("fd00::2")


def ipv6(first: int, rest: bytes) -> bytes:
    return bytes([0x60, 0, 0, 0, 0, 0, first, 64]) + SIX + SEVEN + rest


def test_heads_of_both_families() -> None:
    assert parse_head(ipv4(6, ports(40000, 80))) == Traffic(A, B, 6, 40000, 80)
    assert parse_head(ipv4(1, bytes([8, 0]))) == Traffic(A, B, 1, 0, 0, 8, 0)
    assert parse_head(ipv4(17, ports(1, 2), fragment=100)) == Traffic(A, B, 17)
    assert parse_head(ipv6(17, ports(1, 2))) == Traffic(SIX, SEVEN, 17, 1, 2)
    assert parse_head(ipv6(58, bytes([135, 0]))) == Traffic(SIX, SEVEN, 58, 0, 0, 135, 0)


def test_extension_headers_are_stepped_over() -> None:
    hop_by_hop, later, first = bytes([44, 0]) + bytes(6), bytes([6, 0, 0, 9, 0, 0, 0, 0]), bytes([6, 0]) + bytes(6)
    assert parse_head(ipv6(0, hop_by_hop + first + ports(7, 8))) == Traffic(SIX, SEVEN, 6, 7, 8)
    assert parse_head(ipv6(44, later + ports(7, 8))) == Traffic(SIX, SEVEN, 6)
    assert parse_head(ipv6(51, bytes([6, 1]) + bytes(10) + ports(7, 8))) == Traffic(SIX, SEVEN, 6, 7, 8)


@given(st.binary(max_size=128), st.sampled_from([0x45, 0x4F, 0x60, 0x00, 0xFF]))
def test_no_head_breaks_it(rest: bytes, first: int) -> None:
    found = parse_head(bytes([first]) + rest)
    assert found is None or len(found.source) == len(found.destination)


EVENTS = st.lists(st.tuples(st.sampled_from(["x", "y"]), st.integers(1, 6), st.integers(1, 3)), max_size=40)


@given(EVENTS, st.integers(1, 5))
def test_the_table_holds_the_last_flows_with_their_counts(events: list[tuple[str, int, int]], most: int) -> None:
    table = FlowTable(most)
    last: dict[FlowKey, int] = {}
    counted: Counter[FlowKey] = Counter()
    for now, (text, port, source) in enumerate(events):
        table.add(Sighting(text, 1, 2, ipv4(6, ports(source, port))), now)
        key = FlowKey(text, 1, 2, Traffic(A, B, 6, 0, port))
        if key not in last and len(last) == most:
            oldest = min(last, key=lambda one: last[one])
            del last[oldest], counted[oldest]
        last[key] = now
        counted[key] += 1
    newest = sorted(last, key=lambda one: -last[one])
    assert [(flow.key, flow.told, flow.last_s) for flow in table.newest()] == [(k, counted[k], last[k]) for k in newest]
    middle = len(events) // 2
    assert [flow.key for flow in table.newest(middle)] == [key for key in newest if last[key] >= middle]


HANDED = st.lists(
    st.one_of(
        st.tuples(st.just("packet"), st.integers(1, 2)),
        st.tuples(st.tuples(st.sampled_from([A, B]), st.sampled_from(Rank)), st.integers(-3, 3)),
    ),
    max_size=30,
)


@given(HANDED)
def test_flows_keep_the_ends_of_their_time(events: list[tuple[str | tuple[Address, Rank], int]]) -> None:
    """A place is given up by one of three (-1 to -3), or taken by one of them, a second or two late (1 to 3)."""
    table = FlowTable()
    flows: list[tuple[int, list[int], dict[tuple[Address, Rank], FlowEnd | frozenset[FlowEnd]]]] = []
    for now, (what, number) in enumerate(events):
        if isinstance(what, str):
            table.add(Sighting("x", 1, 2, ipv4(6, ports(1, number))), now)
            found = next((flow for flow in flows if flow[0] == number and not flow[2]), None)
            if found is None:
                flows.append((number, [now], {}))
            else:
                found[1].append(now)
            continue
        end = FlowEnd(format_address(what[0]), "pod", "ns", f"p{abs(number)}")
        if number > 0:
            table.take(*what, end, now - now % 3)
        else:
            table.give_up(*what, end)
        for _, times, ends in flows:
            kept = ends.get(what, frozenset())
            if number > 0 and times[-1] < now - now % 3 and not isinstance(kept, FlowEnd):
                ends[what] = kept | {end}
            elif number <= 0 and not isinstance(kept, FlowEnd) and end not in kept:
                ends[what] = end
    expected = [(port, len(times), times[-1], ends) for port, times, ends in flows]
    held = [(flow.key.traffic.destination_port, flow.told, int(flow.last_s), flow.ends) for flow in table.newest()]
    assert sorted(held, key=lambda one: one[2]) == sorted(expected, key=lambda one: one[2])


ONE, TWO, THREE = (FlowEnd("a", "pod", "ns", name) for name in ("one", "two", "three"))


@pytest.mark.parametrize(
    ("changes", "now", "told"),
    [
        ([("give up", ONE)], TWO, ONE),
        ([("take", TWO), ("give up", ONE)], TWO, ONE),
        ([("give up", ONE), ("take", TWO), ("give up", TWO)], None, ONE),
        ([("take", TWO)], TWO, None),
        ([("take", TWO)], ONE, ONE),
        ([("take", TWO), ("give up", TWO)], None, None),
        ([("take", TWO), ("take", THREE), ("give up", THREE), ("give up", TWO)], None, None),
        ([("take", TWO), ("take", THREE), ("give up", TWO), ("give up", ONE)], THREE, ONE),
    ],
)
def test_a_flow_is_of_who_had_its_address_before_others_took_it(
    changes: list[tuple[str, FlowEnd]], now: FlowEnd | None, told: FlowEnd | None
) -> None:
    """In whatever order the changes are heard of: the next one may take an address before it is given up."""
    table = FlowTable()
    table.add(Sighting("x", 1, 2, ipv4(6, ports(1, 1))), 0.0)
    for what, end in changes:
        if what == "take":
            table.take(A, Rank.OWNER, end, 10.0)
        else:
            table.give_up(A, Rank.OWNER, end)
    (flow,) = table.newest()
    assert flow.end_at(A, Rank.OWNER, now) == told


def test_what_is_forgotten_leaves_nothing_behind() -> None:
    table = FlowTable(most=3)
    for number in range(1, 50):
        table.add(Sighting("x", 1, 2, ipv4(6, ports(1, number))), number)
        if number % 5 == 0:
            table.give_up(A, Rank.ENDPOINT, FlowEnd("a"))
    assert len(table) == len(table._flows) == 3
    assert set(table._open.values()) <= set(table._flows)
    assert {number for naming in table._naming.values() for number in naming} <= set(table._flows)


def test_what_is_no_packet_is_counted() -> None:
    table = FlowTable()
    assert table.add(Sighting("x", 0, 0, b"\xff"), 0) is None
    assert (table.unreadable, len(table)) == (1, 0)
