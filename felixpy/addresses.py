"""Addresses and prefixes in the compact form used inside: network-order bytes, 4 long for IPv4 and 16 for IPv6.

Strings are parsed once, at the edge, by `parse_*`, which raise ValueError; everything further in trusts these values.
The conversions are `socket.inet_pton`'s own (no input or output happens there).
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
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
    def is_host(self) -> bool:
        """Whether it holds a single address (/32 or /128)."""
        return self.length == len(self.address) * 8

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.length}"

    def contains(self, address: bytes) -> bool:
        """Whether `address`, of any family, lies inside."""
        if len(address) != len(self.address):
            return False
        shift = len(address) * 8 - self.length
        return int.from_bytes(address, "big") >> shift == int.from_bytes(self.address, "big") >> shift

    def overlaps(self, other: Prefix) -> bool:
        """Whether the two share an address."""
        return self.contains(other.address) if self.length <= other.length else other.contains(self.address)


def parse_address(text: str) -> Address:
    """Raises ValueError when `text` is not an IPv4 or IPv6 address."""
    try:
        return Address(inet_pton(AF_INET6 if ":" in text else AF_INET, text))
    except OSError:
        raise ValueError(f"{text!r} is not an IP address") from None


def format_address(address: bytes) -> str:
    """The usual text form (RFC 5952 for IPv6); the device of birdpy's addresses of one link stands behind it."""
    if len(address) <= 16:
        return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)
    return f"{inet_ntop(AF_INET6, address[:16])}%{address[16:].decode()}"


def version_of(address: bytes) -> int:
    """4 or 6."""
    return 4 if len(address) == 4 else 6


def host_prefix(address: bytes) -> Prefix:
    """The /32 or /128 of one address."""
    return Prefix(Address(address), len(address) * 8)


def mask_address(address: bytes, length: int) -> Address:
    """`address` with all bits after the first `length` cleared."""
    bits = len(address) * 8
    number = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return Address(number.to_bytes(len(address), "big"))


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
    length = int(tail)
    return Prefix(mask_address(address, length), length)
