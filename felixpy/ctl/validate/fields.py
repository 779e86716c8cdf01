"""The scalars that many kinds share: names, labels, addresses, ports, selectors, durations.

Source  k8s.io/apimachinery/pkg/util/validation (names, labels); libcalico-go/lib/validator/v3 (the rest).
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator

from felixpy.addresses import parse_address, parse_prefix
from felixpy.ctl.manifests import describe
from felixpy.resources.kinds import NAME_LIMIT, is_object_name
from felixpy.selector import parse_selector

LABEL_VALUE_LIMIT = 63
PROTOCOLS = {"TCP": 6, "UDP": 17, "ICMP": 1, "ICMPv6": 58, "SCTP": 132, "UDPLite": 136}
WITH_PORTS = frozenset({6, 17, 132})
"""Protocols whose ports a Calico rule may name."""

DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
IANA_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9]|-(?=[a-z0-9]))*")
IANA_NAME_LIMIT = 15
_PORT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+|0")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
_COMMUNITY = re.compile(r"[0-9]+:[0-9]+(:[0-9]+)?")


def check_name(text: str) -> str:
    """A DNS-1123 subdomain."""
    if not is_object_name(text):
        raise ValueError(f"{text!r} is no name: lower-case letters, digits, '-' and '.', at most {NAME_LIMIT}")
    return text


def check_dns_label(text: str) -> str:
    """A DNS-1123 label."""
    if len(text) > LABEL_VALUE_LIMIT or not re.fullmatch(DNS_LABEL, text):
        raise ValueError(f"{text!r} is no name: lower-case letters, digits and '-', at most {LABEL_VALUE_LIMIT}")
    return text


def check_label_key(text: str) -> str:
    """`[prefix/]name`."""
    prefix, slash, name = text.rpartition("/")
    if slash and not is_object_name(prefix):
        raise ValueError(f"{text!r} has a prefix that is no DNS name")
    if len(name) > LABEL_VALUE_LIMIT or not _LABEL_PART.fullmatch(name):
        raise ValueError(f"{text!r} is no label name: letters, digits, '-', '_' and '.', at most {LABEL_VALUE_LIMIT}")
    return text


def is_qualified_name(text: str) -> bool:
    """Whether it is `[prefix/]name`, as names of labels and classes are."""
    try:
        check_label_key(text)
    except ValueError:
        return False
    return True


def check_label_value(text: str) -> str:
    """At most 63 characters, or empty."""
    if text and (len(text) > LABEL_VALUE_LIMIT or not _LABEL_PART.fullmatch(text)):
        raise ValueError(f"{text!r} is no label value: letters, digits, '-', '_' and '.', at most {LABEL_VALUE_LIMIT}")
    return text


def check_address(text: str) -> str:
    parse_address(text)
    return text


def check_prefix(text: str) -> str:
    """A CIDR, or an address by itself."""
    parse_prefix(text)
    return text


def check_cidr(text: str) -> str:
    """A CIDR with its length."""
    if "/" not in text:
        raise ValueError(f"{text!r} has no prefix length")
    return check_prefix(text)


def check_masked(text: str) -> str:
    """A network without bits behind its length."""
    network = parse_prefix(text)
    if parse_address(text.partition("/")[0]) != network.address:
        raise ValueError(f"{text!r} has bits behind its prefix length; the network is {network}")
    return text


def check_selector(text: str) -> str:
    parse_selector(text)
    return text


def check_duration(text: str) -> str:
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration such as 90s or 1m30s")
    return text


def check_mac(text: str) -> str:
    if not _MAC.fullmatch(text):
        raise ValueError(f"{text!r} is no MAC address")
    return text


def check_community(text: str) -> str:
    """A standard (two parts of 16 bits) or large (three of 32) BGP community."""
    if not _COMMUNITY.fullmatch(text):
        raise ValueError(f"{text!r} is no community such as 65000:100 or 65000:100:1")
    parts = [int(part) for part in text.split(":")]
    bits = 16 if len(parts) == 2 else 32
    if any(part >= 1 << bits for part in parts):
        raise ValueError(f"{text!r} has a part of more than {bits} bits")
    return text


def protocol_number(value: object) -> int | None:
    """The number of a protocol as written (name or number); None when it is none."""
    if isinstance(value, str) and not value.isdecimal():
        return PROTOCOLS.get(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or not 1 <= int(value) <= 255:
        return None
    return int(value)


def check_protocol(value: object) -> int | str:
    if isinstance(value, int | str) and protocol_number(value) is not None:
        return value
    names = ", ".join(PROTOCOLS)
    near = next((name for name in PROTOCOLS if isinstance(value, str) and name.lower() == value.lower()), "")
    raise ValueError(f"{describe(value)} is no protocol" + (f"; write {near}" if near else f" ({names}, or 1-255)"))


def check_port(value: object) -> int | str:
    """A port, a range `a:b`, or a name."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"must be a port, a range 'a:b' or a name, not {describe(value)}")
    first, colon, last = str(value).partition(":")
    if first.isdecimal() and (last.isdecimal() or not colon):
        low, high = int(first), int(last) if colon else int(first)
        if not 1 <= low <= 65535 or not 1 <= high <= 65535:
            raise ValueError(f"{value} is out of range: ports are 1-65535")
        if low > high:
            raise ValueError(f"{value!r} ends before it begins")
        return value
    if isinstance(value, int) or not _PORT_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no port: 1-65535, a range 'a:b', or a name")
    return value


def check_port_range(value: object) -> int | str:
    """A port or a range `a:b`, without a name."""
    checked = check_port(value)
    if not str(checked).replace(":", "", 1).isdecimal():
        raise ValueError(f"{value!r} is no port and no range 'a:b'")
    return checked


def is_port_name(value: int | str) -> bool:
    """Whether a port as written is a name."""
    return isinstance(value, str) and not value.partition(":")[0].isdecimal()


def check_port_name(text: str) -> str:
    """An IANA service name (RFC 6335 §5.1): what endpoints call their ports."""
    if not IANA_NAME.fullmatch(text) or len(text) > IANA_NAME_LIMIT:
        raise ValueError(f"{text!r} is no port's name: at most {IANA_NAME_LIMIT} lower-case letters, digits and '-'")
    return text


def check_asn(value: object) -> int | str:
    """An AS number, plain or dotted."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 32:
        return value
    if isinstance(value, str):
        high, dot, low = value.partition(".")
        parts = [high, low] if dot else [high]
        limit = 1 << 16 if dot else 1 << 32
        if all(part.isdecimal() and int(part) < limit for part in parts) and any(int(part) for part in parts):
            return value
    raise ValueError(f"{describe(value)} is no AS number: 1-4294967295")


def is_v6(text: str) -> bool:
    """The family of an address or prefix that has been checked."""
    return ":" in text


Text = Annotated[str, Field(min_length=1)]
ObjectName = Annotated[str, AfterValidator(check_name)]
DnsLabel = Annotated[str, AfterValidator(check_dns_label)]
LabelKey = Annotated[str, AfterValidator(check_label_key)]
LabelValue = Annotated[str, AfterValidator(check_label_value)]
Labels = dict[LabelKey, LabelValue]
Address = Annotated[str, AfterValidator(check_address)]
Prefix = Annotated[str, AfterValidator(check_prefix)]
Cidr = Annotated[str, AfterValidator(check_cidr)]
SelectorText = Annotated[str, AfterValidator(check_selector)]
Duration = Annotated[str, AfterValidator(check_duration)]
Mac = Annotated[str, AfterValidator(check_mac)]
CommunityValue = Annotated[str, AfterValidator(check_community)]
Protocol = Annotated[int | str, PlainValidator(check_protocol)]
EndpointPortName = Annotated[str, AfterValidator(check_port_name)]
Port = Annotated[int | str, PlainValidator(check_port)]
PortNumber = Annotated[int, Field(ge=1, le=65535)]
AsNumber = Annotated[int | str, PlainValidator(check_asn)]
