"""Sets, maps and their elements as nfnetlink attributes, both ways.

In → out: Set → its declaration; Members ↔ element lists. An interval set holds, per prefix, its first address and
(flagged as an end) the one after its last; at the top of the address space there is no such end.
Source: net/netfilter/nf_tables_api.c, nft_set_rbtree.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from felixpy.addresses import Address, Prefix
from felixpy.dataplane.nftables_sets import AGING_MOST
from felixpy.dataplane.objects import DataType, Members, Set, SetType
from felixpy.drivers.netlink.codec import (
    NLA_F_NESTED,
    NLA_TYPE_MASK,
    attribute,
    attribute_be32,
    attribute_text,
    nested,
    parse_attributes,
    parse_be32,
    parse_text,
    pick_attributes,
)
from felixpy.drivers.netlink.nft.expressions import (
    DATA_VALUE,
    DATA_VERDICT,
    NF_ACCEPT,
    NF_DROP,
    NFT_GOTO,
    NFT_JUMP,
    NFT_RETURN,
    verdict_data,
)
from felixpy.drivers.netlink.nft.typeof import HOST_ORDER, describe_set

ANONYMOUS_NAME = "__set%d"
"""The kernel puts a number in."""
INTERFACE_NAME_BYTES = 16
ELEMENTS_BYTES = 60_000
"""Per message: the length of an attribute is 16 bits."""

_TABLE, _NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _DATA_TYPE, _DATA_LEN, _DESC, _ID, _USERDATA = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    9,
    10,
    13,
)
_DESC_SIZE = 1
_ANONYMOUS, _CONSTANT, _INTERVAL, _MAP, _TIMEOUT, _EVAL = 1, 2, 4, 8, 16, 32
_AGES = _TIMEOUT | _EVAL
_ELEMENT_TABLE, _ELEMENT_SET, _ELEMENTS, _ELEMENT_SET_ID = 1, 2, 3, 4
_LIST_ELEMENT = 1
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_FLAGS = 1, 2, 3
_INTERVAL_END = 1
_TYPE_BITS = 6
_VERDICT_TYPE = 0xFFFFFF00
_VERDICT_BYTES = 16
_VERDICTS = {b"accept": NF_ACCEPT, b"drop": NF_DROP, b"return": NFT_RETURN, b"jump": NFT_JUMP, b"goto": NFT_GOTO}
_VERDICT_WORDS = {code & 0xFFFFFFFF: word for word, code in _VERDICTS.items()}

_ELEMENT = Struct("=HHHHHH")
"""Headers of an element, its key, and the key's value."""


class KeyType(IntEnum):
    """nft's number of a data type (libnftables, include/datatype.h); the kernel only keeps it."""

    INTEGER = 4
    IPV4 = 7
    IPV6 = 8
    PROTOCOL = 12
    PORT = 13
    INTERFACE = 41


class KeyForm(NamedTuple):
    """What a key is made of, and its size in the kernel."""

    types: tuple[KeyType, ...]
    size: int


KEY_FORMS: Mapping[SetType, KeyForm] = {
    SetType.IPV4: KeyForm((KeyType.IPV4,), 4),
    SetType.IPV6: KeyForm((KeyType.IPV6,), 16),
    SetType.IPV4_PORT: KeyForm((KeyType.IPV4, KeyType.PROTOCOL, KeyType.PORT), 12),
    SetType.IPV6_PORT: KeyForm((KeyType.IPV6, KeyType.PROTOCOL, KeyType.PORT), 24),
    SetType.IPV4_IPV4: KeyForm((KeyType.IPV4, KeyType.IPV4), 8),
    SetType.IPV6_IPV6: KeyForm((KeyType.IPV6, KeyType.IPV6), 32),
    SetType.IPV4_PORT_SLOT: KeyForm((KeyType.IPV4, KeyType.PROTOCOL, KeyType.PORT, KeyType.INTEGER), 16),
    SetType.IPV6_PORT_SLOT: KeyForm((KeyType.IPV6, KeyType.PROTOCOL, KeyType.PORT, KeyType.INTEGER), 28),
    SetType.NODE_PORT: KeyForm((KeyType.PROTOCOL, KeyType.PORT), 8),
    SetType.NODE_PORT_SLOT: KeyForm((KeyType.PROTOCOL, KeyType.PORT, KeyType.INTEGER), 12),
    SetType.IPV4_OWNER: KeyForm((KeyType.IPV4, KeyType.INTEGER, KeyType.INTEGER), 12),
    SetType.IPV6_OWNER: KeyForm((KeyType.IPV6, KeyType.INTEGER, KeyType.INTEGER), 24),
    SetType.OWNER_SLOT: KeyForm((KeyType.INTEGER, KeyType.INTEGER, KeyType.INTEGER), 12),
    SetType.INTERFACE: KeyForm((KeyType.INTERFACE,), INTERFACE_NAME_BYTES),
}
DATA_FORMS: Mapping[DataType, KeyForm] = {
    DataType.IPV4: KeyForm((KeyType.IPV4,), 4),
    DataType.IPV6: KeyForm((KeyType.IPV6,), 16),
    DataType.IPV4_PORT: KeyForm((KeyType.IPV4, KeyType.PORT), 8),
    DataType.IPV6_PORT: KeyForm((KeyType.IPV6, KeyType.PORT), 20),
}


@dataclass(frozen=True, slots=True)
class AnonymousSet:
    """A constant set that one rule looks up. Each element is a key twice, or the inclusive ends of a range."""

    id: int
    key_type: KeyType
    key_bytes: int
    elements: tuple[tuple[bytes, bytes], ...]

    @property
    def interval(self) -> bool:
        """Whether any element is a range."""
        return any(low != high for low, high in self.elements)


def encode_set(table: str, it: Set, set_id: int) -> bytes:
    """Attributes of NFT_MSG_NEWSET."""
    form = KEY_FORMS[it.type]
    flags = (_INTERVAL if it.interval else 0) | (_MAP if it.data is not DataType.NONE else 0)
    flags |= _AGES if it.ages else 0
    parts = [
        encode_set_key(table, it.name),
        attribute_be32(_FLAGS, flags),
        attribute_be32(_KEY_TYPE, _concatenated(form.types)),
        attribute_be32(_KEY_LEN, form.size),
        attribute_be32(_ID, set_id),
    ]
    if it.ages:
        parts.append(nested(_DESC, attribute_be32(_DESC_SIZE, AGING_MOST)))
    if it.data is DataType.VERDICT:
        parts += (attribute_be32(_DATA_TYPE, _VERDICT_TYPE), attribute_be32(_DATA_LEN, _VERDICT_BYTES))
    elif it.data is not DataType.NONE:
        data = DATA_FORMS[it.data]
        parts += (attribute_be32(_DATA_TYPE, _concatenated(data.types)), attribute_be32(_DATA_LEN, data.size))
    if user_data := describe_set(it):
        parts.append(attribute(_USERDATA, user_data))
    return b"".join(parts)


def encode_set_key(table: str, name: str) -> bytes:
    """Attributes of NFT_MSG_DELSET, and the beginning of those that ask for elements."""
    return attribute_text(_TABLE, table) + attribute_text(_NAME, name)


def encode_anonymous_set(table: str, it: AnonymousSet) -> tuple[bytes, tuple[bytes, ...]]:
    """Attributes of NFT_MSG_NEWSET and of NFT_MSG_NEWSETELEM that fill it, as many messages as it takes."""
    flags = _ANONYMOUS | _CONSTANT | (_INTERVAL if it.interval else 0)
    declared = (
        encode_set_key(table, ANONYMOUS_NAME)
        + attribute_be32(_FLAGS, flags)
        + attribute_be32(_KEY_TYPE, it.key_type)
        + attribute_be32(_KEY_LEN, it.key_bytes)
        + attribute_be32(_ID, it.id)
        + nested(_DESC, attribute_be32(_DESC_SIZE, len(it.elements) * (2 if it.interval else 1)))
        + (attribute(_USERDATA, HOST_ORDER) if it.key_type is KeyType.INTEGER else b"")
    )
    elements = (_range_elements(low, high) if it.interval else _element(low) for low, high in it.elements)
    head = encode_set_key(table, ANONYMOUS_NAME) + attribute_be32(_ELEMENT_SET_ID, it.id)
    return declared, tuple(head + nested(_ELEMENTS, chunk) for chunk in _chunks(elements))


def encode_members(table: str, it: Set, members: Members, *, data: bool) -> Iterator[bytes]:
    """Attributes of NFT_MSG_NEWSETELEM (with `data`) or NFT_MSG_DELSETELEM, as many messages as it takes."""
    head = encode_set_key(table, it.name)
    for elements in _chunks(_elements(it, members, data)):
        yield head + attribute(_ELEMENTS | NLA_F_NESTED, elements)


def encode_element_query(table: str, it: Set, key: bytes) -> bytes:
    """Attributes of NFT_MSG_GETSETELEM for one key (of an interval: its beginning)."""
    return encode_set_key(table, it.name) + nested(_ELEMENTS, _element(_kernel_key(it, key)))


def parse_set(body: bytes, offset: int) -> Set | None:
    """The set of a message body; None where it is anonymous, or of no type that we make."""
    found = parse_attributes(body, offset)
    flags = parse_be32(found.get(_FLAGS, bytes(4)))
    kind = _SET_TYPE_OF.get(parse_be32(found.get(_KEY_TYPE, bytes(4))))
    data = DataType.NONE
    if flags & _MAP:
        data = _DATA_TYPE_OF.get(parse_be32(found.get(_DATA_TYPE, bytes(4))), DataType.NONE)
    if flags & _ANONYMOUS or kind is None or (flags & _MAP and data is DataType.NONE):
        return None
    return Set(parse_text(found[_NAME]), kind, data, bool(flags & _INTERVAL), bool(flags & _TIMEOUT))


def parse_members(it: Set, bodies: Iterable[bytes], offset: int) -> Members:
    """The members in the replies to a query for elements."""
    bounds: list[tuple[bytes, bool]] = []
    members: dict[bytes, bytes] = {}
    strip = it.type is SetType.INTERFACE
    for body in bodies:
        elements, _ = pick_attributes(body, offset, _ELEMENTS)
        for key, rest in _parse_elements(elements):
            if it.interval:
                flags = parse_attributes(rest).get(_ELEMENT_FLAGS, bytes(4)) if rest else bytes(4)
                bounds.append((key, bool(parse_be32(flags) & _INTERVAL_END)))
            else:
                data = parse_attributes(rest).get(_ELEMENT_DATA) if rest else None
                members[key.rstrip(b"\0") if strip else key] = _parse_data(data) if data is not None else b""
    return _prefixes_between(bounds) if it.interval else members


def _parse_elements(elements: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each element's key, and its other attributes; the kernel puts the key first (nf_tables_fill_setelem)."""
    unpack, offset, end = _ELEMENT.unpack_from, 0, len(elements)
    while offset + _ELEMENT.size <= end:
        length, _, key_length, kind, value_length, _ = unpack(elements, offset)
        if length < _ELEMENT.size:
            return
        if kind & NLA_TYPE_MASK == _ELEMENT_KEY:
            rest = offset + 4 + ((key_length + 3) & ~3)
            yield elements[offset + _ELEMENT.size : offset + 8 + value_length], elements[rest : offset + length]
        offset += (length + 3) & ~3


def last_address(prefix: Prefix) -> bytes:
    """The last address of a prefix."""
    address, length = prefix
    bits = len(address) * 8
    return (int.from_bytes(address, "big") | ((1 << (bits - length)) - 1)).to_bytes(len(address), "big")


def _concatenated(types: Sequence[KeyType]) -> int:
    number = 0
    for kind in types:
        number = number << _TYPE_BITS | kind
    return number


_SET_TYPE_OF = {_concatenated(form.types): kind for kind, form in KEY_FORMS.items()}
_DATA_TYPE_OF = {_concatenated(form.types): kind for kind, form in DATA_FORMS.items()} | {
    _VERDICT_TYPE: DataType.VERDICT
}


def _elements(it: Set, members: Members, data: bool) -> Iterator[bytes]:
    if it.interval:
        for key in members:
            prefix = Prefix(Address(key[:-1]), key[-1])
            yield _range_elements(prefix.address, last_address(prefix))
    elif it.data is DataType.NONE or not data:
        size = KEY_FORMS[it.type].size
        frame = _element(bytes(size))[:-size]
        for key in members:
            yield frame + _kernel_key(it, key)
    else:
        for key, value in members.items():
            yield _element(_kernel_key(it, key), _encode_data(it.data, value))


def _kernel_key(it: Set, key: bytes) -> bytes:
    if it.interval:
        return key[:-1]
    return key.ljust(INTERFACE_NAME_BYTES, b"\0") if it.type is SetType.INTERFACE else key


def _encode_data(kind: DataType, data: bytes) -> bytes:
    if kind is not DataType.VERDICT:
        return attribute(DATA_VALUE, data)
    word, _, chain = data.partition(b" ")
    return verdict_data(_VERDICTS[word], chain.decode())


def _parse_data(payload: bytes) -> bytes:
    found = parse_attributes(payload)
    if DATA_VERDICT not in found:
        return found[DATA_VALUE]
    verdict = parse_attributes(found[DATA_VERDICT])
    word = _VERDICT_WORDS.get(parse_be32(verdict[1]), b"")
    return word + b" " + verdict[2].rstrip(b"\0") if 2 in verdict else word


def _element(key: bytes, data: bytes = b"", *, end: bool = False) -> bytes:
    parts = [attribute_be32(_ELEMENT_FLAGS, _INTERVAL_END)] if end else []
    if data:
        parts.append(nested(_ELEMENT_DATA, data))
    return nested(_LIST_ELEMENT, *parts, nested(_ELEMENT_KEY, attribute(DATA_VALUE, key)))


def _range_elements(low: bytes, high: bytes) -> bytes:
    after = int.from_bytes(high, "big") + 1
    start = _element(low)
    if after >> (len(high) * 8):
        return start
    return start + _element(after.to_bytes(len(high), "big"), end=True)


def _chunks(elements: Iterable[bytes]) -> Iterator[bytes]:
    chunk: list[bytes] = []
    size = 0
    for element in elements:
        if size + len(element) > ELEMENTS_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(element)
        size += len(element)
    if chunk:
        yield b"".join(chunk)


def _prefixes_between(bounds: list[tuple[bytes, bool]]) -> dict[bytes, bytes]:
    """Interval bounds, in any order, as members; what is no prefix in one piece becomes several."""
    ordered = sorted(bounds, key=lambda bound: (bound[0], not bound[1]))
    members: dict[bytes, bytes] = {}
    for position, (low, is_end) in enumerate(ordered):
        if is_end:
            continue
        size = len(low)
        after = int.from_bytes(ordered[position + 1][0], "big") if position + 1 < len(ordered) else 1 << size * 8
        for prefix in _summarise(int.from_bytes(low, "big"), after, size * 8):
            members[prefix.address + bytes([prefix.length])] = b""
    return members


def _summarise(low: int, after: int, bits: int) -> Iterator[Prefix]:
    while low < after:
        host_bits = min((low & -low).bit_length() - 1 if low else bits, (after - low).bit_length() - 1)
        yield Prefix(Address(low.to_bytes(bits // 8, "big")), bits - host_bits)
        low += 1 << host_bits
