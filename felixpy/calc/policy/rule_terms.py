"""Rules of policies and profiles, their selectors and Services replaced by the sets that hold the members. Pure."""

from __future__ import annotations

from felixpy.calc.intent import EntityTerms, RulesIntent, RuleTerms, SetSpec, node_set, service_set, set_of
from felixpy.resources.policy_types import EntityMatch, Policy, PolicyRule, Profile
from felixpy.selector import All, Not, conjunction


def compile_rules(rules: Policy | Profile) -> RulesIntent:
    """Rules with their selectors replaced by sets."""
    tier = rules.tier if isinstance(rules, Policy) else ""
    return RulesIntent(_compile_all(rules.ingress), _compile_all(rules.egress), tier)


def _compile_all(rules: tuple[PolicyRule, ...]) -> tuple[RuleTerms, ...]:
    return tuple(_compile_rule(rule) for rule in rules)


NAMED_PORT_PROTOCOLS = (6, 17, 132)
"""What a port may be of that a rule without a protocol names."""


def _compile_rule(rule: PolicyRule) -> RuleTerms:
    protocols = NAMED_PORT_PROTOCOLS if rule.protocol is None else (rule.protocol,)
    return RuleTerms(
        rule.action,
        rule.version,
        rule.protocol,
        rule.not_protocol,
        rule.icmp,
        rule.not_icmp,
        _compile_source(rule.source, protocols),
        _compile_destination(rule.destination, protocols),
        rule.index,
        rule.note,
    )


def _compile_source(entity: EntityMatch, protocols: tuple[int, ...]) -> EntityTerms:
    if entity.service is not None:
        return EntityTerms(sets=(service_set(entity.service, ports=False),))
    return _compile_entity(entity, protocols)


def _compile_destination(entity: EntityMatch, protocols: tuple[int, ...]) -> EntityTerms:
    if entity.service is not None:
        return EntityTerms(port_sets=(service_set(entity.service, ports=True),))
    return _compile_entity(entity, protocols)


def _compile_entity(entity: EntityMatch, protocols: tuple[int, ...]) -> EntityTerms:
    """Beside a selector, `not_selector` takes out of it: an address counts that something has which is left.

    A named port is a set of addresses with that port, of the endpoints that the selector matches.
    Source  felix/calc/rule_scanner.go (combineMatchesIfPossible).
    """
    chosen, excluded = entity.selector, entity.not_selector
    if chosen is not None and excluded is not None:
        chosen, excluded = conjunction(chosen, Not(excluded)), None
    scope = All() if chosen is None else chosen
    sets = () if chosen is None else (set_of(chosen),)
    return EntityTerms(
        nets=entity.nets,
        not_nets=entity.not_nets,
        sets=sets if entity.nodes is None else (*sets, node_set(entity.nodes)),
        not_sets=() if excluded is None else (set_of(excluded),),
        ports=entity.ports,
        port_sets=tuple(set_of(scope, (one, name)) for name in entity.port_names for one in protocols),
        not_ports=entity.not_ports,
        not_port_sets=tuple(set_of(scope, (one, name)) for name in entity.not_port_names for one in protocols),
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
