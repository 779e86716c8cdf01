"""What the netlink encoder programs is, to nft itself, what the text renderer says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from felixpy.dataplane.nftables import render_table
from felixpy.dataplane.objects import BaseHook, Chain, DataType, Members, Put, PutMembers, Set, SetType
from felixpy.dataplane.rules import (
    Accept,
    Action,
    CtState,
    CtStateIn,
    DestinationIsLocal,
    Dispatch,
    Drop,
    FamilyIs,
    Goto,
    IcmpIs,
    InterfaceIs,
    Jump,
    Log,
    MarkIs,
    Match,
    NetIn,
    PortIn,
    ProtocolIs,
    Reject,
    Return,
    Rule,
    SetHas,
    SetMark,
)
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.socket import in_namespace
from tests.drivers.nft_cases import ACTIONS, FORWARD, MATCHES, SETS, TARGETS, TCP, nets
from tests.support.netns import Namespace


def listed(namespace: Namespace) -> list[str]:
    """The table as nft shows it, without handles, and everything that has no order sorted."""
    entries = json.loads(namespace.run("nft", "-j", "list", "table", "inet", "felixpy"))["nftables"][1:]
    rules = sorted((_plain(it) for it in entries if "rule" in it), key=lambda it: it["rule"]["chain"])
    return [*sorted(json.dumps(_plain(entry)) for entry in entries if "rule" not in entry), *map(json.dumps, rules)]


def bytecode(namespace: Namespace) -> list[str]:
    """The expressions of our chain `c`, as the kernel gives them back."""
    shown = namespace.run("nft", "--debug=netlink", "list", "chain", "inet", "felixpy", "c")
    return [line for line in shown.splitlines() if line.startswith("  [ ")]


def _plain(node: Any) -> Any:
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _plain(value) for key, value in sorted(node.items()) if key != "handle"}
    for unordered in {"elem", "set"} & plain.keys():
        if isinstance(plain[unordered], list):
            plain[unordered].sort(key=json.dumps)
    return plain


Compare = Callable[..., None]


@pytest.fixture
def compare(make_namespace) -> Compare:
    """Programs the same by netlink and by text, in a namespace each, and compares what nft lists."""
    raw, text = make_namespace(), make_namespace()

    def compare(chains: tuple[Chain, ...], sets: Mapping[Set, Members] = SETS) -> None:
        ops = [Put(it) for it in (*sets, *chains)] + [PutMembers(it, members) for it, members in sets.items()]
        raw.run("nft", "flush", "ruleset")
        text.run("nft", "flush", "ruleset")
        with in_namespace(raw.path, NftDriver) as driver:
            refused = [outcome for outcome in driver.apply(ops) if outcome.error]
        rendered = render_table(chains, sets, {it.name: members for it, members in sets.items()})
        text.run("nft", "-f", "-", stdin=rendered)
        assert refused == []
        assert listed(raw) == listed(text), rendered
        assert bytecode(raw) == bytecode(text), rendered

    return compare


@pytest.mark.parametrize("matches", MATCHES.values(), ids=MATCHES)
def test_match(compare: Compare, matches: tuple[Match, ...]) -> None:
    compare((*TARGETS, Chain("c", (Rule(Accept(), matches),), FORWARD)))


@pytest.mark.parametrize(("hook", "matches", "action"), ACTIONS.values(), ids=ACTIONS)
def test_action(compare: Compare, hook: BaseHook | None, matches: tuple[Match, ...], action: Action) -> None:
    compare((*TARGETS, Chain("c", (Rule(action, matches),), hook)))


def any_rule(version: int) -> st.SearchStrategy[Rule]:
    """Rules that make sense in a filter chain, of one family, as policy has them."""
    texts = ("10.0.0.0/8", "10.1.2.3", "192.168.0.0/17", "224.0.0.0/3", "0.0.0.0/0")
    if version == 6:
        texts = ("fd00::/8", "fd00::1", "2001:db8::/33", "ff00::/8", "::/0")
    side, flag = st.sampled_from(["source", "destination"]), st.booleans()
    port = st.integers(0, 65535)
    ranges = st.lists(st.tuples(port, port).map(lambda it: (min(it), max(it))), min_size=1, max_size=4).map(tuple)
    matches = st.one_of(
        st.builds(NetIn, side, st.lists(st.sampled_from(nets(*texts)), min_size=1, max_size=4).map(tuple), flag),
        st.builds(SetHas, side, st.sampled_from([f"s{version}", f"n{version}"]), st.just(version), flag),
        st.builds(SetHas, side, st.just(f"p{version}"), st.just(version), flag, st.just(True)),
        st.builds(InterfaceIs, st.sampled_from(["in", "out"]), st.sampled_from(["eth0", "cali*", "a"]), flag),
        st.builds(CtStateIn, st.frozensets(st.sampled_from(CtState), min_size=1), flag),
        st.builds(MarkIs, st.sampled_from([0, 0x10000]), st.sampled_from([0x10000, 0x30000, 0xFFFF0000]), flag),
        st.builds(DestinationIsLocal, flag),
        st.just(FamilyIs(version)),
    )
    transport = st.one_of(
        st.just(()),
        st.tuples(
            st.sampled_from([ProtocolIs(6), ProtocolIs(17), ProtocolIs(132)]), st.builds(PortIn, side, ranges, flag)
        ),
        st.tuples(st.builds(IcmpIs, st.just(version), st.integers(0, 255), st.none() | st.integers(0, 255), flag)),
        st.tuples(st.builds(ProtocolIs, st.integers(0, 255), st.just(True))),
    )
    mark = st.integers(0, 0xFFFFFFFF)
    actions = st.one_of(
        st.sampled_from([Accept(), Drop(), Return(), Jump("one"), Goto("two"), Reject()]),
        st.builds(SetMark, mark, mark),
        st.builds(Log, st.text(max_size=150)),
    )
    both = st.tuples(st.lists(matches, max_size=4), transport).map(lambda it: (*it[0], *it[1]))
    return st.builds(Rule, actions, both, st.text(max_size=150), flag)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_any_rules(compare: Compare, data: st.DataObject) -> None:
    rules = data.draw(st.lists(any_rule(4) | any_rule(6), min_size=20, max_size=60))
    compare((*TARGETS, Chain("c", tuple(rules), FORWARD)))


def test_comment_and_counter(compare: Compare) -> None:
    rule = Rule(Drop(), (TCP,), comment='Policy "default/a": no', counter=True)
    compare((Chain("c", (rule, Rule(Accept(), comment="x" * 200)), FORWARD),), {})


def test_chains_of_a_policy(compare: Compare) -> None:
    allow = Rule(SetMark(0x10000, 0x10000), (SetHas("source", "n4", 4), TCP, PortIn("destination", ((80, 90),))))
    policy = Chain("pi-default-web", (allow, Rule(Return(), (MarkIs(0x10000, 0x10000),))))
    workload = Chain(
        "tw-cali1",
        (
            Rule(Accept(), (CtStateIn(frozenset({CtState.ESTABLISHED, CtState.RELATED})),)),
            Rule(Drop(), (CtStateIn(frozenset({CtState.INVALID})),)),
            Rule(SetMark(0, 0x30000)),
            Rule(Jump("pi-default-web")),
            Rule(Return(), (MarkIs(0x10000, 0x10000),), comment="Allowed"),
            Rule(Drop(), comment="End of tier default", counter=True),
        ),
    )
    dispatch = {b"cali1": b"jump tw-cali1"}
    sets = {**SETS, Set("to", SetType.INTERFACE, DataType.VERDICT): dispatch}
    compare((*TARGETS, policy, workload, Chain("c", (Rule(Dispatch("out_interface", "to")),), FORWARD)), sets)
