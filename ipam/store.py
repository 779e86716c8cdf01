"""What a datastore is to this package, and its twin in memory.

A commit is all or nothing: every expectation holds, and every write happens at one revision. The twin keeps a log of
its changes, which a test may hand on late, and fails on request before or after a commit took place.
Source: etcd's rpc.proto (Txn, compare mod_revision).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

MAX_OPERATIONS = 128
"""Conditions, and operations, that one transaction may have (etcd's default --max-txn-ops)."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A value and the revision that wrote it."""

    value: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class CommitResult:
    """Whether the writes happened, at which revision, and (where not) what the expected keys hold."""

    succeeded: bool
    revision: int
    current: Mapping[str, Versioned | None] = field(default_factory=dict)


class Store(Protocol):
    """A datastore. Any call may raise the datastore's own errors; after one from `commit` the outcome is unknown."""

    async def read(self, keys: Sequence[str]) -> Mapping[str, Versioned | None]:
        """Several keys, all at one revision; None for those that do not exist."""

    async def list(self, prefix: str) -> Mapping[str, Versioned]:
        """All keys that begin with `prefix`."""

    async def commit(self, expect: Mapping[str, int], writes: Mapping[str, bytes | None]) -> CommitResult:
        """Writes (None deletes) when each key of `expect` has that mod_revision (0: it is absent), else nothing."""


class Fault(StrEnum):
    """When a commit fails: nothing is written, or all of it."""

    BEFORE = "before"
    AFTER = "after"


class StoreFailure(Exception):
    """The twin was told to fail."""


@dataclass(frozen=True, slots=True)
class Change:
    """One write as a watch reports it; None when the key was deleted."""

    key: str
    value: bytes | None
    mod_revision: int


class MemoryStore:
    """The twin. `log` is every change so far; the next commit takes `fault`; `commits` and `reads` count calls."""

    def __init__(self) -> None:
        self.values: dict[str, Versioned] = {}
        self.revision = 0
        self.log: list[Change] = []
        self.fault: Fault | None = None
        self.commits = 0
        self.reads = 0

    def get(self, key: str) -> Versioned | None:
        """The key now."""
        return self.values.get(key)

    def apply(self, expect: Mapping[str, int], writes: Mapping[str, bytes | None]) -> CommitResult:
        """`commit`, at once and without faults."""
        if max(len(expect), len(writes)) > MAX_OPERATIONS:
            raise ValueError("too many operations in one transaction")
        current = {key: self.values.get(key) for key in expect}
        if any((entry.mod_revision if entry else 0) != expect[key] for key, entry in current.items()):
            return CommitResult(False, self.revision, current)
        self.revision += 1
        for key, value in writes.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = Versioned(value, self.revision)
            self.log.append(Change(key, value, self.revision))
        return CommitResult(True, self.revision)

    async def read(self, keys: Sequence[str]) -> Mapping[str, Versioned | None]:
        self.reads += 1
        await asyncio.sleep(0)
        return {key: self.values.get(key) for key in keys}

    async def list(self, prefix: str) -> Mapping[str, Versioned]:
        self.reads += 1
        await asyncio.sleep(0)
        return {key: self.values[key] for key in sorted(self.values) if key.startswith(prefix)}

    async def commit(self, expect: Mapping[str, int], writes: Mapping[str, bytes | None]) -> CommitResult:
        self.commits += 1
        await asyncio.sleep(0)
        fault, self.fault = self.fault, None
        if fault is Fault.BEFORE:
            raise StoreFailure("before the commit")
        result = self.apply(expect, writes)
        if fault is Fault.AFTER:
            raise StoreFailure("after the commit")
        return result
