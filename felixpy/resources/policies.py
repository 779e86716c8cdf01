"""Policies, profiles and tiers: documents → types, with namespaces folded into selectors.

A namespaceSelector becomes a condition on the labels that an endpoint inherits from its namespace (`pcns.`), a
serviceAccountSelector one on `pcsa.`. Source: libcalico-go/lib/backend/syncersv1/updateprocessors (rules, policies);
Kubernetes NetworkPolicy as libcalico-go/lib/backend/k8s/conversion does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, cast

from felixpy.addresses import Prefix
from felixpy.resources.documents import Entity, Icmp, PolicyDoc, PolicySpec, ProfileDoc, Rule, ServiceRef, TierDoc
from felixpy.resources.kinds import Name
from felixpy.resources.kube_documents import KubePeer, KubePolicyDoc, KubePolicyPort
from felixpy.resources.policy_types import (
    EntityMatch,
    IcmpMatch,
    Policy,
    PolicyRule,
    Profile,
    RuleAction,
    Tier,
    TierDefault,
)
from felixpy.resources.scalars import (
    PORTED,
    FieldError,
    read_label_selector,
    read_labels,
    read_prefix,
    read_prefixes,
    read_protocol,
    read_quotable,
    read_selector,
)
from felixpy.selector import (
    NAMESPACE_LABEL,
    All,
    Compare,
    Has,
    In,
    Operator,
    Selector,
    conjunction,
    prefix_labels,
)

NAMESPACE_PREFIX = "pcns."
SERVICE_ACCOUNT_PREFIX = "pcsa."
SERVICE_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
DEFAULT_TIER = "default"
KUBERNETES_ORDER = 1000.0
_NO_COMMENT = re.compile(r"[^A-Za-z0-9 _./:=@+-]")


def read_policy(doc: PolicyDoc, namespace: str) -> Policy:
    """A policy; `namespace` is "" for a global one."""
    spec = doc.spec
    types = spec.types
    if not types:
        types = ["Ingress"] if not spec.egress else ["Ingress", "Egress"] if spec.ingress else ["Egress"]
    for index, word in enumerate(types):
        if word not in {"Ingress", "Egress"}:
            raise FieldError(f"spec.types[{index}]", f"{word!r} is neither Ingress nor Egress")
    return Policy(
        tier=spec.tier or DEFAULT_TIER,
        order=spec.order,
        selector=_policy_selector(spec, namespace),
        applies_ingress="Ingress" in types,
        applies_egress="Egress" in types,
        ingress=_rules("spec.ingress", spec.ingress, namespace),
        egress=_rules("spec.egress", spec.egress, namespace),
        do_not_track=spec.do_not_track,
        pre_dnat=spec.pre_dnat,
        apply_on_forward=spec.apply_on_forward,
    )


def _policy_selector(spec: PolicySpec, namespace: str) -> Selector:
    """Whom a policy is for.

    Beside another selector of a global policy, all() is all that has a namespace, or else a service account; in a
    namespace, all() of service accounts asks for none.
    Source  libcalico-go/lib/backend/syncersv1/updateprocessors ({global,}networkpolicyprocessor.go).
    """
    selector = read_selector("spec.selector", spec.selector)
    parts = [selector]
    everyone: Selector = All()
    if namespace:
        parts.append(Compare(NAMESPACE_LABEL, Operator.EQUALS, namespace))
    elif spec.namespace_selector:
        parts.append(_namespaces("spec.namespaceSelector", spec.namespace_selector))
        everyone = Has(NAMESPACE_LABEL)
    if spec.service_account_selector:
        wanted = read_selector("spec.serviceAccountSelector", spec.service_account_selector)
        accounted: Selector = All() if namespace else Has(SERVICE_ACCOUNT_LABEL)
        parts.append(_service_accounts(wanted, accounted))
        everyone = accounted if isinstance(everyone, All) else everyone
    if spec.selector and isinstance(selector, All):
        parts.append(everyone)
    return conjunction(*reversed(parts))


def read_profile(doc: ProfileDoc) -> Profile:
    return Profile(
        ingress=_rules("spec.ingress", doc.spec.ingress, ""),
        egress=_rules("spec.egress", doc.spec.egress, ""),
        labels_to_apply=read_labels(doc.spec.labels_to_apply),
    )


def read_tier(doc: TierDoc) -> Tier:
    try:
        action = TierDefault(doc.spec.default_action or TierDefault.DENY)
    except ValueError:
        raise FieldError("spec.defaultAction", f"{doc.spec.default_action!r} is neither Deny nor Pass") from None
    return Tier(doc.spec.order, action)


def _namespaces(field: str, text: str) -> Selector:
    return prefix_labels(read_selector(field, text), NAMESPACE_PREFIX)


def _service_accounts(selector: Selector, everyone: Selector) -> Selector:
    """Endpoints by the labels of their service accounts; `everyone` where all() is asked for."""
    return everyone if isinstance(selector, All) else prefix_labels(selector, SERVICE_ACCOUNT_PREFIX)


def _rules(field: str, rules: Iterable[Rule] | None, namespace: str) -> tuple[PolicyRule, ...]:
    read = (_rule(f"{field}[{index}]", rule, namespace) for index, rule in enumerate(rules or ()))
    return tuple(replace(rule, index=index) for index, rule in enumerate(read) if rule is not None)


def _rule(field: str, rule: Rule, namespace: str) -> PolicyRule | None:
    """The rule; None for one that asks for what is not enforced here and so must not allow anything.

    A Deny with such a condition is widened instead: it denies all that its other conditions match.
    """
    try:
        action = RuleAction(rule.action.capitalize())
    except ValueError:
        raise FieldError(f"{field}.action", f"{rule.action!r} is not Allow, Deny, Log or Pass") from None
    if rule.ip_version not in (None, 4, 6):
        raise FieldError(f"{field}.ipVersion", f"{rule.ip_version} is neither 4 nor 6")
    source, destination = rule.source or Entity(), rule.destination or Entity()
    protocol = read_protocol(f"{field}.protocol", rule.protocol)
    for side, entity in (("source", source), ("destination", destination)):
        asked = (*(entity.ports or ()), *(entity.not_ports or ()))
        if asked and protocol not in PORTED and not (protocol is None and all(map(_is_port_name, asked))):
            raise FieldError(f"{field}.{side}.ports", "need protocol TCP, UDP, SCTP or UDPLite in the same rule")
    if rule.http is not None and action is not RuleAction.DENY:
        return None
    return PolicyRule(
        action=action,
        version=cast("Literal[4, 6] | None", rule.ip_version),
        protocol=protocol,
        not_protocol=read_protocol(f"{field}.notProtocol", rule.not_protocol),
        icmp=_icmp(f"{field}.icmp", rule.icmp),
        not_icmp=_icmp(f"{field}.notICMP", rule.not_icmp),
        source=_entity(f"{field}.source", source, namespace),
        destination=_entity(f"{field}.destination", destination, namespace),
        note=_note(rule.metadata),
    )


def _note(metadata: object) -> str:
    """A rule's annotations, in letters that every back end takes as a comment."""
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    if not isinstance(annotations, dict):
        return ""
    return _NO_COMMENT.sub("?", " ".join(f"{key}={value}" for key, value in sorted(annotations.items())))


def _icmp(field: str, icmp: Icmp | None) -> IcmpMatch | None:
    if icmp is None or (icmp.type is None and icmp.code is None):
        return None
    if icmp.type is None:
        raise FieldError(f"{field}.code", "needs a type beside it")
    if not (0 <= icmp.type <= 254 and 0 <= (icmp.code or 0) <= 255):
        raise FieldError(field, f"there is no ICMP type {icmp.type} with code {icmp.code}")
    return IcmpMatch(icmp.type, icmp.code)


def _entity(field: str, entity: Entity, namespace: str) -> EntityMatch:
    if entity.services is not None:
        return EntityMatch(service=_service(field, entity, namespace))
    selecting = bool(entity.selector or entity.not_selector or entity.service_accounts)
    parts: list[Selector] = []
    if entity.namespace_selector:
        parts.append(_namespaces(f"{field}.namespaceSelector", entity.namespace_selector))
    elif namespace and selecting:
        parts.append(Compare(NAMESPACE_LABEL, Operator.EQUALS, namespace))
    if entity.service_accounts is not None:
        if entity.service_accounts.names:
            where = f"{field}.serviceAccounts.names"
            names = {read_quotable(where, name) for name in entity.service_accounts.names}
            parts.append(In(SERVICE_ACCOUNT_LABEL, tuple(sorted(names))))
        if entity.service_accounts.selector:
            wanted = read_selector(f"{field}.serviceAccounts.selector", entity.service_accounts.selector)
            parts.append(_service_accounts(wanted, All()))
    if entity.selector:
        parts.append(read_selector(f"{field}.selector", entity.selector))
    ports, port_names = _ports(f"{field}.ports", entity.ports)
    not_ports, not_port_names = _ports(f"{field}.notPorts", entity.not_ports)
    return EntityMatch(
        nets=read_prefixes(f"{field}.nets", entity.nets),
        not_nets=read_prefixes(f"{field}.notNets", entity.not_nets),
        selector=conjunction(*parts) if parts else None,
        not_selector=read_selector(f"{field}.notSelector", entity.not_selector) if entity.not_selector else None,
        ports=ports,
        port_names=port_names,
        not_ports=not_ports,
        not_port_names=not_port_names,
    )


_BESIDE_SERVICES = (
    "nets",
    "not_nets",
    "selector",
    "not_selector",
    "namespace_selector",
    "service_accounts",
    "ports",
    "not_ports",
)


def _service(field: str, entity: Entity, namespace: str) -> Name:
    """The Service that a rule names; nothing else may stand beside it."""
    wanted = entity.services or ServiceRef()
    where = wanted.namespace or namespace
    if not wanted.name or not where:
        raise FieldError(f"{field}.services.{'namespace' if wanted.name else 'name'}", "is missing")
    if any(getattr(entity, other) for other in _BESIDE_SERVICES):
        raise FieldError(f"{field}.services", "stands beside other conditions")
    return Name(where, wanted.name)


def _is_port_name(port: str | int) -> bool:
    """Whether it is a name, which says a protocol by itself."""
    return isinstance(port, str) and not port.partition(":")[0].isdecimal()


def _ports(field: str, ports: Iterable[str | int] | None) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...]]:
    """Numeric ranges, and names."""
    ranges: list[tuple[int, int]] = []
    names: list[str] = []
    for index, port in enumerate(ports or ()):
        first, colon, last = str(port).partition(":")
        if first.isdecimal() and (last.isdecimal() if colon else True):
            low, high = int(first), int(last) if colon else int(first)
            if not low <= high <= 65535:
                raise FieldError(f"{field}[{index}]", f"{port!r} is no port range")
            ranges.append((low, high))
        elif colon or not first:
            raise FieldError(f"{field}[{index}]", f"{port!r} is neither a port, a range `a:b` nor a name")
        else:
            names.append(first)
    return tuple(ranges), tuple(names)


def read_kubernetes_policy(doc: KubePolicyDoc, namespace: str) -> Policy:
    """A Kubernetes NetworkPolicy, at order 1000 of the default tier."""
    spec = doc.spec
    types = spec.policy_types
    if not types:
        types = ["Ingress", "Egress"] if spec.egress else ["Ingress"]
    ingress: list[PolicyRule] = []
    for index, allowed in enumerate(spec.ingress or ()):
        made = _kube_rules(f"spec.ingress[{index}]", "from", allowed.peers, allowed.ports, namespace)
        ingress += [replace(rule, index=index) for rule in made]
    egress: list[PolicyRule] = []
    for index, permitted in enumerate(spec.egress or ()):
        made = _kube_rules(f"spec.egress[{index}]", "to", permitted.peers, permitted.ports, namespace)
        egress += [replace(rule, index=index) for rule in made]
    return Policy(
        tier=DEFAULT_TIER,
        order=KUBERNETES_ORDER,
        selector=conjunction(
            Compare(NAMESPACE_LABEL, Operator.EQUALS, namespace),
            Compare(ORCHESTRATOR_LABEL, Operator.EQUALS, "k8s"),
            read_label_selector("spec.podSelector", spec.pod_selector),
        ),
        applies_ingress="Ingress" in types,
        applies_egress="Egress" in types,
        ingress=tuple(ingress),
        egress=tuple(egress),
    )


def _kube_rules(
    field: str,
    word: Literal["from", "to"],
    peers: list[KubePeer] | None,
    ports: list[KubePolicyPort] | None,
    namespace: str,
) -> list[PolicyRule]:
    matches = [_kube_peer(f"{field}.{word}[{index}]", peer, namespace) for index, peer in enumerate(peers or ())]
    rules = []
    for match in matches or [EntityMatch()]:
        for protocol, ranges, names in _kube_ports(f"{field}.ports", ports):
            to_port = EntityMatch(ports=ranges, port_names=names)
            if word == "from":
                rules.append(PolicyRule(RuleAction.ALLOW, protocol=protocol, source=match, destination=to_port))
            else:
                joined = EntityMatch(match.nets, match.not_nets, match.selector, ports=ranges, port_names=names)
                rules.append(PolicyRule(RuleAction.ALLOW, protocol=protocol, destination=joined))
    return rules


def _kube_peer(field: str, peer: KubePeer, namespace: str) -> EntityMatch:
    if peer.ip_block is not None:
        if peer.pod_selector or peer.namespace_selector:
            raise FieldError(field, "ipBlock goes with neither podSelector nor namespaceSelector")
        nets: tuple[Prefix, ...] = (read_prefix(f"{field}.ipBlock.cidr", peer.ip_block.cidr),)
        return EntityMatch(nets, read_prefixes(f"{field}.ipBlock.except", peer.ip_block.excluded))
    pods = read_label_selector(f"{field}.podSelector", peer.pod_selector)
    if peer.namespace_selector is None:
        where: Selector = Compare(NAMESPACE_LABEL, Operator.EQUALS, namespace)
    else:
        chosen = read_label_selector(f"{field}.namespaceSelector", peer.namespace_selector, NAMESPACE_PREFIX)
        where = Has(NAMESPACE_LABEL) if isinstance(chosen, All) else chosen
    kubernetes = Compare(ORCHESTRATOR_LABEL, Operator.EQUALS, "k8s")
    return EntityMatch(selector=conjunction(where, kubernetes, pods))


def _kube_ports(
    field: str, ports: list[KubePolicyPort] | None
) -> list[tuple[int | None, tuple[tuple[int, int], ...], tuple[str, ...]]]:
    """Per protocol asked for: its number, port ranges and port names."""
    if not ports:
        return [(None, (), ())]
    read: list[tuple[int | None, tuple[tuple[int, int], ...], tuple[str, ...]]] = []
    for index, port in enumerate(ports):
        protocol = read_protocol(f"{field}[{index}].protocol", port.protocol)
        if port.port is None:
            read.append((protocol, (), ()))
        elif isinstance(port.port, int) or port.port.isdecimal():
            low = int(port.port)
            high = port.end_port if port.end_port is not None else low
            if not 0 < low <= high <= 65535:
                raise FieldError(f"{field}[{index}]", f"{low} to {high} is no port range")
            read.append((protocol, ((low, high),), ()))
        else:
            read.append((protocol, (), (port.port,)))
    return read
