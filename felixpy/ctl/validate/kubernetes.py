"""Kubernetes kinds: NetworkPolicy, Namespace, Service, EndpointSlice, Endpoints.

Source  k8s.io/api (fields); kubernetes/pkg/apis/{core,discovery,networking}/validation (rules).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, Field, PlainValidator

from felixpy.addresses import parse_address, parse_prefix
from felixpy.ctl.manifests import Path, describe
from felixpy.ctl.validate.fields import (
    IANA_NAME,
    IANA_NAME_LIMIT,
    Address,
    Cidr,
    DnsLabel,
    Labels,
    PortNumber,
    Prefix,
    Text,
    is_v6,
)
from felixpy.ctl.validate.metadata import LabelSelector, Metadata, Resource
from felixpy.ctl.validate.shape import Fault, Shape
from felixpy.resources.services import ANNOTATION_PREFIXES, CALICO_ADDRESSES, CALICO_ANNOTATIONS

AFFINITY_LIMIT_S = 86_400
SLICE_ADDRESS_LIMIT = 100

TransportProtocol = Literal["TCP", "UDP", "SCTP"]
Family = Literal["IPv4", "IPv6"]
Policy = Literal["Cluster", "Local"]


def check_target_port(value: object) -> int | str:
    """A port's number, or its IANA name (RFC 6335 §5.1: at most 15 characters)."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    if isinstance(value, str) and len(value) <= IANA_NAME_LIMIT and IANA_NAME.fullmatch(value):
        return value
    raise ValueError(f"{describe(value)} is neither a port (1-65535) nor a port's name")


def check_cluster_ip(text: str) -> str:
    """An address, `None` (headless), or empty (to be given)."""
    if text not in ("", "None"):
        parse_address(text)
    return text


TargetPort = Annotated[int | str, PlainValidator(check_target_port)]
ClusterIp = Annotated[str, AfterValidator(check_cluster_ip)]


class IpBlock(Shape):
    cidr: Cidr
    except_: Annotated[list[Cidr], Field(alias="except")] = []

    def faults(self) -> Iterator[Fault]:
        whole = parse_prefix(self.cidr)
        for index, text in enumerate(self.except_):
            part = parse_prefix(text)
            if not whole.contains(part.address) or part.length <= whole.length:
                yield Fault(("except", index), f"{text!r} is no part of {self.cidr}")


class PolicyPeer(Shape):
    ipBlock: IpBlock | None = None
    namespaceSelector: LabelSelector | None = None
    podSelector: LabelSelector | None = None

    def faults(self) -> Iterator[Fault]:
        selects = self.namespaceSelector is not None or self.podSelector is not None
        if self.ipBlock is None and not selects:
            yield Fault((), "needs ipBlock, namespaceSelector or podSelector; select everything with `{}`")
        if self.ipBlock is not None and selects:
            yield Fault(("ipBlock",), "cannot stand beside namespaceSelector or podSelector")


class PolicyPort(Shape):
    protocol: TransportProtocol = "TCP"
    port: TargetPort | None = None
    endPort: PortNumber | None = None

    def faults(self) -> Iterator[Fault]:
        if self.endPort is None:
            return
        if not isinstance(self.port, int):
            yield Fault(("endPort",), "needs a port that is a number")
        elif self.endPort < self.port:
            yield Fault(("endPort",), f"is {self.endPort}, before port {self.port}")


class IngressRule(Shape):
    from_: Annotated[list[PolicyPeer], Field(alias="from")] = []
    ports: list[PolicyPort] = []


class EgressRule(Shape):
    to: list[PolicyPeer] = []
    ports: list[PolicyPort] = []


class KubePolicySpec(Shape):
    podSelector: LabelSelector = LabelSelector()
    ingress: list[IngressRule] = []
    egress: list[EgressRule] = []
    policyTypes: Annotated[list[Literal["Ingress", "Egress"]], Field(max_length=2)] = []


class NetworkPolicy(Resource):
    spec: KubePolicySpec = KubePolicySpec()


class StagedKubePolicySpec(KubePolicySpec):
    stagedAction: Literal["Set", "Delete", "Learn", "Ignore"] = "Set"


class StagedKubernetesNetworkPolicy(Resource):
    spec: StagedKubePolicySpec = StagedKubePolicySpec()


class NamespaceMetadata(Metadata):
    anything_else = True

    name: DnsLabel


class Namespace(Resource):
    anything_else = True

    metadata: NamespaceMetadata


class ServicePort(Shape):
    name: DnsLabel | None = None
    protocol: TransportProtocol = "TCP"
    appProtocol: str | None = None
    port: PortNumber
    targetPort: TargetPort | None = None
    nodePort: Annotated[int, Field(ge=0, le=65535)] | None = None


class ClientIp(Shape):
    timeoutSeconds: Annotated[int, Field(ge=1, le=AFFINITY_LIMIT_S)] | None = None


class AffinityConfig(Shape):
    clientIP: ClientIp | None = None


class ServiceSpec(Shape):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    selector: Labels = {}
    ports: list[ServicePort] = []
    clusterIP: ClusterIp = ""
    clusterIPs: Annotated[list[ClusterIp], Field(max_length=2)] = []
    externalIPs: list[Address] = []
    externalName: str = ""
    loadBalancerIP: str = ""
    loadBalancerClass: str | None = None
    loadBalancerSourceRanges: list[Prefix] = []
    allocateLoadBalancerNodePorts: bool | None = None
    externalTrafficPolicy: Policy | None = None
    internalTrafficPolicy: Policy | None = None
    healthCheckNodePort: Annotated[int, Field(ge=0, le=65535)] | None = None
    publishNotReadyAddresses: bool = False
    sessionAffinity: Literal["None", "ClientIP"] = "None"
    sessionAffinityConfig: AffinityConfig | None = None
    ipFamilies: Annotated[list[Family], Field(max_length=2)] = []
    ipFamilyPolicy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    trafficDistribution: str | None = None

    def faults(self) -> Iterator[Fault]:
        if self.type == "ExternalName":
            if not self.externalName:
                yield Fault(("externalName",), "is needed with type ExternalName")
            return
        headless = self.clusterIP == "None"
        if not self.ports and not headless:
            yield Fault(("ports",), "a Service needs a port")
        if headless and self.type != "ClusterIP":
            yield Fault(("clusterIP",), f"None (headless) cannot be of type {self.type}")
        if self.clusterIP and self.clusterIPs and self.clusterIPs[0] != self.clusterIP:
            yield Fault(("clusterIPs", 0), f"must be clusterIP, {self.clusterIP}")
        if self.externalTrafficPolicy == "Local" and self.type == "ClusterIP" and not self.externalIPs:
            yield Fault(("externalTrafficPolicy",), "needs type NodePort or LoadBalancer")
        if self.loadBalancerIP:
            yield from _addresses_in(("loadBalancerIP",), self.loadBalancerIP)
        for index, port in enumerate(self.ports):
            if not port.name and len(self.ports) > 1:
                yield Fault(("ports", index, "name"), "is needed where a Service has several ports")
            if port.nodePort and self.type == "ClusterIP":
                yield Fault(("ports", index, "nodePort"), "needs type NodePort or LoadBalancer")
        yield from _port_doubles(self.ports)


def _addresses_in(path: Path, text: str) -> Iterator[Fault]:
    for part in text.split(","):
        try:
            parse_address(part.strip())
        except ValueError as error:
            yield Fault(path, str(error))


class _Numbered(Protocol):
    @property
    def name(self) -> str | None: ...
    @property
    def protocol(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def nodePort(self) -> int | None: ...


def _port_doubles(ports: Sequence[_Numbered]) -> Iterator[Fault]:
    names = Counter(port.name for port in ports if port.name)
    numbers = Counter((port.protocol, port.port) for port in ports)
    node_ports = Counter((port.protocol, port.nodePort) for port in ports if port.nodePort)
    for index, port in enumerate(ports):
        if port.name and names[port.name] > 1:
            yield Fault(("ports", index, "name"), f"{port.name!r} is given twice")
        if numbers[port.protocol, port.port] > 1:
            yield Fault(("ports", index, "port"), f"{port.protocol} {port.port} is given twice")
        if port.nodePort and node_ports[port.protocol, port.nodePort] > 1:
            yield Fault(("ports", index, "nodePort"), f"{port.protocol} {port.nodePort} is given twice")


class Service(Resource):
    anything_else = True

    spec: ServiceSpec

    def faults(self) -> Iterator[Fault]:
        """What its annotations ask for has to be possible, beside what the fields say."""
        annotations = self.metadata.annotations
        asked = [
            prefix + "loadBalancerIPs" for prefix in ANNOTATION_PREFIXES if prefix + "loadBalancerIPs" in annotations
        ]
        if asked and self.spec.loadBalancerIP:
            yield Fault(("spec", "loadBalancerIP"), f"cannot stand beside the annotation {asked[0]}")
        for word in asked:
            yield from _addresses_in(("metadata", "annotations", word), annotations[word])
        for word in CALICO_ANNOTATIONS:
            if word in annotations:
                yield from _listed_in(("metadata", "annotations", word), annotations[word], word == CALICO_ADDRESSES)


def _listed_in(path: Path, text: str, addresses: bool) -> Iterator[Fault]:
    """Calico's annotations are lists in JSON; of addresses there is one of a family at most."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        yield Fault(path, f'{text!r} is no list in JSON, as in ["one"]')
        return
    if not addresses:
        return
    wrong = [fault for one in listed for fault in _addresses_in(path, one)]
    yield from wrong
    if not wrong and len({is_v6(one) for one in listed}) != len(listed):
        yield Fault(path, "has more than one address of a family")


class SlicePort(Shape):
    name: str | None = None
    protocol: TransportProtocol = "TCP"
    appProtocol: str | None = None
    port: PortNumber | None = None


class Conditions(Shape):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(Shape):
    anything_else = True

    addresses: Annotated[list[Text], Field(min_length=1, max_length=SLICE_ADDRESS_LIMIT)]
    conditions: Conditions = Conditions()
    nodeName: str | None = None
    zone: str | None = None
    hostname: str | None = None


class EndpointSlice(Resource):
    addressType: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: list[SliceEndpoint] = []
    ports: list[SlicePort] = []

    def faults(self) -> Iterator[Fault]:
        if self.addressType == "FQDN":
            return
        for index, endpoint in enumerate(self.endpoints):
            for at, text in enumerate(endpoint.addresses):
                path: Path = ("endpoints", index, "addresses", at)
                try:
                    parse_address(text)
                except ValueError as error:
                    yield Fault(path, str(error))
                    continue
                if is_v6(text) != (self.addressType == "IPv6"):
                    yield Fault(path, f"{text} is not {self.addressType}")


class EndpointAddress(Shape):
    anything_else = True

    ip: Address
    nodeName: str | None = None


class Subset(Shape):
    addresses: list[EndpointAddress] = []
    notReadyAddresses: list[EndpointAddress] = []
    ports: list[SlicePort] = []


class Endpoints(Resource):
    subsets: list[Subset] = []
