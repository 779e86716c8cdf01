"""Which policies and profiles apply to this node's endpoints, in which order, and with which rules.

In: policies, tiers, profiles, namespaces and endpoints (of workloads and of the host); out: an EndpointIntent or
HostEndpointIntent per local endpoint, RulesIntent per policy or profile that one of them uses, and (through IpSets) the
sets that those rules refer to. Only policies that apply to a local endpoint cost anything. Pure and incremental;
`derive_policy` is the oracle. Source: felix/calc (active rules).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

from felixpy.calc.intent import EndpointIntent, HostEndpointIntent, PolicyId, RulesIntent, SetSpec
from felixpy.calc.policy.ipsets import IpSets, effective_labels
from felixpy.calc.policy.labels import LabelIndex
from felixpy.calc.policy.pods import derive_workloads
from felixpy.calc.policy.profiles import PROFILE_TABLES, Profiles, derive_profiles
from felixpy.calc.policy.rule_terms import compile_rules, sets_of
from felixpy.calc.policy.tiers import Matched, for_workloads, sort_policies, sort_stages
from felixpy.calc.policy.usage import Users
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import Policy, Profile, Tier
from felixpy.resources.resource import Resource
from felixpy.resources.tables import POLICY_TABLES, Ref, Table
from felixpy.resources.types import HostEndpoint, WorkloadEndpoint
from felixpy.selector import compile_selector

Endpoint = WorkloadEndpoint | HostEndpoint


@dataclass(frozen=True, slots=True)
class PolicyDelta:
    """What changed since the last flush; None means gone."""

    endpoints: Mapping[Name, EndpointIntent | None]
    policies: Mapping[PolicyId, RulesIntent | None]
    profiles: Mapping[str, RulesIntent | None]
    hosts: Mapping[Name, HostEndpointIntent | None] = field(default_factory=dict)


def applies_to(endpoint: Endpoint, policy: Policy) -> bool:
    """Whether a policy that selects an endpoint has a say about it."""
    return isinstance(endpoint, HostEndpoint) or for_workloads(policy)


class PolicyCalc:
    """Fed one resource at a time; `flush` tells what became of this node's endpoints."""

    def __init__(self, node: str, sets: IpSets) -> None:
        self.node = node
        self._sets = sets
        self._endpoints: dict[Ref, Endpoint] = {}
        self._index: LabelIndex[Ref, PolicyId] = LabelIndex()
        self._policies: dict[PolicyId, Policy] = {}
        self._tiers: dict[str, Tier] = {}
        self._profiles = Profiles()
        self._policy_users: Users[Ref, PolicyId] = Users()
        self._profile_users: Users[Ref, str] = Users()
        self._active: dict[PolicyId | str, RulesIntent] = {}
        self._dirty_endpoints: set[Ref] = set()
        self._dirty_rules: set[PolicyId | str] = set()

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change; tables that have no say in policy are passed over."""
        if ref.table in (Table.WORKLOAD, Table.HOST):
            self._update_endpoint(ref, value if isinstance(value, WorkloadEndpoint | HostEndpoint) else None)
        elif ref.table is Table.TIER:
            self._update_tier(ref.name.name, value if isinstance(value, Tier) else None)
        elif ref.table in PROFILE_TABLES:
            self._profile_changed(self._profiles.put(ref, value))
        elif ref.table in POLICY_TABLES:
            self._update_policy(PolicyId(ref.table, ref.name), value if isinstance(value, Policy) else None)

    def profile(self, name: str) -> Profile | None:
        """A profile as it counts; None where there is none of that name."""
        return self._profiles.get(name)

    def policy(self, identity: PolicyId) -> Policy | None:
        """A policy as it was read; None where there is none."""
        return self._policies.get(identity)

    def endpoint(self, name: Name) -> WorkloadEndpoint | None:
        """A workload endpoint of this node."""
        found = self._endpoints.get(Ref(Table.WORKLOAD, name))
        return found if isinstance(found, WorkloadEndpoint) else None

    def endpoint_names(self) -> tuple[Name, ...]:
        """The workload endpoints of this node."""
        return tuple(ref.name for ref in self._endpoints if ref.table is Table.WORKLOAD)

    def _update_endpoint(self, ref: Ref, endpoint: Endpoint | None) -> None:
        if endpoint is None or endpoint.node != self.node:
            if self._endpoints.pop(ref, None) is not None:
                self._index.drop_item(ref)
                self._dirty_endpoints.add(ref)
            return
        self._endpoints[ref] = endpoint
        self._index.put_item(ref, endpoint.labels, endpoint.profiles)
        self._dirty_endpoints.add(ref)

    def _update_tier(self, name: str, tier: Tier | None) -> None:
        _set(self._tiers, name, tier)
        for identity in self._policy_users:
            policy = self._policies.get(identity)
            if policy is not None and policy.tier == name:
                self._dirty_endpoints |= self._policy_users.of(identity)

    def _profile_changed(self, name: str) -> None:
        profile = self._profiles.get(name)
        labels = profile.labels_to_apply if profile is not None else ()
        self._sets.put_parent(name, labels)
        self._dirty_endpoints.update(shift.item for shift in self._index.put_parent(name, labels))
        if name in self._profile_users:
            self._dirty_rules.add(name)
            self._dirty_endpoints |= self._profile_users.of(name)

    def _update_policy(self, identity: PolicyId, policy: Policy | None) -> None:
        old = self._policies.get(identity)
        if policy == old:
            return
        if old is not None and (policy is None or policy.selector != old.selector):
            self._dirty_endpoints.update(self._index.members(identity))
            self._index.drop_selector(identity)
        _set(self._policies, identity, policy)
        if policy is not None and (old is None or policy.selector != old.selector):
            self._dirty_endpoints.update(self._index.put_selector(identity, policy.selector))
        elif policy is not None and old is not None and _placement(policy) != _placement(old):
            self._dirty_endpoints.update(self._index.members(identity))
        if identity in self._policy_users:
            self._dirty_rules.add(identity)

    def flush(self) -> PolicyDelta:
        """What changed since the last flush. Call it before flushing the sets."""
        endpoints: dict[Name, EndpointIntent | None] = {}
        hosts: dict[Name, HostEndpointIntent | None] = {}
        for ref in self._dirty_endpoints:
            resolved = self._resolve(ref)
            if ref.table is Table.HOST:
                hosts[ref.name] = resolved if isinstance(resolved, HostEndpointIntent) else None
            else:
                endpoints[ref.name] = resolved if isinstance(resolved, EndpointIntent) else None
        self._dirty_endpoints = set()
        policies: dict[PolicyId, RulesIntent | None] = {}
        profiles: dict[str, RulesIntent | None] = {}
        for identity in self._dirty_rules:
            changed, rules = self._activate(identity)
            if changed and isinstance(identity, str):
                profiles[identity] = rules
            elif changed and not isinstance(identity, str):
                policies[identity] = rules
        self._dirty_rules = set()
        return PolicyDelta(endpoints, policies, profiles, hosts)

    def _resolve(self, ref: Ref) -> EndpointIntent | HostEndpointIntent | None:
        endpoint = self._endpoints.get(ref)
        if endpoint is None:
            self._dirty_rules |= self._policy_users.note(ref, frozenset())
            self._dirty_rules |= self._profile_users.note(ref, frozenset())
            return None
        selected = ((identity, self._policies[identity]) for identity in self._index.selectors_of(ref))
        matched = [(identity, policy) for identity, policy in selected if applies_to(endpoint, policy)]
        self._dirty_rules |= self._policy_users.note(ref, frozenset(identity for identity, _ in matched))
        self._dirty_rules |= self._profile_users.note(ref, frozenset(endpoint.profiles))
        heard = heard_profiles(endpoint, lambda name: self._profiles.get(name) is not None)
        return describe_endpoint(endpoint, matched, self._tiers, heard)

    def _activate(self, identity: PolicyId | str) -> tuple[bool, RulesIntent | None]:
        """Makes the rules of a policy or profile current; whether they changed, and what they are now."""
        rules: Policy | Profile | None
        if isinstance(identity, str):
            rules = self._profiles.get(identity) if identity in self._profile_users else None
        else:
            rules = self._policies.get(identity) if identity in self._policy_users else None
        old = self._active.get(identity)
        new = compile_rules(rules) if rules is not None else None
        if new == old:
            return False, new
        before = sets_of(old) if old is not None else frozenset[SetSpec]()
        after = sets_of(new) if new is not None else frozenset[SetSpec]()
        for spec in after - before:
            self._sets.need(spec)
        for spec in before - after:
            self._sets.release(spec)
        _set(self._active, identity, new)
        return True, new


def heard_profiles(endpoint: Endpoint, is_there: Callable[[str], bool]) -> tuple[str, ...]:
    """The profiles that have a say: those before the first that is not there, which denies everything.

    Source  felix/calc/active_rules_calculator.go (DummyDropRules).
    """
    return tuple(takewhile(is_there, endpoint.profiles))


def describe_endpoint(
    endpoint: Endpoint, matched: Iterable[Matched], tiers: Mapping[str, Tier], profiles: tuple[str, ...]
) -> EndpointIntent | HostEndpointIntent:
    """What an endpoint is, with the policies that apply to it and those of its profiles that have a say."""
    if isinstance(endpoint, HostEndpoint):
        return HostEndpointIntent(sort_stages(matched, tiers), profiles)
    return EndpointIntent(
        endpoint.interface,
        endpoint.addresses,
        endpoint.mac,
        sort_policies(matched, tiers),
        profiles,
        endpoint.floating,
        endpoint.spoofed,
    )


Key = TypeVar("Key")
Value = TypeVar("Value")


def _set(table: dict[Key, Value], key: Key, value: Value | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _placement(policy: Policy) -> tuple[object, ...]:
    return (
        policy.tier,
        policy.order,
        policy.applies_ingress,
        policy.applies_egress,
        policy.do_not_track,
        policy.pre_dnat,
        policy.apply_on_forward,
    )


@dataclass(frozen=True, slots=True)
class PolicyState:
    """All of it at once, as the oracle says it."""

    endpoints: Mapping[Name, EndpointIntent]
    policies: Mapping[PolicyId, RulesIntent]
    profiles: Mapping[str, RulesIntent]
    hosts: Mapping[Name, HostEndpointIntent] = field(default_factory=dict)


def derive_policy(tables: Mapping[Table, Mapping[Name, Resource]], node: str) -> PolicyState:
    """The oracle: what applies to this node's endpoints, from scratch."""
    profiles = derive_profiles(tables)
    parents = {name: profile.labels_to_apply for name, profile in profiles.items()}
    tiers = {name.name: value for name, value in tables[Table.TIER].items() if isinstance(value, Tier)}
    candidates = [
        (PolicyId(table, name), value, compile_selector(value.selector))
        for table in POLICY_TABLES
        for name, value in tables[table].items()
        if isinstance(value, Policy)
    ]
    endpoints: dict[Name, EndpointIntent] = {}
    hosts: dict[Name, HostEndpointIntent] = {}
    policies: dict[PolicyId, RulesIntent] = {}
    used: dict[str, RulesIntent] = {}
    for name, endpoint in (*derive_workloads(tables).items(), *tables[Table.HOST].items()):
        if not isinstance(endpoint, WorkloadEndpoint | HostEndpoint) or endpoint.node != node:
            continue
        labels = effective_labels(endpoint.labels, endpoint.profiles, parents)
        matched = [
            (identity, policy)
            for identity, policy, matches in candidates
            if matches(labels) and applies_to(endpoint, policy)
        ]
        described = describe_endpoint(endpoint, matched, tiers, heard_profiles(endpoint, profiles.__contains__))
        if isinstance(described, HostEndpointIntent):
            hosts[name] = described
        else:
            endpoints[name] = described
        policies.update((identity, compile_rules(policy)) for identity, policy in matched)
        known = (profile for profile in endpoint.profiles if profile in profiles)
        used.update((profile, compile_rules(profiles[profile])) for profile in known)
    return PolicyState(endpoints, policies, used, hosts)
