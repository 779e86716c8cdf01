"""Rules in nft's language, and the digests by which they are known again. That nft takes them: tests/drivers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felixpy.addresses import parse_address, parse_prefix
from felixpy.dataplane.nftables import (
    DIGEST_BYTES,
    chain_digests,
    distinct_ranges,
    printable,
    render_rule,
    render_table,
)
from felixpy.dataplane.nftables_sets import render_key
from felixpy.dataplane.objects import BaseHook, Chain, DataType, Set, SetType
from felixpy.dataplane.rules import (
    Accept,
    CtState,
    CtStateIn,
    Dispatch,
    Drop,
    InterfaceIs,
    Jump,
    MarkIs,
    NetIn,
    PortIn,
    ProtocolIs,
    Return,
    Rule,
    SetHas,
    SetMark,
)

TABLE = """\
table inet felixpy {
	map dispatch {
		type ifname : verdict
		elements = {
			"cali1" : jump tw-cali1,
			"cali2" : drop
		}
	}

	set nets {
		type ipv4_addr
		flags interval
		elements = {
			10.0.0.0/8,
			192.168.0.1
		}
	}

	chain forward {
		type filter hook forward priority -5; policy drop;
		ct state established,related accept
		oifname vmap @dispatch
	}

	chain tw-cali1 {
		ip saddr @nets meta l4proto tcp th dport { 80, 8000-8010 } meta mark set meta mark | 0x10000
		meta mark & 0x10000 == 0x10000 return
		iifname != "cali*" counter drop comment "End of tier 'default'"
	}
}
"""
POLICY = Chain(
    "tw-cali1",
    (
        Rule(
            SetMark(0x10000, 0x10000),
            (SetHas("source", "nets", 4), ProtocolIs(6), PortIn("destination", ((8000, 8010), (80, 80)))),
        ),
        Rule(Return(), (MarkIs(0x10000, 0x10000),)),
        Rule(Drop(), (InterfaceIs("in", "cali*", negate=True),), comment='End of tier "default"', counter=True),
    ),
)


def test_table_is_sorted_and_whole() -> None:
    established = CtStateIn(frozenset({CtState.RELATED, CtState.ESTABLISHED}))
    base = Chain(
        "forward",
        (Rule(Accept(), (established,)), Rule(Dispatch("out_interface", "dispatch"))),
        BaseHook("filter", "forward", -5, "drop"),
    )
    nets, dispatch = Set("nets", SetType.IPV4, interval=True), Set("dispatch", SetType.INTERFACE, DataType.VERDICT)
    members = {
        "nets": {parse_address("192.168.0.1") + b"\x20": b"", parse_address("10.0.0.0") + b"\x08": b""},
        "dispatch": {b"cali2": b"drop", b"cali1": b"jump tw-cali1"},
    }
    assert render_table([POLICY, base], [nets, dispatch], members) == TABLE


def test_equal_rules_are_equal_text_however_they_were_written() -> None:
    one = Rule(Accept(), (NetIn("source", tuple(map(parse_prefix, ("10.0.0.0/8", "10.1.0.0/16", "9.0.0.0/8")))),))
    other = Rule(Accept(), (NetIn("source", tuple(map(parse_prefix, ("9.0.0.0/8", "10.0.0.0/8")))),))
    assert render_rule(one) == render_rule(other) == "ip saddr { 9.0.0.0/8, 10.0.0.0/8 } accept"


@pytest.mark.parametrize("index", range(3))
def test_digest_changes_with_its_rule_alone(index: int) -> None:
    rules = list(POLICY.rules)
    rules[index] = replace(rules[index], comment="another")
    before, after = chain_digests(POLICY), chain_digests(replace(POLICY, rules=tuple(rules)))
    assert {len(digest) for digest in before} == {DIGEST_BYTES}
    assert [a != b for a, b in zip(before, after, strict=True)] == [position == index for position in range(3)]


def test_digest_tells_actions_apart() -> None:
    rules = tuple(map(Rule, (Accept(), Drop(), Return(), Jump("a"), Jump("b"))))
    assert len(set(chain_digests(Chain("c", rules)))) == len(rules)


@given(st.text(), st.integers(0, 130))
def test_printable_can_be_quoted(text: str, limit: int) -> None:
    plain = printable(text, limit)
    assert len(plain.encode()) <= limit
    assert plain.isprintable()
    assert '"' not in plain


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda it: (min(it), max(it))), min_size=1))
def test_distinct_ranges_hold_the_same_ports_apart(ranges: list[tuple[int, int]]) -> None:
    distinct = distinct_ranges(PortIn("source", tuple(ranges)))
    ports = {port for low, high in ranges for port in range(low, high + 1)}
    assert [port for low, high in distinct for port in range(low, high + 1)] == sorted(ports)
    assert all(after[0] > before[1] + 1 for before, after in pairwise(distinct))


def test_keys_read_as_people_write_them() -> None:
    endpoint = parse_address("10.96.0.1") + b"\x11\0\0\0\0\x35\0\0"
    assert render_key(Set("s", SetType.IPV4_PORT), endpoint) == "10.96.0.1 . udp . 53"
    assert (
        render_key(Set("s", SetType.IPV4_PORT_SLOT), endpoint + (3).to_bytes(4, "little")) == "10.96.0.1 . udp . 53 . 3"
    )
    assert render_key(Set("s", SetType.IPV6, interval=True), parse_address("fd00::") + b"\x40") == "fd00::/64"
    assert render_key(Set("s", SetType.IPV6_IPV6), parse_address("fd00::1") * 2) == "fd00::1 . fd00::1"
