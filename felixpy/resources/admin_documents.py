"""The JSON of Kubernetes' policies for administrators, as it stands in etcd.

A rule is decoded on its own and strictly, so that what we do not know in one makes that rule fail and no other.
Source: sigs.k8s.io/network-policy-api v1alpha1 (AdminNetworkPolicy, BaselineAdminNetworkPolicy) and v1alpha2
(ClusterNetworkPolicy).
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct, field

from felixpy.resources.documents import Doc, ObjectDoc


class Strict(Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """As Doc, but an unknown field is an error."""


class Expression(Strict):
    key: str
    operator: str
    values: list[str] | None = None


class Labels(Strict):
    match_labels: dict[str, str] | None = None
    match_expressions: list[Expression] | None = None


class PodsOf(Strict):
    namespace_selector: Labels
    pod_selector: Labels


class Subject(Strict):
    namespaces: Labels | None = None
    pods: PodsOf | None = None


class Peer(Strict):
    namespaces: Labels | None = None
    pods: PodsOf | None = None
    networks: list[str] | None = None
    nodes: Labels | None = None
    domain_names: Any = None


class PortNumber(Strict):
    port: int
    protocol: str = "TCP"


class PortSpan(Strict):
    start: int
    end: int
    protocol: str = "TCP"


class AdminPort(Strict):
    """v1alpha1: one of these."""

    port_number: PortNumber | None = None
    port_range: PortSpan | None = None
    named_port: str | None = None


class Range(Strict):
    start: int
    end: int


class Port(Strict):
    number: int | None = None
    range: Range | None = None


class Transport(Strict):
    destination_port: Port | None = None


class Protocol(Strict):
    """v1alpha2: one of these."""

    tcp: Transport | None = None
    udp: Transport | None = None
    sctp: Transport | None = None
    destination_named_port: str | None = None


class RuleAction(Doc):
    """What is read of a rule that cannot be read whole."""

    action: str = ""


class IngressRule(Strict):
    action: str
    from_: list[Peer] = field(name="from")
    name: str = ""
    ports: list[AdminPort] | None = None
    protocols: list[Protocol] | None = None


class EgressRule(Strict):
    action: str
    to: list[Peer]
    name: str = ""
    ports: list[AdminPort] | None = None
    protocols: list[Protocol] | None = None


class AdminSpec(Doc):
    subject: Subject
    priority: int | None = None
    tier: str = ""
    ingress: list[Raw] | None = None
    egress: list[Raw] | None = None


class AdminPolicyDoc(ObjectDoc):
    spec: AdminSpec
