"""The Store in memory: etcd's semantics without etcd, for tests and dry runs.

Keeps the whole log, so that every past state can be rebuilt; `compact` only forbids asking. Faults come on request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from felixpy.datastore.model import (
    Compacted,
    ConnectReason,
    DatastoreError,
    Event,
    Expect,
    FutureRevision,
    KeyValue,
    Snapshot,
    TxnResult,
    Unavailable,
    Write,
)

PAGE_KEYS = 5_000


class MemoryLease:
    """See model.Lease; never expires by itself."""

    def __init__(self, store: MemoryStore, lease_id: int) -> None:
        self._store = store
        self._id = lease_id
        self._replaced = asyncio.Condition()

    @property
    def id(self) -> int:
        return self._id

    async def replaced(self, known: int) -> int:
        async with self._replaced:
            await self._replaced.wait_for(lambda: self._id != known)
            return self._id

    async def close(self) -> None:
        self._store.revoke(self._id)

    async def replace(self, lease_id: int) -> None:
        """Takes the id of the lease granted instead."""
        async with self._replaced:
            self._id = lease_id
            self._replaced.notify_all()


class MemoryStore:
    """See model.Store. `data` is what it holds now."""

    def __init__(self, cluster_id: int = 1) -> None:
        self.cluster_id = cluster_id
        self.revision = 1
        self._data: dict[bytes, KeyValue] = {}
        self._log: list[tuple[KeyValue, bool]] = []
        self._compacted = 0
        self._leases: set[int] = set()
        self._granted = 0
        self._watch_era = 0
        self._watchers: set[asyncio.Event] = set()
        self._failures: list[DatastoreError] = []

    @property
    def data(self) -> Mapping[bytes, KeyValue]:
        return self._data

    async def get(self, key: bytes) -> KeyValue | None:
        self._fail_if_asked()
        return self._data.get(key)

    async def get_many(self, keys: Sequence[bytes]) -> tuple[KeyValue | None, ...]:
        self._fail_if_asked()
        return tuple(self._data.get(key) for key in keys)

    async def snapshot(self, prefixes: Sequence[bytes], revision: int = 0) -> Snapshot:
        self._fail_if_asked()
        data = self._state_at(revision)
        items = tuple(data[key] for prefix in prefixes for key in sorted(data) if key.startswith(prefix))
        return Snapshot(items, revision or self.revision, self.cluster_id)

    async def pages(self, prefixes: Sequence[bytes], revision: int = 0) -> AsyncGenerator[Snapshot, None]:
        whole = await self.snapshot(prefixes, revision)
        for start in range(0, max(1, len(whole.items)), PAGE_KEYS):
            yield Snapshot(whole.items[start : start + PAGE_KEYS], whole.revision, whole.cluster_id)

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        self._fail_if_asked()
        self._write([Write(key, value, lease)])
        return self.revision

    async def delete(self, key: bytes) -> bool:
        self._fail_if_asked()
        return self._write([Write(key, None)])

    async def transact(self, expect: Sequence[Expect], writes: Sequence[Write]) -> TxnResult:
        self._fail_if_asked()
        current = tuple(self._data.get(condition.key) for condition in expect)
        wanted = [condition.mod_revision for condition in expect]
        if [pair.mod_revision if pair else 0 for pair in current] != wanted:
            return TxnResult(False, self.revision, current)
        self._write(writes)
        return TxnResult(True, self.revision)

    async def watch(self, prefixes: Sequence[bytes], start_revision: int) -> AsyncGenerator[tuple[Event, ...], None]:
        self._fail_if_asked()
        if start_revision < self._compacted:
            raise Compacted(self._compacted)
        era, handled, wanted, changed = self._watch_era, 0, tuple(prefixes), asyncio.Event()
        self._watchers.add(changed)
        try:
            while era == self._watch_era:
                changed.clear()
                fresh, handled = self._log[handled:], len(self._log)
                events = tuple(
                    Event(pair.key, None if deleted else pair.value, pair.mod_revision)
                    for pair, deleted in fresh
                    if pair.mod_revision >= start_revision and pair.key.startswith(wanted)
                )
                if events:
                    yield events
                await changed.wait()
        finally:
            self._watchers.discard(changed)
        raise Unavailable(ConnectReason.UNREACHABLE, "the watch was dropped")

    async def lease(self, ttl_s: int) -> MemoryLease:
        self._fail_if_asked()
        return MemoryLease(self, self._grant())

    async def passing_lease(self, ttl_s: int) -> int:
        self._fail_if_asked()
        return self._grant()

    async def compact(self, revision: int) -> None:
        """Forgets all history before `revision`."""
        self._state_at(revision)
        self._compacted = revision

    async def close(self) -> None:
        self.drop_watches()

    def revoke(self, lease_id: int) -> None:
        """Deletes the keys under a lease, as one transaction."""
        self._leases.discard(lease_id)
        self._write([Write(pair.key, None) for pair in self._data.values() if pair.lease == lease_id])

    async def expire(self, lease: MemoryLease) -> None:
        """Lets a lease run out, as if its keeper had been away: its keys go, and it is granted anew."""
        self.revoke(lease.id)
        await lease.replace(self._grant())

    def drop_watches(self) -> None:
        """Ends every watch with Unavailable."""
        self._watch_era += 1
        self._wake()

    def fail_next(self, error: DatastoreError, calls: int = 1) -> None:
        """The next calls raise `error`."""
        self._failures.extend([error] * calls)

    def roll_back(self, revision: int) -> None:
        """Restores the state as it was at `revision`; every watch is dropped."""
        self._data = dict(self._state_at(revision))
        self._log = [entry for entry in self._log if entry[0].mod_revision <= revision]
        self.revision = revision
        self.drop_watches()

    def _grant(self) -> int:
        self._granted += 1
        self._leases.add(self._granted)
        return self._granted

    def _write(self, writes: Sequence[Write]) -> bool:
        effective = [write for write in writes if write.value is not None or write.key in self._data]
        for write in effective:
            if write.lease and write.lease not in self._leases:
                raise DatastoreError("requested lease not found")
        if not effective:
            return False
        self.revision += 1
        for write in effective:
            self._write_one(write)
        self._wake()
        return True

    def _write_one(self, write: Write) -> None:
        old = self._data.get(write.key)
        if write.value is None:
            del self._data[write.key]
            self._log.append((KeyValue(write.key, b"", self.revision, 0, 0), True))
            return
        created, version = (old.create_revision, old.version + 1) if old else (self.revision, 1)
        pair = KeyValue(write.key, write.value, self.revision, created, version, write.lease)
        self._data[write.key] = pair
        self._log.append((pair, False))

    def _state_at(self, revision: int) -> Mapping[bytes, KeyValue]:
        if revision in (0, self.revision):
            return self._data
        if revision > self.revision:
            raise FutureRevision(f"revision {revision} has not been reached")
        if revision < self._compacted:
            raise Compacted(revision + 1)
        data: dict[bytes, KeyValue] = {}
        for pair, deleted in self._log:
            if pair.mod_revision <= revision and not deleted:
                data[pair.key] = pair
            elif pair.mod_revision <= revision:
                data.pop(pair.key, None)
        return data

    def _fail_if_asked(self) -> None:
        if self._failures:
            raise self._failures.pop(0)

    def _wake(self) -> None:
        for changed in self._watchers:
            changed.set()
