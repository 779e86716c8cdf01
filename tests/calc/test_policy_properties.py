"""Law 1: what the incremental calculations say depends on the state alone, never on the path to it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings

from felixpy.calc.graph import Graph
from felixpy.calc.intent import EndpointIntent, HostEndpointIntent, PolicyId, RulesIntent, SetSpec
from felixpy.calc.policy.active import derive_policy
from felixpy.calc.policy.hosts import derive_claims
from felixpy.calc.policy.ipsets import Holder, Member, derive_sets
from felixpy.calc.policy.pods import derive_workloads
from felixpy.calc.policy.profiles import derive_profiles
from felixpy.calc.policy.rule_terms import sets_of
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import NetworkSet
from felixpy.resources.service_types import EndpointSlice
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import HostEndpoint, Node
from felixpy.resources.view import View
from tests.calc.policy_world import INTERFACES, NODE, History, histories


class Consumer:
    """What someone holds who has only ever seen the deltas."""

    def __init__(self) -> None:
        self.graph = Graph(NODE)
        self.endpoints: dict[Name, EndpointIntent] = {}
        self.policies: dict[PolicyId, RulesIntent] = {}
        self.profiles: dict[str, RulesIntent] = {}
        self.hosts: dict[Name, HostEndpointIntent] = {}
        self.claims: dict[str, Name] = {}
        self.sets: dict[SetSpec, set[Member]] = {}

    def flush(self) -> None:
        delta = self.graph.flush()
        for held, changed in (
            (self.endpoints, delta.policy.endpoints),
            (self.policies, delta.policy.policies),
            (self.profiles, delta.policy.profiles),
            (self.hosts, delta.policy.hosts),
            (self.claims, delta.claims),
        ):
            merge(held, changed)
        for spec in delta.sets.dropped:
            self.sets.pop(spec, None)
        for spec, one in delta.sets.changed.items():
            if one.whole:
                self.sets[spec] = set()
            assert not one.added & self.sets[spec], "added what was there"
            assert one.removed <= self.sets[spec], "removed what was not there"
            self.sets[spec] = (self.sets[spec] - one.removed) | one.added


def merge(held: dict[Any, Any], changed: Any) -> None:
    for key, value in changed.items():
        if value is None:
            held.pop(key, None)
        else:
            held[key] = value


def play(history: History) -> tuple[Consumer, View]:
    consumer, view = Consumer(), View()
    consumer.graph.put_interfaces(INTERFACES)
    for (ref, value), flush in history:
        view.put(ref, value)
        consumer.graph.update(ref, value)
        if flush:
            consumer.flush()
    consumer.flush()
    return consumer, view


@settings(max_examples=300, deadline=None)
@given(histories)
def test_deltas_add_up_to_what_the_oracle_says(history: History) -> None:
    consumer, view = play(history)
    state = derive_policy(view.tables, NODE)
    assert consumer.endpoints == state.endpoints
    assert consumer.policies == state.policies
    assert consumer.profiles == state.profiles
    assert consumer.hosts == state.hosts
    own = {name: one for name, one in view.tables[Table.HOST].items() if isinstance(one, HostEndpoint)}
    assert consumer.claims == derive_claims({name: one for name, one in own.items() if one.node == NODE}, INTERFACES)
    specs = {spec for one in (*state.policies.values(), *state.profiles.values()) for spec in sets_of(one)}
    parents = {name: profile.labels_to_apply for name, profile in derive_profiles(view.tables).items()}
    holders: dict[Ref, Holder] = {
        Ref(table, name): value
        for table in (Table.GLOBAL_NETWORK_SET, Table.NETWORK_SET, Table.HOST, Table.NODE)
        for name, value in view.tables[table].items()
        if isinstance(value, NetworkSet | HostEndpoint | Node)
    }
    holders |= {Ref(Table.WORKLOAD, name): one for name, one in derive_workloads(view.tables).items()}
    slices = {
        Ref(table, name): value
        for table in (Table.SLICE, Table.ENDPOINTS)
        for name, value in view.tables[table].items()
        if isinstance(value, EndpointSlice)
    }
    assert consumer.sets == derive_sets(specs, holders, parents, slices)


@settings(max_examples=100, deadline=None)
@given(histories)
def test_emptying_the_world_leaves_nothing(history: History) -> None:
    consumer, view = play(history)
    for table, resources in view.tables.items():
        for name in tuple(resources):
            consumer.graph.update(Ref(table, name), None)
    consumer.flush()
    assert (consumer.endpoints, consumer.policies, consumer.profiles, consumer.sets) == ({}, {}, {}, {})
    assert (consumer.hosts, consumer.claims) == ({}, {})
