"""Policy routing rules as rtnetlink messages, both ways.

In → out: IpRule (those carry our protocol number) and SourceRule ↔ message bodies.
Source: linux/fib_rules.h, net/core/fib_rules.c.
"""

from __future__ import annotations

from struct import Struct

from felixpy.addresses import Address
from felixpy.dataplane.objects import IpRule
from felixpy.dataplane.pod import SourceRule
from felixpy.drivers.netlink.codec import attribute, attribute_u8, attribute_u32, parse_attributes, parse_u32
from felixpy.drivers.netlink.routes import AF_INET, AF_INET6

RTM_NEWRULE = 32
RTM_DELRULE = 33
RTM_GETRULE = 34

_FRA_SRC, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 2, 6, 10, 15, 16, 21
_TO_TABLE = 1

_HEADER = Struct("=BBBBBxxBI")
"""struct fib_rule_hdr: family, dst_len, src_len, tos, table, action, flags."""


def encode_ip_rule(rule: IpRule, protocol: int) -> bytes:
    """Body of RTM_NEWRULE and RTM_DELRULE."""
    family = AF_INET if rule.version == 4 else AF_INET6
    table = rule.table if rule.table < 256 else 0
    return (
        _HEADER.pack(family, 0, 0, 0, table, _TO_TABLE, 0)
        + attribute_u32(_FRA_PRIORITY, rule.priority)
        + attribute_u32(_FRA_FWMARK, rule.mark)
        + attribute_u32(_FRA_FWMASK, rule.mask)
        + attribute_u32(_FRA_TABLE, rule.table)
        + attribute_u8(_FRA_PROTOCOL, protocol)
    )


def encode_source_rule(rule: SourceRule) -> bytes:
    """Body of RTM_NEWRULE."""
    return _header_of(rule, len(rule.source) * 8) + attribute(_FRA_SRC, rule.source)


def encode_source_rule_place(rule: SourceRule) -> bytes:
    """Body of RTM_DELRULE for whatever rule is in the place of this one."""
    return _header_of(rule, 0)


def _header_of(rule: SourceRule, source_length: int) -> bytes:
    family = AF_INET if len(rule.source) == 4 else AF_INET6
    return (
        _HEADER.pack(family, 0, source_length, 0, 0, _TO_TABLE, 0)
        + attribute_u32(_FRA_PRIORITY, rule.table)
        + attribute_u32(_FRA_TABLE, rule.table)
    )


def parse_source_rule(body: bytes) -> SourceRule | None:
    """The rule of a message body; None where it asks for something else than a source."""
    found = parse_attributes(body, _HEADER.size)
    if _FRA_SRC not in found or _FRA_TABLE not in found or _FRA_FWMARK in found:
        return None
    return SourceRule(Address(found[_FRA_SRC]), parse_u32(found[_FRA_TABLE]))


def encode_ip_rule_dump(family: int) -> bytes:
    """Body of RTM_GETRULE."""
    return _HEADER.pack(family, 0, 0, 0, 0, 0, 0)


def parse_ip_rule(body: bytes) -> tuple[int, IpRule]:
    """The protocol and the rule of a message body; what an IpRule cannot tell is left out."""
    family, _, _, _, table, _, _ = _HEADER.unpack_from(body)
    found = parse_attributes(body, _HEADER.size)

    def number(kind: int, default: int) -> int:
        return parse_u32(found[kind]) if kind in found else default

    protocol = found.get(_FRA_PROTOCOL, b"\0")[0]
    return protocol, IpRule(
        version=4 if family == AF_INET else 6,
        priority=number(_FRA_PRIORITY, 0),
        mark=number(_FRA_FWMARK, 0),
        mask=number(_FRA_FWMASK, 0xFFFFFFFF),
        table=number(_FRA_TABLE, table),
    )
