"""The actions of rules as the expressions of the kernel's nftables machine.

In → out: Action → expression list. rules.py puts them behind the matches. Source: `nft --debug=netlink`, which
shows nft's own code; linux/netfilter/nf_tables.h, linux/netfilter/nf_nat.h.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import assert_never

from felixpy.addresses import version_of
from felixpy.dataplane.aging import WHOLES, parse_part
from felixpy.dataplane.nftables import log_prefix, report_text
from felixpy.dataplane.rules import (
    REPORT_GROUP,
    REPORTS_AT_ONCE,
    REPORTS_PER_S,
    Accept,
    Action,
    Balance,
    DestinationNat,
    Dispatch,
    Drop,
    Goto,
    Jump,
    Log,
    MapDestination,
    MapSource,
    Masquerade,
    NoTrack,
    Reject,
    Remember,
    Report,
    Return,
    SetMark,
    Side,
    SourceNat,
)
from felixpy.drivers.netlink.codec import attribute_be16, attribute_be32, attribute_be64, attribute_text, attribute_u8
from felixpy.drivers.netlink.nft.expressions import (
    ADDRESS_BYTES,
    FIRST,
    META_IIFNAME,
    META_MARK,
    META_OIFNAME,
    NF_ACCEPT,
    NF_DROP,
    NFPROTO,
    NFT_GOTO,
    NFT_JUMP,
    NFT_RETURN,
    NUMGEN_RANDOM,
    VERDICT,
    bitwise,
    expression,
    immediate,
    load_address,
    load_endpoint,
    load_node_port,
    load_owner,
    lookup,
    meta,
    nat,
    register,
    verdict,
)

_REJECT_TCP_RST, _REJECT_ICMPX, _ICMPX_PORT_UNREACH = 1, 2, 1
_NAT_SOURCE, _NAT_DESTINATION = 0, 1
_NAT_PORTS, _NAT_RANDOM_FULLY = 2, 16
_LOG_NOTICE = 5
_HASH_JENKINS = 0
_DYNSET_UPDATE = 1
_U32 = Struct("=I")
_LIMIT = expression(
    "limit",
    attribute_be64(1, REPORTS_PER_S),
    attribute_be64(2, 1),
    attribute_be32(3, REPORTS_AT_ONCE),
    attribute_be32(4, 0),
    attribute_be32(5, 0),
)
"""Packets a second, and at once."""


@lru_cache(maxsize=8192)
def encode_action(action: Action) -> bytes:
    """The expressions of an action; what it needs to know of the packet's family and protocol is tested before."""
    match action:
        case Accept():
            return verdict(NF_ACCEPT)
        case Drop():
            return verdict(NF_DROP)
        case Return():
            return verdict(NFT_RETURN)
        case Jump():
            return verdict(NFT_JUMP, action.chain)
        case Goto():
            return verdict(NFT_GOTO, action.chain)
        case Reject():
            if action.tcp_reset:
                return expression("reject", attribute_be32(1, _REJECT_TCP_RST), attribute_u8(2, 0))
            return expression("reject", attribute_be32(1, _REJECT_ICMPX), attribute_u8(2, _ICMPX_PORT_UNREACH))
        case Dispatch():
            return _dispatch_key(action) + lookup(action.map_name, destination=VERDICT)
        case SetMark():
            return _set_mark(action)
        case Log():
            prefix = log_prefix(action)
            return expression("log", *((attribute_text(2, prefix),) if prefix else ()), attribute_be32(5, _LOG_NOTICE))
        case Report():
            return _LIMIT + expression("log", attribute_be16(1, REPORT_GROUP), attribute_text(2, report_text(action)))
        case NoTrack():
            return expression("notrack")
        case Masquerade():
            flags = (_NAT_RANDOM_FULLY if action.random else 0) | (_NAT_PORTS if action.ports is not None else 0)
            loads, registers = _ports(action.ports, FIRST, 2)
            return loads + expression("masq", *((attribute_be32(1, flags),) if flags else ()), *registers)
        case SourceNat():
            family = NFPROTO[version_of(action.address)]
            loads, registers = _ports(action.ports, FIRST + 1, 5)
            return immediate(action.address) + loads + nat(_NAT_SOURCE, family, attribute_be32(3, FIRST), *registers)
        case DestinationNat():
            port = immediate(action.port.to_bytes(2, "big"), FIRST + 1)
            to = (attribute_be32(3, FIRST), attribute_be32(5, FIRST + 1))
            return immediate(action.address) + port + nat(_NAT_DESTINATION, NFPROTO[version_of(action.address)], *to)
        case Remember():
            key, set_name = load_member(action.version, "source", action.set_name)
            kept = expression(
                "dynset",
                attribute_text(1, set_name),
                attribute_be32(3, _DYNSET_UPDATE),
                attribute_be32(4, FIRST),
                attribute_be64(6, action.timeout_s * 1000),
            )
            return key + kept
        case MapDestination():
            return _map(_NAT_DESTINATION, action, load_address(action.version, "destination", FIRST))
        case MapSource():
            words = ADDRESS_BYTES[action.version] // 4
            source = load_address(action.version, "source", FIRST)
            return _map(_NAT_SOURCE, action, source + load_address(action.version, "destination", register(words)))
        case Balance():
            return _balance(action)
        case _:
            assert_never(action)


def _ports(ports: tuple[int, int] | None, first: int, attribute: int) -> tuple[bytes, tuple[bytes, ...]]:
    """Loads the ends of a range into registers from `first` on; what names these from that attribute on."""
    if ports is None:
        return b"", ()
    loads = (immediate(port.to_bytes(2, "big"), first + index) for index, port in enumerate(ports))
    return b"".join(loads), tuple(attribute_be32(attribute + index, first + index) for index in range(2))


def _set_mark(action: SetMark) -> bytes:
    kept = ~(action.mask | action.value) & 0xFFFFFFFF
    store = expression("meta", attribute_be32(2, META_MARK), attribute_be32(3, FIRST))
    if kept == 0:
        return immediate(_U32.pack(action.value)) + store
    return meta(META_MARK) + bitwise(_U32.pack(kept), _U32.pack(action.value)) + store


def _map(kind: int, action: MapDestination | MapSource, key: bytes) -> bytes:
    found = lookup(action.map_name, destination=FIRST)
    return key + found + nat(kind, NFPROTO[action.version], attribute_be32(3, FIRST))


def _balance(action: Balance) -> bytes:
    words = ADDRESS_BYTES[action.version] // 4
    slot = 2 if action.any_address else words + 2
    choice = _slot_at_random(action, slot)
    to = nat(
        _NAT_DESTINATION,
        NFPROTO[action.version],
        attribute_be32(3, FIRST),
        attribute_be32(5, register(words)),
    )
    asked = load_node_port() if action.any_address else load_endpoint(action.version, "destination")
    return asked + choice + lookup(action.map_name, destination=FIRST) + to


def _slot_at_random(action: Balance, word: int) -> bytes:
    return expression(
        "numgen",
        attribute_be32(1, register(word)),
        attribute_be32(2, action.count),
        attribute_be32(3, NUMGEN_RANDOM),
        attribute_be32(4, 0),
    )


def load_member(version: int, side: Side, set_name: str) -> tuple[bytes, str]:
    """Loads the key of the packet's address in a set of addresses; the kernel's set that has it."""
    part = parse_part(set_name)
    address = load_address(version, side, FIRST)
    if part is None:
        return address, set_name
    return address + load_owner(part.owner, ADDRESS_BYTES[version] // 4), WHOLES[part.version].name


def hash_source(version: int, count: int, word: int) -> bytes:
    """Load the hash of the source address modulo `count`."""
    address = register(word + 1)
    choice = expression(
        "hash",
        attribute_be32(1, address),
        attribute_be32(2, register(word)),
        attribute_be32(3, ADDRESS_BYTES[version]),
        attribute_be32(4, count),
        attribute_be32(5, 0),
        attribute_be32(7, _HASH_JENKINS),
    )
    return load_address(version, "source", address) + choice


def _dispatch_key(action: Dispatch) -> bytes:
    match action.key:
        case "in_interface":
            return meta(META_IIFNAME)
        case "out_interface":
            return meta(META_OIFNAME)
        case "service4":
            return load_endpoint(4, "destination")
        case "service6":
            return load_endpoint(6, "destination")
        case "node_port4" | "node_port6":
            return load_node_port()
        case _:
            assert_never(action.key)
