"""Rules of policies and profiles → chains.

A chain ends by returning (no rule matched), by the `allow` or `pass` chain (which set a mark and return to the
endpoint's chain), or by dropping. Rules that name addresses are made once per family, others once for both. Pure.
Source: felix/rules/policy.go, also for the family quirk: a rule that lists nets, none of them of a family, does not
exist in that family; and one that excludes all of a family's addresses does not either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import assert_never

from felixpy.calc.intent import EntityTerms, PolicyId, RulesIntent, RuleTerms, SetSpec
from felixpy.calc.options import DEFAULTS
from felixpy.dataplane.objects import Chain
from felixpy.dataplane.rules import (
    Action,
    Drop,
    FamilyIs,
    Goto,
    IcmpIs,
    Log,
    Match,
    NetIn,
    PortIn,
    ProtocolIs,
    Rule,
    SetHas,
    Side,
)
from felixpy.dataplane.sets import VERSIONS, Version
from felixpy.resources.codec import Table
from felixpy.resources.types import RuleAction

ALLOW_CHAIN = "allow"
PASS_CHAIN = "pass"
LOG_PREFIX = DEFAULTS.log_prefix
NAME_LIMIT = 120
"""Longest chain name we make; the kernel takes 255 bytes, and listings stay readable."""

SetName = Callable[[SetSpec, Version], str]

_SHORT = {
    Table.GLOBAL_POLICY: "gnp",
    Table.NAMESPACED_POLICY: "np",
    Table.KUBERNETES_POLICY: "knp",
    Table.CLUSTER_POLICY: "cnp",
    Table.ADMIN_POLICY: "anp",
    Table.BASELINE_POLICY: "banp",
}


def chain_name(prefix: str, text: str) -> str:
    """`prefix` and `text`, cut and marked with a digest where that is too long."""
    name = f"{prefix}-{text}"
    if len(name) <= NAME_LIMIT:
        return name
    return f"{name[: NAME_LIMIT - 17]}-{blake2b(name.encode(), digest_size=8).hexdigest()}"


def policy_chain(direction: str, identity: PolicyId) -> str:
    """The name of a policy's chain; `direction` is `in` or `out`, as the endpoint sees it."""
    return chain_name(direction, f"{_SHORT[identity.table]}/{identity.name}")


def profile_chain(direction: str, profile: str) -> str:
    """The name of a profile's chain."""
    return chain_name(direction, f"prof/{profile}")


def render_policy(
    identity: PolicyId, rules: RulesIntent, set_name: SetName, log_prefix: str = LOG_PREFIX
) -> tuple[Chain, Chain]:
    """The chains of a policy for the two directions."""
    return (
        Chain(policy_chain("in", identity), _render_rules(rules.ingress, f"{identity} ingress", set_name, log_prefix)),
        Chain(policy_chain("out", identity), _render_rules(rules.egress, f"{identity} egress", set_name, log_prefix)),
    )


def render_profile(
    profile: str, rules: RulesIntent, set_name: SetName, log_prefix: str = LOG_PREFIX
) -> tuple[Chain, Chain]:
    """The chains of a profile for the two directions."""
    owner = f"Profile {profile}"
    return (
        Chain(profile_chain("in", profile), _render_rules(rules.ingress, f"{owner} ingress", set_name, log_prefix)),
        Chain(profile_chain("out", profile), _render_rules(rules.egress, f"{owner} egress", set_name, log_prefix)),
    )


def _render_rules(rules: Iterable[RuleTerms], where: str, set_name: SetName, log_prefix: str) -> tuple[Rule, ...]:
    rendered: list[Rule] = []
    for index, terms in enumerate(rules):
        comment = f"{where}[{index if terms.index is None else terms.index}]"[-120:]
        action = _action(terms.action, log_prefix)
        rendered.extend(Rule(action, matches, comment) for matches in _match_alternatives(terms, set_name))
    return tuple(rendered)


def rendered_from(rules: Iterable[RuleTerms]) -> tuple[RuleTerms, ...]:
    """For each rule of the chain that is made of `rules`, the one that it is, or is part of."""
    return tuple(terms for terms in rules for _ in _match_alternatives(terms, lambda spec, version: ""))


def _action(action: RuleAction, log_prefix: str) -> Action:
    match action:
        case RuleAction.ALLOW:
            return Goto(ALLOW_CHAIN)
        case RuleAction.DENY:
            return Drop()
        case RuleAction.PASS:
            return Goto(PASS_CHAIN)
        case RuleAction.LOG:
            return Log(f"{log_prefix}: ")
        case _:
            assert_never(action)


def _match_alternatives(terms: RuleTerms, set_name: SetName) -> Iterable[tuple[Match, ...]]:
    """The conjunctions of matches, any of which is the rule."""
    if terms.version is None and not _names_addresses(terms):
        yield from _for_family(terms, None, set_name)
        return
    for version in VERSIONS:
        if terms.version in (None, version) and _exists(terms, version):
            yield from _for_family(terms, version, set_name)


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


def _for_family(terms: RuleTerms, version: Version | None, set_name: SetName) -> Iterable[tuple[Match, ...]]:
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
    for source in _side("source", terms.source, version, set_name):
        for destination in _side("destination", terms.destination, version, set_name):
            yield (*common, *source, *destination)


def _side(side: Side, terms: EntityTerms, version: Version | None, set_name: SetName) -> Iterable[tuple[Match, ...]]:
    """The alternatives of one side: numeric ports, and each named port, are different rules."""
    fixed: list[Match] = []
    if version is not None:
        for nets, negate in ((terms.nets, False), (terms.not_nets, True)):
            wanted = tuple(net for net in nets if net.version == version)
            if wanted:
                fixed.append(NetIn(side, wanted, negate))
        fixed += [SetHas(side, set_name(spec, version), version) for spec in terms.sets]
        fixed += [SetHas(side, set_name(spec, version), version, negate=True) for spec in terms.not_sets]
        fixed += [
            SetHas(side, set_name(spec, version), version, negate=True, ports=True) for spec in terms.not_port_sets
        ]
    if terms.not_ports:
        fixed.append(PortIn(side, terms.not_ports, negate=True))
    if not terms.ports and not terms.port_sets:
        yield tuple(fixed)
    if terms.ports:
        yield (*fixed, PortIn(side, terms.ports))
    if version is not None:
        for spec in terms.port_sets:
            yield (*fixed, SetHas(side, set_name(spec, version), version, ports=True))
