"""Rules of policies and profiles → chains.

A chain ends by returning (no rule matched), by the `allow` or `pass` chain (which set a mark and return to the
endpoint's chain), or by the chain of a cause, which drops (or allows, and tells of it). Rules that name addresses are
made once per family, others once for both; and once for each part of a set that the kernel has in two. Pure.
Source: felix/rules/policy.go, also for the family quirk: a rule that lists nets, none of them of a family, does not
exist in that family; and one that excludes all of a family's addresses does not either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import NamedTuple

from felixpy.calc.intent import EntityTerms, PolicyId, RulesIntent, RuleTerms, SetSpec
from felixpy.calc.options import DEFAULTS, Options
from felixpy.dataplane.chains.causes import SHORT_NAMES, Cause, Effect, Way
from felixpy.dataplane.chains.naming import chain_name
from felixpy.dataplane.chains.report import cause_chain, render_cause
from felixpy.dataplane.objects import Chain
from felixpy.dataplane.rules import (
    Action,
    FamilyIs,
    Goto,
    IcmpIs,
    Jump,
    Match,
    NetIn,
    PortIn,
    ProtocolIs,
    Rule,
    SetHas,
    Side,
)
from felixpy.dataplane.sets import VERSIONS, Version
from felixpy.resources.policy_types import RuleAction

ALLOW_CHAIN = "allow"
PASS_CHAIN = "pass"

SetNames = Callable[[SetSpec, Version], tuple[str, ...]]
"""The kernel's sets that together are one of ours."""


def policy_chain(direction: str, identity: PolicyId) -> str:
    """The name of a policy's chain; `direction` is `in` or `out`, as the endpoint sees it."""
    return chain_name(direction, f"{SHORT_NAMES[identity.table]}/{identity.name}")


def profile_chain(direction: str, profile: str) -> str:
    """The name of a profile's chain."""
    return chain_name(direction, f"prof/{profile}")


def render_policy(
    identity: PolicyId, rules: RulesIntent, set_names: SetNames, options: Options = DEFAULTS
) -> tuple[Chain, ...]:
    """The chains of a policy for the two directions, and those of the causes that they lead to."""
    return _render(lambda way: policy_chain(way, identity), identity, rules, set_names, options)


def render_profile(
    profile: str, rules: RulesIntent, set_names: SetNames, options: Options = DEFAULTS
) -> tuple[Chain, ...]:
    """The chains of a profile for the two directions, and those of the causes that they lead to."""
    return _render(lambda way: profile_chain(way, profile), profile, rules, set_names, options)


def causes_of(owner: PolicyId | str, rules: RulesIntent, options: Options = DEFAULTS) -> tuple[Cause, ...]:
    """Why packets may be denied, logged or (where that is told of) allowed by a policy, or a profile of that name."""
    ways: tuple[tuple[Way, tuple[RuleTerms, ...]], ...] = (("in", rules.ingress), ("out", rules.egress))
    found = (_cause(owner, way, place, terms, options) for way, side in ways for place, terms in enumerate(side))
    return tuple(dict.fromkeys(cause for cause in found if cause is not None))


def _render(
    name: Callable[[str], str], owner: PolicyId | str, rules: RulesIntent, set_names: SetNames, options: Options
) -> tuple[Chain, ...]:
    return (
        Chain(name("in"), _render_rules(owner, "in", rules.ingress, set_names, options)),
        Chain(name("out"), _render_rules(owner, "out", rules.egress, set_names, options)),
        *(render_cause(cause, options, rules.tier) for cause in causes_of(owner, rules, options)),
    )


def _render_rules(
    owner: PolicyId | str, way: Way, rules: Iterable[RuleTerms], set_names: SetNames, options: Options
) -> tuple[Rule, ...]:
    rendered: list[Rule] = []
    where = f"{owner if isinstance(owner, PolicyId) else f'Profile {owner}'} {'ingress' if way == 'in' else 'egress'}"
    for place, terms in enumerate(rules):
        comment = f"{f'{where}[{_index(place, terms)}]'[-120:]} {terms.note}".strip()[:120]
        action = _action(terms.action, _cause(owner, way, place, terms, options))
        rendered.extend(Rule(action, matches, comment) for matches in _match_alternatives(terms, set_names))
    return tuple(rendered)


class Origin(NamedTuple):
    """The rule that a kernel's rule is, or is part of, and its place among those that were written."""

    terms: RuleTerms
    place: int


def rendered_from(rules: Iterable[RuleTerms], set_names: SetNames) -> tuple[Origin, ...]:
    """For each rule of the chain that is made of `rules`, what it comes of."""
    return tuple(
        Origin(terms, _index(place, terms))
        for place, terms in enumerate(rules)
        for _ in _match_alternatives(terms, set_names)
    )


def _index(place: int, terms: RuleTerms) -> int:
    return place if terms.index is None else terms.index


_EFFECTS = {RuleAction.DENY: Effect.DENY, RuleAction.LOG: Effect.LOG, RuleAction.ALLOW: Effect.ADMIT}


def _cause(owner: PolicyId | str, way: Way, place: int, terms: RuleTerms, options: Options) -> Cause | None:
    """What the rule at `place` is a cause of; None where nobody is told."""
    effect = _EFFECTS.get(terms.action)
    if effect is None or (effect is Effect.ADMIT and not options.report_allowed):
        return None
    index = _index(place, terms)
    if isinstance(owner, PolicyId):
        return Cause(effect, way, policy=owner, index=index)
    return Cause(effect, way, profile=owner, index=index)


def _action(action: RuleAction, cause: Cause | None) -> Action:
    if cause is not None:
        chain = cause_chain(cause)
        return Jump(chain) if cause.effect is Effect.LOG else Goto(chain)
    return Goto(PASS_CHAIN if action is RuleAction.PASS else ALLOW_CHAIN)


def _match_alternatives(terms: RuleTerms, set_names: SetNames) -> Iterable[tuple[Match, ...]]:
    """The conjunctions of matches, any of which is the rule."""
    if terms.version is None and not _names_addresses(terms):
        yield from _for_family(terms, None, set_names)
        return
    for version in VERSIONS:
        if terms.version in (None, version) and _exists(terms, version):
            yield from _for_family(terms, version, set_names)


def _names_addresses(terms: RuleTerms) -> bool:
    sides = (terms.source, terms.destination)
    return bool(terms.icmp or terms.not_icmp or any(side.nets or side.not_nets or side.all_sets for side in sides))


def _exists(terms: RuleTerms, version: Version) -> bool:
    """Whether the rule can match anything in a family."""
    for side in (terms.source, terms.destination):
        for nets in (side.nets, side.not_nets):
            if nets and not any(net.version == version for net in nets):
                return False
        if any(net.version == version and net.length == 0 for net in side.not_nets):
            return False
    return True


def _for_family(terms: RuleTerms, version: Version | None, set_names: SetNames) -> Iterable[tuple[Match, ...]]:
    common: list[Match] = []
    if version is not None:
        common.append(FamilyIs(version))
    if terms.protocol is not None:
        common.append(ProtocolIs(terms.protocol))
    if terms.not_protocol is not None:
        common.append(ProtocolIs(terms.not_protocol, negate=True))
    if version is not None and terms.icmp is not None:
        common.append(IcmpIs(version, terms.icmp.type, terms.icmp.code))
    if version is not None and terms.not_icmp is not None:
        common.append(IcmpIs(version, terms.not_icmp.type, terms.not_icmp.code, negate=True))
    for source in _side("source", terms.source, version, set_names):
        for destination in _side("destination", terms.destination, version, set_names):
            yield (*common, *source, *destination)


def _side(side: Side, terms: EntityTerms, version: Version | None, set_names: SetNames) -> Iterable[tuple[Match, ...]]:
    """The alternatives of one side: each part of a set, numeric ports, and each named port, are different rules."""
    fixed: list[Match] = []
    if version is not None:
        for nets, negate in ((terms.nets, False), (terms.not_nets, True)):
            wanted = tuple(net for net in nets if net.version == version)
            if wanted:
                fixed.append(NetIn(side, wanted, negate))
        for specs, ports in ((terms.not_sets, False), (terms.not_port_sets, True)):
            names = (name for spec in specs for name in set_names(spec, version))
            fixed += [SetHas(side, name, version, negate=True, ports=ports) for name in names]
    if terms.not_ports:
        fixed.append(PortIn(side, terms.not_ports, negate=True))
    for chosen in product(*(set_names(spec, version) for spec in terms.sets)) if version is not None else ((),):
        asked = (*(SetHas(side, name, version) for name in chosen if version is not None), *fixed)
        if not terms.ports and not terms.port_sets:
            yield asked
        if terms.ports:
            yield (*asked, PortIn(side, terms.ports))
        if version is not None:
            names = (name for spec in terms.port_sets for name in set_names(spec, version))
            yield from ((*asked, SetHas(side, name, version, ports=True)) for name in names)
