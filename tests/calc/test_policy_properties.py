"""Law 1: what the incremental calculations say depends on the state alone, never on the path to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import parse_address, parse_prefix
from felixpy.calc.graph import Graph
from felixpy.calc.intent import EndpointIntent, PolicyId, RulesIntent, SetSpec
from felixpy.calc.ipsets import Holder, Member, derive_sets
from felixpy.calc.policy import derive_policy, derive_profiles, sets_of
from felixpy.resources.codec import Ref, Table
from felixpy.resources.kinds import Name
from felixpy.resources.types import (
    EntityMatch,
    HostEndpoint,
    NamedPort,
    Namespace,
    NetworkSet,
    Policy,
    PolicyRule,
    Profile,
    Resource,
    RuleAction,
    Tier,
    TierDefault,
    WorkloadEndpoint,
)
from felixpy.resources.view import View
from felixpy.selector import parse_selector

NODE = "n1"
VALUES = ("x", "y", "z")
SELECTORS = tuple(
    parse_selector(text)
    for text in (
        "all()",
        "a == 'x'",
        "a != 'x'",
        "has(b)",
        "!has(b)",
        "a in {'x', 'y'} && has(b)",
        "a == 'z' || b starts with 'y'",
        "pcns.env == 'x'",
        "b not in {'x'}",
        "inherited == 'y'",
    )
)

names = st.sampled_from(("p1", "p2", "p3", "p4", "p5"))
labels = st.dictionaries(st.sampled_from(("a", "b")), st.sampled_from(VALUES)).map(
    lambda one: tuple(sorted(one.items()))
)
addresses = st.lists(st.integers(1, 6).map(lambda n: parse_address(f"10.0.0.{n}")), max_size=2, unique=True).map(tuple)
profiles = st.lists(st.sampled_from(("pr1", "pr2", "kns.ns1", "absent")), max_size=3, unique=True).map(tuple)
ports = st.lists(
    st.sampled_from((NamedPort("web", 6, 80), NamedPort("web", 6, 81), NamedPort("dns", 17, 53))), max_size=2
)

endpoints = st.builds(
    WorkloadEndpoint,
    node=st.sampled_from((NODE, "n2")),
    interface=st.sampled_from(("cali1", "cali2")),
    addresses=addresses,
    labels=labels,
    profiles=profiles,
    ports=ports.map(tuple),
)
entities = st.builds(
    EntityMatch,
    selector=st.none() | st.sampled_from(SELECTORS),
    not_selector=st.none() | st.sampled_from(SELECTORS),
    port_names=st.sampled_from(((), ("web",))),
)
rules = st.lists(
    st.builds(
        PolicyRule, action=st.sampled_from(RuleAction), protocol=st.just(6), source=entities, destination=entities
    ),
    max_size=2,
).map(tuple)
policies = st.builds(
    Policy,
    tier=st.sampled_from(("default", "first", "absent")),
    order=st.none() | st.sampled_from((1.0, 2.0)),
    selector=st.sampled_from(SELECTORS),
    applies_ingress=st.booleans(),
    applies_egress=st.booleans(),
    ingress=rules,
    egress=rules,
    do_not_track=st.just(False) | st.booleans(),
)
tiers = st.builds(Tier, order=st.none() | st.sampled_from((1.0, 5.0)), default_action=st.sampled_from(TierDefault))
made_profiles = st.builds(
    Profile,
    ingress=rules,
    egress=rules,
    labels_to_apply=st.sampled_from(((), (("inherited", "y"),), (("a", "x"), ("inherited", "z")))),
)
namespaces = st.sampled_from((Namespace(()), Namespace((("env", "x"),))))
network_sets = st.builds(
    NetworkSet,
    nets=st.lists(st.sampled_from(("10.1.0.0/16", "10.0.0.3/32", "fd00::/64")).map(parse_prefix), max_size=3).map(
        tuple
    ),
    labels=labels,
    profiles=profiles,
)


def change(table: Table, name: st.SearchStrategy[Name], value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.builds(Ref, st.just(table), name), st.none() | value)


pod_names = names.map(lambda name: Name("ns1", name))
global_names = names.map(lambda name: Name("", name))
changes = st.one_of(
    change(Table.WORKLOAD, pod_names, endpoints),
    change(Table.WORKLOAD, pod_names, endpoints),
    change(Table.GLOBAL_POLICY, global_names, policies),
    change(Table.NAMESPACED_POLICY, pod_names, policies),
    change(Table.TIER, st.sampled_from((Name("", "default"), Name("", "first"))), tiers),
    change(Table.PROFILE, st.sampled_from((Name("", "pr1"), Name("", "pr2"))), made_profiles),
    change(Table.NAMESPACE, st.just(Name("", "ns1")), namespaces),
    change(Table.GLOBAL_NETWORK_SET, global_names, network_sets),
)
histories = st.lists(st.tuples(changes, st.booleans()), max_size=25)


class Consumer:
    """What someone holds who has only ever seen the deltas."""

    def __init__(self) -> None:
        self.graph = Graph(NODE)
        self.endpoints: dict[Name, EndpointIntent] = {}
        self.policies: dict[PolicyId, RulesIntent] = {}
        self.profiles: dict[str, RulesIntent] = {}
        self.sets: dict[SetSpec, set[Member]] = {}

    def flush(self) -> None:
        delta = self.graph.flush()
        for held, changed in (
            (self.endpoints, delta.policy.endpoints),
            (self.policies, delta.policy.policies),
            (self.profiles, delta.policy.profiles),
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


def play(history: Sequence[tuple[tuple[Ref, Resource | None], bool]]) -> tuple[Consumer, View]:
    consumer, view = Consumer(), View()
    for (ref, value), flush in history:
        view.put(ref, value)
        consumer.graph.update(ref, value)
        if flush:
            consumer.flush()
    consumer.flush()
    return consumer, view


@settings(max_examples=300, deadline=None)
@given(histories)
def test_deltas_add_up_to_what_the_oracle_says(history: Any) -> None:
    consumer, view = play(history)
    state = derive_policy(view.tables, NODE)
    assert consumer.endpoints == state.endpoints
    assert consumer.policies == state.policies
    assert consumer.profiles == state.profiles
    specs = {spec for one in (*state.policies.values(), *state.profiles.values()) for spec in sets_of(one)}
    parents = {name: profile.labels_to_apply for name, profile in derive_profiles(view.tables).items()}
    holders: dict[Ref, Holder] = {
        Ref(table, name): value
        for table in (Table.WORKLOAD, Table.GLOBAL_NETWORK_SET, Table.NETWORK_SET, Table.HOST)
        for name, value in view.tables[table].items()
        if isinstance(value, WorkloadEndpoint | NetworkSet | HostEndpoint)
    }
    assert consumer.sets == derive_sets(specs, holders, parents)


@settings(max_examples=100, deadline=None)
@given(histories)
def test_emptying_the_world_leaves_nothing(history: Any) -> None:
    consumer, view = play(history)
    for table, resources in view.tables.items():
        for name in tuple(resources):
            consumer.graph.update(Ref(table, name), None)
    consumer.flush()
    assert (consumer.endpoints, consumer.policies, consumer.profiles, consumer.sets) == ({}, {}, {}, {})
