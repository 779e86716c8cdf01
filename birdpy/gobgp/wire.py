"""What differs on the wire between GoBGP 3 and 4, and nothing else.

Method paths, enumerations (version 4 counts most from 1), and the wrapping of prefixes and attributes: in an Any with
a type name (3), in a union (4). What a table event means differs as well: all best paths of a prefix (3), or one path
that came or went (4.7 and later). Source: measured against GoBGP 3.10 and 4.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, Protocol

from birdpy.addresses import Prefix, format_address, parse_address
from birdpy.gobgp.fields import build_v3, build_v4
from birdpy.intent import LinkBandwidth

Message = Any
"""An instance of one of the classes that `fields.py` describes."""

ATTRIBUTE_NAMES = {
    "origin": ("Origin", "OriginAttribute"),
    "as_path": ("AsPath", "AsPathAttribute"),
    "next_hop": ("NextHop", "NextHopAttribute"),
    "med": ("Med", "MultiExitDiscAttribute"),
    "local_pref": ("LocalPref", "LocalPrefAttribute"),
    "communities": ("Communities", "CommunitiesAttribute"),
    "mp_reach": ("MpReach", "MpReachNLRIAttribute"),
    "extended_communities": ("ExtendedCommunities", "ExtendedCommunitiesAttribute"),
    "large_communities": ("LargeCommunities", "LargeCommunitiesAttribute"),
}
"""Attribute → our message, and the type name inside version 3's Any."""
_ANY = "type.googleapis.com/apipb."
_READ = {_ANY + theirs: (name, ours) for name, (ours, theirs) in ATTRIBUTE_NAMES.items()}
_AFI = {4: 1, 6: 2}
_VERSION: Mapping[int, Literal[4, 6]] = {1: 4, 2: 6}
_UNICAST = 1


class Wire(Protocol):
    """One version's way of writing."""

    generation: Literal[3, 4]
    service: str
    messages: Mapping[str, Any]

    def enum(self, value: int) -> int:
        """An enumeration's value, given as version 3 counts it (from 0)."""

    def nlri(self, prefix: Prefix) -> Message:
        """A prefix as a path carries it."""

    def extended_communities(self, bandwidth: LinkBandwidth) -> Message:
        """The attribute that carries it."""

    def attributes(self, given: Mapping[str, Message]) -> Iterable[Message]:
        """Attributes, given by their names in ATTRIBUTE_NAMES, as a path carries them."""

    def read_prefix(self, path: Message) -> Prefix | None:
        """The prefix of a path; None when it is of a family that birdpy does not carry."""

    def read_attributes(self, path: Message) -> Mapping[str, Message]:
        """The attributes of a path that are in ATTRIBUTE_NAMES."""


class Wire3:
    """GoBGP 3 (3.10 and later)."""

    generation: Literal[3, 4] = 3
    service = "/apipb.GobgpApi/"

    def __init__(self) -> None:
        self.messages: Mapping[str, Any] = build_v3()

    def enum(self, value: int) -> int:
        return value

    def nlri(self, prefix: Prefix) -> Message:
        inner = self.messages["IpPrefix"](length=prefix.length, address=format_address(prefix.address))
        return self.messages["Any"](type_url=_ANY + "IPAddressPrefix", value=inner.SerializeToString())

    def extended_communities(self, bandwidth: LinkBandwidth) -> Message:
        inner = self.messages["LinkBandwidth"](asn=bandwidth.asn, bytes_per_s=bandwidth.bytes_per_s)
        one = self.messages["Any"](type_url=_ANY + "LinkBandwidthExtended", value=inner.SerializeToString())
        return self.messages["ExtendedCommunities"](communities=[one])

    def attributes(self, given: Mapping[str, Message]) -> Iterable[Message]:
        for name, message in given.items():
            url = _ANY + ATTRIBUTE_NAMES[name][1]
            yield self.messages["Any"](type_url=url, value=message.SerializeToString())

    def read_prefix(self, path: Message) -> Prefix | None:
        if path.nlri.type_url != _ANY + "IPAddressPrefix":
            return None
        inner = self.messages["IpPrefix"].FromString(path.nlri.value)
        return Prefix(parse_address(inner.address), inner.length)

    def read_attributes(self, path: Message) -> Mapping[str, Message]:
        found = {}
        for wrapped in path.attributes:
            known = _READ.get(wrapped.type_url)
            if known is not None:
                found[known[0]] = self.messages[known[1]].FromString(wrapped.value)
        return found


class Wire4:
    """GoBGP 4 (4.0 and later)."""

    generation: Literal[3, 4] = 4
    service = "/api.GoBgpService/"

    def __init__(self) -> None:
        self.messages: Mapping[str, Any] = build_v4()

    def enum(self, value: int) -> int:
        return value + 1

    def nlri(self, prefix: Prefix) -> Message:
        inner = self.messages["IpPrefix"](length=prefix.length, address=format_address(prefix.address))
        return self.messages["Nlri"](prefix=inner)

    def extended_communities(self, bandwidth: LinkBandwidth) -> Message:
        inner = self.messages["LinkBandwidth"](asn=bandwidth.asn, bytes_per_s=bandwidth.bytes_per_s)
        one = self.messages["ExtendedCommunity"](link_bandwidth=inner)
        return self.messages["ExtendedCommunities"](communities=[one])

    def attributes(self, given: Mapping[str, Message]) -> Iterable[Message]:
        for name, message in given.items():
            yield self.messages["Attribute"](**{name: message})

    def read_prefix(self, path: Message) -> Prefix | None:
        if not path.nlri.HasField("prefix"):
            return None
        inner = path.nlri.prefix
        return Prefix(parse_address(inner.address), inner.length)

    def read_attributes(self, path: Message) -> Mapping[str, Message]:
        found = {}
        for attribute in path.attributes:
            name = attribute.WhichOneof("attr")
            if name is not None:
                found[name] = getattr(attribute, name)
        return found


@cache
def wire_of(generation: Literal[3, 4]) -> Wire:
    """The one instance for a version (building the message classes takes 2 ms)."""
    return Wire3() if generation == 3 else Wire4()


def family_message(wire: Wire, version: int) -> Message:
    """IPv4 or IPv6 unicast."""
    return wire.messages["Family"](afi=_AFI[version], safi=_UNICAST)


def family_version(family: Message) -> Literal[4, 6] | None:
    """4 or 6 for the unicast families, None for others."""
    if family.safi != _UNICAST:
        return None
    return _VERSION.get(family.afi)
