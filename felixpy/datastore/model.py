"""What a datastore is, to everything that reads or writes one: keys, revisions, transactions, a watch, leases.

Two implement it: `client.EtcdStore` (etcd v3 over gRPC) and `memory.MemoryStore` (the twin for tests and dry runs).
Source: etcd's rpc.proto; ../resources/codec.py alone knows what the keys mean.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it is at a revision. `version` counts its writes since it was created."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int = 0
    version: int = 1
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """A change of one key: `value` is None when it was deleted."""

    key: bytes
    value: bytes | None
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys below some prefixes, as they were at `revision`."""

    items: tuple[KeyValue, ...]
    revision: int
    cluster_id: int = 0


@dataclass(frozen=True, slots=True)
class Expect:
    """A transaction's condition: the key's mod_revision is this; 0 means that it does not exist."""

    key: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Write:
    """Put `value` (None deletes the key), under `lease` where that is not 0."""

    key: bytes
    value: bytes | None
    lease: int = 0


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Whether every condition held, at which revision, and (where not) what the expected keys hold."""

    succeeded: bool
    revision: int
    current: tuple[KeyValue | None, ...] = ()


class ConnectReason(StrEnum):
    """Why a datastore cannot be used, in words that a person can act on."""

    DNS = "the name does not resolve"
    REFUSED = "the connection is refused"
    UNREACHABLE = "there is no answer"
    TLS_NAME = "the certificate is for another name"
    TLS_CA = "the certificate is not signed by the given CA"
    TLS_CLIENT = "the server does not take our client certificate"
    TLS_NEEDED = "the server speaks TLS and we do not, or the reverse"
    AUTH = "the user name or password is wrong"
    PERMISSION = "the user may not do that"
    NO_LEADER = "the members that answer have no leader"


class DatastoreError(Exception):
    """A call did not succeed; its text names endpoint and cause."""


class Unavailable(DatastoreError):
    """No endpoint can be used now; retrying later may help."""

    def __init__(self, reason: ConnectReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Compacted(DatastoreError):
    """The revision asked for is no longer kept; `revision` is the oldest that is. Take a new snapshot."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"revisions before {revision} are compacted")
        self.revision = revision


class FutureRevision(DatastoreError):
    """The revision asked for has not been reached: the cluster was restored to an older state, or is another one."""


class Lease(Protocol):
    """A lease that is kept alive until closed. `id` changes when it had to be granted anew (then put keys again)."""

    @property
    def id(self) -> int: ...

    async def replaced(self, known: int) -> int:
        """Waits until `id` is no longer `known`, and returns it."""

    async def close(self) -> None:
        """Revokes it, and so deletes the keys under it."""


class Store(Protocol):
    """A datastore. Every call has a deadline, and raises DatastoreError or one of its kinds."""

    async def get(self, key: bytes) -> KeyValue | None:
        """The key now, or None."""

    async def get_many(self, keys: Sequence[bytes]) -> tuple[KeyValue | None, ...]:
        """Several keys, all at one revision."""

    async def snapshot(self, prefixes: Sequence[bytes], revision: int = 0) -> Snapshot:
        """All keys below each prefix, paged, all pages at one revision (the current one when 0).

        Raises  Compacted and FutureRevision when `revision` is not to be had.
        """

    def pages(self, prefixes: Sequence[bytes], revision: int = 0) -> AsyncGenerator[Snapshot, None]:
        """The same as `snapshot`, one page at a time, so that the whole need not be in memory; at least one page.

        Raises  Compacted also in between, when reading takes longer than the revision is kept.
        """

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Writes without conditions; returns the new mod_revision."""

    async def delete(self, key: bytes) -> bool:
        """Deletes without conditions; whether the key existed."""

    async def transact(self, expect: Sequence[Expect], writes: Sequence[Write]) -> TxnResult:
        """All writes when all conditions hold, else none. At most 128 of each (etcd's default --max-txn-ops)."""

    def watch(self, prefixes: Sequence[bytes], start_revision: int) -> AsyncGenerator[tuple[Event, ...], None]:
        """Batches of events from `start_revision` on; events of one revision are never split over batches.

        Raises  Compacted when the start is no longer kept; Unavailable when the stream ends.
        """

    async def lease(self, ttl_s: int) -> Lease:
        """Grants a lease and keeps it alive."""

    async def passing_lease(self, ttl_s: int) -> int:
        """Grants a lease that nobody keeps alive: what is put under its id goes by itself."""

    async def close(self) -> None:
        """Ends every stream and connection."""
