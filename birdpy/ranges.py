"""Which addresses a neighbour may have, where whoever is in a prefix may be meant; which prefixes a range means. Pure.

Source: GoBGP's dynamic neighbours (the longest prefix that holds an address counts, a neighbour by its own address
before all).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from birdpy.addresses import Prefix, bare, range_of
from birdpy.intent import PrefixRange


def reach_of(address: bytes) -> Prefix:
    """All addresses that it stands for, without their link."""
    return range_of(address) or Prefix(bare(address), len(bare(address)) * 8)


def find_meant(address: bytes, known: Collection[bytes]) -> bytes | None:
    """Of `known`, what stands for an address: itself, else the longest prefix that it is in."""
    if address in known:
        return address
    ranges: list[tuple[int, bytes]] = []
    for one in known:
        prefix = range_of(one)
        if prefix is not None and is_within(reach_of(address), prefix):
            ranges.append((prefix.length, one))
    return max(ranges)[1] if ranges else None


def is_within(prefix: Prefix, outer: Prefix) -> bool:
    """Whether all of it lies in the other one."""
    if len(prefix.address) != len(outer.address) or prefix.length < outer.length:
        return False
    whole, bits = divmod(outer.length, 8)
    if prefix.address[:whole] != outer.address[:whole]:
        return False
    return not bits or (prefix.address[whole] ^ outer.address[whole]) >> (8 - bits) == 0


def is_meant(prefix: Prefix, given: PrefixRange) -> bool:
    """Whether a prefix is one of those that the range means."""
    return given.shortest <= prefix.length <= given.longest and is_within(prefix, given.prefix)


def leave_out(prefix: Prefix, holes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """The prefixes that cover it but for the holes."""
    left = [prefix]
    for hole in holes:
        left = [part for one in left for part in _without(one, hole)]
    return tuple(sorted(left))


def _without(prefix: Prefix, hole: Prefix) -> Iterator[Prefix]:
    if is_within(prefix, hole):
        return
    if not is_within(hole, prefix):
        yield prefix
        return
    bits = len(prefix.address) * 8
    number = int.from_bytes(hole.address, "big")
    for length in range(prefix.length + 1, hole.length + 1):
        sibling = (number >> (bits - length) ^ 1) << (bits - length)
        yield Prefix(sibling.to_bytes(len(prefix.address), "big"), length)
