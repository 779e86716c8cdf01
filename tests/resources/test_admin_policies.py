"""Kubernetes' policies for administrators as they are read: what each field means, and what fails closed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from felixpy.addresses import format_address, parse_prefix
from felixpy.calc.policy.peers import every_address
from felixpy.resources.codec import Decoder
from felixpy.resources.policy_types import EntityMatch, Policy, PolicyRule, RuleAction
from felixpy.resources.resource import Broken
from felixpy.resources.tables import Decoded, Table
from felixpy.resources.types import Node
from felixpy.selector import render_selector

KEYS = {
    "ClusterNetworkPolicy": "v1alpha2/clusternetworkpolicies/p",
    "AdminNetworkPolicy": "v1alpha1/adminnetworkpolicies/p",
    "BaselineAdminNetworkPolicy": "v1alpha1/baselineadminnetworkpolicies/default",
}
EVERYONE = {"namespaces": {}}
IN_NAMESPACES = "has(projectcalico.org/namespace)"
DENY_ALL = PolicyRule(RuleAction.DENY)


def read(kind: str, **spec: Any) -> Policy | Broken:
    """A policy of `kind`, for all pods unless `spec` says otherwise."""
    body = {"metadata": {}, "spec": {"subject": EVERYONE, "priority": 5, **spec}}
    key = f"/felixpy/resources/policy.networking.k8s.io/{KEYS[kind]}"
    decoded = Decoder("n").decode(key.encode(), json.dumps(body).encode())
    if isinstance(decoded, Broken):
        return decoded
    assert isinstance(decoded, Decoded)
    assert decoded.ref.table == Table(kind)
    assert isinstance(decoded.value, Policy)
    return decoded.value


def cluster(**spec: Any) -> Policy:
    policy = read("ClusterNetworkPolicy", tier="Admin", **spec)
    assert isinstance(policy, Policy)
    return policy


def test_tier_order_and_subject() -> None:
    policy = cluster(subject={"pods": {"namespaceSelector": {"matchLabels": {"env": "x"}}, "podSelector": {}}})
    assert (policy.tier, policy.order) == ("kube-admin", 5.0)
    assert render_selector(policy.selector) == 'pcns.env == "x" && projectcalico.org/orchestrator == "k8s"'
    baseline = read("ClusterNetworkPolicy", tier="Baseline")
    assert isinstance(baseline, Policy)
    assert baseline.tier == "kube-baseline"
    old = read("AdminNetworkPolicy"), read("BaselineAdminNetworkPolicy")
    assert [(one.tier, one.order) for one in old if isinstance(one, Policy)] == [
        ("kube-admin", 5.0),
        ("kube-baseline", 1000.0),
    ]


def test_a_direction_without_rules_is_left_alone() -> None:
    policy = cluster(ingress=[{"action": "Deny", "from": [EVERYONE]}])
    assert (policy.applies_ingress, policy.applies_egress) == (True, False)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ({"tcp": {"destinationPort": {"number": 80}}}, [(6, ((80, 80),), ())]),
        ({"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}, [(17, ((1, 9),), ())]),
        ({"sctp": {}}, [(132, (), ())]),
        ({"destinationNamedPort": "web"}, [(number, (), ("web",)) for number in (6, 17, 132)]),
        ({}, [(None, (), ())]),
    ],
    ids=str,
)
def test_protocols(protocol: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    policy = cluster(ingress=[{"action": "Accept", "from": [EVERYONE], "protocols": [protocol]}])
    assert [(one.protocol, one.destination.ports, one.destination.port_names) for one in policy.ingress] == expected
    assert {render_selector(one.source.selector) for one in policy.ingress if one.source.selector} == {IN_NAMESPACES}


def test_ports_of_the_older_kinds() -> None:
    ports = [
        {"portNumber": {"protocol": "UDP", "port": 53}},
        {"portRange": {"protocol": "TCP", "start": 1, "end": 2}},
        {"namedPort": "web"},
    ]
    policy = read("AdminNetworkPolicy", egress=[{"action": "Allow", "to": [EVERYONE], "ports": ports}])
    assert isinstance(policy, Policy)
    assert [(one.protocol, one.destination.ports, one.destination.port_names) for one in policy.egress] == [
        (17, ((53, 53),), ()),
        (6, ((1, 2),), ()),
        *((number, (), ("web",)) for number in (6, 17, 132)),
    ]


def test_networks() -> None:
    policy = cluster(egress=[{"action": "Pass", "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}]}])
    nets = (parse_prefix("10.0.0.0/8"), parse_prefix("fd00::/8"))
    assert policy.egress == (PolicyRule(RuleAction.PASS, destination=EntityMatch(nets=nets), index=0),)


def test_nodes() -> None:
    labels = {"matchLabels": {"role": "db"}, "matchExpressions": [{"key": "zone", "operator": "Exists"}]}
    policy = cluster(egress=[{"action": "Accept", "to": [{"nodes": labels}, {"nodes": {}}]}])
    found = [render_selector(one.destination.nodes) for one in policy.egress if one.destination.nodes]
    assert found == ['role == "db" && has(zone)', "all()"]
    assert cluster(ingress=[{"action": "Deny", "from": [{"nodes": {}}]}]).ingress == (replace(DENY_ALL, index=0),)


def test_what_is_a_nodes_own_address() -> None:
    addresses = [
        {"address": "192.0.2.9"},
        {"address": "198.51.100.1/24", "type": "ExternalIP"},
        {"address": "n1.local"},
    ]
    spec = {"bgp": {"ipv4Address": "192.0.2.1/24"}, "addresses": [{"address": "192.0.2.1/24"}, *addresses]}
    body = {"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "n1"}, "spec": spec}
    decoded = Decoder("").decode(b"/calico/resources/v3/projectcalico.org/nodes/n1", json.dumps(body).encode())
    assert isinstance(decoded, Decoded)
    assert isinstance(decoded.value, Node)
    assert [*map(format_address, every_address(decoded.value))] == ["192.0.2.1", "192.0.2.9", "198.51.100.1"]


@pytest.mark.parametrize(
    "peer",
    [
        {"domainNames": ["example.org"]},
        {"networks": ["10.0.0.0/33"]},
        {"networks": []},
        {"namespaces": {"sameLabels": ["a"]}},
        {"somethingNew": {}},
        {},
    ],
    ids=str,
)
def test_what_cannot_be_enforced_fails_closed(peer: dict[str, Any]) -> None:
    rules = [{"action": action, "to": [EVERYONE, peer]} for action in ("Accept", "Deny", "Pass", "Odd")]
    policy = cluster(egress=rules)
    assert policy.egress == (replace(DENY_ALL, index=1), replace(DENY_ALL, index=2))


def test_a_rule_of_many_peers_and_ports_keeps_its_place() -> None:
    ports = [{"tcp": {"destinationPort": {"number": 80}}}, {"udp": {}}]
    rules = [
        {"action": "Accept", "from": [{"nodes": {}}]},
        {"action": "Deny", "from": [EVERYONE, EVERYONE], "protocols": ports},
        {"action": "Pass", "from": [EVERYONE]},
    ]
    assert [rule.index for rule in cluster(ingress=rules).ingress] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"tier": "Admin", "subject": {}}, "spec.subject"),
        ({"tier": "Odd"}, "spec.tier"),
        ({"tier": "Admin", "priority": None}, "spec.priority"),
        ({"tier": "Admin", "subject": {"pods": {"podSelector": {}}}}, "spec.subject.pods.namespaceSelector"),
    ],
    ids=str,
)
def test_a_broken_policy_is_named(spec: dict[str, Any], field: str) -> None:
    broken = read("ClusterNetworkPolicy", **spec)
    assert isinstance(broken, Broken)
    assert broken.field == field
