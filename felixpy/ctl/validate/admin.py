"""Kubernetes' policies for administrators.

Source  sigs.k8s.io/network-policy-api v1alpha1 and v1alpha2 (fields, limits, and which exclude each other).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from felixpy.ctl.validate.fields import PortNumber, Prefix
from felixpy.ctl.validate.kubernetes import TransportProtocol
from felixpy.ctl.validate.metadata import LabelSelector, Resource
from felixpy.ctl.validate.shape import Fault, Shape

NETWORK_LIMIT = 25
PEER_LIMIT = 25
RULE_LIMIT = 100
Priority = Annotated[int, Field(ge=0, le=1000)]


class OneOf(Shape):
    """A mapping of which exactly one of the named fields is given."""

    def faults(self) -> Iterator[Fault]:
        names = tuple(type(self).model_fields)
        if sum(getattr(self, name) is not None for name in names) != 1:
            yield Fault((), f"needs exactly one of {', '.join(names)}")


class PodsOf(Shape):
    namespaceSelector: LabelSelector
    podSelector: LabelSelector


class Subject(OneOf):
    namespaces: LabelSelector | None = None
    pods: PodsOf | None = None


class EgressPeer(OneOf):
    namespaces: LabelSelector | None = None
    pods: PodsOf | None = None
    networks: Annotated[list[Prefix], Field(min_length=1, max_length=NETWORK_LIMIT)] | None = None
    nodes: LabelSelector | None = None
    domainNames: list[str] | None = None


class Span(Shape):
    start: PortNumber
    end: PortNumber

    def faults(self) -> Iterator[Fault]:
        if self.end <= self.start:
            yield Fault(("end",), f"is {self.end}, not after start {self.start}")


class NumberedPort(Shape):
    protocol: TransportProtocol = "TCP"
    port: PortNumber


class PortSpan(Span):
    protocol: TransportProtocol = "TCP"


class AdminPort(OneOf):
    portNumber: NumberedPort | None = None
    portRange: PortSpan | None = None
    namedPort: str | None = None


class Port(OneOf):
    number: PortNumber | None = None
    range: Span | None = None


class Transport(Shape):
    destinationPort: Port | None = None


class RuleProtocol(OneOf):
    tcp: Transport | None = None
    udp: Transport | None = None
    sctp: Transport | None = None
    destinationNamedPort: str | None = None


Froms = Annotated[list[Subject], Field(alias="from", min_length=1, max_length=PEER_LIMIT)]
Tos = Annotated[list[EgressPeer], Field(min_length=1, max_length=PEER_LIMIT)]


class ClusterIngress(Shape):
    name: str = ""
    action: Literal["Accept", "Deny", "Pass"]
    from_: Froms
    protocols: list[RuleProtocol] = []


class ClusterEgress(Shape):
    name: str = ""
    action: Literal["Accept", "Deny", "Pass"]
    to: Tos
    protocols: list[RuleProtocol] = []


class ClusterSpec(Shape):
    tier: Literal["Admin", "Baseline"]
    priority: Priority
    subject: Subject
    ingress: Annotated[list[ClusterIngress], Field(max_length=RULE_LIMIT)] = []
    egress: Annotated[list[ClusterEgress], Field(max_length=RULE_LIMIT)] = []


class ClusterNetworkPolicy(Resource):
    spec: ClusterSpec


class AdminIngress(Shape):
    name: str = ""
    action: Literal["Allow", "Deny", "Pass"]
    from_: Froms
    ports: list[AdminPort] = []


class AdminEgress(Shape):
    name: str = ""
    action: Literal["Allow", "Deny", "Pass"]
    to: Tos
    ports: list[AdminPort] = []


class AdminSpec(Shape):
    priority: Priority
    subject: Subject
    ingress: Annotated[list[AdminIngress], Field(max_length=RULE_LIMIT)] = []
    egress: Annotated[list[AdminEgress], Field(max_length=RULE_LIMIT)] = []


class AdminNetworkPolicy(Resource):
    spec: AdminSpec


class BaselineIngress(AdminIngress):
    action: Literal["Allow", "Deny"]


class BaselineEgress(AdminEgress):
    action: Literal["Allow", "Deny"]


class BaselineSpec(Shape):
    subject: Subject
    ingress: Annotated[list[BaselineIngress], Field(max_length=RULE_LIMIT)] = []
    egress: Annotated[list[BaselineEgress], Field(max_length=RULE_LIMIT)] = []


class BaselineAdminNetworkPolicy(Resource):
    spec: BaselineSpec

    def faults(self) -> Iterator[Fault]:
        if self.metadata.name != "default":
            yield Fault(("metadata", "name"), "there is one, and its name is `default`")
