"""Kubernetes' policies for administrators: documents → policies of the tiers kube-admin and kube-baseline.

A rule that cannot be read, or that asks for what is not enforced here (domain names), fails closed: where it
would deny or pass it denies everything, where it would allow it is left out. Pure.
Source: libcalico-go/lib/backend/k8s/conversion/clusternetworkpolicy.go; v1alpha1 by the same rules, in the same tiers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import msgspec

from felixpy.addresses import Prefix
from felixpy.resources import admin_documents as docs
from felixpy.resources.foreign_json import UNREADABLE
from felixpy.resources.kube_documents import LabelExpression, LabelSelector
from felixpy.resources.policies import NAMESPACE_PREFIX, ORCHESTRATOR_LABEL
from felixpy.resources.policy_types import EntityMatch, Policy, PolicyRule, RuleAction
from felixpy.resources.scalars import FieldError, read_label_selector, read_prefixes, read_protocol
from felixpy.selector import NAMESPACE_LABEL, All, Compare, Has, Operator, Selector, conjunction

ADMIN_TIER = "kube-admin"
BASELINE_TIER = "kube-baseline"
BASELINE_ORDER = 1000.0
"""Of the one BaselineAdminNetworkPolicy, which has no priority."""
_TIERS = {"Admin": ADMIN_TIER, "Baseline": BASELINE_TIER}
_ACTIONS = {"Accept": RuleAction.ALLOW, "Allow": RuleAction.ALLOW, "Deny": RuleAction.DENY, "Pass": RuleAction.PASS}
_NAMED_PORT_PROTOCOLS = ("TCP", "UDP", "SCTP")

_Rule = TypeVar("_Rule", docs.IngressRule, docs.EgressRule)
_Ports = tuple[int | None, tuple[tuple[int, int], ...], tuple[str, ...]]
"""Protocol, ranges and names: one rule each."""


def read_cluster_policy(doc: docs.AdminPolicyDoc) -> Policy:
    """A ClusterNetworkPolicy."""
    tier = _TIERS.get(doc.spec.tier)
    if tier is None:
        raise FieldError("spec.tier", f"{doc.spec.tier!r} is neither Admin nor Baseline")
    return _read(doc, tier, _priority(doc))


def read_admin_policy(doc: docs.AdminPolicyDoc) -> Policy:
    """An AdminNetworkPolicy."""
    return _read(doc, ADMIN_TIER, _priority(doc))


def read_baseline_policy(doc: docs.AdminPolicyDoc, name: str) -> Policy:
    """The BaselineAdminNetworkPolicy; there is one, called `default`."""
    if name != "default":
        raise FieldError("metadata.name", f"{name!r} is read by no one: it is `default`")
    return _read(doc, BASELINE_TIER, BASELINE_ORDER)


def _priority(doc: docs.AdminPolicyDoc) -> float:
    if doc.spec.priority is None:
        raise FieldError("spec.priority", "is missing")
    return float(doc.spec.priority)


def _read(doc: docs.AdminPolicyDoc, tier: str, order: float) -> Policy:
    """Applies in a direction only where it has rules for it: the tiers pass by default."""
    ingress = tuple(_rules(doc.spec.ingress, _INGRESS, _ingress_rule))
    egress = tuple(_rules(doc.spec.egress, _EGRESS, _egress_rule))
    return Policy(
        tier=tier,
        order=order,
        selector=_subject(doc.spec.subject),
        applies_ingress=bool(ingress),
        applies_egress=bool(egress),
        ingress=ingress,
        egress=egress,
    )


def _subject(subject: docs.Subject) -> Selector:
    pods = Compare(ORCHESTRATOR_LABEL, Operator.EQUALS, "k8s")
    if subject.namespaces is not None:
        return conjunction(_namespaces("spec.subject.namespaces", subject.namespaces), pods)
    if subject.pods is None:
        raise FieldError("spec.subject", "has neither namespaces nor pods")
    return _pods("spec.subject.pods", subject.pods)


_INGRESS = msgspec.json.Decoder(docs.IngressRule)
_EGRESS = msgspec.json.Decoder(docs.EgressRule)
_ACTION = msgspec.json.Decoder(docs.RuleAction)


def _rules(
    rules: Iterable[msgspec.Raw] | None,
    decoder: msgspec.json.Decoder[_Rule],
    read: Callable[[_Rule], Iterable[PolicyRule]],
) -> Iterator[PolicyRule]:
    """Each rule, as many as it has peers and ports; all of them keep the place of the one that was written."""
    for index, raw in enumerate(rules or ()):
        try:
            yield from tuple(replace(rule, index=index) for rule in read(decoder.decode(raw)))
        except (*UNREADABLE, FieldError):
            if _ACTIONS.get(_ACTION.decode(raw).action) in (RuleAction.DENY, RuleAction.PASS):
                yield PolicyRule(RuleAction.DENY, index=index)


def _ingress_rule(rule: docs.IngressRule) -> Iterator[PolicyRule]:
    action = _action(rule.action)
    for peer in rule.from_:
        if peer.networks is not None or peer.nodes is not None:
            raise FieldError("from", "networks and nodes are for egress")
        source = _peer(peer)
        for protocol, ranges, names in _ports(rule):
            yield PolicyRule(
                action, protocol=protocol, source=source, destination=EntityMatch(ports=ranges, port_names=names)
            )


def _egress_rule(rule: docs.EgressRule) -> Iterator[PolicyRule]:
    action = _action(rule.action)
    for peer in rule.to:
        target = _peer(peer)
        for protocol, ranges, names in _ports(rule):
            joined = replace(target, ports=ranges, port_names=names)
            yield PolicyRule(action, protocol=protocol, destination=joined)


def _action(word: str) -> RuleAction:
    action = _ACTIONS.get(word)
    if action is None:
        raise FieldError("action", f"{word!r} is not Accept, Allow, Deny or Pass")
    return action


def _peer(peer: docs.Peer) -> EntityMatch:
    if peer.domain_names is not None:
        raise FieldError("domainNames", "are not enforced")
    if peer.nodes is not None:
        return EntityMatch(nodes=read_label_selector("nodes", _as_selector(peer.nodes)))
    if peer.networks is not None:
        return EntityMatch(nets=_networks(peer.networks))
    if peer.namespaces is not None:
        return EntityMatch(selector=_namespaces("namespaces", peer.namespaces))
    if peer.pods is None:
        raise FieldError("", "a peer selects nothing")
    return EntityMatch(selector=_pods("pods", peer.pods))


def _networks(texts: list[str]) -> tuple[Prefix, ...]:
    if not texts:
        raise FieldError("networks", "is empty")
    return read_prefixes("networks", texts)


def _namespaces(field: str, labels: docs.Labels) -> Selector:
    """Those whose labels match; all of them where nothing is asked."""
    chosen = read_label_selector(field, _as_selector(labels), NAMESPACE_PREFIX)
    return Has(NAMESPACE_LABEL) if isinstance(chosen, All) else chosen


def _pods(field: str, pods: docs.PodsOf) -> Selector:
    return conjunction(
        _namespaces(f"{field}.namespaceSelector", pods.namespace_selector),
        Compare(ORCHESTRATOR_LABEL, Operator.EQUALS, "k8s"),
        read_label_selector(f"{field}.podSelector", _as_selector(pods.pod_selector)),
    )


def _as_selector(labels: docs.Labels) -> LabelSelector:
    expressions = [LabelExpression(one.key, one.operator, one.values) for one in labels.match_expressions or ()]
    return LabelSelector(labels.match_labels, expressions)


def _ports(rule: docs.IngressRule | docs.EgressRule) -> list[_Ports]:
    """What is asked of the destination's port, as alternatives; any where nothing is asked."""
    found = [one for port in rule.ports or () for one in _admin_port(port)]
    found += [one for protocol in rule.protocols or () for one in _protocol(protocol)]
    return found or [(None, (), ())]


def _admin_port(port: docs.AdminPort) -> Iterator[_Ports]:
    if port.port_number is not None:
        number = port.port_number
        yield read_protocol("protocol", number.protocol), (_span(number.port, number.port),), ()
    elif port.port_range is not None:
        span = port.port_range
        yield read_protocol("protocol", span.protocol), (_span(span.start, span.end),), ()
    elif port.named_port:
        yield from _named_port(port.named_port)
    else:
        raise FieldError("ports", "a port is neither a number, a range nor a name")


def _protocol(protocol: docs.Protocol) -> Iterator[_Ports]:
    """A protocol without a port is all of its ports; nothing at all is any protocol."""
    if protocol.destination_named_port:
        yield from _named_port(protocol.destination_named_port)
        return
    given = (("TCP", protocol.tcp), ("UDP", protocol.udp), ("SCTP", protocol.sctp))
    chosen = [(word, transport) for word, transport in given if transport is not None]
    if not chosen:
        yield None, (), ()
    for word, transport in chosen:
        port = transport.destination_port
        ranges: tuple[tuple[int, int], ...] = ()
        if port is not None and port.number is not None:
            ranges = (_span(port.number, port.number),)
        elif port is not None and port.range is not None:
            ranges = (_span(port.range.start, port.range.end),)
        yield read_protocol("protocol", word), ranges, ()


def _named_port(name: str) -> Iterator[_Ports]:
    """A container port's name, whatever its protocol."""
    for word in _NAMED_PORT_PROTOCOLS:
        yield read_protocol("protocol", word), (), (name,)


def _span(first: int, last: int) -> tuple[int, int]:
    if not 0 < first <= last <= 65535:
        raise FieldError("port", f"{first} to {last} is no port range")
    return first, last
