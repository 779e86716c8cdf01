"""Calico's BGP kinds.

Source  projectcalico/calico api/pkg/apis/projectcalico/v3/{bgpconfig,bgppeer,bgpfilter}.go and
        libcalico-go/lib/validator/v3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from felixpy.addresses import parse_address
from felixpy.ctl.validate.fields import (
    Address,
    AsNumber,
    Cidr,
    CommunityValue,
    Duration,
    PortNumber,
    SelectorText,
    Text,
    is_v6,
)
from felixpy.ctl.validate.metadata import Metadata, Resource
from felixpy.ctl.validate.shape import Fault, Shape
from felixpy.resources.bgp import OWN_AS_MOST, PRIORITY_MOST, read_peer_range, read_peering
from felixpy.resources.bgp_extras import LONG_LIVED, PREFIX_LIMIT, read_limit, read_long_lived
from felixpy.resources.bgp_filters import OPERATIONS_MOST
from felixpy.resources.scalars import FieldError


def check_peer_address(text: str) -> str:
    """`address`, `address:port` (IPv4), `[address]:port`, a prefix, or empty."""
    if not text:
        return text
    if "/" in text:
        return _check_range(text)
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]:")
        if not bracket:
            raise ValueError(f"{text!r} is neither an address nor `[address]:port`")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    parse_address(host)
    if host != text and not (port.isdecimal() and 1 <= int(port) <= 65535):
        raise ValueError(f"{text!r} has no valid port")
    return text


PeerAddress = Annotated[str, AfterValidator(check_peer_address)]


Priority = Annotated[int, Field(ge=1, le=PRIORITY_MOST)]


class CidrEntry(Shape):
    cidr: Cidr


class NamedCommunity(Shape):
    name: Text
    value: CommunityValue


class PrefixAdvertisement(Shape):
    cidr: Cidr
    communities: list[Text] = []


class SecretKey(Shape):
    name: Text
    key: Text
    optional: bool | None = None


class Password(Shape):
    secretKeyRef: SecretKey


def _check_range(text: str) -> str:
    try:
        read_peer_range("", text)
    except FieldError as error:
        raise ValueError(error.why) from None
    return text


def check_peering4(text: str) -> str:
    """Where a node speaks with its workloads."""
    return _check_peering(text, 4)


def check_peering6(text: str) -> str:
    """The same of IPv6."""
    return _check_peering(text, 6)


def _check_peering(text: str, version: int) -> str:
    try:
        read_peering("", text, version)
    except FieldError as error:
        raise ValueError(error.why) from None
    return text


def check_extras(metadata: Metadata) -> Iterator[Fault]:
    """What an object that asks for sessions says of them in annotations."""
    for annotation, read in ((PREFIX_LIMIT, read_limit), (LONG_LIVED, read_long_lived)):
        if annotation in metadata.annotations:
            try:
                read("", metadata.annotations[annotation])
            except FieldError as error:
                yield Fault(("metadata", "annotations", annotation), error.why)


class BgpConfigurationSpec(Shape):
    logSeverityScreen: str = ""
    nodeToNodeMeshEnabled: bool | None = None
    asNumber: AsNumber | None = None
    serviceLoadBalancerIPs: list[CidrEntry] = []
    serviceExternalIPs: list[CidrEntry] = []
    serviceClusterIPs: list[CidrEntry] = []
    serviceLoadBalancerAggregation: Literal["Enabled", "Disabled"] | None = None
    communities: list[NamedCommunity] = []
    prefixAdvertisements: list[PrefixAdvertisement] = []
    listenPort: PortNumber | None = None
    nodeMeshPassword: Password | None = None
    nodeMeshMaxRestartTime: Duration | None = None
    bindMode: Literal["None", "NodeIP"] | None = None
    ignoredInterfaces: list[Text] = []
    localWorkloadPeeringIPV4: Annotated[str, AfterValidator(check_peering4)] | None = None
    localWorkloadPeeringIPV6: Annotated[str, AfterValidator(check_peering6)] | None = None
    programClusterRoutes: Literal["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"] | None = None
    ipv4NormalRoutePriority: Priority | None = None
    ipv6NormalRoutePriority: Priority | None = None

    def faults(self) -> Iterator[Fault]:
        names = {entry.name for entry in self.communities}
        for index, entry in enumerate(self.prefixAdvertisements):
            for at, text in enumerate(entry.communities):
                if ":" not in text and text not in names:
                    yield Fault(("prefixAdvertisements", index, "communities", at), f"{text!r} is no named community")
        for field in ("nodeMeshPassword", "nodeMeshMaxRestartTime"):
            if getattr(self, field) is not None and self.nodeToNodeMeshEnabled is False:
                yield Fault((field,), "needs nodeToNodeMeshEnabled")


CLUSTER_FIELDS = (
    "nodeToNodeMeshEnabled",
    "asNumber",
    "nodeMeshPassword",
    "nodeMeshMaxRestartTime",
    "serviceLoadBalancerIPs",
    "serviceExternalIPs",
    "serviceClusterIPs",
    "serviceLoadBalancerAggregation",
    "ipv4NormalRoutePriority",
    "ipv6NormalRoutePriority",
    "localWorkloadPeeringIPV4",
    "localWorkloadPeeringIPV6",
)
"""What only the configuration `default` says."""


class BGPConfiguration(Resource):
    spec: BgpConfigurationSpec = BgpConfigurationSpec()

    def faults(self) -> Iterator[Fault]:
        yield from check_extras(self.metadata)
        name = self.metadata.name
        if name.startswith("node."):
            for field in CLUSTER_FIELDS:
                if getattr(self.spec, field):
                    yield Fault(("spec", field), "belongs to the cluster: set it in `default`, or in the Node")
        elif name != "default":
            yield Fault(("metadata", "name"), f"{name!r} is read by no one: it is `default` or `node.<node>`")


class BgpPeerSpec(Shape):
    node: str = ""
    nodeSelector: SelectorText = ""
    peerIP: PeerAddress = ""
    asNumber: AsNumber | None = None
    localASNumber: AsNumber | None = None
    peerSelector: SelectorText = ""
    keepOriginalNextHop: bool = False
    nextHopMode: Literal["Auto", "Self", "Keep"] | None = None
    password: Password | None = None
    sourceAddress: Literal["UseNodeIP", "None"] | None = None
    maxRestartTime: Duration | None = None
    keepaliveTime: Duration | None = None
    numAllowedLocalASNumbers: Annotated[int, Field(ge=0, le=OWN_AS_MOST)] | None = None
    ttlSecurity: Annotated[int, Field(ge=0, le=255)] | None = None
    reachableBy: Address | None = None
    filters: list[Text] = []
    localWorkloadSelector: SelectorText = ""
    reversePeering: Literal["Auto", "Manual"] | None = None

    def faults(self) -> Iterator[Fault]:
        if self.node and self.nodeSelector:
            yield Fault(("nodeSelector",), "cannot stand beside node")
        if self.peerIP and self.peerSelector:
            yield Fault(("peerSelector",), "cannot stand beside peerIP")
        if not self.peerIP and not self.peerSelector and not self.localWorkloadSelector:
            yield Fault(("peerIP",), "is needed (or peerSelector, or localWorkloadSelector)")
        if self.localWorkloadSelector and (self.peerIP or self.peerSelector):
            yield Fault(("localWorkloadSelector",), "cannot stand beside peerIP or peerSelector")
        if self.peerSelector and self.asNumber:
            yield Fault(("asNumber",), "comes from the nodes that peerSelector chooses")
        if (self.peerIP or self.localWorkloadSelector) and not self.asNumber:
            yield Fault(("asNumber",), "is needed with peerIP or localWorkloadSelector")
        if "/" in self.peerIP and (self.reachableBy is not None or self.reversePeering is not None):
            field = "reachableBy" if self.reachableBy is not None else "reversePeering"
            yield Fault((field,), "does not go with a prefix in peerIP: whoever is in it connects")
        elif self.reachableBy is not None and (not self.peerIP or is_v6(self.reachableBy) != _is_v6_peer(self.peerIP)):
            yield Fault(("reachableBy",), "must be of the family of peerIP")
        if self.keepOriginalNextHop and self.nextHopMode is not None:
            yield Fault(("keepOriginalNextHop",), "cannot stand beside nextHopMode")


def _is_v6_peer(text: str) -> bool:
    return text.startswith("[") or text.count(":") > 1


class BGPPeer(Resource):
    spec: BgpPeerSpec

    def faults(self) -> Iterator[Fault]:
        yield from check_extras(self.metadata)


class LengthRange(Shape):
    min: Annotated[int, Field(ge=0, le=128)] | None = None
    max: Annotated[int, Field(ge=0, le=128)] | None = None


class CommunityMatch(Shape):
    values: Annotated[list[CommunityValue], Field(min_length=1, max_length=1)]


class CommunityToAdd(Shape):
    value: CommunityValue


class PathToPrepend(Shape):
    prefix: Annotated[list[AsNumber], Field(min_length=1, max_length=OPERATIONS_MOST)]


class PriorityToSet(Shape):
    value: Priority


class Operation(Shape):
    addCommunity: CommunityToAdd | None = None
    prependASPath: PathToPrepend | None = None
    setPriority: PriorityToSet | None = None

    def faults(self) -> Iterator[Fault]:
        given = [one for one in (self.addCommunity, self.prependASPath, self.setPriority) if one is not None]
        if len(given) != 1:
            yield Fault((), "must be exactly one of addCommunity, prependASPath and setPriority")


class FilterRule(Shape):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    anything_else = True

    action: Literal["Accept", "Reject"]
    cidr: Cidr | None = None
    matchOperator: Literal["Equal", "NotEqual", "In", "NotIn"] | None = None
    prefixLength: LengthRange | None = None
    source: Literal["RemotePeers"] | None = None
    interface: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.*-]{1,15}$")] | None = None
    peerType: Literal["eBGP", "iBGP"] | None = None
    communities: CommunityMatch | None = None
    asPathPrefix: list[AsNumber] = []
    priority: Priority | None = None
    operations: Annotated[list[Operation], Field(max_length=OPERATIONS_MOST)] = []

    def faults(self) -> Iterator[Fault]:
        if (self.cidr is None) != (self.matchOperator is None):
            missing = "cidr" if self.cidr is None else "matchOperator"
            yield Fault((missing,), "is needed: cidr and matchOperator go together")
        if self.prefixLength is not None and self.cidr is None:
            yield Fault(("prefixLength",), "needs cidr")
        if self.operations and self.action != "Accept":
            yield Fault(("operations",), "need action Accept")


class BgpFilterSpec(Shape):
    exportV4: list[FilterRule] = []
    importV4: list[FilterRule] = []
    exportV6: list[FilterRule] = []
    importV6: list[FilterRule] = []

    def faults(self) -> Iterator[Fault]:
        for field in ("exportV4", "importV4", "exportV6", "importV6"):
            for index, rule in enumerate(getattr(self, field)):
                if rule.cidr is not None and is_v6(rule.cidr) != field.endswith("6"):
                    yield Fault((field, index, "cidr"), f"{rule.cidr!r} is of the other family")
                lengths = rule.prefixLength
                for word in ("min", "max") if field.endswith("4") and lengths is not None else ():
                    if (getattr(lengths, word) or 0) > 32:
                        yield Fault((field, index, "prefixLength", word), "is more than 32")


class BGPFilter(Resource):
    spec: BgpFilterSpec = BgpFilterSpec()
