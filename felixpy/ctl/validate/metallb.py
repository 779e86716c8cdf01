"""MetalLB's kinds.

Source  metallb api/v1beta1, api/v1beta2 (fields), internal/config/{config,validation}.go (rules).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from felixpy.addresses import parse_address, parse_prefix
from felixpy.ctl.manifests import Path
from felixpy.ctl.validate.bgp import check_extras
from felixpy.ctl.validate.fields import Address, Duration, PortNumber, Text, check_community
from felixpy.ctl.validate.metadata import LabelSelector, Resource
from felixpy.ctl.validate.nodes import InterfaceName
from felixpy.ctl.validate.shape import Fault, Shape
from felixpy.resources.scalars import read_seconds
from felixpy.resources.service_types import PREPEND_MOST
from felixpy.resources.services import DRAINING_ANNOTATION

Span = tuple[int, int, int]
"""IP version, first and last address as numbers."""


def parse_span(text: str) -> Span:
    """A CIDR or `first-last`.

    Raises  ValueError when it is neither; a bare address is refused, as MetalLB does.
    """
    first, dash, last = text.partition("-")
    if dash:
        low, high = parse_address(first.strip()), parse_address(last.strip())
        if len(low) != len(high):
            raise ValueError(f"{text!r} begins and ends in different families")
        if low > high:
            raise ValueError(f"{text!r} ends before it begins")
        return (4 if len(low) == 4 else 6, int.from_bytes(low, "big"), int.from_bytes(high, "big"))
    if "/" not in text:
        raise ValueError(f"{text!r} is neither a CIDR nor a range; one address is {text}/{128 if ':' in text else 32}")
    prefix = parse_prefix(text)
    low_number = int.from_bytes(prefix.address, "big")
    size = 1 << (len(prefix.address) * 8 - prefix.length)
    return (prefix.version, low_number, low_number + size - 1)


def check_span(text: str) -> str:
    parse_span(text)
    return text


def check_speaker_community(text: str) -> str:
    """`a:b`, or `large:a:b:c`."""
    large = text.startswith("large:")
    check_community(text.removeprefix("large:"))
    if text.removeprefix("large:").count(":") != 1 + large:
        raise ValueError(f"{text!r} is no community such as 65000:100 or large:65000:100:1")
    return text


def check_any_community(text: str) -> str:
    """A community, or the name that a Community gives one."""
    return check_speaker_community(text) if ":" in text else text


def twice(path: Path, entries: Sequence[object]) -> Iterator[Fault]:
    """What a list says that it has said before."""
    for index, entry in enumerate(entries):
        if entry in entries[:index]:
            yield Fault((*path, index), "is given twice")


AnyCommunity = Annotated[Text, AfterValidator(check_any_community)]
SpeakerCommunity = Annotated[str, AfterValidator(check_speaker_community)]
AddressSpan = Annotated[str, AfterValidator(check_span)]


class ServiceAllocation(Shape):
    priority: Annotated[int, Field(ge=0)] = 0
    namespaces: list[Text] = []
    namespaceSelectors: list[LabelSelector] = []
    serviceSelectors: list[LabelSelector] = []

    def faults(self) -> Iterator[Fault]:
        if len(set(self.namespaces)) != len(self.namespaces):
            yield Fault(("namespaces",), "names a namespace twice")
        yield from twice(("namespaceSelectors",), self.namespaceSelectors)
        yield from twice(("serviceSelectors",), self.serviceSelectors)


class AddressPoolSpec(Shape):
    addresses: Annotated[list[AddressSpan], Field(min_length=1)]
    autoAssign: bool = True
    avoidBuggyIPs: bool = False
    serviceAllocation: ServiceAllocation | None = None

    def faults(self) -> Iterator[Fault]:
        spans = [parse_span(text) for text in self.addresses]
        for index, (version, low, high) in enumerate(spans):
            for earlier, (other_version, other_low, other_high) in enumerate(spans[:index]):
                if version == other_version and low <= other_high and other_low <= high:
                    said = f"{self.addresses[index]!r} overlaps {self.addresses[earlier]!r}"
                    yield Fault(("addresses", index), said)


class IPAddressPool(Resource):
    anything_else = True

    spec: AddressPoolSpec

    def faults(self) -> Iterator[Fault]:
        word = self.metadata.annotations.get(DRAINING_ANNOTATION, "false")
        if word not in ("true", "false"):
            yield Fault(("metadata", "annotations", DRAINING_ANNOTATION), f"is {word!r}, neither 'true' nor 'false'")


class AdvertisementSpec(Shape):
    ipAddressPools: list[Text] = []
    ipAddressPoolSelectors: list[LabelSelector] = []
    nodeSelectors: list[LabelSelector] = []
    serviceSelectors: list[LabelSelector] = []

    def faults(self) -> Iterator[Fault]:
        if len(set(self.ipAddressPools)) != len(self.ipAddressPools):
            yield Fault(("ipAddressPools",), "names a pool twice")
        yield from twice(("ipAddressPoolSelectors",), self.ipAddressPoolSelectors)
        yield from twice(("nodeSelectors",), self.nodeSelectors)
        yield from twice(("serviceSelectors",), self.serviceSelectors)


class Preference(Shape):
    weight: Annotated[int, Field(ge=1, le=100)]
    preference: LabelSelector


class L2Spec(AdvertisementSpec):
    interfaces: list[Text] = []
    preferredNodeSelectors: list[Preference] = []


class L2Advertisement(Resource):
    spec: L2Spec = L2Spec()


class BgpAdvertisementSpec(AdvertisementSpec):
    aggregationLength: Annotated[int, Field(ge=1, le=32)] = 32
    aggregationLengthV6: Annotated[int, Field(ge=1, le=128)] = 128
    localPref: Annotated[int, Field(ge=0, le=(1 << 32) - 1)] = 0
    asPathPrepend: Annotated[int, Field(ge=0, le=PREPEND_MOST)] = 0
    communities: list[AnyCommunity] = []
    peers: list[Text] = []

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        yield from twice(("communities",), self.communities)
        yield from twice(("peers",), self.peers)
        if self.serviceSelectors and (self.aggregationLength != 32 or self.aggregationLengthV6 != 128):
            yield Fault(("serviceSelectors",), "cannot stand beside an aggregation length")


class BGPAdvertisement(Resource):
    spec: BgpAdvertisementSpec = BgpAdvertisementSpec()


class PasswordSecret(Shape):
    name: Text
    namespace: str = ""


MOST_SECONDS = 65535
"""As much as OPEN messages can say (RFC 4271 §4.2), and FRR takes."""


class SpeakerPeerSpec(Shape):
    myASN: Annotated[int, Field(ge=1, le=(1 << 32) - 1)]
    peerASN: Annotated[int, Field(ge=0, le=(1 << 32) - 1)] = 0
    dynamicASN: Literal["internal", "external"] | None = None
    localASN: Annotated[int, Field(ge=0, le=(1 << 32) - 1)] = 0
    peerAddress: Address | None = None
    interface: InterfaceName | None = None
    sourceAddress: Address | None = None
    peerPort: PortNumber = 179
    holdTime: Duration | None = None
    keepaliveTime: Duration | None = None
    connectTime: Duration | None = None
    routerID: Address | None = None
    nodeSelectors: list[LabelSelector] = []
    password: str = ""
    passwordSecret: PasswordSecret | None = None
    bfdProfile: str = ""
    ebgpMultiHop: bool = False
    enableGracefulRestart: bool = False
    vrf: str = ""
    disableMP: bool = False
    dualStackAddressFamily: bool = False

    def faults(self) -> Iterator[Fault]:
        if bool(self.peerASN) == (self.dynamicASN is not None):
            yield Fault(("peerASN",), "is needed, or dynamicASN, and not both", ("peerASN", "dynamicASN"))
        if (self.peerAddress is None) == (not self.interface):
            yield Fault(("peerAddress",), "is needed, or interface, and not both", ("peerAddress", "interface"))
        if self.routerID is not None and ":" in self.routerID:
            yield Fault(("routerID",), f"is {self.routerID}, no IPv4 address")
        yield from twice(("nodeSelectors",), self.nodeSelectors)
        if self.ebgpMultiHop and (self.peerASN == self.myASN or self.dynamicASN == "internal"):
            yield Fault(("ebgpMultiHop",), "is for a peer of another AS")
        if self.password and self.passwordSecret:
            yield Fault(("passwordSecret",), "cannot stand beside password")
        if self.vrf:
            yield Fault(("vrf",), "is not supported")
        if self.interface and self.sourceAddress is not None:
            yield Fault(("sourceAddress",), "cannot stand beside interface")
        if self.interface and self.ebgpMultiHop:
            yield Fault(("ebgpMultiHop",), "cannot stand beside interface")
        hold_s, keepalive_s = (read_seconds("", text) for text in (self.holdTime, self.keepaliveTime))
        connect_s = read_seconds("", self.connectTime)
        if hold_s is not None and (0 < hold_s < 3 or hold_s > MOST_SECONDS):
            yield Fault(("holdTime",), f"is 0, or between 3s and {MOST_SECONDS}s")
        if connect_s is not None and not 1 <= connect_s <= MOST_SECONDS:
            yield Fault(("connectTime",), f"is not between 1s and {MOST_SECONDS}s")
        if keepalive_s is not None and hold_s is not None and keepalive_s > hold_s:
            yield Fault(("keepaliveTime",), "is longer than holdTime")


class BGPPeer(Resource):
    spec: SpeakerPeerSpec

    def faults(self) -> Iterator[Fault]:
        yield from check_extras(self.metadata)


class BfdSpec(Shape):
    receiveInterval: Annotated[int, Field(ge=10, le=60000)] | None = None
    transmitInterval: Annotated[int, Field(ge=10, le=60000)] | None = None
    detectMultiplier: Annotated[int, Field(ge=2, le=255)] | None = None
    echoInterval: Annotated[int, Field(ge=10, le=60000)] | None = None
    echoMode: bool = False
    passiveMode: bool = False
    minimumTtl: Annotated[int, Field(ge=1, le=254)] | None = None


class BFDProfile(Resource):
    spec: BfdSpec = BfdSpec()


class Alias(Shape):
    name: Text
    value: SpeakerCommunity


class CommunitySpec(Shape):
    communities: list[Alias] = []

    def faults(self) -> Iterator[Fault]:
        names = [alias.name for alias in self.communities]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield Fault(("communities", index, "name"), f"{name!r} is given twice")


class Community(Resource):
    spec: CommunitySpec = CommunitySpec()
