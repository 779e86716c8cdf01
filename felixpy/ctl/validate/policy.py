"""Calico's policies, profiles and tiers.

Source  projectcalico/calico api/pkg/apis/projectcalico/v3 (fields and limits), libcalico-go/lib/validator/v3 (rules).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from felixpy.ctl.validate.fields import (
    DNS_LABEL,
    WITH_PORTS,
    Cidr,
    DnsLabel,
    LabelKey,
    Labels,
    ObjectName,
    Port,
    Protocol,
    Text,
    check_masked,
    check_selector,
    is_port_name,
    is_v6,
    protocol_number,
)
from felixpy.ctl.validate.metadata import Metadata, Resource
from felixpy.ctl.validate.shape import Fault, Shape

HTTP_LIMIT = 20
HTTP_PATH_LIMIT = 1024
BUILT_IN_TIERS = {"default": (1_000_000, "Deny"), "kube-admin": (1_000, "Pass"), "kube-baseline": (10_000_000, "Pass")}

_EVERYTHING = ("0.0.0.0/0", "::/0")
_LOCAL_NAME = re.compile(rf"({DNS_LABEL}\.)?{DNS_LABEL}")
_IMPORTED_NAME = re.compile(rf"(knp|ossg)\.default\.{DNS_LABEL}(\.{DNS_LABEL})*")


def check_own_selector(text: str) -> str:
    """A selector of endpoints, which are never all that is outside of namespaces."""
    if "global(" in text:
        raise ValueError("global() stands in the namespaceSelector of a rule alone")
    return check_selector(text)


def check_namespace_selector(text: str) -> str:
    """One of namespaces; `global()` cannot be a part of it."""
    if "global(" in text and text.replace(" ", "") != "global()":
        raise ValueError("global() cannot stand beside other conditions")
    return check_selector(text)


def check_policy_name(text: str) -> str:
    """`name` or `tier.name`."""
    if not _LOCAL_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no name: lower-case letters, digits and '-', with one '.' behind a tier's name")
    return text


def check_namespaced_policy_name(text: str) -> str:
    """The same, or the name of a policy that another system wrote."""
    return text if _IMPORTED_NAME.fullmatch(text) else check_policy_name(text)


SelectorText = Annotated[str, AfterValidator(check_own_selector)]
NamespaceSelector = Annotated[str, AfterValidator(check_namespace_selector)]
Net = Annotated[Cidr, AfterValidator(check_masked)]
Nets = list[Net]
Ports = list[Port]
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
    name: ObjectName
    namespace: ObjectName | Literal[""] = ""


class Entity(Shape):
    """The source or the destination of a rule."""

    nets: Nets = []
    notNets: Nets = []
    selector: SelectorText = ""
    notSelector: SelectorText = ""
    namespaceSelector: NamespaceSelector = ""
    services: ServiceMatch | None = None
    ports: Ports = []
    notPorts: Ports = []
    serviceAccounts: ServiceAccounts | None = None

    def faults(self) -> Iterator[Fault]:
        for index, net in enumerate(self.notNets):
            if net in _EVERYTHING:
                yield Fault(("notNets", index), f"{net!r} is everything: nothing would be left that matches")
        if self.services is None:
            return
        for field in ("ports", "notPorts", "nets", "notNets", "selector", "notSelector", "namespaceSelector"):
            if getattr(self, field):
                yield Fault((field,), "cannot stand beside services")
        if self.serviceAccounts is not None:
            yield Fault(("serviceAccounts",), "cannot stand beside services")


def check_http_path(text: str) -> str:
    """RFC 3986 §3.3."""
    if not text.startswith("/") or any(character in text for character in "? #"):
        raise ValueError(f"{text!r} is no path: it begins with '/', and has no blank, '?' and '#'")
    return text


HttpPathText = Annotated[str, Field(max_length=HTTP_PATH_LIMIT), AfterValidator(check_http_path)]


class HttpPath(Shape):
    exact: HttpPathText | None = None
    prefix: HttpPathText | None = None

    def faults(self) -> Iterator[Fault]:
        if (self.exact is None) == (self.prefix is None):
            yield Fault((), "must have exact or prefix, and not both")


class HttpMatch(Shape):
    methods: Annotated[list[Text], Field(max_length=HTTP_LIMIT)] = []
    paths: Annotated[list[HttpPath], Field(max_length=HTTP_LIMIT)] = []

    def faults(self) -> Iterator[Fault]:
        if len(set(self.methods)) != len(self.methods):
            yield Fault(("methods",), "names a method twice")


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
        for field, named in (("protocol", self.protocol), ("notProtocol", self.notProtocol)):
            if (protocol_number(named), self.ipVersion) in ((1, 6), (58, 4)):
                yield Fault(("ipVersion",), f"is {self.ipVersion}, and {field} {named} is of the other family")
        if self.http is not None:
            if self.action != "Allow":
                yield Fault(("http",), f"needs action Allow, not {self.action}", ("action",))
            if number not in (None, 6):
                yield Fault(("http",), f"needs protocol TCP, not {self.protocol}", ("protocol",))
        for side, entity in (("source", self.source), ("destination", self.destination)):
            for field in ("ports", "notPorts"):
                named_only = self.protocol is None and all(map(is_port_name, getattr(entity, field)))
                if getattr(entity, field) and number not in WITH_PORTS and not named_only:
                    yield Fault((side, field), "needs protocol TCP, UDP or SCTP in the same rule", ("protocol",))
        yield from self._of_one_family()

    def _of_one_family(self) -> Iterator[Fault]:
        """All networks of a rule, and its ipVersion."""
        version = self.ipVersion
        for side, entity in (("source", self.source), ("destination", self.destination)):
            for field in ("nets", "notNets"):
                for index, net in enumerate(getattr(entity, field)):
                    found: Literal[4, 6] = 6 if is_v6(net) else 4
                    if self.ipVersion is not None and found != self.ipVersion:
                        yield Fault((side, field, index), f"{net!r} is not of ipVersion {self.ipVersion}")
                    elif version not in (None, found):
                        said = f"{net!r} is IPv{found}, beside IPv{version}: a rule's networks are of one family"
                        yield Fault((side, field, index), said)
                    version = version or found


Rules = list[Rule]


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
        if len(set(self.performanceHints)) != len(self.performanceHints):
            yield Fault(("performanceHints",), "names a hint twice")
        for direction, rules, side in (("ingress", self.ingress, "destination"), ("egress", self.egress, "source")):
            for index, rule in enumerate(rules):
                if getattr(rule, side).services is not None:
                    other = "source" if side == "destination" else "destination"
                    said = f"cannot be the {side} in {direction}: there Services are the {other}"
                    yield Fault((direction, index, side, "services"), said)
        for index, rule in enumerate(self.egress):
            if rule.http is not None:
                yield Fault(("egress", index, "http"), "cannot be in egress")
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
        yield from _empty_when_deleting(self, self.stagedAction)


class StagedGlobalSpec(GlobalPolicySpec):
    stagedAction: StagedAction = "Set"

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        yield from _empty_when_deleting(self, self.stagedAction)


def _empty_when_deleting(spec: PolicySpec, action: StagedAction) -> Iterator[Fault]:
    if action == "Delete":
        for field in type(spec).model_fields:
            if field not in ("stagedAction", "tier") and getattr(spec, field):
                yield Fault((field,), "must be empty with stagedAction Delete")


class GlobalMetadata(Metadata):
    name: Annotated[ObjectName, AfterValidator(check_policy_name)]


class NamespacedMetadata(Metadata):
    name: Annotated[ObjectName, AfterValidator(check_namespaced_policy_name)]


class NetworkPolicy(Resource):
    metadata: NamespacedMetadata
    spec: PolicySpec = PolicySpec()


class GlobalNetworkPolicy(Resource):
    metadata: GlobalMetadata
    spec: GlobalPolicySpec = GlobalPolicySpec()


class StagedNetworkPolicy(Resource):
    metadata: NamespacedMetadata
    spec: StagedSpec = StagedSpec()


class StagedGlobalNetworkPolicy(Resource):
    metadata: GlobalMetadata
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


class TierMetadata(Metadata):
    """Policies' names begin with it, so that it has no dots."""

    name: DnsLabel


class Tier(Resource):
    metadata: TierMetadata
    spec: TierSpec = TierSpec()

    def faults(self) -> Iterator[Fault]:
        name = self.metadata.name
        if name in BUILT_IN_TIERS:
            order, action = BUILT_IN_TIERS[name]
            if self.spec.order not in (None, order):
                yield Fault(("spec", "order"), f"the built-in tier {name} has order {order}")
            if self.spec.defaultAction != action and "defaultAction" in self.spec.model_fields_set:
                yield Fault(("spec", "defaultAction"), f"the built-in tier {name} ends in {action}")
