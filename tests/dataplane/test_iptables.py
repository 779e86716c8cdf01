"""Rules as iptables has them: the text, what has no form, and that an incremental compilation is one from scratch."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from felixpy.addresses import parse_address, parse_prefix
from felixpy.calc.services.frontends import BackendAddress, Frontend
from felixpy.dataplane.chains.endpoint import FROM_ENDPOINTS
from felixpy.dataplane.chains.service_sets import encode_backend, encode_slot
from felixpy.dataplane.iptables.names import CHAIN_CHARACTERS, SET_CHARACTERS, chain_kernel_name, set_kernel_name
from felixpy.dataplane.iptables.rules import render_rule
from felixpy.dataplane.iptables.tables import Body, Compiler, TableBody, World
from felixpy.dataplane.iptables.terms import Inexpressible, Place, Table
from felixpy.dataplane.iptables.text import TableSeen, parse_save, render_changes, seen_after
from felixpy.dataplane.objects import BaseHook, Chain, DataType, Drop, DropMembers, Op, Put, PutMembers, Set, SetType
from felixpy.dataplane.rules import (
    Accept,
    Action,
    Balance,
    CtDestinationTranslated,
    DestinationNat,
    Dispatch,
    FamilyIs,
    Goto,
    IcmpIs,
    Jump,
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
    ReversePathFails,
    Rule,
    SetMark,
    SourceNat,
    SourceSlotIn,
)
from felixpy.dataplane.rules import Drop as DropPacket
from felixpy.dataplane.sets import encode_port_key
from tests.dataplane.iptables_world import restore_text, small_world

GOLDEN = Path(__file__).parent / "golden"
FILTER4, FILTER6 = Place(4, Table.FILTER), Place(6, Table.FILTER)
FORWARD = BaseHook("filter", "forward", 0)
NAT = BaseHook("nat", "prerouting", -100)


def nets(*texts: str) -> tuple:
    return tuple(map(parse_prefix, texts))


ACCEPT = Accept()


def text(*matches: Match, action: Action = ACCEPT, place: Place = FILTER4) -> list[str]:
    return list(render_rule(Rule(action, matches), place, World()))


@pytest.mark.parametrize("version", [4, 6])
def test_golden(version: int) -> None:
    """`iptables-restore --test` judges the same files in tests/drivers/test_iptables.py."""
    assert restore_text(small_world(), version) == (GOLDEN / f"rules.v{version}").read_text()


def test_a_rule_is_only_in_the_tables_of_its_family() -> None:
    assert text(NetIn("source", nets("10.0.0.0/8"))) == ["-s 10.0.0.0/8 -j ACCEPT"]
    assert text(NetIn("source", nets("10.0.0.0/8")), place=FILTER6) == []
    assert text(FamilyIs(6), place=FILTER6) == ["-j ACCEPT"]
    assert text(NetIn("source", nets("0.0.0.0/0"), negate=True)) == []
    assert text(action=SourceNat(parse_address("192.0.2.1")), place=Place(6, Table.NAT)) == []


def test_translation_from_a_range_of_ports() -> None:
    to = SourceNat(parse_address("192.0.2.1"), (40000, 40010))
    to6 = SourceNat(parse_address("2001:db8::1"), (40000, 40010))
    tcp = ProtocolIs(6)
    assert text(tcp, action=to, place=Place(4, Table.NAT)) == ["-p 6 -j SNAT --to-source 192.0.2.1:40000-40010"]
    assert text(tcp, action=to6, place=Place(6, Table.NAT)) == ["-p 6 -j SNAT --to-source [2001:db8::1]:40000-40010"]
    ported = Masquerade(ports=(40000, 40010))
    assert text(tcp, action=ported, place=Place(4, Table.NAT)) == [
        "-p 6 -j MASQUERADE --to-ports 40000-40010 --random-fully"
    ]


def test_affinity_is_a_set_of_clients_and_else_the_group_that_the_source_is_in() -> None:
    nat, tcp = Place(4, Table.NAT), ProtocolIs(6)
    kept = Remember("stay4-a", 4, 10800)
    assert text(tcp, action=kept, place=nat) == ["-p 6 -j SET --add-set fpx-stay4-a src --exist --timeout 10800"]
    assert text(tcp, action=kept, place=Place(6, Table.NAT)) == []
    to = DestinationNat(parse_address("10.0.0.1"), 80)
    assert text(tcp, action=to, place=nat) == ["-p 6 -j DNAT --to-destination 10.0.0.1:80"]
    assert text(tcp, action=to, place=Place(6, Table.NAT)) == []
    cluster, mark = "-m cluster --cluster-total-nodes", "-j MARK --set-xmark"
    assert text(SourceSlotIn(4, 64, (0, 5), "client-slots", bytes(8)), place=nat)[1:3] == [
        f"{cluster} 32 --cluster-local-node 1 --cluster-hash-seed 0x1"
        f" {cluster} 2 --cluster-local-node 1 --cluster-hash-seed 0x2 {mark} 0x400000/0x400000",
        f"{cluster} 32 --cluster-local-node 3 --cluster-hash-seed 0x1"
        f" {cluster} 2 --cluster-local-node 2 --cluster-hash-seed 0x2 {mark} 0x400000/0x400000",
    ]


def test_any_number_of_slots_that_backends_are_given_has_a_form() -> None:
    nat, count = Place(4, Table.NAT), 64
    while count <= 65536:
        found = {
            text(SourceSlotIn(4, count, (slot,), "client-slots", bytes(8)), place=nat)[1]
            for slot in (0, 1, count // 2, count - 1)
        }
        assert len(found) == 4
        count *= 2


def test_alternatives_are_noted_in_the_mark() -> None:
    mark = "-j MARK --set-xmark"
    one, other = nets("10.0.0.1", "10.0.0.3"), nets("10.1.0.0/16", "10.3.0.1")
    assert text(NetIn("source", one), NetIn("destination", other)) == [
        f"{mark} 0x0/0x400000",
        f"-s 10.0.0.1/32 {mark} 0x400000/0x400000",
        f"-s 10.0.0.3/32 {mark} 0x400000/0x400000",
        f"{mark} 0x0/0x800000",
        f"-d 10.1.0.0/16 {mark} 0x800000/0x800000",
        f"-d 10.3.0.1/32 {mark} 0x800000/0x800000",
        f"-m mark --mark 0x0/0x800000 {mark} 0x0/0x400000",
        "-m mark --mark 0x400000/0x400000 -j ACCEPT",
    ]  # fmt: skip
    assert text(NetIn("source", nets("10.0.0.0/8")), NetIn("source", nets("10.1.0.0/16"), negate=True)) == [
        f"{mark} 0x400000/0x400000",
        f"-s 10.1.0.0/16 {mark} 0x0/0x400000",
        "-s 10.0.0.0/8 -m mark --mark 0x400000/0x400000 -j ACCEPT",
    ]


def test_a_multiport_match_has_fifteen_ports_and_a_range_takes_two() -> None:
    ports = tuple((2 * port, 2 * port) for port in range(14))
    assert text(ProtocolIs(6), PortIn("destination", (*ports, (100, 100)))) == [
        f"-p 6 -m multiport --dports {','.join(str(low) for low, _ in ports)},100 -j ACCEPT"
    ]
    alternatives = text(ProtocolIs(6), PortIn("destination", (*ports, (100, 110))))
    assert [line.count(",") + 1 for line in alternatives if "--dports" in line] == [14, 1]
    (line,) = text(ProtocolIs(6), PortIn("source", (*ports, (100, 110)), negate=True))
    assert line.count("! --sports") == 2


def test_ports_without_a_protocol_are_those_of_every_protocol_that_has_ports() -> None:
    lines = text(PortIn("source", ((53, 53),)), ProtocolIs(6, negate=True))
    assert lines == [f"-p {number} -m multiport --sports 53 -j ACCEPT" for number in (17, 132, 136)]
    assert text(ProtocolIs(6), ProtocolIs(6, negate=True)) == []
    assert text(ProtocolIs(1), PortIn("source", ((53, 53),))) == []


def test_nat_cannot_drop_so_the_filter_table_does() -> None:
    world = world_of(
        Chain("nat", (Rule(DropPacket(), (ProtocolIs(6),)),), NAT), Chain("forward", (Rule(Accept()),), FORWARD)
    )
    tables = Compiler().compile(world).tables
    nat = tables[Place(4, Table.NAT)].chains["fpx-nat"].lines
    assert [line.partition('" ')[2] for line in nat] == [
        "-p 6 -j MARK --set-xmark 0x200000/0x200000",
        "-p 6 -j ACCEPT",
    ]
    for builtin in ("INPUT", "FORWARD", "OUTPUT"):
        first = tables[FILTER4].chains[f"fpx-{builtin}"].lines[0]
        assert first.endswith("-m mark --mark 0x200000/0x200000 -j DROP")


@pytest.mark.parametrize(
    ("matches", "action", "table", "reason"),
    [
        ((), Reject(), Table.MANGLE, "REJECT works in the filter table only"),
        ((), Reject(tcp_reset=True), Table.FILTER, "a TCP reset needs a rule for TCP"),
        ((), NoTrack(), Table.FILTER, "CT works in the raw table only"),
        ((), Masquerade(), Table.FILTER, "MASQUERADE works in the nat table only"),
        ((), SourceNat(parse_address("192.0.2.1")), Table.FILTER, "SNAT works in the nat table only"),
        ((), Balance("eps4", 4, 2), Table.NAT, "balancing"),
        ((ReversePathFails(),), DropPacket(), Table.FILTER, "no rpfilter"),
        ((ProtocolIs(0),), DropPacket(), Table.FILTER, "protocol 0"),
        ((IcmpIs(4, 255),), DropPacket(), Table.FILTER, "ICMP type 255"),
    ],
)
def test_what_has_no_form_is_said(matches: tuple[Match, ...], action: Action, table: Table, reason: str) -> None:
    with pytest.raises(Inexpressible, match=reason):
        render_rule(Rule(action, matches), Place(4, table), World())


def test_what_fails_takes_with_it_only_what_needs_it() -> None:
    world = world_of(
        Chain("bad", (Rule(NoTrack()),)),
        Chain("needs-bad", (Rule(Jump("bad")),)),
        Chain("lost", (Rule(Goto("nowhere")),)),
        Chain("good", (Rule(Accept()),)),
        Chain("a", (Rule(Jump("needs-bad")),), FORWARD),
        Chain("b", (Rule(Jump("lost")),), FORWARD),
        Chain("c", (Rule(Jump("good")),), FORWARD),
        Chain("late", (), BaseHook("filter", "postrouting", 200)),
    )
    compiled = Compiler().compile(world)
    assert {name: fault.reason for name, fault in compiled.faults.items()} == {
        "bad": "no form in iptables: CT works in the raw table only, not in filter",
        "needs-bad": "needs bad, which failed",
        "a": "needs needs-bad, which failed",
        "lost": "needs nowhere, which is not there",
        "b": "needs lost, which failed",
        "late": "iptables has no table at postrouting 200",
    }
    assert set(compiled.tables[FILTER4].chains) == {"fpx-good", "fpx-c", "fpx-FORWARD"}


def test_a_chain_is_in_every_table_that_leads_to_it() -> None:
    shared = Chain("shared", (Rule(SetMark(1, 1)),))
    raw = Chain("raw", (Rule(Jump("shared")),), BaseHook("filter", "prerouting", -300))
    early = Chain("early", (Rule(Jump("shared")),), BaseHook("filter", "prerouting", -150))
    late = Chain("late", (Rule(Jump("shared")),), BaseHook("filter", "prerouting", -90))
    unused = Chain("unused", (Rule(Accept()),))
    compiled = Compiler().compile(world_of(shared, raw, early, late, unused))
    tables = {place.table for place, body in compiled.tables.items() if "fpx-shared" in body.chains}
    assert tables == {Table.RAW, Table.MANGLE, Table.FILTER}
    assert set(compiled.tables[FILTER4].jumps) == {"INPUT", "FORWARD"}
    assert compiled.places["unused"] == frozenset()


def test_each_change_is_one_text_unless_there_are_too_many_chains() -> None:
    chains = [Chain(f"c{number}", (Rule(Jump(f"c{number + 1}")),)) for number in range(6)]
    world = world_of(*chains, Chain("c6", (Rule(Accept()),)), Chain("base", (Rule(Jump("c0")),), FORWARD))
    wanted = Compiler().compile(world).tables[FILTER4]
    assert len(list(render_changes(Table.FILTER, wanted, TableSeen()))) == 1
    texts = list(render_changes(Table.FILTER, wanted, TableSeen(), most_chains=3))
    filled: set[str] = set()
    for one in texts[1:]:
        mentioned = {line.split()[-1] for line in one.lines if line.startswith("-A")} - {"ACCEPT"}
        filled |= {line.split()[1] for line in one.lines if line.startswith("-A")}
        assert mentioned <= filled, "nothing leads to a chain that is not complete"
    assert len(texts) == 4
    assert all(sum(line.startswith(":") for line in one.lines) <= 3 for one in texts[1:])
    assert list(render_changes(Table.FILTER, wanted, seen_after(wanted))) == []


def test_only_what_differs_is_written() -> None:
    world = world_of(Chain("a", (Rule(Accept()),)), Chain("base", (Rule(Jump("a")),), FORWARD))
    compiler = Compiler()
    before = seen_after(compiler.compile(world).tables[FILTER4])
    world.take(Put(Chain("a", (Rule(DropPacket()),))))
    (change,) = render_changes(Table.FILTER, compiler.compile(world).tables[FILTER4], before)
    assert [re.sub(r" -m comment --comment \S+", "", line) for line in change.lines] == [
        "*filter",
        ":fpx-a - [0:0]",
        "-A fpx-a -j DROP",
        "COMMIT",
    ]


def test_a_base_chain_after_the_usual_place_comes_after_the_rules_of_others() -> None:
    first = Chain("first", (Rule(SetMark(1, 1)),), FORWARD)
    last = Chain("last", (Rule(Accept(), (MarkIs(1, 1),)),), replace(FORWARD, priority=100))
    wanted = Compiler().compile(world_of(first, last)).tables[FILTER4]
    (made,) = render_changes(Table.FILTER, wanted, TableSeen())
    jumps = [line for line in made.lines if " FORWARD " in line]
    assert [(line.split()[0], line.split()[-1]) for line in jumps] == [("-I", "fpx-FORWARD"), ("-A", "fpx-last")]
    assert list(render_changes(Table.FILTER, wanted, seen_after(wanted))) == []
    (back,) = render_changes(Table.FILTER, Compiler().compile(world_of(first)).tables[FILTER4], seen_after(wanted))
    assert [line.split()[0] for line in back.lines if " FORWARD " in line] == ["-D", "-D", "-I"]


def test_what_is_not_ours_is_seen_and_left() -> None:
    saved = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [1:2]
:DOCKER - [0:0]
:fpx-a - [0:0]
-A FORWARD -j DOCKER
-A FORWARD -m comment --comment "fpx:0123456789abcdef" -j fpx-a
-A fpx-a -s 10.0.0.1/32 -m comment --comment "fpx:00000000000000aa words" -j DROP
-A fpx-a -j RETURN
COMMIT
*security
:fpx-b - [0:0]
COMMIT
"""
    seen = parse_save(saved)[Table.FILTER]
    assert seen.chains == {"fpx-a": ("00000000000000aa", "")}
    ours = Body(("-j fpx-a",), ("0123456789abcdef",))
    assert not seen.has_jumps("FORWARD", TableBody(jumps={"FORWARD": ours})), "it does not come first"
    assert seen.has_jumps("FORWARD", TableBody(last={"FORWARD": ours}))
    (change,) = render_changes(Table.FILTER, Compiler().compile(World()).tables[FILTER4], seen)
    assert change.lines[1:-1] == (
        ":fpx-a - [0:0]",
        '-D FORWARD -m comment --comment "fpx:0123456789abcdef" -j fpx-a',
        "-X fpx-a",
    )


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_names_are_short_and_different(one: str, other: str) -> None:
    assume(not one.startswith("fpx-") and not other.startswith("fpx-"))
    for name, limit in ((chain_kernel_name, CHAIN_CHARACTERS), (set_kernel_name, SET_CHARACTERS)):
        assert re.fullmatch(rf"fpx-[A-Za-z0-9._-]{{1,{limit - 4}}}", name(one))
        assert (name(one) == name(other)) == (one == other)


TO, BACK = Set("floating4", SetType.IPV4, DataType.IPV4), Set("back4", SetType.IPV4_IPV4, DataType.IPV4)


def test_a_map_of_addresses_becomes_a_rule_an_entry() -> None:
    world, pod, floating = World(), parse_address("10.0.0.1"), parse_address("192.0.2.1")
    world.take(PutMembers(TO, {floating: pod}))
    world.take(PutMembers(BACK, {pod + pod: floating}))
    there, back = Rule(MapDestination("floating4", 4)), Rule(MapSource("back4", 4), (CtDestinationTranslated(),))
    assert render_rule(there, Place(4, Table.NAT), world) == ("-d 192.0.2.1 -j DNAT --to-destination 10.0.0.1",)
    assert render_rule(there, Place(6, Table.NAT), world) == ()
    assert render_rule(back, Place(4, Table.NAT), world) == (
        "-m conntrack --ctstate DNAT -s 10.0.0.1 -d 10.0.0.1 -j SNAT --to-source 192.0.2.1",
    )


def test_a_chain_follows_the_map_that_it_looks_up() -> None:
    world, compiler = World(), Compiler()
    world.take(Put(Chain("base", (Rule(MapDestination("floating4", 4)),), NAT)))
    for pod in ("10.0.0.1", "10.0.0.2"):
        world.take(PutMembers(TO, {parse_address("192.0.2.1"): parse_address(pod)}))
        body = compiler.compile(world).tables[Place(4, Table.NAT)].chains[chain_kernel_name("base")]
        assert body.lines[0].endswith(f"--to-destination {pod}")


VIPS = [Frontend(parse_address("10.96.0.1"), 6, port) for port in (80, 81)]
SERVICES = Set("svc4", SetType.IPV4_PORT, DataType.VERDICT)
SLOTS = Set("eps4", SetType.IPV4_PORT_SLOT, DataType.IPV4_PORT)
PICK = Chain("pick", (Rule(Balance("eps4", 4, 2)),))
NAMES = ("a", "b", "c")
ENDS = [Rule(Accept()), Rule(NoTrack()), Rule(SetMark(1, 1))]
DISPATCHES = [Rule(Dispatch("service4", "svc4")), Rule(Dispatch("in_interface", "from-endpoint"))]
ANY_HOOK = st.sampled_from([None, FORWARD, NAT, BaseHook("filter", "prerouting", -300)])


def any_chain(name: str, rules: list[Rule], hook: st.SearchStrategy[BaseHook | None]) -> st.SearchStrategy[Op]:
    return st.builds(
        lambda some, at: Put(Chain(name, tuple(some), at)), st.lists(st.sampled_from(rules), max_size=3), hook
    )


def jumps(*names: str) -> list[Rule]:
    return [Rule(Jump(name)) for name in names]


ANY_OP = st.one_of(
    any_chain("base", [*ENDS, *jumps(*NAMES), *DISPATCHES], ANY_HOOK),
    any_chain("a", [*ENDS, *jumps("b", "c")], st.none()),
    any_chain("b", [*ENDS, *jumps("c")], st.none()),
    any_chain("c", ENDS, st.none()),
    st.sampled_from([Put(PICK), Put(Chain("pick")), *(Drop(Chain(name).key) for name in (*NAMES, "base", "pick"))]),
    st.builds(
        lambda vip, verdict: PutMembers(SERVICES, {encode_port_key(*vip): verdict}),
        st.sampled_from(VIPS),
        st.sampled_from([b"goto pick", b"drop", b"jump a"]),
    ),
    st.builds(
        lambda vip, slot, port: PutMembers(
            SLOTS, {encode_slot(vip, slot): encode_backend(BackendAddress(vip.address, port))}
        ),
        st.sampled_from(VIPS),
        st.sampled_from([0, 1]),
        st.integers(1, 3),
    ),
    st.sampled_from([DropMembers(SERVICES, {encode_port_key(*vip): b""}) for vip in VIPS]),
    st.sampled_from(
        [PutMembers(FROM_ENDPOINTS, {b"cali1": b"goto a"}), DropMembers(FROM_ENDPOINTS, {b"cali1": b"goto a"})]
    ),
)


START: list[Op] = [
    Put(Chain("base", tuple(DISPATCHES), NAT)),
    Put(PICK),
    Put(Chain("a", (Rule(Accept()),))),
    *(PutMembers(SERVICES, {encode_port_key(*vip): b"goto pick"}) for vip in VIPS),
    PutMembers(FROM_ENDPOINTS, {b"cali1": b"goto a"}),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([0, len(START)]), st.lists(ANY_OP, max_size=12))
def test_a_compilation_after_changes_is_one_from_scratch(given_first: int, ops: list[Op]) -> None:
    world, compiler = World(), Compiler()
    for op in [*START[:given_first], *ops]:
        world.take(op)
        assert compiler.compile(world) == Compiler().compile(world)


def world_of(*chains: Chain) -> World:
    world = World()
    for chain in chains:
        world.take(Put(chain))
    return world
