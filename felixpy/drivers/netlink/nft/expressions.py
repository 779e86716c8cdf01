"""Single expressions of the kernel's nftables machine, as bytes.

In → out: operands → one element of a rule's expression list. What they add up to is rules.py's.
Registers: 1 to 4 hold 16 bytes each and overlay 8 to 23, which hold 4 each; a concatenation lies in successive ones.
Source: linux/netfilter/nf_tables.h, net/netfilter/nft_*.c.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from felixpy.dataplane.aging import owner_numbers
from felixpy.dataplane.rules import Side
from felixpy.drivers.netlink.codec import (
    attribute,
    attribute_be32,
    attribute_be64,
    attribute_text,
    nested,
)

NF_ACCEPT, NF_DROP = 1, 0
NFT_JUMP, NFT_GOTO, NFT_RETURN = -3, -4, -5
VERDICT, FIRST = 0, 1
"""Registers."""
EQUAL, UNEQUAL, AT_MOST, AT_LEAST = 0, 1, 3, 5
DATA_VALUE, DATA_VERDICT = 1, 2
NETWORK, TRANSPORT = 1, 2
META_MARK, META_IIFNAME, META_OIFNAME, META_NFPROTO, META_L4PROTO = 3, 6, 7, 15, 16
NFPROTO = {4: 2, 6: 10}
ADDRESS_BYTES = {4: 4, 6: 16}
ADDRESS_AT = {(4, "source"): 12, (4, "destination"): 16, (6, "source"): 8, (6, "destination"): 24}
"""Offset of the address in the IP header."""
PORT_AT = {"source": 0, "destination": 2}
NUMGEN_RANDOM = 1
_REGISTER32 = 8
_LOOKUP_INVERT = 1
_U32 = Struct("=I")


def register(word: int) -> int:
    """The register that holds the `word`-th 4 bytes of a concatenation, named as the kernel names it back."""
    return FIRST + word // 4 if word % 4 == 0 else _REGISTER32 + word


def expression(name: str, *data: bytes) -> bytes:
    """An expression by its kernel name."""
    return nested(1, attribute_text(1, name), nested(2, *data)) if data else nested(1, attribute_text(1, name))


def meta(key: int, register: int = FIRST) -> bytes:
    """Load a property of the packet."""
    return expression("meta", attribute_be32(2, key), attribute_be32(1, register))


@lru_cache(maxsize=512)
def meta_is(key: int, value: bytes) -> bytes:
    """Go on where a property of the packet is `value`."""
    return meta(key) + compare(EQUAL, value)


def ct(key: int) -> bytes:
    """Load a property of the connection."""
    return expression("ct", attribute_be32(2, key), attribute_be32(1, FIRST))


def fib(result: int, flags: int) -> bytes:
    """Load what a route lookup says."""
    return expression("fib", attribute_be32(3, flags), attribute_be32(2, result), attribute_be32(1, FIRST))


def payload(base: int, offset: int, length: int, register: int = FIRST) -> bytes:
    """Load bytes of a header."""
    return expression(
        "payload",
        attribute_be32(1, register),
        attribute_be32(2, base),
        attribute_be32(3, offset),
        attribute_be32(4, length),
    )


def compare(operator: int, value: bytes) -> bytes:
    """Go on where the first register compares so with `value`, as bytes."""
    return expression("cmp", attribute_be32(1, FIRST), attribute_be32(2, operator), nested(3, constant(value)))


def outside(low: bytes, high: bytes) -> bytes:
    """Go on where the first register is below `low` or above `high`."""
    ends = (nested(3, constant(low)), nested(4, constant(high)))
    return expression("range", attribute_be32(1, FIRST), attribute_be32(2, UNEQUAL), *ends)


def bitwise(mask: bytes, xor: bytes) -> bytes:
    """First register = first register & mask ^ xor."""
    return expression(
        "bitwise",
        attribute_be32(1, FIRST),
        attribute_be32(2, FIRST),
        attribute_be32(3, len(mask)),
        nested(4, constant(mask)),
        nested(5, constant(xor)),
    )


def any_bit(bits: int, negate: bool) -> bytes:
    """Go on where the first register (host order) has one of `bits`, or, negated, none."""
    return bitwise(_U32.pack(bits), bytes(4)) + compare(EQUAL if negate else UNEQUAL, bytes(4))


def lookup(name: str, *, set_id: int = 0, destination: int | None = None, negate: bool = False) -> bytes:
    """Go on where the first register is in the set; with `destination`, load the map's data there."""
    data = [attribute_text(1, name), attribute_be32(2, FIRST)]
    if destination is not None:
        data.append(attribute_be32(3, destination))
    if set_id:
        data.append(attribute_be32(4, set_id))
    if negate:
        data.append(attribute_be32(5, _LOOKUP_INVERT))
    return expression("lookup", *data)


def verdict(code: int, chain: str = "") -> bytes:
    """End here, or go through a chain."""
    return expression("immediate", attribute_be32(1, VERDICT), nested(2, verdict_data(code, chain)))


def verdict_data(code: int, chain: str = "") -> bytes:
    """Data that is a verdict, as an attribute."""
    data = attribute_be32(1, code)
    return nested(DATA_VERDICT, data + attribute_text(2, chain) if chain else data)


def immediate(value: bytes, into: int = FIRST) -> bytes:
    """Load a constant into a register."""
    return expression("immediate", attribute_be32(1, into), nested(2, constant(value)))


def nat(kind: int, family: int, *registers: bytes) -> bytes:
    """Rewrite an address from registers."""
    return expression("nat", attribute_be32(1, kind), attribute_be32(2, family), *registers)


def constant(value: bytes) -> bytes:
    """Data that is no verdict, as an attribute."""
    return attribute(DATA_VALUE, value)


COUNTER = expression("counter", attribute_be64(1, 0), attribute_be64(2, 0))


def load_address(version: int, side: Side, register: int) -> bytes:
    """Load the source or destination address."""
    return payload(NETWORK, ADDRESS_AT[version, side], ADDRESS_BYTES[version], register)


def load_number(number: int, word: int) -> bytes:
    """Load a constant of 32 bits in such a way that nft(8) can show it as a part of a key: a random one of one."""
    return expression(
        "numgen",
        attribute_be32(1, register(word)),
        attribute_be32(2, 1),
        attribute_be32(3, NUMGEN_RANDOM),
        attribute_be32(4, number),
    )


def load_owner(owner: bytes, word: int) -> bytes:
    """Load whose a member of a set is (dataplane/aging.py)."""
    return b"".join(load_number(number, word + at) for at, number in enumerate(owner_numbers(owner)))


def load_node_port() -> bytes:
    """Load protocol . destination port from the first register on."""
    return meta(META_L4PROTO) + payload(TRANSPORT, PORT_AT["destination"], 2, register(1))


def load_endpoint(version: int, side: Side) -> bytes:
    """Load address . protocol . port from the first register on."""
    words = ADDRESS_BYTES[version] // 4
    port = payload(TRANSPORT, PORT_AT[side], 2, register(words + 1))
    return load_address(version, side, FIRST) + meta(META_L4PROTO, register(words)) + port
