"""Many Services' steps as one transaction: etcd's time is per transaction, so a cold start is as fast as it is short.

In: steps, each planned as if those before it were made; out: what to compare and write, each key once. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from felixpy.addresses import Address
from felixpy.datastore.model import Expect, Write
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import Grant

MOST_OPERATIONS = 128
"""Of each kind in a transaction (etcd's --max-txn-ops)."""


class Passing(NamedTuple):
    """A key that goes by itself after `for_s`; nobody relies on it."""

    key: bytes
    value: bytes
    for_s: int


@dataclass(frozen=True, slots=True)
class IpamChange:
    """Addresses to take under a handle of Calico's IPAM, and to give back there, with what is recorded of them."""

    handle: str
    attributes: Mapping[str, str]
    taken: tuple[Address, ...] = ()
    released: tuple[Address, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.taken or self.released)


@dataclass(frozen=True, slots=True)
class Step:
    """What one Service (or a pool: `service` None) needs written; `why` tells a person what it does.

    `grants` are those among the writes, as values.
    """

    service: Name | None
    expect: tuple[Expect, ...]
    writes: tuple[Write, ...]
    why: str
    passing: tuple[Passing, ...] = ()
    ipam: IpamChange | None = None
    grants: tuple[tuple[Address, Grant | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction for several steps; or for one alone, where Calico's IPAM has a part in it."""

    steps: tuple[Step, ...]
    expect: tuple[Expect, ...]
    writes: tuple[Write, ...]
    passing: tuple[Passing, ...]
    ipam: IpamChange | None = None


def join_steps(steps: Iterable[Step]) -> Batch:
    """The transaction that makes all steps, in order: of one key the first expectation and the last write count."""
    taken = tuple(steps)
    expect: dict[bytes, Expect] = {}
    writes: dict[bytes, Write] = {}
    passing: dict[bytes, Passing] = {}
    for step in taken:
        for condition in step.expect:
            expect.setdefault(condition.key, condition)
        for write in step.writes:
            writes[write.key] = write
            passing.pop(write.key, None)
        for one in step.passing:
            passing[one.key] = one
            writes.pop(one.key, None)
    ipam = next((step.ipam for step in taken if step.ipam is not None), None)
    return Batch(taken, tuple(expect.values()), tuple(writes.values()), tuple(passing.values()), ipam)


def changes_of(made: Step | Batch) -> Iterator[tuple[bytes, bytes | None]]:
    """What each key is to hold, None for nothing."""
    yield from ((one.key, one.value) for one in made.writes)
    yield from ((one.key, one.value) for one in made.passing)


def size_of(step: Step) -> int:
    """The most operations of one kind that a step adds to a transaction; one expectation is common to all."""
    return max(len(step.expect) - 1, len(step.writes) + len(step.passing))
