"""Calico's nodes, endpoints and settings of the cluster.

Source  projectcalico/calico libcalico-go/lib/apis/internalapi (Node, WorkloadEndpoint),
        api/pkg/apis/projectcalico/v3/{hostendpoint,felixconfig,clusterinfo,ipamconfig}.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from felixpy.addresses import parse_address, parse_prefix, version_of
from felixpy.ctl.validate.fields import (
    WITH_PORTS,
    Address,
    AsNumber,
    EndpointPortName,
    Mac,
    ObjectName,
    PortNumber,
    Prefix,
    Protocol,
    Text,
    check_port_range,
    protocol_number,
)
from felixpy.ctl.validate.metadata import Resource
from felixpy.ctl.validate.shape import Fault, Shape
from felixpy.resources.felix import read_interface_prefixes
from felixpy.resources.scalars import FieldError


def check_interface(text: str) -> str:
    """A name that the kernel takes (IFNAMSIZ is 16 with the final zero)."""
    if not text or len(text) > 15 or any(character in "/: \t" for character in text):
        raise ValueError(f"{text!r} is no interface: 1-15 characters, without blank, '/' and ':'")
    return text


def check_interface_filter(text: str) -> str:
    """A name, or with a `+` at its end the beginning of names; empty for all."""
    if text not in ("", "+"):
        check_interface(text.removesuffix("+"))
    return text


def check_log_prefix(text: str) -> str:
    """What rules of action Log begin their lines with."""
    if not re.fullmatch(r"[A-Za-z0-9%: /_-]*", text):
        raise ValueError(f"{text!r} has other characters than letters, digits, blanks and '%:/_-'")
    return text


def check_pattern(text: str) -> str:
    """A regular expression for the names of devices."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no pattern: {error}") from None
    return text


def check_interface_prefixes(text: str) -> str:
    """Beginnings of the names of workloads' interfaces, with commas between."""
    try:
        return read_interface_prefixes("", text)
    except FieldError as error:
        raise ValueError(error.why) from None


def check_ported(value: int | str) -> int | str:
    """A protocol that has ports."""
    if protocol_number(value) not in WITH_PORTS:
        raise ValueError(f"{value} has no ports: TCP, UDP or SCTP")
    return value


PortedProtocol = Annotated[Protocol, AfterValidator(check_ported)]
InterfaceName = Annotated[str, AfterValidator(check_interface)]
MtuBytes = Annotated[int, Field(ge=0, le=65535)]


class NamedPort(Shape):
    name: EndpointPortName
    protocol: PortedProtocol
    port: PortNumber


class WorkloadPort(Shape):
    """One that only hostPort tells of has no name."""

    name: EndpointPortName | Literal[""] = ""
    protocol: PortedProtocol
    port: PortNumber
    hostPort: Annotated[int, Field(ge=0, le=65535)] = 0
    hostIP: str = ""

    def faults(self) -> Iterator[Fault]:
        if not self.name and not self.hostPort:
            yield Fault(("name",), "is needed where there is no hostPort")


class NodeBgp(Shape):
    asNumber: AsNumber | None = None
    ipv4Address: Prefix | None = None
    ipv6Address: Prefix | None = None
    ipv4IPIPTunnelAddr: Address | None = None
    routeReflectorClusterID: Address | None = None
    interfaceIPv4: str | None = None
    interfaceIPv6: str | None = None

    def faults(self) -> Iterator[Fault]:
        for field, version in (("ipv4Address", 4), ("ipv6Address", 6)):
            text = getattr(self, field)
            if text is not None and parse_prefix(text).version != version:
                yield Fault((field,), f"{text!r} is not IPv{version}")


class NodeAddress(Shape):
    address: Prefix
    type: str = ""


class OrchRef(Shape):
    orchestrator: Text
    nodeName: str = ""


class NodeSpec(Shape):
    anything_else = True

    bgp: NodeBgp | None = None
    addresses: list[NodeAddress] = []
    orchRefs: list[OrchRef] = []
    ipv4VXLANTunnelAddr: Address | None = None
    ipv6VXLANTunnelAddr: Address | None = None
    vxlanTunnelMACAddr: Mac | None = None
    vxlanTunnelMACAddrV6: Mac | None = None


class Node(Resource):
    spec: NodeSpec = NodeSpec()


class HostEndpointSpec(Shape):
    node: ObjectName
    interfaceName: InterfaceName | None = None
    expectedIPs: list[Address] = []
    profiles: list[ObjectName] = []
    ports: list[NamedPort] = []

    def faults(self) -> Iterator[Fault]:
        if not self.interfaceName and not self.expectedIPs:
            yield Fault((), "needs interfaceName or expectedIPs", ("interfaceName", "expectedIPs"))


class HostEndpoint(Resource):
    spec: HostEndpointSpec


class IpNat(Shape):
    internalIP: Address
    externalIP: Address


class WorkloadEndpointSpec(Shape):
    orchestrator: Text
    workload: str = ""
    node: Text
    containerID: str = ""
    pod: str = ""
    endpoint: str = ""
    serviceAccountName: str = ""
    ipNetworks: list[Prefix] = []
    ipNATs: list[IpNat] = []
    ipv4Gateway: Address | None = None
    ipv6Gateway: Address | None = None
    profiles: list[Text] = []
    interfaceName: InterfaceName
    mac: Mac | None = None
    ports: list[WorkloadPort] = []
    allowSpoofedSourcePrefixes: list[Prefix] = []

    def faults(self) -> Iterator[Fault]:
        for index, text in enumerate(self.ipNetworks):
            if not parse_prefix(text).is_host:
                yield Fault(("ipNetworks", index), f"{text!r} must be one address (/32 or /128)")
        for index, nat in enumerate(self.ipNATs):
            if version_of(parse_address(nat.internalIP)) != version_of(parse_address(nat.externalIP)):
                yield Fault(("ipNATs", index), "has addresses of two families")
            if parse_address(nat.internalIP) not in (parse_prefix(text).address for text in self.ipNetworks):
                yield Fault(("ipNATs", index, "internalIP"), f"{nat.internalIP} is none of the endpoint's addresses")
        for field, version in (("ipv4Gateway", 4), ("ipv6Gateway", 6)):
            text = getattr(self, field)
            if text is not None and version_of(parse_address(text)) != version:
                yield Fault((field,), f"{text} is not IPv{version}")


class WorkloadEndpoint(Resource):
    spec: WorkloadEndpointSpec


def or_nothing(value: object) -> object:
    """An empty text, which Calico's clients write out, says nothing."""
    return None if value == "" else value


class ProtoPort(Shape):
    """A failsafe port; Calico's default protocol is TCP, and it writes the names either way."""

    protocol: Literal["TCP", "UDP", "SCTP", "tcp", "udp", "sctp"] = "TCP"
    port: PortNumber
    net: Annotated[Prefix | None, BeforeValidator(or_nothing)] = None


AllowAction = Literal["Accept", "Return", "ACCEPT", "RETURN"]
DenyAction = Literal["Drop", "Reject", "DROP", "REJECT"]


class FelixSpec(Shape):
    anything_else = True

    interfacePrefix: Annotated[str, AfterValidator(check_interface_prefixes)] | None = None
    defaultEndpointToHostAction: Literal["Drop", "Accept", "Return", "DROP", "ACCEPT", "RETURN"] | None = None
    allowIPIPPacketsFromWorkloads: bool | None = None
    allowVXLANPacketsFromWorkloads: bool | None = None
    disableConntrackInvalidCheck: bool | None = None
    externalNodesList: list[Prefix] | None = None
    failsafeInboundHostPorts: list[ProtoPort] | None = None
    failsafeOutboundHostPorts: list[ProtoPort] | None = None
    flowLogsFileEnabledForAllowed: bool | None = None
    flowLogsFileEnabledForDenied: bool | None = None
    healthEnabled: bool | None = None
    healthHost: str | None = None
    healthPort: PortNumber | None = None
    logPrefix: Annotated[str, AfterValidator(check_log_prefix)] | None = None
    prometheusMetricsEnabled: bool | None = None
    prometheusMetricsHost: str | None = None
    prometheusMetricsPort: PortNumber | None = None
    vxlanPort: PortNumber | None = None
    vxlanVNI: Annotated[int, Field(ge=1, le=(1 << 24) - 1)] | None = None
    floatingIPs: Literal["Enabled", "Disabled"] | None = None
    ipipMTU: MtuBytes | None = None
    vxlanMTU: MtuBytes | None = None
    vxlanMTUV6: MtuBytes | None = None
    mtuIfacePattern: Annotated[str, AfterValidator(check_pattern)] | None = None
    natOutgoingAddress: Address | None = None
    natOutgoingExclusions: Literal["IPPoolsOnly", "IPPoolsAndHostIPs"] | None = None
    natPortRange: Annotated[int | str, PlainValidator(check_port_range)] | None = None
    iptablesNATOutgoingInterfaceFilter: Annotated[str, AfterValidator(check_interface_filter)] | None = None
    iptablesFilterAllowAction: AllowAction | None = None
    iptablesFilterDenyAction: DenyAction | None = None
    iptablesMangleAllowAction: AllowAction | None = None
    nftablesFilterAllowAction: AllowAction | None = None
    nftablesFilterDenyAction: DenyAction | None = None
    nftablesMangleAllowAction: AllowAction | None = None
    serviceLoopPrevention: Literal["Drop", "Reject", "Disabled"] | None = None
    workloadSourceSpoofing: Literal["Any", "Disabled"] | None = None


class FelixConfiguration(Resource):
    """Its name and what few words may be; settings that we do not have are kept for those who do."""

    spec: FelixSpec = FelixSpec()

    def faults(self) -> Iterator[Fault]:
        name = self.metadata.name
        if name != "default" and not name.startswith("node."):
            yield Fault(("metadata", "name"), f"{name!r} is read by no one: it is `default` or `node.<node>`")


class ClusterInformationSpec(Shape):
    clusterGUID: str = ""
    clusterType: str = ""
    calicoVersion: str = ""
    datastoreReady: bool | None = None
    variant: str = ""


class ClusterInformation(Resource):
    spec: ClusterInformationSpec = ClusterInformationSpec()

    def faults(self) -> Iterator[Fault]:
        if self.metadata.name != "default":
            yield Fault(("metadata", "name"), "there is one, and its name is `default`")


class CalicoNodeStatusSpec(Shape):
    node: Text
    classes: list[Literal["Agent", "BGP", "Routes"]] = []
    updatePeriodSeconds: Annotated[int, Field(ge=0, le=24 * 3600)] = 10

    def faults(self) -> Iterator[Fault]:
        if not self.classes:
            yield Fault(("classes",), "names nothing to tell: Agent, BGP, Routes or some of them")


class CalicoNodeStatus(Resource):
    anything_else = True

    spec: CalicoNodeStatusSpec


class Opaque(Resource):
    """A kind whose spec is not checked."""

    anything_else = True
