"""Addresses and prefixes of this package: network-order bytes, 4 long for IPv4 and 16 for IPv6.

The same shape as the values that the node agent uses, so that they pass over without conversion. Strings are parsed at
the edges only (a gRPC message, a configuration), by `parse_*`, which raise ValueError. An IPv6 address that means
something on one link only carries that link's device behind its 16 bytes (RFC 4007's zone, `fe80::1%eth0`). Where
whoever is in a prefix may be meant, the prefix stands in an address's place, its length behind its bytes (`/24`).
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Literal, NamedTuple

Version = Literal[4, 6]


class Prefix(NamedTuple):
    """A CIDR: `address` with host bits zero, and `length` in bits."""

    address: bytes
    length: int

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.length}"


def format_prefix(prefix: tuple[bytes, int]) -> str:
    """The usual text form of any value of a Prefix's shape."""
    return f"{format_address(prefix[0])}/{prefix[1]}"


def version_of(address: bytes) -> Version:
    """4 or 6."""
    return 4 if len(address) < 16 else 6


def anyone_in(prefix: Prefix) -> bytes:
    """What stands for every address of a prefix."""
    return prefix.address + f"/{prefix.length}".encode()


def range_of(address: bytes) -> Prefix | None:
    """The prefix that `anyone_in` made it of; None for a single address."""
    size = 4 if len(address) < 16 else 16
    if address[size : size + 1] != b"/":
        return None
    return Prefix(address[:size], int(address[size + 1 :]))


def on_link(address: bytes, device: str) -> bytes:
    """An IPv6 address of one link."""
    return address + device.encode()


def device_of(address: bytes) -> str:
    """The device whose link an address is of; "" where it means the same everywhere."""
    return "" if range_of(address) else address[16:].decode()


def bare(address: bytes) -> bytes:
    """An address without its link, or the first one of a prefix that stands in its place."""
    return address[: 4 if len(address) < 16 else 16]


def is_link_local(address: bytes) -> bool:
    """RFC 4291 §2.5.6."""
    return len(address) >= 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def parse_address(text: str) -> bytes:
    """Raises ValueError when `text` is not an IPv4 or IPv6 address, or one of IPv6 with a link's device (`%eth0`)."""
    try:
        if ":" not in text:
            return inet_pton(AF_INET, text)
        address, _, device = text.partition("%")
        return on_link(inet_pton(AF_INET6, address), device)
    except OSError:
        raise ValueError(f"{text!r} is not an IP address") from None


def format_address(address: bytes) -> str:
    """The usual text form (RFC 5952 for IPv6, RFC 4007 §11 with a link)."""
    if len(address) in (4, 16):
        return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)
    if (prefix := range_of(address)) is not None:
        return str(prefix)
    return f"{inet_ntop(AF_INET6, bare(address))}%{device_of(address)}"


def parse_prefix(text: str) -> Prefix:
    """A CIDR or a bare address; host bits are cleared.

    Raises  ValueError when either part is wrong.
    """
    head, slash, tail = text.partition("/")
    address = bare(parse_address(head))
    bits = len(address) * 8
    if not slash:
        return Prefix(address, bits)
    if not tail.isascii() or not tail.isdigit() or int(tail) > bits:
        raise ValueError(f"{text!r} has no prefix length between 0 and {bits}")
    length = int(tail)
    number = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return Prefix(number.to_bytes(len(address), "big"), length)


def is_forwardable(address: bytes) -> bool:
    """Whether it can be a next hop at all: neither unspecified, loopback nor multicast."""
    if len(address) == 4:
        return address[0] != 127 and address[0] != 0 and address[0] < 224
    return address[0] != 0xFF and int.from_bytes(address, "big") > 1
