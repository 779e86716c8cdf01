"""Small readers of single values, which raise FieldError naming the field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from felixpy.addresses import Address, Prefix, mask_address, parse_address, parse_prefix
from felixpy.resources.documents import Nat, Port
from felixpy.resources.kube_documents import LabelSelector
from felixpy.resources.types import FloatingAddress, LabelPairs, NamedPort, NodeAddress
from felixpy.selector import All, And, Compare, Has, In, Not, Operator, Selector, parse_selector

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136}
"""IANA numbers of the protocols that have names in policies."""
PORTED = frozenset({6, 17, 132, 136})
"""Protocols whose packets have ports."""


INTERFACE_BYTES = 15
"""Longest name of a device (IFNAMSIZ, linux/if.h)."""
_LABEL = re.compile(r"[A-Za-z0-9_./-]{1,512}")


_DURATION_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class FieldError(ValueError):
    """A value does not fit its field."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why


def read_labels(labels: Mapping[str, str] | None) -> LabelPairs:
    """Sorted pairs."""
    return tuple(sorted(labels.items())) if labels else ()


def read_address(field: str, text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise FieldError(field, str(error)) from None


def read_prefix(field: str, text: str) -> Prefix:
    try:
        return parse_prefix(text)
    except ValueError as error:
        raise FieldError(field, str(error)) from None


def read_prefixes(field: str, texts: Iterable[str] | None) -> tuple[Prefix, ...]:
    return tuple(read_prefix(f"{field}[{index}]", text) for index, text in enumerate(texts or ()))


def read_node_address(field: str, text: str) -> NodeAddress | None:
    """An address with its subnet's length; None when empty."""
    if not text:
        return None
    address = read_address(field, text.partition("/")[0])
    length = read_prefix(field, text).length
    return NodeAddress(address, Prefix(mask_address(address, length), length))


def read_selector(field: str, text: str) -> Selector:
    try:
        return parse_selector(text)
    except ValueError as error:
        raise FieldError(field, str(error)) from None


def read_protocol(field: str, value: str | int | None) -> int | None:
    """A protocol by name (any case) or number 1-255."""
    if value is None:
        return None
    if isinstance(value, str) and value.lower() in PROTOCOLS:
        return PROTOCOLS[value.lower()]
    number = int(value) if isinstance(value, int) or value.isdecimal() else -1
    if not 1 <= number <= 255:
        raise FieldError(field, f"{value!r} is no protocol (a name, or 1 to 255)")
    return number


def read_mac(field: str, text: str) -> bytes:
    """Six bytes; b"" when empty."""
    if not text:
        return b""
    try:
        mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        mac = b""
    if len(mac) != 6:
        raise FieldError(field, f"{text!r} is no MAC address")
    return mac


def read_interface(field: str, text: str) -> str:
    """A device's name, as the kernel takes it (net/core/dev.c, dev_valid_name)."""
    if (
        not 0 < len(text.encode()) <= INTERFACE_BYTES
        or text in (".", "..")
        or any(c in "/:" or c.isspace() or not c.isprintable() for c in text)
    ):
        raise FieldError(field, f"{text!r} cannot be the name of a device")
    return text


def read_as_number(field: str, value: int | str | None) -> int | None:
    """An AS number, plain (65001) or dotted (1.10); RFC 5396."""
    if value is None:
        return None
    high, dot, low = str(value).partition(".")
    if not (high.isdecimal() and (low.isdecimal() if dot else True)):
        raise FieldError(field, f"{value!r} is no AS number")
    number = (int(high) << 16) + int(low) if dot else int(high)
    if not 0 <= number < 1 << 32:
        raise FieldError(field, f"{value!r} is no AS number")
    return number


def read_port(field: str, port: int) -> int:
    """Raises FieldError where it is no port."""
    if not 0 < port <= 65535:
        raise FieldError(field, f"{port} is no port")
    return port


def read_named_ports(field: str, ports: Iterable[Port] | None) -> tuple[NamedPort, ...]:
    """Raises FieldError where one is no port."""
    return tuple(
        NamedPort(
            port.name,
            read_protocol(f"{field}[{index}].protocol", port.protocol) or 6,
            read_port(f"{field}[{index}].port", port.port),
        )
        for index, port in enumerate(ports or ())
    )


def read_nats(field: str, nats: Iterable[Nat]) -> tuple[FloatingAddress, ...]:
    """Raises FieldError also where the two addresses are of different families."""
    found = []
    for index, nat in enumerate(nats):
        external = read_address(f"{field}[{index}].externalIP", nat.external_ip)
        internal = read_address(f"{field}[{index}].internalIP", nat.internal_ip)
        if len(external) != len(internal):
            raise FieldError(f"{field}[{index}]", "has addresses of two families")
        found.append(FloatingAddress(external, internal))
    return tuple(found)


def read_label(field: str, text: str) -> str:
    """A label's name, as selectors may have it."""
    if not _LABEL.fullmatch(text):
        raise FieldError(field, f"{text!r} is no label")
    return text


def read_quotable(field: str, text: str) -> str:
    """A text that a selector can hold: in one kind of quotes or the other."""
    if "'" in text and '"' in text:
        raise FieldError(field, f"{text!r} has both kinds of quotes")
    return text


def read_label_selector(field: str, selector: LabelSelector | None, prefix: str = "") -> Selector:
    """A Kubernetes label selector as one of ours; empty or None selects everything. `prefix` goes before each label."""
    if selector is None:
        return All()
    parts: list[Selector] = []
    for key, value in sorted((selector.match_labels or {}).items()):
        where = f"{field}.matchLabels"
        parts.append(Compare(prefix + read_label(where, key), Operator.EQUALS, read_quotable(where, value)))
    for index, expression in enumerate(selector.match_expressions or ()):
        where = f"{field}.matchExpressions[{index}]"
        label = prefix + read_label(f"{where}.key", expression.key)
        values = tuple(sorted({read_quotable(f"{where}.values", value) for value in expression.values or ()}))
        match expression.operator:
            case "In":
                parts.append(In(label, values))
            case "NotIn":
                parts.append(In(label, values, negate=True))
            case "Exists":
                parts.append(Has(label))
            case "DoesNotExist":
                parts.append(Not(Has(label)))
            case other:
                raise FieldError(f"{field}.matchExpressions[{index}].operator", f"{other!r} is no operator")
    if not parts:
        return All()
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def read_seconds(field: str, text: str | None) -> int | None:
    """A Go duration (`1m30s`) in whole seconds, rounded up."""
    if not text or text == "0":
        return None if not text else 0
    parts = _DURATION_PARTS.findall(text)
    if "".join(number + unit for number, unit in parts) != text or not text.isascii():
        raise FieldError(field, f"{text!r} is no duration")
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    if seconds > 1 << 31:
        raise FieldError(field, f"{text!r} is too long")
    return int(-(-seconds // 1))
