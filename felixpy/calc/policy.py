"""Which policies and profiles apply to this node's endpoints, in which order, and with which rules.

In: policies, tiers, profiles, namespaces and endpoints; out: an EndpointIntent per local endpoint, RulesIntent per
policy or profile that one of them uses, and (through IpSets) the sets that those rules refer to. Only policies that
apply to a local endpoint cost anything. Pure and incremental; `derive_policy` is the oracle.

Source: felix/calc (active rules, policy sorter): tiers by order then name, policies by order then name, no order last.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from felixpy.calc.intent import (
    EndpointIntent,
    EntityTerms,
    PolicyId,
    RulesIntent,
    RuleTerms,
    SetSpec,
    TierIntent,
    service_set,
    set_of,
)
from felixpy.calc.ipsets import IpSets, effective_labels
from felixpy.calc.labels import LabelIndex
from felixpy.resources.codec import POLICY_TABLES, Ref, Table
from felixpy.resources.kinds import Name
from felixpy.resources.policies import NAMESPACE_PREFIX
from felixpy.resources.types import (
    EntityMatch,
    Namespace,
    Policy,
    PolicyRule,
    Profile,
    Resource,
    RuleAction,
    Tier,
    WorkloadEndpoint,
)
from felixpy.selector import All, Selector, compile_selector

NAMESPACE_PROFILE = "kns."
ALLOW_ALL_PROFILE = "projectcalico-default-allow"
"""A profile that Calico makes up on reading and never stores."""

_ALLOW_ALL = Profile((PolicyRule(RuleAction.ALLOW),), (PolicyRule(RuleAction.ALLOW),))

Rules = Policy | Profile
Used = TypeVar("Used", bound=Hashable)


def namespace_profile(namespace: Namespace) -> Profile:
    """The profile that a namespace stands for: allows all, and gives its labels under `pcns.`."""
    labels = tuple((NAMESPACE_PREFIX + name, value) for name, value in namespace.labels)
    return Profile(_ALLOW_ALL.ingress, _ALLOW_ALL.egress, labels)


def compile_rules(rules: Rules) -> RulesIntent:
    """Rules with their selectors replaced by sets."""
    return RulesIntent(_compile_all(rules.ingress), _compile_all(rules.egress))


def _compile_all(rules: tuple[PolicyRule, ...]) -> tuple[RuleTerms, ...]:
    return tuple(_compile_rule(rule) for rule in rules)


def _compile_rule(rule: PolicyRule) -> RuleTerms:
    protocol = rule.protocol or 0
    return RuleTerms(
        rule.action,
        rule.version,
        rule.protocol,
        rule.not_protocol,
        rule.icmp,
        rule.not_icmp,
        _compile_source(rule.source, protocol),
        _compile_destination(rule.destination, protocol),
    )


def _compile_source(entity: EntityMatch, protocol: int) -> EntityTerms:
    if entity.service is not None:
        return EntityTerms(sets=(service_set(entity.service, ports=False),))
    return _compile_entity(entity, protocol)


def _compile_destination(entity: EntityMatch, protocol: int) -> EntityTerms:
    if entity.service is not None:
        return EntityTerms(port_sets=(service_set(entity.service, ports=True),))
    return _compile_entity(entity, protocol)


def _compile_entity(entity: EntityMatch, protocol: int) -> EntityTerms:
    """A named port is a set of addresses with that port, of the endpoints that the selector matches."""
    scope: Selector = entity.selector if entity.selector is not None else All()
    port_sets = tuple(set_of(scope, (protocol, name)) for name in entity.port_names)
    not_port_sets = tuple(set_of(All(), (protocol, name)) for name in entity.not_port_names)
    return EntityTerms(
        nets=entity.nets,
        not_nets=entity.not_nets,
        sets=() if entity.selector is None else (set_of(entity.selector),),
        not_sets=() if entity.not_selector is None else (set_of(entity.not_selector),),
        ports=entity.ports,
        port_sets=port_sets,
        not_ports=entity.not_ports,
        not_port_sets=not_port_sets,
    )


def sets_of(rules: RulesIntent) -> frozenset[SetSpec]:
    """Every set that the rules refer to."""
    return frozenset(
        spec
        for direction in (rules.ingress, rules.egress)
        for rule in direction
        for side in (rule.source, rule.destination)
        for spec in side.all_sets
    )


def _position(order: float | None) -> float:
    return inf if order is None else order


def sort_policies(policies: Iterable[tuple[PolicyId, Policy]], tiers: Mapping[str, Tier]) -> tuple[TierIntent, ...]:
    """Policies of one endpoint, by tier and order; a tier that does not exist comes last and denies."""
    by_tier: dict[str, list[tuple[PolicyId, Policy]]] = {}
    for identity, policy in policies:
        by_tier.setdefault(policy.tier, []).append((identity, policy))
    missing = Tier(None)
    names = sorted(by_tier, key=lambda name: (_position(tiers.get(name, missing).order), name))
    found = []
    for name in names:
        ranked = sorted(by_tier[name], key=lambda pair: (_position(pair[1].order), str(pair[0].name), pair[0].table))
        ingress = tuple(identity for identity, policy in ranked if policy.applies_ingress)
        egress = tuple(identity for identity, policy in ranked if policy.applies_egress)
        found.append(TierIntent(name, tiers.get(name, missing).default_action, ingress, egress))
    return tuple(found)


def for_workloads(policy: Policy) -> bool:
    """Whether a policy concerns workload endpoints (doNotTrack and preDNAT are for host endpoints)."""
    return not (policy.do_not_track or policy.pre_dnat)


@dataclass(frozen=True, slots=True)
class PolicyDelta:
    """What changed since the last flush; None means gone."""

    endpoints: Mapping[Name, EndpointIntent | None]
    policies: Mapping[PolicyId, RulesIntent | None]
    profiles: Mapping[str, RulesIntent | None]


class Users(Generic[Used]):
    """Which endpoints use which policies (or profiles), both ways round."""

    def __init__(self) -> None:
        self._users: dict[Used, set[Name]] = {}
        self._uses: dict[Name, frozenset[Used]] = {}

    def __contains__(self, used: Used) -> bool:
        return used in self._users

    def __iter__(self) -> Iterator[Used]:
        return iter(self._users)

    def of(self, used: Used) -> Set[Name]:
        """The endpoints that use one."""
        return self._users[used]

    def note(self, name: Name, now: frozenset[Used]) -> set[Used]:
        """Records what an endpoint uses now; returns those that got their first user or lost their last."""
        before = self._uses.get(name, frozenset())
        turned: set[Used] = set()
        for used in now - before:
            if used not in self._users:
                self._users[used] = set()
                turned.add(used)
            self._users[used].add(name)
        for used in before - now:
            self._users[used].discard(name)
            if not self._users[used]:
                del self._users[used]
                turned.add(used)
        _set(self._uses, name, now or None)
        return turned


class PolicyCalc:
    """Fed one resource at a time; `flush` tells what became of this node's endpoints."""

    def __init__(self, node: str, sets: IpSets) -> None:
        self.node = node
        self._sets = sets
        self._endpoints: dict[Name, WorkloadEndpoint] = {}
        self._index: LabelIndex[Name, PolicyId] = LabelIndex()
        self._policies: dict[PolicyId, Policy] = {}
        self._tiers: dict[str, Tier] = {}
        self._stored_profiles: dict[str, Profile] = {}
        self._namespace_profiles: dict[str, Profile] = {}
        self._policy_users: Users[PolicyId] = Users()
        self._profile_users: Users[str] = Users()
        self._active: dict[PolicyId | str, RulesIntent] = {}
        self._dirty_endpoints: set[Name] = set()
        self._dirty_rules: set[PolicyId | str] = set()

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change; tables that have no say in policy are passed over."""
        match ref.table:
            case Table.WORKLOAD:
                self._update_endpoint(ref.name, value if isinstance(value, WorkloadEndpoint) else None)
            case Table.TIER:
                self._update_tier(ref.name.name, value if isinstance(value, Tier) else None)
            case Table.PROFILE:
                _set(self._stored_profiles, ref.name.name, value if isinstance(value, Profile) else None)
                self._profile_changed(ref.name.name)
            case Table.NAMESPACE:
                name = NAMESPACE_PROFILE + ref.name.name
                profile = namespace_profile(value) if isinstance(value, Namespace) else None
                _set(self._namespace_profiles, name, profile)
                self._profile_changed(name)
            case Table.GLOBAL_POLICY | Table.NAMESPACED_POLICY | Table.KUBERNETES_POLICY:
                self._update_policy(PolicyId(ref.table, ref.name), value if isinstance(value, Policy) else None)
            case _:
                pass

    def profile(self, name: str) -> Profile | None:
        """A profile as it counts: stored, else of a namespace, else the made-up one."""
        return (
            self._stored_profiles.get(name)
            or self._namespace_profiles.get(name)
            or (_ALLOW_ALL if name == ALLOW_ALL_PROFILE else None)
        )

    def endpoint_names(self) -> tuple[Name, ...]:
        """The endpoints of this node."""
        return tuple(self._endpoints)

    def _update_endpoint(self, name: Name, endpoint: WorkloadEndpoint | None) -> None:
        if endpoint is None or endpoint.node != self.node:
            if self._endpoints.pop(name, None) is not None:
                self._index.drop_item(name)
                self._dirty_endpoints.add(name)
            return
        self._endpoints[name] = endpoint
        self._index.put_item(name, endpoint.labels, endpoint.profiles)
        self._dirty_endpoints.add(name)

    def _update_tier(self, name: str, tier: Tier | None) -> None:
        _set(self._tiers, name, tier)
        for identity in self._policy_users:
            policy = self._policies.get(identity)
            if policy is not None and policy.tier == name:
                self._dirty_endpoints |= self._policy_users.of(identity)

    def _profile_changed(self, name: str) -> None:
        profile = self.profile(name)
        labels = profile.labels_to_apply if profile is not None else ()
        self._sets.put_parent(name, labels)
        self._dirty_endpoints.update(shift.item for shift in self._index.put_parent(name, labels))
        if name in self._profile_users:
            self._dirty_rules.add(name)
            self._dirty_endpoints |= self._profile_users.of(name)

    def _update_policy(self, identity: PolicyId, policy: Policy | None) -> None:
        old = self._policies.get(identity)
        if policy is not None and not for_workloads(policy):
            policy = None
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
        for name in self._dirty_endpoints:
            endpoints[name] = self._resolve(name)
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
        return PolicyDelta(endpoints, policies, profiles)

    def _resolve(self, name: Name) -> EndpointIntent | None:
        endpoint = self._endpoints.get(name)
        matched = self._index.selectors_of(name)
        profiles = () if endpoint is None else endpoint.profiles
        self._dirty_rules |= self._policy_users.note(name, matched)
        self._dirty_rules |= self._profile_users.note(name, frozenset(profiles))
        if endpoint is None:
            return None
        return EndpointIntent(
            endpoint.interface,
            endpoint.addresses,
            endpoint.mac,
            sort_policies(((identity, self._policies[identity]) for identity in matched), self._tiers),
            tuple(profile for profile in profiles if self.profile(profile) is not None),
        )

    def _activate(self, identity: PolicyId | str) -> tuple[bool, RulesIntent | None]:
        """Makes the rules of a policy or profile current; whether they changed, and what they are now."""
        rules: Rules | None
        if isinstance(identity, str):
            rules = self.profile(identity) if identity in self._profile_users else None
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


Key = TypeVar("Key")
Value = TypeVar("Value")


def _set(table: dict[Key, Value], key: Key, value: Value | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _placement(policy: Policy) -> tuple[object, ...]:
    return (policy.tier, policy.order, policy.applies_ingress, policy.applies_egress)


@dataclass(frozen=True, slots=True)
class PolicyState:
    """All of it at once, as the oracle says it."""

    endpoints: Mapping[Name, EndpointIntent]
    policies: Mapping[PolicyId, RulesIntent]
    profiles: Mapping[str, RulesIntent]


def derive_profiles(tables: Mapping[Table, Mapping[Name, Resource]]) -> dict[str, Profile]:
    """Every profile that counts, from scratch."""
    profiles: dict[str, Profile] = {ALLOW_ALL_PROFILE: _ALLOW_ALL}
    for name, value in tables[Table.NAMESPACE].items():
        if isinstance(value, Namespace):
            profiles[NAMESPACE_PROFILE + name.name] = namespace_profile(value)
    for name, value in tables[Table.PROFILE].items():
        if isinstance(value, Profile):
            profiles[name.name] = value
    return profiles


def derive_policy(tables: Mapping[Table, Mapping[Name, Resource]], node: str) -> PolicyState:
    """The oracle: what applies to this node's endpoints, from scratch."""
    profiles = derive_profiles(tables)
    parents = {name: profile.labels_to_apply for name, profile in profiles.items()}
    tiers = {name.name: value for name, value in tables[Table.TIER].items() if isinstance(value, Tier)}
    candidates = [
        (PolicyId(table, name), value, compile_selector(value.selector))
        for table in POLICY_TABLES
        for name, value in tables[table].items()
        if isinstance(value, Policy) and for_workloads(value)
    ]
    endpoints: dict[Name, EndpointIntent] = {}
    policies: dict[PolicyId, RulesIntent] = {}
    used: dict[str, RulesIntent] = {}
    for name, endpoint in tables[Table.WORKLOAD].items():
        if not isinstance(endpoint, WorkloadEndpoint) or endpoint.node != node:
            continue
        labels = effective_labels(endpoint.labels, endpoint.profiles, parents)
        matched = [(identity, policy) for identity, policy, matches in candidates if matches(labels)]
        known = tuple(profile for profile in endpoint.profiles if profile in profiles)
        endpoints[name] = EndpointIntent(
            endpoint.interface, endpoint.addresses, endpoint.mac, sort_policies(matched, tiers), known
        )
        policies.update((identity, compile_rules(policy)) for identity, policy in matched)
        used.update((profile, compile_rules(profiles[profile])) for profile in known)
    return PolicyState(endpoints, policies, used)
