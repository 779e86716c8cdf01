"""Addresses and prefixes as this package holds them: network-order bytes, 4 long for IPv4 and 16 for IPv6.

`Prefix` has the shape of felixpy's own, so the two compare equal; nothing is imported from there. `parse_*` take
foreign text and raise ValueError; everything else trusts its arguments.
Source: RFC 4632 (prefixes), RFC 5952 (text form).
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple, NewType

Address = NewType("Address", bytes)


class Prefix(NamedTuple):
    """A CIDR: `address` with host bits zero, and `length` in bits."""

    address: Address
    length: int

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self.address) == 4 else 6

    @property
    def size(self) -> int:
        """How many addresses it holds."""
        return 1 << (len(self.address) * 8 - self.length)

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.length}"

    def contains(self, address: bytes) -> bool:
        """Whether `address`, of any family, lies inside."""
        return len(address) == len(self.address) and mask_address(address, self.length) == self.address

    def covers(self, other: Prefix) -> bool:
        """Whether all of `other` lies inside."""
        return self.length <= other.length and self.contains(other.address)

    def overlaps(self, other: Prefix) -> bool:
        """Whether the two share an address."""
        return self.covers(other) or other.covers(self)

    def nth(self, ordinal: int) -> Address:
        """The address `ordinal` places after the first."""
        return offset_address(self.address, ordinal)

    def ordinal(self, address: bytes) -> int:
        """How many places `address`, which lies inside, is after the first."""
        return int.from_bytes(address, "big") - int.from_bytes(self.address, "big")


def parse_address(text: str) -> Address:
    """Raises ValueError when `text` is not an IPv4 or IPv6 address."""
    return Address(ip_address(text).packed)


def format_address(address: bytes) -> str:
    """The usual text form."""
    return str(ip_address(address))


def offset_address(address: bytes, places: int) -> Address:
    """The address `places` after `address`; the two must be of one family's space."""
    return Address((int.from_bytes(address, "big") + places).to_bytes(len(address), "big"))


def mask_address(address: bytes, length: int) -> Address:
    """`address` with all bits after the first `length` cleared."""
    bits = len(address) * 8
    number = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return Address(number.to_bytes(len(address), "big"))


def block_of(address: bytes, length: int) -> Prefix:
    """The prefix of `length` bits that holds `address`."""
    return Prefix(mask_address(address, length), length)


def parse_prefix(text: str) -> Prefix:
    """A CIDR or a bare address; host bits are cleared.

    Raises  ValueError when either part is wrong.
    """
    head, slash, tail = text.partition("/")
    address = parse_address(head)
    bits = len(address) * 8
    if not slash:
        return Prefix(address, bits)
    if not tail.isascii() or not tail.isdigit() or int(tail) > bits:
        raise ValueError(f"{text!r} has no prefix length between 0 and {bits}")
    return block_of(address, int(tail))
