"""Which Services would get, move or lose addresses by a change, told before it is made.

In: the keys that the load balancer controller works from, and what some of them would be; out: Moves. The controller's
own planning is played through in memory, so that what is said is what would be done; a controller that has not done
all that is due is taken to have. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from felixpy.addresses import Address, format_address
from felixpy.controllers.allocation import WATCHED, Allocation
from felixpy.datastore.model import KeyValue
from felixpy.resources.kinds import Name

MOST_BATCHES = 100_000
"""More than any cluster has Services to plan for."""


@dataclass(frozen=True, slots=True)
class Move:
    """What becomes of one Service's addresses; `reason` says why it has none, where it has none."""

    service: Name
    before: tuple[Address, ...]
    after: tuple[Address, ...]
    reason: str = ""

    def __str__(self) -> str:
        after = _words(self.after) if self.after or not self.reason else f"none ({self.reason})"
        return f"Service {self.service}: {_words(self.before)} → {after}"


def derive_moves(pairs: Iterable[KeyValue], changes: Mapping[str, bytes | None]) -> tuple[Move, ...]:
    """What comes of `changes` (by key, None for a deletion) in the cluster that `pairs` (those below WATCHED) are."""
    allocation, revision = Allocation(), 1
    for pair in pairs:
        allocation.observe(pair.key, pair.value, pair.mod_revision)
        revision = max(revision, pair.mod_revision)
    revision = _play(allocation, revision)
    before, waited = _held(allocation), frozenset(allocation.waiting)
    for key, value in changes.items():
        if key.encode().startswith(WATCHED):
            revision += 1
            allocation.observe(key.encode(), value, revision)
    _play(allocation, revision)
    return tuple(_compare(before, _held(allocation), allocation.waiting.difference(waited), allocation))


def _play(allocation: Allocation, revision: int) -> int:
    """Takes every step that is due as made."""
    for _ in range(MOST_BATCHES):
        batch = allocation.next_batch("")
        if batch is None:
            break
        revision += 1
        allocation.settle(batch, revision)
    return revision


def _held(allocation: Allocation) -> dict[Name, tuple[Address, ...]]:
    held: dict[Name, list[Address]] = {}
    for address, grant in sorted(allocation.grants.items(), key=lambda item: (len(item[0]), item[0])):
        for name in grant.services:
            held.setdefault(name, []).append(address)
    return {name: tuple(addresses) for name, addresses in held.items()}


def _compare(
    before: Mapping[Name, tuple[Address, ...]],
    after: Mapping[Name, tuple[Address, ...]],
    refused: Iterable[Name],
    allocation: Allocation,
) -> Iterator[Move]:
    fresh = set(refused)
    for name in sorted({*before, *after, *fresh}):
        was, now = before.get(name, ()), after.get(name, ())
        if was != now or (name in fresh and not now):
            yield Move(name, was, now, allocation.refusal_of(name))


def _words(addresses: tuple[Address, ...]) -> str:
    return " ".join(map(format_address, addresses)) or "none"
