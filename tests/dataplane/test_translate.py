"""Intent → objects: any history of changes ends in the objects that the state asks for, and in no others."""

from __future__ import annotations

from hypothesis import given, settings

from felixpy.addresses import parse_address, parse_prefix
from felixpy.dataplane.objects import Chain, SetType
from felixpy.dataplane.rules import SetHas
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import EntityMatch, NetworkSet, Policy, PolicyRule, RuleAction
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import WorkloadEndpoint
from felixpy.selector import All
from tests.calc.policy_world import NODE, History, histories
from tests.dataplane.translate_world import Kernel


@settings(max_examples=200, deadline=None)
@given(histories)
def test_any_path_to_a_state_ends_in_the_same_objects(history: History) -> None:
    by_steps, at_once = Kernel(), Kernel()
    last: dict[Ref, Resource | None] = {}
    for (ref, value), flush in history:
        last[ref] = value
        by_steps.graph.update(ref, value)
        if flush:
            by_steps.flush()
    by_steps.flush()
    for ref in sorted(last, key=str, reverse=True):
        at_once.graph.update(ref, last[ref])
    at_once.flush()
    assert by_steps.state() == at_once.state()
    wanted = {target: dict(by_steps.translator.set_members(target) or {}) for target in by_steps.members}
    assert {target: members for target, members in wanted.items() if members} == by_steps.state()[1]


@settings(max_examples=50, deadline=None)
@given(histories)
def test_an_emptied_world_leaves_no_object(history: History) -> None:
    kernel = Kernel()
    for (ref, value), flush in history:
        kernel.graph.update(ref, value)
        if flush:
            kernel.flush()
    for (ref, _), _ in history:
        kernel.graph.update(ref, None)
    kernel.flush()
    empty = Kernel()
    empty.flush()
    assert kernel.state() == empty.state()


def test_a_change_of_an_address_leaves_the_prefixes_of_its_set_alone() -> None:
    kernel = Kernel()

    def put(table: Table, name: str, value: Resource | None) -> set[str]:
        """The sets whose members change."""
        kernel.graph.update(Ref(table, Name("", name)), value)
        kernel.flush()
        return {target.name[:2] for target in kernel.changes.members if target.type is SetType.IPV4}

    def others(*addresses: str) -> WorkloadEndpoint:
        return WorkloadEndpoint("n2", "cali2", tuple(map(parse_address, addresses)), (), ())

    def asked() -> list[list[tuple[str, bool]]]:
        """What the policy's rules ask of sources, in IPv4."""
        chain = next(one for one in kernel.objects.values() if isinstance(one, Chain) and one.name.startswith("in-gnp"))
        found = ([match for match in rule.matches if isinstance(match, SetHas)] for rule in chain.rules)
        return [[(one.set_name[:2], one.negate) for one in some] for some in found if some and some[0].version == 4]

    def policy(source: EntityMatch) -> Policy:
        return Policy("default", None, All(), True, False, (PolicyRule(RuleAction.ALLOW, source=source),))

    put(Table.WORKLOAD, "here", WorkloadEndpoint(NODE, "cali1", (parse_address("10.0.0.1"),), (), ()))
    put(Table.GLOBAL_POLICY, "p", policy(EntityMatch(selector=All())))
    assert asked() == [[("s4", False)]]
    assert put(Table.GLOBAL_NETWORK_SET, "nets", NetworkSet((parse_prefix("192.0.2.0/24"),), ())) == {"n4"}
    assert asked() == [[("s4", False)], [("n4", False)]]
    assert put(Table.WORKLOAD, "there", others("10.0.0.2")) == {"s4"}
    assert put(Table.WORKLOAD, "there", others("10.0.0.3", "192.0.2.7")) == {"s4"}
    put(Table.GLOBAL_POLICY, "p", policy(EntityMatch(not_selector=All())))
    assert asked() == [[("s4", True), ("n4", True)]]
    put(Table.WORKLOAD, "there", None)
    assert put(Table.WORKLOAD, "here", WorkloadEndpoint(NODE, "cali1", (), (), ())) == set(), (
        "a set without addresses goes"
    )
    assert asked() == [[("n4", True)]]
    put(Table.GLOBAL_NETWORK_SET, "nets", None)
    assert asked() == [[("s4", True)]]
