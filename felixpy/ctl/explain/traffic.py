"""What a person asks about: `tcp/80`, `53/udp`, `443`, `icmp`, `icmp/8`. Text → Traffic. Pure."""

from __future__ import annotations

from felixpy.ctl.explain.flow import ICMP, ICMP6, SOURCE_PORT, Traffic
from felixpy.resources.scalars import PORTED, PROTOCOLS

TCP = PROTOCOLS["tcp"]


def parse_traffic(text: str, source_port: int = SOURCE_PORT) -> Traffic:
    """A protocol by name or number with its port (or ICMP type), in either order; a number alone is a TCP port.

    Raises  ValueError in words for the person who typed it.
    """
    first, slash, second = text.lower().partition("/")
    if not slash and first.isdecimal():
        return Traffic(TCP, _port(text, first), source_port=source_port)
    if second in PROTOCOLS and first not in PROTOCOLS:
        first, second = second, first
    protocol = PROTOCOLS.get(first, int(first) if first.isdecimal() else 0)
    if not 0 < protocol < 256:
        raise ValueError(f"{text!r} is no PROTOCOL/PORT: {first!r} is no protocol (a name, or 1 to 255)")
    if protocol in (ICMP, ICMP6):
        return Traffic(protocol, 0, (_type(text, second), 0) if second else None, source_port)
    if protocol not in PORTED:
        if second not in ("", "0"):
            raise ValueError(f"{text!r}: protocol {protocol} has no ports")
        return Traffic(protocol, source_port=source_port)
    if not second:
        raise ValueError(f"{text!r} says no port, as in {first}/80")
    return Traffic(protocol, _port(text, second), source_port=source_port)


def _port(text: str, word: str) -> int:
    if not word.isdecimal() or int(word) > 65535:
        raise ValueError(f"{text!r} is no PROTOCOL/PORT: {word!r} is no port (0 to 65535)")
    return int(word)


def _type(text: str, word: str) -> int:
    if not word.isdecimal() or int(word) > 255:
        raise ValueError(f"{text!r} is no PROTOCOL/PORT: {word!r} is no ICMP type (0 to 255)")
    return int(word)
