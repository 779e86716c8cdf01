"""One packet that a rule told of, and what its head says. Pure.

In → out: the first bytes of an IPv4 or IPv6 packet → who sends what to whom. A head that is cut off, or no packet at
all, is none. Source: RFC 791 §3.1, RFC 8200 §4 (extension headers), linux/netfilter/nfnetlink_log.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from felixpy.addresses import Address
from felixpy.resources.scalars import PORTED

HEAD_BYTES = 128
"""What is asked of the kernel: an IPv6 header, some extension headers, and the ports."""
MOST_EXTENSIONS = 8

_ICMP = (1, 58)
_EXTENSIONS = frozenset({0, 43, 60, 135})
_FRAGMENT, _AUTHENTICATION = 44, 51


class Traffic(NamedTuple):
    """Addresses, protocol, ports, and (for ICMP, else 0) type and code. A later fragment has no ports."""

    source: Address
    destination: Address
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0


@dataclass(frozen=True, slots=True)
class Sighting:
    """A packet as the kernel told of it: the rule's text, the devices by index (0: none), and its first bytes."""

    text: str
    in_index: int
    out_index: int
    head: bytes


def parse_head(head: bytes) -> Traffic | None:
    """The traffic that a packet's first bytes are of; None where they do not say."""
    version = head[0] >> 4 if head else 0
    if version == 4 and len(head) >= 20:
        later = (head[6] & 0x1F) << 8 | head[7]
        start = (head[0] & 0xF) * 4
        return _finish(Address(head[12:16]), Address(head[16:20]), head[9], b"" if later else head[start:])
    if version == 6 and len(head) >= 40:
        protocol, rest = _skip_extensions(head[6], head[40:])
        return _finish(Address(head[8:24]), Address(head[24:40]), protocol, rest)
    return None


def _skip_extensions(kind: int, rest: bytes) -> tuple[int, bytes]:
    for _ in range(MOST_EXTENSIONS):
        if len(rest) < 8:
            break
        if kind == _FRAGMENT:
            if (rest[2] << 8 | rest[3]) >> 3:
                return rest[0], b""
            kind, rest = rest[0], rest[8:]
        elif kind in _EXTENSIONS:
            kind, rest = rest[0], rest[(rest[1] + 1) * 8 :]
        elif kind == _AUTHENTICATION:
            kind, rest = rest[0], rest[(rest[1] + 2) * 4 :]
        else:
            break
    return kind, rest


def _finish(source: Address, destination: Address, protocol: int, rest: bytes) -> Traffic:
    if protocol in PORTED and len(rest) >= 4:
        ports = int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:4], "big")
        return Traffic(source, destination, protocol, *ports)
    if protocol in _ICMP and len(rest) >= 2:
        return Traffic(source, destination, protocol, 0, 0, rest[0], rest[1])
    return Traffic(source, destination, protocol)
