"""FelixConfiguration: document → type.

A field that is not what it should be is passed over by itself, and named: the others count.
Source: api/pkg/apis/projectcalico/v3 (felixconfig); felix/config/config_params.go (ranges, words).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from felixpy.addresses import Prefix
from felixpy.resources.documents import AnySpecDoc
from felixpy.resources.kinds import Name
from felixpy.resources.scalars import (
    FieldError,
    read_address,
    read_interface,
    read_prefix,
    read_prefixes,
    read_protocol,
)
from felixpy.resources.types import (
    FailsafePort,
    FelixConfiguration,
    FelixValue,
    PassedOver,
)

NODE_INTERFACES = (
    *("eth0", "ens3", "eno1", "enp0s3", "enx0", "enP1", "em1", "bond0", "team0", "br0", "ib0", "wlan0", "wlp2s0", "lo"),
    *("vlan1", "vxlan.calico", "vxlan-v6.calico", "tunl0"),
)
"""How interfaces are called that carry a node's own traffic."""

_Read = TypeVar("_Read")


def read_felix(doc: AnySpecDoc, name: Name) -> FelixConfiguration:
    """The fields that something reads, each by itself."""
    faults: list[PassedOver] = []

    def take(field: str, read: Callable[[str, Any], _Read]) -> _Read | None:
        value = doc.spec.get(field)
        if value is None:
            return None
        try:
            return read(f"spec.{field}", value)
        except FieldError as error:
            faults.append(PassedOver(error.field, error.why))
            return None

    values = {field: read for field, reader in _FIELDS.items() if (read := take(field, reader)) is not None}
    return FelixConfiguration(
        tuple(sorted(values.items())),
        take("failsafeInboundHostPorts", _read_failsafe),
        take("failsafeOutboundHostPorts", _read_failsafe),
        external_nodes=take("externalNodesList", _read_networks),
        passed_over=tuple(faults),
    )


def _boolean(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise FieldError(field, f"{value!r} is neither true nor false")
    return value


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise FieldError(field, f"{value!r} is no text")
    return value


def _number(least: int, most: int) -> Callable[[str, object], int]:
    def read(field: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise FieldError(field, f"{value!r} is no number from {least} to {most}")
        return value

    return read


def _word(*words: str) -> Callable[[str, object], str]:
    """One of a few words, in any case."""

    def read(field: str, value: object) -> str:
        found = next((one for one in words if isinstance(value, str) and one.lower() == value.lower()), None)
        if found is None:
            raise FieldError(field, f"{value!r} is not {' or '.join(words)}")
        return found

    return read


def _pattern(field: str, value: object) -> str:
    try:
        re.compile(text := _text(field, value))
    except re.error as error:
        raise FieldError(field, f"{value!r} is no pattern: {error}") from None
    return text


def _address(field: str, value: object) -> str:
    if text := _text(field, value):
        read_address(field, text)
    return text


def _interface_filter(field: str, value: object) -> str:
    """A name, or with a `+` at its end the beginning of names; empty for all."""
    text = _text(field, value)
    if text not in ("", "+"):
        read_interface(field, text.removesuffix("+"))
    return text


def read_interface_prefixes(field: str, value: object) -> str:
    """Beginnings of the names of workloads' interfaces, with commas between: what begins so and is none is closed."""
    text = _text(field, value)
    for word in filter(None, map(str.strip, text.split(","))):
        read_interface(field, word)
        taken = next((one for one in NODE_INTERFACES if one.startswith(word)), None)
        if taken is not None:
            said = f"{word!r} begins the name of interfaces of the node itself ({taken}), which it would close"
            raise FieldError(field, said)
    return text


def _port_range(field: str, value: object) -> str:
    """A port, or `first:last`. Source: numorstring's Port."""
    first, colon, last = str(value).partition(":")
    words = (first, last) if colon else (first, first)
    if isinstance(value, bool) or not all(word.isascii() and word.isdecimal() for word in words):
        raise FieldError(field, f"{value!r} is neither a port nor a range `first:last`")
    if not 0 < int(words[0]) <= int(words[1]) <= 65535:
        raise FieldError(field, f"{value!r} is no range of ports")
    return str(value)


_PORT, _MTU = _number(1, 65535), _number(0, 65535)
_FIELDS: Mapping[str, Callable[[str, object], FelixValue]] = {
    "allowIPIPPacketsFromWorkloads": _boolean,
    "allowVXLANPacketsFromWorkloads": _boolean,
    "defaultEndpointToHostAction": _word("Drop", "Return", "Accept"),
    "disableConntrackInvalidCheck": _boolean,
    "floatingIPs": _word("Enabled", "Disabled"),
    "flowLogsFileEnabledForAllowed": _boolean,
    "flowLogsFileEnabledForDenied": _boolean,
    "healthEnabled": _boolean,
    "healthHost": _text,
    "healthPort": _PORT,
    "interfacePrefix": read_interface_prefixes,
    "ipipMTU": _MTU,
    "iptablesFilterAllowAction": _word("Accept", "Return"),
    "iptablesFilterDenyAction": _word("Drop", "Reject"),
    "iptablesMangleAllowAction": _word("Accept", "Return"),
    "iptablesNATOutgoingInterfaceFilter": _interface_filter,
    "logPrefix": _text,
    "mtuIfacePattern": _pattern,
    "natOutgoingAddress": _address,
    "natOutgoingExclusions": _word("IPPoolsOnly", "IPPoolsAndHostIPs"),
    "natPortRange": _port_range,
    "nftablesFilterAllowAction": _word("Accept", "Return"),
    "nftablesFilterDenyAction": _word("Drop", "Reject"),
    "nftablesMangleAllowAction": _word("Accept", "Return"),
    "prometheusMetricsEnabled": _boolean,
    "prometheusMetricsHost": _text,
    "prometheusMetricsPort": _PORT,
    "serviceLoopPrevention": _word("Drop", "Reject", "Disabled"),
    "vxlanMTU": _MTU,
    "vxlanMTUV6": _MTU,
    "vxlanPort": _PORT,
    "vxlanVNI": _number(1, (1 << 24) - 1),
    "workloadSourceSpoofing": _word("Any", "Disabled"),
}
FELIX_FIELDS = frozenset({*_FIELDS, "externalNodesList", "failsafeInboundHostPorts", "failsafeOutboundHostPorts"})
"""The fields of FelixConfiguration that an agent reads."""


def _read_networks(field: str, networks: Any) -> tuple[Prefix, ...]:
    if not isinstance(networks, list) or not all(isinstance(one, str) for one in networks):
        raise FieldError(field, "is no list of networks")
    return read_prefixes(field, networks)


def _read_failsafe(field: str, ports: Any) -> tuple[FailsafePort, ...]:
    """An empty list says that there is none."""
    if not isinstance(ports, list):
        raise FieldError(field, "is no list")
    found = []
    for index, port in enumerate(ports):
        where = f"{field}[{index}]"
        number = port.get("port") if isinstance(port, dict) else None
        if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= 65535:
            raise FieldError(where, "has no port between 1 and 65535")
        named = port.get("protocol") or "TCP"
        if isinstance(named, bool) or not isinstance(named, str | int):
            raise FieldError(f"{where}.protocol", "is neither a name nor a number")
        protocol = read_protocol(f"{where}.protocol", named.upper() if isinstance(named, str) else named)
        net = read_prefix(f"{where}.net", str(port["net"])) if port.get("net") else None
        found.append(FailsafePort(protocol or 6, number, net))
    return tuple(found)
