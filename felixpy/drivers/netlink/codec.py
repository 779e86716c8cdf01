"""Netlink's bytes: messages and attributes, both ways.

In → out: typed values → message bytes; datagrams → messages, attributes, errors. Knows no family's meaning and opens
no socket. Source: linux/netlink.h, lib/nlattr.c; everything is in host byte order unless its name says `be`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
_NLMSGERR_ATTR_MSG = 1

HEADER = Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port id."""
HEADER_BYTES = HEADER.size
_ATTRIBUTE = Struct("=HH")
_U8 = Struct("=HHB3x")
_U32 = Struct("=HHI")
_BE16 = Struct(">H")
_BE32 = Struct(">I")
_BE64 = Struct(">Q")
_INT = Struct("=i")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Message(NamedTuple):
    """One message of a datagram, without its header's length."""

    type: int
    flags: int
    sequence: int
    port_id: int
    body: bytes


class Failure(NamedTuple):
    """Why the kernel refused a message: a positive errno, and its own words where it gave any (extended ack)."""

    errno: int
    text: str


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A request of type `kind`, header included; `body` is already padded to 4 bytes, as these encoders leave it."""
    return HEADER.pack(HEADER_BYTES + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = len(payload)
    return _ATTRIBUTE.pack(length + 4, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute made of attributes."""
    payload = b"".join(parts)
    return _ATTRIBUTE.pack(len(payload) + 4, kind | NLA_F_NESTED) + payload


def attribute_u8(kind: int, value: int) -> bytes:
    """One byte."""
    return _U8.pack(5, kind, value)


def attribute_be16(kind: int, value: int) -> bytes:
    """Two bytes in network order."""
    return attribute(kind, _BE16.pack(value))


def attribute_u32(kind: int, value: int) -> bytes:
    """Four bytes in host order; negative values wrap, as in C."""
    return _U32.pack(8, kind, value & 0xFFFFFFFF)


def attribute_be32(kind: int, value: int) -> bytes:
    """Four bytes in network order; negative values wrap, as in C."""
    return _ATTRIBUTE.pack(8, kind) + _BE32.pack(value & 0xFFFFFFFF)


def attribute_be64(kind: int, value: int) -> bytes:
    """Eight bytes in network order."""
    return _ATTRIBUTE.pack(12, kind) + _BE64.pack(value)


def attribute_text(kind: int, text: str) -> bytes:
    """A NUL-terminated string."""
    return attribute(kind, text.encode() + b"\0")


def iterate_attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Each attribute from `offset` on as (type, payload), flags taken off the type; stops at a malformed one."""
    unpack, end = _ATTRIBUTE.unpack_from, len(data) - 4
    while offset <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def parse_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type; of a repeated type, the last."""
    return dict(iterate_attributes(data, offset))


def pick_attributes(data: bytes, offset: int, first: int, second: int = -1) -> tuple[bytes, bytes]:
    """The payloads of two attributes, b"" where missing; the others are stepped over without a copy."""
    unpack, end = _ATTRIBUTE.unpack_from, len(data) - 4
    found_first = found_second = b""
    while offset <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        kind &= NLA_TYPE_MASK
        if kind == first:
            found_first = data[offset + 4 : offset + length]
        elif kind == second:
            found_second = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found_first, found_second


def parse_u32(payload: bytes) -> int:
    """Four bytes in host order."""
    return int.from_bytes(payload[:4], "little" if _LITTLE else "big")


def parse_be32(payload: bytes) -> int:
    """Four bytes in network order."""
    return int.from_bytes(payload[:4], "big")


def parse_text(payload: bytes) -> str:
    """A string up to its NUL."""
    return payload.partition(b"\0")[0].decode(errors="replace")


def split_messages(datagram: bytes) -> Iterator[Message]:
    """The messages of one datagram; stops at a malformed one."""
    unpack, offset, end = HEADER.unpack_from, 0, len(datagram) - HEADER_BYTES
    while offset <= end:
        length, kind, flags, sequence, port_id = unpack(datagram, offset)
        if length < HEADER_BYTES:
            return
        yield Message(kind, flags, sequence, port_id, datagram[offset + HEADER_BYTES : offset + length])
        offset += (length + 3) & ~3


def parse_failure(error: Message) -> Failure | None:
    """What an NLMSG_ERROR (or an NLMSG_DONE, whose body starts alike) says; None when it is an acknowledgement."""
    if len(error.body) < 4:
        return None
    code = -_INT.unpack_from(error.body)[0]
    if code <= 0:
        return None
    text = ""
    if error.flags & NLM_F_ACK_TLVS:
        offset = 4
        if error.type == NLMSG_ERROR:
            echoed = HEADER.unpack_from(error.body, 4)[0]
            offset += HEADER_BYTES if error.flags & NLM_F_CAPPED else (echoed + 3) & ~3
        text = parse_text(parse_attributes(error.body, offset).get(_NLMSGERR_ATTR_MSG, b""))
    return Failure(code, text)


_LITTLE = sys.byteorder == "little"
