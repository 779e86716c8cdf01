"""Frontends as maps and chains: what one is, what a change costs, and that no path to a state matters."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import parse_prefix
from felixpy.calc.reasons import Reason
from felixpy.calc.services.arbitration import ServiceCalc, ServiceDelta
from felixpy.calc.services.frontends import Frontend, FrontendIntent, Origin
from felixpy.dataplane.chains.affinity import spread_slots
from felixpy.dataplane.chains.causes import NO_LOCAL_BACKEND
from felixpy.dataplane.chains.report import cause_chain
from felixpy.dataplane.chains.service_sets import SETS, encode_backend, encode_slot
from felixpy.dataplane.chains.services import (
    ServiceTables,
    render_frontend,
    render_services,
    service_base_rules,
    service_objects,
)
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.objects import Chain, Key, Object, Set
from felixpy.dataplane.rules import (
    Balance,
    DestinationNat,
    Dispatch,
    Goto,
    Jump,
    NetIn,
    Remember,
    Return,
    ServiceKnown,
    SetHas,
    SourceSlotIn,
)
from felixpy.dataplane.sets import encode_port_key
from felixpy.resources.kinds import Name
from tests.calc.service_world import (
    ME,
    SERVICE_CHANGES,
    UDP,
    Change,
    at,
    backend,
    grant,
    on_node,
    service,
    service_of,
    slice_of,
    to,
)

VIP = at("203.0.113.1")
KEY = encode_port_key(*VIP)
TWO = (to("10.0.0.1"), to("10.0.0.2"))
FOUR = SETS[4]
FIXED = {one.name for one in service_objects() if isinstance(one, Chain)}


def intent(**values: object) -> FrontendIntent:
    return FrontendIntent(**{"service": Name("a", "x"), "origin": Origin.GRANT, "inside": (), "outside": ()} | values)  # type: ignore[arg-type]


def test_a_frontend_is_an_entry_and_one_slot_a_backend() -> None:
    made = render_frontend(VIP, intent(inside=TWO, outside=TWO))
    assert made.own == {
        FOUR.services: {KEY: b"goto svc-pick4-2"},
        FOUR.backends: {encode_slot(VIP, slot): encode_backend(one) for slot, one in enumerate(TWO)},
    }
    assert made.objects[0].rules[0].action == Balance("eps4", 4, 2)
    assert made.shared == ((FOUR.addresses, VIP.address),)


def test_local_policy_has_slots_of_its_own_for_outside() -> None:
    made = render_frontend(VIP, intent(inside=TWO, outside=TWO[:1], keep_source=True))
    assert made.own[FOUR.services_outside] == {KEY: b"goto svc-out4-1"}
    assert made.own[FOUR.backends_outside] == {encode_slot(VIP, 0): encode_backend(TWO[0])}
    assert len(made.own[FOUR.backends]) == 2


def test_local_policy_without_a_local_endpoint_drops_outside_only() -> None:
    made = render_frontend(VIP, intent(inside=TWO, keep_source=True, reason=Reason.NO_LOCAL_ENDPOINT))
    assert made.own[FOUR.services_outside] == {KEY: f"goto {cause_chain(NO_LOCAL_BACKEND)}".encode()}
    assert made.own[FOUR.services] == {KEY: b"goto svc-pick4-2"}


def test_no_endpoint_is_refused_and_steered_nowhere() -> None:
    made = render_frontend(VIP, intent(reason=Reason.NO_ENDPOINT))
    assert made.own == {FOUR.unserved: {KEY: b""}}


def test_other_ports_of_an_external_address_are_left_alone() -> None:
    assert render_frontend(VIP, intent(inside=TWO, outside=TWO, origin=Origin.EXTERNAL)).shared == ()


def test_equal_source_ranges_share_a_chain_and_the_other_family_is_shut() -> None:
    ranges = (parse_prefix("192.0.2.0/24"), parse_prefix("192.0.2.128/25"))
    here, there = (render_frontend(at("203.0.113.1", port), intent(source_ranges=ranges)) for port in (80, 443))
    assert here.objects == there.objects
    assert [rule.matches for rule in here.objects[0].rules] == [(NetIn("source", (ranges[0],)),), ()]
    six = render_frontend(at("2001:db8::1"), intent(source_ranges=ranges))
    assert [type(rule.action) for rule in six.objects[0].rules if isinstance(rule.action, Return)] == []


def test_a_backend_that_goes_moves_its_own_clients_only() -> None:
    backends = tuple(to(f"10.0.0.{number}") for number in range(1, 6))
    before, after = spread_slots(backends), spread_slots(backends[1:])
    assert all(set(before[one]) <= set(after[one]) for one in backends[1:])
    assert sorted(slot for slots in after.values() for slot in slots) == list(range(64))


def test_affinity_asks_who_was_there_of_late_and_then_the_slot_of_the_source() -> None:
    made = render_frontend(VIP, intent(inside=TWO, outside=TWO, affinity_timeout_s=10800))
    choice, first, second = (one for one in made.objects if isinstance(one, Chain))
    sets = [one for one in made.objects if isinstance(one, Set)]
    assert all(one.ages for one in sets)
    asked = [(rule.action, *map(type, rule.matches)) for rule in choice.rules]
    one, other = Goto(first.name), Goto(second.name)
    assert asked == [(one, SetHas), (other, SetHas), (one, SourceSlotIn), (other,)]
    assert [rule.action for rule in first.rules] == [Remember(sets[0].name, 4, 10800), DestinationNat(*TWO[0])]
    assert FOUR.backends not in made.own


def test_frontends_of_a_service_share_what_is_known_of_clients_and_a_timeout_makes_no_difference() -> None:
    def sets(frontend: Frontend, timeout_s: int, protocol: int = 6) -> set[Set]:
        made = render_frontend(
            frontend._replace(protocol=protocol), intent(inside=TWO, outside=TWO, affinity_timeout_s=timeout_s)
        )
        return {one for one in made.objects if isinstance(one, Set)}

    assert sets(VIP, 10) == sets(at("203.0.113.9"), 10) == sets(on_node(30080), 10) == sets(VIP, 20)
    assert not sets(VIP, 10) & sets(VIP, 10, UDP)


def test_everything_that_a_rule_names_is_there() -> None:
    objects = service_objects()
    sets = {one.name for one in objects if isinstance(one, Set)}
    chains = {one.name: one.rules for one in objects if isinstance(one, Chain)}
    for rules in (*service_base_rules().values(), *chains.values()):
        for rule in rules:
            if isinstance(rule.action, Jump | Goto):
                assert rule.action.chain in chains
            if isinstance(rule.action, Dispatch):
                assert rule.action.map_name in sets
            assert {match.set_name for match in rule.matches if isinstance(match, ServiceKnown)} <= sets


def test_a_changed_backend_rewrites_one_slot() -> None:
    calc, tables = ServiceCalc(ME), ServiceTables()
    for change in (
        grant("203.0.113.1", "a/x"),
        service("a/x", service_of()),
        slice_of("a/1", "x", *(backend(f"10.0.0.{number}") for number in range(1, 10))),
    ):
        calc.update(*change)
    tables.update(calc.flush())
    calc.update(*slice_of("a/1", "x", *(backend(f"10.0.0.{number}") for number in (*range(1, 9), 11))))
    changes = tables.update(calc.flush())
    assert changes.objects == {}
    assert {target: (dict(change.added), change.removed) for target, change in changes.members.items()} == {
        FOUR.backends: ({encode_slot(VIP, 8): encode_backend(to("10.0.0.11"))}, {})
    }


class Kernel:
    """What a kernel would hold after the changes so far."""

    def __init__(self) -> None:
        self.chains: dict[Key, Object] = {}
        self.members: dict[Set, dict[bytes, bytes]] = {}

    def apply(self, changes: Changes) -> None:
        for target, change in changes.members.items():
            held = self.members.setdefault(target, {})
            for key in change.removed:
                del held[key]
            held.update(change.added)
            if not held:
                del self.members[target]
        for key, one in changes.objects.items():
            if one is None:
                del self.chains[key]
            else:
                self.chains[key] = one

    def dangling(self) -> set[str]:
        names = {key.id[0] for key in self.chains} | FIXED
        verdicts = {
            data for held in self.members.values() for data in held.values() if data[:5] in (b"goto ", b"jump ")
        }
        return {name for name in (data.decode().split()[1] for data in verdicts) if name not in names}


def contents(kernel: Kernel) -> tuple[Mapping[Key, Object], Mapping[Set, Mapping[bytes, bytes]]]:
    return kernel.chains, kernel.members


@settings(max_examples=200)
@given(st.lists(st.lists(SERVICE_CHANGES, min_size=1, max_size=6), max_size=12))
def test_what_the_changes_add_up_to_is_what_is_made_from_scratch(batches: list[list[Change]]) -> None:
    calc, tables, kernel = ServiceCalc(ME), ServiceTables(), Kernel()
    for batch in batches:
        for change in batch:
            calc.update(*change)
        kernel.apply(tables.update(calc.flush()))
        assert contents(kernel) == render_services(calc.frontends)
        assert not kernel.dangling()
    kernel.apply(tables.update(ServiceDelta(drops=frozenset(calc.frontends))))
    assert contents(kernel) == ({}, {})
