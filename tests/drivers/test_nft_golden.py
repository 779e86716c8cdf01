"""What the netlink encoder programs is, to nft itself, what the text renderer says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from sys import byteorder
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from felixpy.addresses import parse_address, parse_prefix
from felixpy.dataplane.aging import Part, encode_owner
from felixpy.dataplane.nftables import render_table
from felixpy.dataplane.objects import BaseHook, Chain, DataType, Members, Put, PutMembers, Set, SetType
from felixpy.dataplane.rules import (
    Accept,
    Action,
    Balance,
    CtDestinationTranslated,
    CtState,
    CtStateIn,
    DestinationIsLocal,
    DestinationNat,
    Dispatch,
    Drop,
    FamilyIs,
    Goto,
    Hairpin,
    IcmpIs,
    InterfaceIs,
    Jump,
    Log,
    MapDestination,
    MapSource,
    MarkIs,
    Masquerade,
    Match,
    NetIn,
    NoTrack,
    PortIn,
    ProtocolIs,
    Reject,
    Remember,
    Report,
    Return,
    ReversePathFails,
    Rule,
    ServiceKnown,
    SetHas,
    SetMark,
    SourceNat,
    SourceSlotIn,
)
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.socket import in_namespace
from tests.support.netns import Namespace

OWNER = bytes.fromhex("0102030405fffefd")
PREROUTING = BaseHook("filter", "prerouting", -300)
FORWARD = BaseHook("filter", "forward", 0, "drop")
NAT = BaseHook("nat", "prerouting", -100)
POSTROUTING = BaseHook("nat", "postrouting", 100)


def nets(*texts: str) -> tuple:
    return tuple(map(parse_prefix, texts))


def endpoint(address: str, port: int) -> bytes:
    return parse_address(address) + b"\x06\0\0\0" + port.to_bytes(2, "big") + b"\0\0"


def slot(address: str, port: int, number: int) -> bytes:
    return endpoint(address, port) + number.to_bytes(4, "little")


def target(address: str, port: int) -> bytes:
    return parse_address(address) + port.to_bytes(2, "big") + b"\0\0"


SETS: Mapping[Set, Members] = {
    Set("s4", SetType.IPV4): {parse_address("10.0.0.1"): b"", parse_address("10.0.0.2"): b""},
    Set("s6", SetType.IPV6): {parse_address("fd00::1"): b""},
    Part(4, OWNER).set: {},
    Part(4, OWNER[::-1]).set: {},
    Part(6, OWNER).set: {},
    Set("client-slots", SetType.OWNER_SLOT): {
        encode_owner(OWNER) + number.to_bytes(4, byteorder): b"" for number in (0, 5, 63)
    },
    Set("n4", SetType.IPV4, interval=True): {
        parse_address("10.0.0.0") + b"\x08": b"",
        parse_address("11.0.0.0") + b"\x08": b"",
        parse_address("192.168.1.1") + b"\x20": b"",
        parse_address("255.255.255.0") + b"\x18": b"",
    },
    Set("n6", SetType.IPV6, interval=True): {
        parse_address("fd00::") + b"\x40": b"",
        parse_address("ffff::") + b"\x10": b"",
    },
    Set("all4", SetType.IPV4, interval=True): {bytes(4) + b"\0": b""},
    Set("p4", SetType.IPV4_PORT): {endpoint("10.0.0.1", 80): b""},
    Set("p6", SetType.IPV6_PORT): {endpoint("fd00::1", 80): b""},
    Set("pair4", SetType.IPV4_IPV4): {parse_address("10.0.0.1") * 2: b""},
    Set("pair6", SetType.IPV6_IPV6): {parse_address("fd00::1") * 2: b""},
    Set("from", SetType.INTERFACE, DataType.VERDICT): {
        b"cali1": b"jump one",
        b"cali12345678901": b"goto two",
        b"eth0": b"accept",
        b"eth1": b"drop",
        b"eth2": b"return",
    },
    Set("svc4", SetType.IPV4_PORT, DataType.VERDICT): {endpoint("10.96.0.1", 80): b"goto one"},
    Set("svc6", SetType.IPV6_PORT, DataType.VERDICT): {endpoint("fd00:96::1", 80): b"goto one"},
    Set("eps4", SetType.IPV4_PORT_SLOT, DataType.IPV4_PORT): {
        slot("10.96.0.1", 80, 0): target("10.0.0.1", 8080),
        slot("10.96.0.1", 80, 1): target("10.0.0.2", 8080),
    },
    Set("floating4", SetType.IPV4, DataType.IPV4): {parse_address("192.0.2.1"): parse_address("10.0.0.1")},
    Set("floating6", SetType.IPV6, DataType.IPV6): {parse_address("2001:db8::1"): parse_address("fd00::1")},
    Set("floating-back4", SetType.IPV4_IPV4, DataType.IPV4): {
        parse_address("10.0.0.1") * 2: parse_address("192.0.2.1"),
    },
    Set("floating-back6", SetType.IPV6_IPV6, DataType.IPV6): {
        parse_address("fd00::1") * 2: parse_address("2001:db8::1"),
    },
    Set("eps6", SetType.IPV6_PORT_SLOT, DataType.IPV6_PORT): {
        slot("fd00:96::1", 80, 0): target("fd00::1", 8080),
    },
    Set("nport4", SetType.NODE_PORT, DataType.VERDICT): {endpoint("0.0.0.0", 30080)[-8:]: b"goto one"},
    Set("nport-eps4", SetType.NODE_PORT_SLOT, DataType.IPV4_PORT): {
        slot("0.0.0.0", 30080, 0)[4:]: target("10.0.0.1", 8080),
        slot("0.0.0.0", 30080, 1)[4:]: target("10.0.0.2", 8080),
    },
    Set("nport-eps6", SetType.NODE_PORT_SLOT, DataType.IPV6_PORT): {
        slot("0.0.0.0", 30080, 0)[4:]: target("fd00::1", 8080),
    },
}

TCP = ProtocolIs(6)
MATCHES: Mapping[str, tuple[Match, ...]] = {
    "interface": (InterfaceIs("in", "eth0"),),
    "interface prefix": (InterfaceIs("out", "cali*"),),
    "interface negated": (InterfaceIs("in", "eth0", negate=True), InterfaceIs("out", "cali*", negate=True)),
    "longest interface": (InterfaceIs("in", "cali12345678901"),),
    "family": (FamilyIs(4),),
    "family 6": (FamilyIs(6),),
    "protocol": (ProtocolIs(132),),
    "unnamed protocol": (ProtocolIs(99),),
    "protocol negated": (ProtocolIs(58, negate=True),),
    "address": (NetIn("source", nets("10.0.0.1")),),
    "address 6": (NetIn("destination", nets("fd00::1")),),
    "prefix of whole bytes": (NetIn("source", nets("10.0.0.0/8")),),
    "prefix of whole bytes 6": (NetIn("source", nets("fd00::/64")),),
    "odd prefix": (NetIn("destination", nets("10.0.0.0/25")),),
    "odd prefix 6": (NetIn("destination", nets("fd00::/67")),),
    "prefix negated": (NetIn("source", nets("10.0.0.0/25"), negate=True),),
    "prefix negated 6": (NetIn("source", nets("fd00::/64"), negate=True),),
    "both addresses": (NetIn("source", nets("10.0.0.1")), NetIn("destination", nets("10.0.0.2"))),
    "addresses": (NetIn("source", nets("10.0.0.1", "10.0.0.3")),),
    "prefixes": (NetIn("source", nets("10.0.0.0/8", "192.168.1.1", "10.1.0.0/16")),),
    "adjacent prefixes": (NetIn("source", nets("10.0.0.0/25", "10.0.0.128/25")),),
    "adjacent prefixes and odd ones": (NetIn("source", nets("10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/25")),),
    "prefixes to the top": (NetIn("source", nets("10.0.0.0/8", "255.0.0.0/8")),),
    "prefixes 6": (NetIn("destination", nets("fd00::/8", "2001:db8::1", "ff00::/8")),),
    "prefixes negated": (NetIn("destination", nets("10.0.0.0/8", "172.16.0.0/12"), negate=True),),
    "everything": (NetIn("source", nets("0.0.0.0/0")),),
    "everything 6": (NetIn("source", nets("::/0", "fd00::1")),),
    "nothing": (NetIn("source", nets("0.0.0.0/0"), negate=True),),
    "set": (SetHas("source", "s4", 4),),
    "set 6": (SetHas("destination", "s6", 6),),
    "set negated": (SetHas("source", "n4", 4, negate=True),),
    "set with ports": (SetHas("source", "p4", 4, ports=True),),
    "set with ports 6": (SetHas("destination", "p6", 6, ports=True),),
    "set with ports negated": (SetHas("destination", "p4", 4, ports=True, negate=True),),
    "port": (TCP, PortIn("destination", ((80, 80),))),
    "port range": (ProtocolIs(17), PortIn("source", ((8000, 8010),))),
    "port range negated": (TCP, PortIn("destination", ((8000, 8010),), negate=True)),
    "port negated": (TCP, PortIn("destination", ((80, 80),), negate=True)),
    "ports": (TCP, PortIn("destination", ((80, 80), (443, 443)))),
    "ports and ranges": (TCP, PortIn("destination", ((443, 443), (80, 80), (8000, 8010), (8005, 8020)))),
    "ports to the top": (TCP, PortIn("destination", ((1, 80), (60000, 65535)))),
    "ports negated": (TCP, PortIn("source", ((80, 80), (8000, 8010)), negate=True)),
    "icmp type": (IcmpIs(4, 8),),
    "icmp type and code": (IcmpIs(4, 3, 4),),
    "icmp type negated": (IcmpIs(4, 8, negate=True),),
    "icmpv6 type": (ProtocolIs(58), IcmpIs(6, 128)),
    "icmpv6 type and code": (IcmpIs(6, 1, 4),),
    "icmpv6 type and code negated": (IcmpIs(6, 1, 4, negate=True),),
    "conntrack state": (CtStateIn(frozenset({CtState.ESTABLISHED, CtState.RELATED})),),
    "conntrack states": (CtStateIn(frozenset({CtState.INVALID})), CtStateIn(frozenset({CtState.NEW}), negate=True)),
    "conntrack state negated": (CtStateIn(frozenset({CtState.NEW, CtState.UNTRACKED}), negate=True),),
    "conntrack dnat": (CtDestinationTranslated(),),
    "conntrack dnat negated": (CtDestinationTranslated(negate=True),),
    "mark": (MarkIs(0x10000, 0x10000),),
    "mark clear": (MarkIs(0, 0x30000),),
    "mark negated": (MarkIs(0x10000, 0x30000, negate=True),),
    "reverse path": (ReversePathFails(),),
    "local destination": (DestinationIsLocal(),),
    "other destination": (DestinationIsLocal(negate=True),),
    "service": (ServiceKnown("p4", 4),),
    "service 6 negated": (ServiceKnown("p6", 6, negate=True),),
    "slot of a source": (SourceSlotIn(4, 64, (5,), "client-slots", OWNER),),
    "slots of a source": (SourceSlotIn(4, 64, (0, 5, 63), "client-slots", OWNER), TCP),
    "slots of a source 6": (SourceSlotIn(6, 128, (1, 2, 127), "client-slots", OWNER[::-1]),),
    "source that went there of late": (SetHas("source", Part(4, OWNER).name, 4),),
    "source that went there of late 6": (SetHas("source", Part(6, OWNER).name, 6),),
    "hairpin": (Hairpin("pair4", 4),),
    "hairpin 6": (Hairpin("pair6", 6),),
    "much": (InterfaceIs("in", "cali*"), SetHas("source", "n4", 4), SetHas("destination", "s4", 4), TCP,
             PortIn("destination", ((80, 80),)), MarkIs(0, 0x10000)),
}  # fmt: skip

ACTIONS: Mapping[str, tuple[BaseHook | None, tuple[Match, ...], Action]] = {
    "accept": (FORWARD, (), Accept()),
    "drop": (FORWARD, (), Drop()),
    "return": (None, (), Return()),
    "reject": (FORWARD, (), Reject()),
    "reset": (FORWARD, (TCP,), Reject(tcp_reset=True)),
    "reset implies tcp": (FORWARD, (), Reject(tcp_reset=True)),
    "jump": (FORWARD, (), Jump("one")),
    "goto": (FORWARD, (), Goto("two")),
    "dispatch in": (FORWARD, (), Dispatch("in_interface", "from")),
    "dispatch out": (FORWARD, (), Dispatch("out_interface", "from")),
    "dispatch service": (NAT, (), Dispatch("service4", "svc4")),
    "dispatch service 6": (NAT, (), Dispatch("service6", "svc6")),
    "dispatch node port": (NAT, (DestinationIsLocal(),), Dispatch("node_port4", "nport4")),
    "dispatch node port of a family": (NAT, (FamilyIs(4), DestinationIsLocal()), Dispatch("node_port4", "nport4")),
    "dispatch node port 6": (NAT, (), Dispatch("node_port6", "nport4")),
    "mark": (FORWARD, (), SetMark(0x10000, 0x10000)),
    "mark cleared": (FORWARD, (), SetMark(0, 0x30000)),
    "mark changed": (FORWARD, (), SetMark(0x10000, 0x30000)),
    "mark set": (FORWARD, (), SetMark(0x12345, 0xFFFFFFFF)),
    "log": (FORWARD, (), Log("calico-packet: ")),
    "log what needs quoting": (FORWARD, (), Log('quote " and\nline')),
    "log without prefix": (FORWARD, (), Log("")),
    "report": (FORWARD, (), Report("deny|in|np/default/web|3")),
    "notrack": (PREROUTING, (), NoTrack()),
    "masquerade": (POSTROUTING, (), Masquerade()),
    "masquerade in order": (POSTROUTING, (), Masquerade(random=False)),
    "masquerade from ports": (POSTROUTING, (ProtocolIs(6),), Masquerade(ports=(40000, 40010))),
    "source from ports": (POSTROUTING, (ProtocolIs(17),), SourceNat(parse_address("192.0.2.1"), (40000, 40010))),
    "source 6 from ports": (POSTROUTING, (ProtocolIs(6),), SourceNat(parse_address("2001:db8::1"), (40000, 40010))),
    "source": (POSTROUTING, (), SourceNat(parse_address("192.0.2.1"))),
    "source 6": (POSTROUTING, (), SourceNat(parse_address("2001:db8::1"))),
    "map destination": (NAT, (), MapDestination("floating4", 4)),
    "map destination 6": (NAT, (FamilyIs(6),), MapDestination("floating6", 6)),
    "map source": (POSTROUTING, (), MapSource("floating-back4", 4)),
    "map source 6": (POSTROUTING, (CtDestinationTranslated(),), MapSource("floating-back6", 6)),
    "balance": (NAT, (), Balance("eps4", 4, 2)),
    "balance 6": (NAT, (FamilyIs(6),), Balance("eps6", 6, 3)),
    "destination": (NAT, (TCP,), DestinationNat(parse_address("10.0.0.1"), 8080)),
    "destination 6": (NAT, (ProtocolIs(17),), DestinationNat(parse_address("fd00::1"), 53)),
    "remember": (NAT, (TCP,), Remember(Part(4, OWNER).name, 4, 10800)),
    "remember 6": (NAT, (), Remember(Part(6, OWNER).name, 6, 3)),
    "balance a node port": (NAT, (), Balance("nport-eps4", 4, 2, any_address=True)),
    "balance a node port 6": (NAT, (), Balance("nport-eps6", 6, 1, any_address=True)),
}

TARGETS = (Chain("one", (Rule(Accept()),)), Chain("two", (Rule(Return()),)))


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
