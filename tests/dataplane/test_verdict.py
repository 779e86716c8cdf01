"""How a packet walks chains: every action, the order of hooks, and the ways back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from felixpy.addresses import parse_address, parse_prefix
from felixpy.calc.services.frontends import BackendAddress, Frontend
from felixpy.dataplane.chains.service_sets import encode_backend, encode_slot
from felixpy.dataplane.judging.packet import KernelState, Packet
from felixpy.dataplane.judging.verdict import Fate, parse_verdict, verdict
from felixpy.dataplane.objects import BaseHook, Chain, DataType, Members, Object, Route, Set, SetType
from felixpy.dataplane.rules import (
    Accept,
    Action,
    Balance,
    CtDestinationTranslated,
    CtState,
    CtStateIn,
    DestinationIsLocal,
    Dispatch,
    Drop,
    Goto,
    Hairpin,
    InterfaceIs,
    Jump,
    Log,
    MapDestination,
    MapSource,
    MarkIs,
    Masquerade,
    Match,
    NoTrack,
    PortIn,
    Reject,
    Return,
    Rule,
    SetHas,
    SetMark,
    SourceNat,
)
from felixpy.dataplane.sets import encode_prefix

HERE, POD, VIP, FAR = (parse_address(text) for text in ("192.0.2.1", "10.0.0.2", "203.0.113.1", "198.51.100.9"))
FORWARD = BaseHook("filter", "forward", 0)
TCP = Packet(FAR, POD, 6, "eth0", 40000, 80)


def rule(action: Action, *matches: Match) -> Rule:
    return Rule(action, matches)


def kernel(*objects: Object, members: dict[Set, Members] | None = None) -> KernelState:
    """A node that is 192.0.2.1, with the pod 10.0.0.2 behind cali2."""
    route = Route(parse_prefix("10.0.0.2/32"), 176, device="cali2")
    return KernelState.of((*objects, route), members or {}, frozenset({HERE}))


def forward(*rules: Rule) -> Chain:
    return Chain("base", rules, FORWARD)


@pytest.mark.parametrize(
    ("action", "fate"),
    [(Accept(), Fate.ACCEPTED), (Drop(), Fate.DROPPED), (Reject(), Fate.REJECTED), (Return(), Fate.ACCEPTED)],
)
def test_what_ends_a_base_chain(action: Action, fate: Fate) -> None:
    done = verdict(kernel(forward(rule(action), rule(Drop()))), TCP)
    assert (done.fate, len(done.steps)) == (fate, 1)


def test_a_base_chain_has_a_policy() -> None:
    assert verdict(kernel(Chain("base", (), replace(FORWARD, policy="drop"))), TCP).fate is Fate.DROPPED


def test_jump_comes_back_and_goto_does_not() -> None:
    inner = Chain("inner", (rule(Return()), rule(Drop())))
    detour = Chain("detour", (rule(Goto("inner")), rule(Drop())))
    done = verdict(kernel(forward(rule(Jump("detour")), rule(SetMark(1, 1))), detour, inner), TCP)
    assert done.accepted
    assert [(step.chain, step.index) for step in done.steps] == [("base", 0), ("detour", 0), ("inner", 0), ("base", 1)]


def test_accept_goes_on_to_the_next_chain_of_the_hook() -> None:
    late = Chain("late", (rule(Drop()),), replace(FORWARD, priority=5))
    assert str(verdict(kernel(late, forward(rule(Accept()))), TCP).steps[-1]) == "late[0] Drop"


def test_marks_logs_and_tracking() -> None:
    raw = Chain("raw", (rule(NoTrack()),), BaseHook("filter", "prerouting", -300))
    rules = (rule(Log("x")), rule(SetMark(0xF0, 0xFF)), rule(SetMark(0, 0x10)), rule(Drop(), MarkIs(0xE0, 0xFF)))
    done = verdict(kernel(raw, forward(*rules)), TCP)
    assert (done.fate, done.packet.mark, done.packet.state) == (Fate.DROPPED, 0xE0, CtState.UNTRACKED)


def test_before_tracking_there_is_no_connection() -> None:
    established = rule(Drop(), CtStateIn(frozenset({CtState.ESTABLISHED})))
    raw = Chain("raw", (established,), BaseHook("filter", "prerouting", -300))
    later = replace(TCP, state=CtState.ESTABLISHED)
    assert verdict(kernel(raw), later).accepted
    assert not verdict(kernel(forward(established)), later).accepted


def test_where_a_packet_goes_decides_its_hooks() -> None:
    chains = [
        Chain(hook, (rule(SetMark(1 << place, 1 << place)),), BaseHook("filter", hook, 0))
        for place, hook in enumerate(("prerouting", "input", "forward", "output", "postrouting"))
    ]
    node = kernel(*chains)
    passing, arriving, own = TCP, replace(TCP, destination=HERE), replace(TCP, in_interface="", source=HERE)
    assert [step.chain for step in verdict(node, passing).steps] == ["prerouting", "forward", "postrouting"]
    assert [step.chain for step in verdict(node, arriving).steps] == ["prerouting", "input"]
    assert [step.chain for step in verdict(node, own).steps] == ["output", "postrouting"]
    assert (verdict(node, passing).packet.out_interface, verdict(node, arriving).local) == ("cali2", True)


def test_interfaces_by_name_and_prefix() -> None:
    into_pod, not_local = rule(Drop(), InterfaceIs("out", "cali*")), rule(Drop(), DestinationIsLocal(negate=True))
    assert not verdict(kernel(forward(into_pod)), TCP).accepted
    assert verdict(kernel(forward(into_pod)), replace(TCP, destination=FAR)).accepted
    assert not verdict(kernel(forward(rule(Drop(), InterfaceIs("in", "eth1", negate=True)))), TCP).accepted
    assert not verdict(kernel(forward(not_local)), TCP).accepted


def test_a_map_tells_where_to_go_or_nothing() -> None:
    devices = Set("to", SetType.INTERFACE, DataType.VERDICT)
    base = forward(rule(Dispatch("out_interface", "to")), rule(Reject()))
    found = verdict(kernel(base, devices, members={devices: {b"cali2": b"drop"}}), TCP)
    assert (found.fate, found.steps[-1].action) == (Fate.DROPPED, Drop())
    assert verdict(kernel(base, devices), TCP).fate is Fate.REJECTED
    with pytest.raises(ValueError, match="no verdict"):
        parse_verdict(b"queue")


@pytest.mark.parametrize(
    ("prefix", "held"), [("198.51.100.0/24", True), ("198.51.100.9/32", True), ("0.0.0.0/1", False)]
)
def test_an_interval_set_holds_what_lies_in_its_prefixes(prefix: str, held: bool) -> None:
    nets = Set("nets", SetType.IPV4, interval=True)
    members: dict[Set, Members] = {nets: {encode_prefix(parse_prefix(prefix)): b""}}
    node = kernel(nets, forward(rule(Drop(), SetHas("source", "nets", 4))), members=members)
    assert verdict(node, TCP).accepted != held


def test_a_rule_about_ports_passes_over_what_has_none() -> None:
    node = kernel(forward(rule(Drop(), PortIn("destination", ((0, 0),), negate=True))))
    assert not verdict(node, TCP).accepted
    assert verdict(node, replace(TCP, protocol=1, icmp=(8, 0))).accepted


SLOTS = Set("eps4", SetType.IPV4_PORT_SLOT, DataType.IPV4_PORT)
BACKENDS: dict[Set, Members] = {
    SLOTS: {
        encode_slot(Frontend(VIP, 6, 80), slot): encode_backend(BackendAddress(address, 8080))
        for slot, address in enumerate((POD, FAR))
    }
}


def balanced(*rules: Rule) -> KernelState:
    return kernel(
        Chain("nat", (rule(Balance("eps4", 4, 2)), rule(SetMark(1, 1))), BaseHook("nat", "prerouting", -100)),
        Chain("post", rules, BaseHook("nat", "postrouting", 100)),
        SLOTS,
        members=BACKENDS,
    )


def test_a_service_goes_to_the_backend_of_the_slot() -> None:
    first, second = (verdict(balanced(), replace(TCP, destination=VIP, slot=slot)).packet for slot in (2, 3))
    assert (first.destination, first.destination_port, first.out_interface) == (POD, 8080, "cali2")
    assert (second.destination, second.out_interface) == (FAR, "eth0")


def test_only_the_first_packet_of_a_connection_meets_nat() -> None:
    vip = replace(TCP, destination=VIP)
    assert verdict(balanced(), replace(vip, state=CtState.ESTABLISHED)).packet.destination == VIP
    assert verdict(balanced(), vip).packet.mark == 0
    assert verdict(balanced(), replace(vip, destination_port=81)).packet.mark == 1, "without backend, the next rule"


def test_source_translation() -> None:
    vip = replace(TCP, destination=VIP)
    assert verdict(balanced(rule(Masquerade(), CtDestinationTranslated())), vip).masqueraded
    assert not verdict(balanced(rule(Masquerade(), CtDestinationTranslated())), TCP).masqueraded
    assert verdict(balanced(rule(SourceNat(HERE))), TCP).packet.source == HERE


def test_a_floating_address_and_the_way_back() -> None:
    there, back = Set("floating4", SetType.IPV4, DataType.IPV4), Set("back4", SetType.IPV4_IPV4, DataType.IPV4)
    node = kernel(
        there,
        back,
        Chain("nat", (rule(MapDestination("floating4", 4)),), BaseHook("nat", "prerouting", -100)),
        Chain("post", (rule(MapSource("back4", 4), CtDestinationTranslated()),), BaseHook("nat", "postrouting", 100)),
        members={there: {VIP: POD}, back: {POD + POD: VIP}},
    )
    arrived = verdict(node, replace(TCP, destination=VIP)).packet
    assert (arrived.source, arrived.destination, arrived.out_interface) == (TCP.source, POD, "cali2")
    to_itself = verdict(node, replace(TCP, source=POD, destination=VIP)).packet
    assert (to_itself.source, to_itself.destination) == (VIP, POD)
    assert verdict(node, replace(TCP, destination=FAR)).packet.destination == FAR


def test_a_backend_that_reaches_itself() -> None:
    pairs = Set("hairpin4", SetType.IPV4_IPV4)
    node = kernel(pairs, forward(rule(Drop(), Hairpin("hairpin4", 4))), members={pairs: {POD + POD: b""}})
    assert verdict(node, TCP).accepted
    assert not verdict(node, replace(TCP, source=POD)).accepted


def test_a_rule_that_names_what_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        verdict(kernel(forward(rule(Jump("nowhere")))), TCP)
