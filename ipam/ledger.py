"""Which Service holds which address, kept so that the lowest free address of a range is found without a search.

In: grants and their end; out: who holds an address, what a Service holds, the lowest free address. Bookkeeping of one
process over what the datastore says: it decides nothing, and may be built anew from the grants at any time.
Source: metallb/internal/ipam (allocator.go), whose order of addresses this keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .addresses import Address, parse_address, parse_prefix


class Port(NamedTuple):
    """A port of a Service, with its protocol ("TCP", "UDP", "SCTP")."""

    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class Sharer:
    """What decides whether a Service may hold an address together with others.

    `backend` is its selector when it keeps traffic on the node that it reaches (Local), else "": Services that share an
    address have to agree on the nodes that answer for it. Where two that hold an address do not agree (any more), the
    one of the lower `rank` keeps it: that of the last change is the higher one.
    """

    name: str
    sharing_key: str = ""
    ports: frozenset[Port] = frozenset()
    backend: str = ""
    rank: int = field(default=0, compare=False)


class Range(NamedTuple):
    """Addresses from `first` to `last`, both included, of one family."""

    first: Address
    last: Address

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self.first) == 4 else 6

    @property
    def size(self) -> int:
        """How many addresses it holds."""
        return int.from_bytes(self.last, "big") - int.from_bytes(self.first, "big") + 1

    def contains(self, address: bytes) -> bool:
        """Whether `address`, of any family, lies inside."""
        return len(address) == len(self.first) and self.first <= address <= self.last


def parse_range(text: str) -> Range:
    """A CIDR, or `first-last` with or without blanks.

    Raises  ValueError when it is neither, mixes the families, or ends before it begins.
    """
    first, dash, last = text.partition("-")
    if not dash:
        if "/" not in text:
            raise ValueError(f"{text!r} is neither a CIDR nor a range")
        cidr = parse_prefix(text)
        return Range(cidr.address, cidr.nth(cidr.size - 1))
    found = Range(parse_address(first.strip()), parse_address(last.strip()))
    if len(found.first) != len(found.last) or found.first > found.last:
        raise ValueError(f"{text!r} is not a range from low to high")
    return found


def without_ranges(ranges: Iterable[Range], taken: Iterable[Range]) -> Iterator[Range]:
    """What is left of ranges without others, in order."""
    holes = sorted(taken)
    for whole in ranges:
        width, start = len(whole.first), int.from_bytes(whole.first, "big")
        last = int.from_bytes(whole.last, "big")
        for hole in holes:
            if len(hole.first) != width or hole.last < whole.first or hole.first > whole.last:
                continue
            before = int.from_bytes(hole.first, "big") - 1
            if start <= before:
                yield Range(Address(start.to_bytes(width, "big")), Address(before.to_bytes(width, "big")))
            start = max(start, int.from_bytes(hole.last, "big") + 1)
        if start <= last:
            yield Range(Address(start.to_bytes(width, "big")), whole.last)


def is_buggy(address: bytes) -> bool:
    """Whether old firmware takes the address for a network or broadcast address: IPv4 ending in .0 or .255."""
    return len(address) == 4 and address[3] in (0, 255)


class Ledger:
    """Who holds what. Addresses held by nobody are free; those given back of late rest: they are taken last."""

    def __init__(self) -> None:
        self._resting: dict[Address, tuple[int, str]] = {}
        self._rested: dict[str, dict[Address, None]] = {}
        self._holders: dict[Address, dict[str, Sharer]] = {}
        self._held: dict[str, tuple[Address, ...]] = {}
        self._by_key: dict[str, dict[Address, None]] = {}
        self._lowest: dict[tuple[Range, bool], int] = {}

    def grant(self, sharer: Sharer, addresses: tuple[Address, ...]) -> None:
        """Records all that a Service holds, in place of what it held."""
        self.revoke(sharer.name)
        for address in addresses:
            self._holders.setdefault(address, {})[sharer.name] = sharer
            if sharer.sharing_key:
                self._by_key.setdefault(sharer.sharing_key, {})[address] = None
        if addresses:
            self._held[sharer.name] = addresses

    def revoke(self, name: str) -> None:
        """Records that a Service holds nothing."""
        for address in self._held.pop(name, ()):
            holders = self._holders[address]
            gone = holders.pop(name)
            if all(other.sharing_key != gone.sharing_key for other in holders.values()):
                self._by_key.get(gone.sharing_key, {}).pop(address, None)
            if not holders:
                del self._holders[address]
                self._note_free(address)

    def rest(self, address: Address, since: int, name: str) -> None:
        """Records that an address rests, since when (any number that grows), and who held it last."""
        self.wake(address)
        self._resting[address] = (since, name)
        self._rested.setdefault(name, {})[address] = None

    def wake(self, address: Address) -> None:
        """Records that an address rests no longer."""
        rested = self._resting.pop(address, None)
        if rested is not None:
            del self._rested[rested[1]][address]
            if not self._rested[rested[1]]:
                del self._rested[rested[1]]
            self._note_free(address)

    def rest_of(self, address: Address) -> tuple[int, str] | None:
        """Since when an address rests and who held it last; None where it does not."""
        return self._resting.get(address)

    def rested_from(self, name: str) -> tuple[Address, ...]:
        """The resting addresses that a Service gave back, lowest first."""
        return tuple(sorted(address for address in self._rested.get(name, ()) if address not in self._holders))

    def longest_resting(self, within: Range, avoid_buggy: bool) -> Address | None:
        """Of a range's resting addresses the one that has rested longest, or None."""
        found = (
            (since, address)
            for address, (since, _) in self._resting.items()
            if within.contains(address) and address not in self._holders and not (avoid_buggy and is_buggy(address))
        )
        return min(found, default=(0, None))[1]

    def held_by(self, name: str) -> tuple[Address, ...]:
        """What a Service holds."""
        return self._held.get(name, ())

    def holders_of(self, address: Address) -> tuple[Sharer, ...]:
        """Who holds an address."""
        return tuple(self._holders.get(address, {}).values())

    def shared_under(self, sharing_key: str) -> Iterator[Address]:
        """Addresses held by Services with a sharing key, lowest first."""
        return iter(sorted(self._by_key.get(sharing_key, ())))

    def lowest_free(self, within: Range, avoid_buggy: bool) -> Address | None:
        """The lowest address of a range that nobody holds and that does not rest, or None.

        Units   work is proportional to the grants since the last call for the range, not to those before.
        """
        key = (within, avoid_buggy)
        width = len(within.first)
        last = int.from_bytes(within.last, "big")
        number = self._lowest.get(key, int.from_bytes(within.first, "big"))
        while number <= last:
            address = Address(number.to_bytes(width, "big"))
            taken = address in self._holders or address in self._resting
            if not taken and not (avoid_buggy and is_buggy(address)):
                break
            number += 1
        self._lowest[key] = number
        return Address(number.to_bytes(width, "big")) if number <= last else None

    def _note_free(self, address: Address) -> None:
        for key, lowest in self._lowest.items():
            if key[0].contains(address):
                self._lowest[key] = min(lowest, int.from_bytes(address, "big"))
