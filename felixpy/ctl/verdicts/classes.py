"""Addresses that no condition tells apart, found without looking at each address for each condition.

In: conditions of two worlds; out: for each address the few that tell it from the rest. A condition that holds of most
is noted at those of which it does not, so that the work is that of the exceptions. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from felixpy.addresses import Address, Prefix
from felixpy.ctl.verdicts.world import Condition, Held, World

Notes = Mapping[Address, tuple[int, ...]]
"""By address, the places in `Division.parts` of what tells it from those that have none."""


class Part(NamedTuple):
    """Addresses of which a condition says the same; `is_exception`: they are those of which it does not hold."""

    addresses: Collection[Address]
    is_exception: bool = False


class Division(NamedTuple):
    """What conditions say of addresses; `conditions` are those of the notes, None for an exception."""

    conditions: tuple[Condition | None, ...]
    notes: Notes

    def held(self, note: Iterable[int]) -> Iterator[Condition]:
        """The conditions that hold, of those that do not hold of most."""
        for place in note:
            condition = self.conditions[place]
            if condition is not None:
                yield condition


class Divider:
    """Divides the addresses of all ends that are known."""

    def __init__(self, before: World, after: World, addresses: Iterable[Address]) -> None:
        self.addresses = frozenset(addresses)
        self._worlds = (before, after)
        self._ordered = sorted(self.addresses, key=_place)
        self._parts: dict[Condition, tuple[Part, ...]] = {}

    def divide(self, conditions: Iterable[Condition]) -> Division:
        """What the conditions say of all addresses."""
        return _divide((condition, self._parts_of(condition)) for condition in conditions)

    def divide_others(self, conditions: Iterable[Condition], others: Collection[Address]) -> Division:
        """What they say of addresses that are none of the known ones."""
        ordered = sorted(others, key=_place)
        return _divide((condition, tuple(self._members(condition, ordered))) for condition in conditions)

    def is_narrow(self, condition: Condition) -> bool:
        """Whether a condition is noted at those of which it holds."""
        return not any(part.is_exception for part in self._parts_of(condition))

    def _parts_of(self, condition: Condition) -> tuple[Part, ...]:
        found = self._parts.get(condition)
        if found is None:
            members = self._members(condition, self._ordered)
            found = self._parts[condition] = tuple(map(self._narrow, members))
        return found

    def _narrow(self, part: Part) -> Part:
        if 2 * len(part.addresses) <= len(self.addresses):
            return part
        return Part(self.addresses.difference(part.addresses), is_exception=True)

    def _members(self, condition: Condition, ordered: Sequence[Address]) -> Iterator[Part]:
        """Which of the addresses a condition is about, once for each way in which it is."""
        if isinstance(condition, Prefix):
            yield Part(tuple(_within(condition, ordered)))
            return
        known = self.addresses if ordered is self._ordered else frozenset(ordered)
        one, other = (world.held(condition) for world in self._worlds)
        for held in (one,) if one == other else (one, other):
            members = held.addresses & known
            if held.prefixes:
                members = members.union(*(_within(prefix, ordered) for prefix in held.prefixes))
            if members:
                yield Part(members)
            yield from _by_ports(held, known)


def _divide(found: Iterable[tuple[Condition, tuple[Part, ...]]]) -> Division:
    notes: dict[Address, list[int]] = {}
    conditions: list[Condition | None] = []
    for condition, parts in found:
        for part in parts:
            place = len(conditions)
            conditions.append(None if part.is_exception else condition)
            for address in part.addresses:
                notes.setdefault(address, []).append(place)
    return Division(tuple(conditions), {address: tuple(places) for address, places in notes.items()})


def _place(address: Address) -> tuple[int, Address]:
    return len(address), address


def _within(prefix: Prefix, ordered: Sequence[Address]) -> Iterator[Address]:
    """The addresses in a prefix, out of a sorted sequence."""
    index = bisect_left(ordered, (len(prefix.address), prefix.address), key=_place)
    while index < len(ordered) and prefix.contains(ordered[index]):
        yield ordered[index]
        index += 1


def _by_ports(held: Held, known: frozenset[Address]) -> Iterator[Part]:
    """Addresses by the ports that they serve, where they serve some."""
    found: dict[frozenset[tuple[int, int]], list[Address]] = {}
    for address, ports in held.served.items():
        if address in known:
            found.setdefault(ports, []).append(address)
    yield from (Part(addresses) for addresses in found.values())
