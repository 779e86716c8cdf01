"""Calico's policies, profiles and tiers.

Source  projectcalico/calico api/pkg/apis/projectcalico/v3 (fields and limits), libcalico-go/lib/validator/v3 (rules).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from felixpy.ctl.validate.fields import (
    WITH_PORTS,
    LabelKey,
    Labels,
    ObjectName,
    Port,
    Prefix,
    Protocol,
    SelectorText,
    Text,
    is_v6,
    protocol_number,
)
from felixpy.ctl.validate.metadata import Resource
from felixpy.ctl.validate.shape import Fault, Shape

RULE_LIMIT = 1024
NET_LIMIT = 256
PORT_LIMIT = 50
BUILT_IN_TIERS = {"default": (1_000_000, "Deny"), "kube-admin": (1_000, "Pass"), "kube-baseline": (10_000_000, "Pass")}

Nets = Annotated[list[Prefix], Field(max_length=NET_LIMIT)]
Ports = Annotated[list[Port], Field(max_length=PORT_LIMIT)]
Direction = Literal["Ingress", "Egress"]


class Icmp(Shape):
    type: Annotated[int, Field(ge=0, le=254)] | None = None
    code: Annotated[int, Field(ge=0, le=255)] | None = None

    def faults(self) -> Iterator[Fault]:
        if self.code is not None and self.type is None:
            yield Fault(("code",), "needs a type beside it", ("type",))


class ServiceAccounts(Shape):
    names: list[ObjectName] = []
    selector: SelectorText = ""


class ServiceMatch(Shape):
    name: Text
    namespace: str = ""


class Entity(Shape):
    """The source or the destination of a rule."""

    nets: Nets = []
    notNets: Nets = []
    selector: SelectorText = ""
    notSelector: SelectorText = ""
    namespaceSelector: SelectorText = ""
    services: ServiceMatch | None = None
    ports: Ports = []
    notPorts: Ports = []
    serviceAccounts: ServiceAccounts | None = None

    def faults(self) -> Iterator[Fault]:
        if self.services is None:
            return
        for field in ("ports", "notPorts", "nets", "notNets", "selector", "notSelector", "namespaceSelector"):
            if getattr(self, field):
                yield Fault((field,), "cannot stand beside services")
        if self.serviceAccounts is not None:
            yield Fault(("serviceAccounts",), "cannot stand beside services")


class HttpPath(Shape):
    exact: str | None = None
    prefix: str | None = None

    def faults(self) -> Iterator[Fault]:
        if (self.exact is None) == (self.prefix is None):
            yield Fault((), "must have exact or prefix, and not both")


class HttpMatch(Shape):
    methods: list[Text] = []
    paths: list[HttpPath] = []


class RuleMetadata(Shape):
    annotations: dict[LabelKey, str] = {}


class Rule(Shape):
    action: Literal["Allow", "Deny", "Log", "Pass"]
    ipVersion: Literal[4, 6] | None = None
    protocol: Protocol | None = None
    notProtocol: Protocol | None = None
    icmp: Icmp | None = None
    notICMP: Icmp | None = None
    source: Entity = Entity()
    destination: Entity = Entity()
    http: HttpMatch | None = None
    metadata: RuleMetadata | None = None

    def faults(self) -> Iterator[Fault]:
        number = protocol_number(self.protocol)
        for field in ("icmp", "notICMP"):
            if getattr(self, field) is not None and number not in (1, 58):
                yield Fault((field,), "needs protocol ICMP or ICMPv6 in the same rule", ("protocol",))
        if (number, self.ipVersion) in ((1, 6), (58, 4)):
            yield Fault(("ipVersion",), f"is {self.ipVersion}, and protocol {self.protocol} is of the other family")
        if self.http is not None:
            if self.action != "Allow":
                yield Fault(("http",), f"needs action Allow, not {self.action}", ("action",))
            if number not in (None, 6):
                yield Fault(("http",), f"needs protocol TCP, not {self.protocol}", ("protocol",))
        for side, entity in (("source", self.source), ("destination", self.destination)):
            for field in ("ports", "notPorts"):
                if getattr(entity, field) and number not in WITH_PORTS:
                    yield Fault((side, field), "needs protocol TCP, UDP or SCTP in the same rule", ("protocol",))
            for field in ("nets", "notNets"):
                for index, net in enumerate(getattr(entity, field)):
                    if self.ipVersion is not None and is_v6(net) != (self.ipVersion == 6):
                        yield Fault((side, field, index), f"{net!r} is not of ipVersion {self.ipVersion}")


Rules = Annotated[list[Rule], Field(max_length=RULE_LIMIT)]


class PolicySpec(Shape):
    tier: str = ""
    order: float | None = None
    selector: SelectorText = ""
    serviceAccountSelector: SelectorText = ""
    types: list[Direction] = []
    ingress: Rules = []
    egress: Rules = []
    performanceHints: list[Literal["AssumeNeededOnEveryNode"]] = []

    def faults(self) -> Iterator[Fault]:
        if len(set(self.types)) != len(self.types):
            yield Fault(("types",), "names a direction twice")
        for direction, rules in (("Ingress", self.ingress), ("Egress", self.egress)):
            if rules and self.types and direction not in self.types:
                said = f"has rules, and types leaves out {direction}: they would do nothing"
                yield Fault((direction.lower(),), said, ("types",))


class GlobalPolicySpec(PolicySpec):
    namespaceSelector: SelectorText = ""
    doNotTrack: bool = False
    preDNAT: bool = False
    applyOnForward: bool = False

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.doNotTrack and self.preDNAT:
            yield Fault(("preDNAT",), "cannot stand beside doNotTrack")
        if (self.doNotTrack or self.preDNAT) and not self.applyOnForward:
            yield Fault(("applyOnForward",), "must be true with doNotTrack or preDNAT", ("applyOnForward",))
        if self.preDNAT and (self.egress or "Egress" in self.types):
            yield Fault(("egress",) if self.egress else ("types",), "a preDNAT policy has no egress")
        for direction in ("ingress", "egress"):
            for index, rule in enumerate(getattr(self, direction)):
                for side in ("source", "destination"):
                    services = getattr(rule, side).services
                    if services is not None and not services.namespace:
                        yield Fault((direction, index, side, "services", "namespace"), "is needed in a global policy")


StagedAction = Literal["Set", "Delete", "Learn", "Ignore"]


class StagedSpec(PolicySpec):
    stagedAction: StagedAction = "Set"

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        yield from _empty_when_deleting(self.stagedAction, self.ingress, self.egress)


class StagedGlobalSpec(GlobalPolicySpec):
    stagedAction: StagedAction = "Set"

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        yield from _empty_when_deleting(self.stagedAction, self.ingress, self.egress)


def _empty_when_deleting(action: StagedAction, ingress: list[Rule], egress: list[Rule]) -> Iterator[Fault]:
    if action == "Delete":
        for field, rules in (("ingress", ingress), ("egress", egress)):
            if rules:
                yield Fault((field,), "must be empty with stagedAction Delete")


class NetworkPolicy(Resource):
    spec: PolicySpec = PolicySpec()


class GlobalNetworkPolicy(Resource):
    spec: GlobalPolicySpec = GlobalPolicySpec()


class StagedNetworkPolicy(Resource):
    spec: StagedSpec = StagedSpec()


class StagedGlobalNetworkPolicy(Resource):
    spec: StagedGlobalSpec = StagedGlobalSpec()


class ProfileSpec(Shape):
    ingress: Rules = []
    egress: Rules = []
    labelsToApply: Labels = {}


class Profile(Resource):
    spec: ProfileSpec = ProfileSpec()


class TierSpec(Shape):
    order: float | None = None
    defaultAction: Literal["Deny", "Pass"] = "Deny"


class Tier(Resource):
    spec: TierSpec = TierSpec()

    def faults(self) -> Iterator[Fault]:
        name = self.metadata.name
        if "." in name:
            yield Fault(("metadata", "name"), "a tier's name has no '.': policies' names begin with it")
        if name in BUILT_IN_TIERS:
            order, action = BUILT_IN_TIERS[name]
            if self.spec.order not in (None, order):
                yield Fault(("spec", "order"), f"the built-in tier {name} has order {order}")
            if self.spec.defaultAction != action and "defaultAction" in self.spec.model_fields_set:
                yield Fault(("spec", "defaultAction"), f"the built-in tier {name} ends in {action}")
