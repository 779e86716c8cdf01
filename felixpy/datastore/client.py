"""etcd v3 as a Store: reads, writes, transactions, snapshots in pages, a watch, leases.

In: `EtcdSettings`; out: `EtcdStore`. Reads are linearizable. A write whose outcome is unknown (the member died before
it answered) is made again; where it is a transaction, what the keys hold then tells whether the first one was carried
out.
Source: etcd 3.4 rpc.proto; the error texts are from etcdserver/api/v3rpc/rpctypes/error.go.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from felixpy.datastore import rpc
from felixpy.datastore import watch as watching
from felixpy.datastore.connection import Connection, Refused
from felixpy.datastore.lease import EtcdLease, LeaseKeeper
from felixpy.datastore.model import (
    Compacted,
    Event,
    Expect,
    FutureRevision,
    KeyValue,
    Snapshot,
    TxnResult,
    Write,
)
from felixpy.datastore.settings import EtcdSettings

PAGE_KEYS = 5_000
SNAPSHOT_ATTEMPTS = 5
MAX_TXN_OPS = 128  # etcd's default --max-txn-ops


def open_store(settings: EtcdSettings) -> EtcdStore:
    """A store for these settings; nothing is connected before the first call. Needs a running event loop."""
    return EtcdStore(settings)


class EtcdStore:
    """See model.Store."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._connection = Connection(settings)
        self._keeper = LeaseKeeper(self._connection, settings.deadline_s)
        self._types = rpc.messages()

    async def get(self, key: bytes) -> KeyValue | None:
        reply = await self._connection.call(rpc.RANGE, self._types["RangeRequest"](key=key))
        return _first(reply.message)

    async def get_many(self, keys: Sequence[bytes]) -> tuple[KeyValue | None, ...]:
        found: list[KeyValue | None] = []
        revision = 0
        for start in range(0, len(keys), MAX_TXN_OPS):
            reads = [self._read(key, revision) for key in keys[start : start + MAX_TXN_OPS]]
            reply = await self._call(rpc.TXN, self._types["TxnRequest"](success=reads), revision)
            found.extend(_first(response.range) for response in reply.responses)
            revision = revision or reply.header.revision
        return tuple(found)

    async def snapshot(self, prefixes: Sequence[bytes], revision: int = 0) -> Snapshot:
        for _ in range(SNAPSHOT_ATTEMPTS - 1):
            try:
                return await self._snapshot(prefixes, revision)
            except Compacted:
                if revision:
                    raise
        return await self._snapshot(prefixes, revision)

    async def pages(self, prefixes: Sequence[bytes], revision: int = 0) -> AsyncGenerator[Snapshot, None]:
        for prefix in prefixes:
            start, end, more = prefix or b"\0", rpc.prefix_end(prefix), True
            while more:
                request = self._types["RangeRequest"](key=start, range_end=end, limit=PAGE_KEYS, revision=revision)
                page = await self._call(rpc.RANGE, request, revision)
                revision = revision or page.header.revision
                items = tuple(map(_key_value, page.kvs))
                yield Snapshot(items, revision, page.header.cluster_id)
                more = page.more
                if more:
                    start = items[-1].key + b"\0"

    async def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        reply = await self._connection.call(rpc.PUT_KEY, self._types["PutRequest"](key=key, value=value, lease=lease))
        return int(reply.message.header.revision)

    async def delete(self, key: bytes) -> bool:
        reply = await self._connection.call(rpc.DELETE_RANGE, self._types["DeleteRequest"](key=key))
        return bool(reply.message.deleted)

    async def transact(self, expect: Sequence[Expect], writes: Sequence[Write]) -> TxnResult:
        request = self._types["TxnRequest"](
            compare=[self._compare(condition) for condition in expect],
            success=[self._write(write) for write in writes],
            failure=[self._read(condition.key, 0) for condition in expect],
        )
        reply = await self._connection.call(rpc.TXN, request)
        answer = reply.message
        if answer.succeeded:
            return TxnResult(True, answer.header.revision)
        current = tuple(_first(response.range) for response in answer.responses)
        if reply.repeated and holds_writes(writes, await self.get_many([write.key for write in writes])):
            return TxnResult(True, max((pair.mod_revision for pair in current if pair), default=answer.header.revision))
        return TxnResult(False, answer.header.revision, current)

    def watch(self, prefixes: Sequence[bytes], start_revision: int) -> AsyncGenerator[tuple[Event, ...], None]:
        return watching.watch(self._connection, prefixes, start_revision)

    async def lease(self, ttl_s: int) -> EtcdLease:
        return await self._keeper.grant(ttl_s)

    async def passing_lease(self, ttl_s: int) -> int:
        return await self._keeper.grant_passing(ttl_s)

    async def compact(self, revision: int) -> None:
        """Drops all history before `revision`."""
        await self._call(rpc.COMPACT, self._types["CompactRequest"](revision=revision, physical=True), revision)

    async def close(self) -> None:
        await self._keeper.close()
        await self._connection.close()

    async def _snapshot(self, prefixes: Sequence[bytes], revision: int) -> Snapshot:
        items: list[KeyValue] = []
        cluster_id = 0
        async for page in self.pages(prefixes, revision):
            items.extend(page.items)
            revision, cluster_id = page.revision, page.cluster_id
        return Snapshot(tuple(items), revision, cluster_id)

    async def _call(self, method: rpc.Method, request: Any, revision: int) -> Any:
        try:
            return (await self._connection.call(method, request)).message
        except Refused as error:
            if "has been compacted" in error.words:
                raise Compacted(revision + 1) from None
            if "future revision" in error.words:
                raise FutureRevision(str(error)) from None
            raise

    def _read(self, key: bytes, revision: int) -> Any:
        return self._types["RequestOp"](range=self._types["RangeRequest"](key=key, revision=revision))

    def _write(self, write: Write) -> Any:
        if write.value is None:
            return self._types["RequestOp"](delete=self._types["DeleteRequest"](key=write.key))
        put = self._types["PutRequest"](key=write.key, value=write.value, lease=write.lease)
        return self._types["RequestOp"](put=put)

    def _compare(self, expect: Expect) -> Any:
        if expect.mod_revision:
            return self._types["Compare"](target=rpc.TARGET_MOD, key=expect.key, mod_revision=expect.mod_revision)
        return self._types["Compare"](target=rpc.TARGET_CREATE, key=expect.key, create_revision=0)


def holds_writes(writes: Sequence[Write], current: Sequence[KeyValue | None]) -> bool:
    """Whether all of `writes` are what the keys hold, put by one transaction."""
    revisions = {pair.mod_revision for pair in current if pair is not None}
    return len(revisions) <= 1 and all(
        pair is None
        if write.value is None
        else pair is not None and (pair.value, pair.lease) == (write.value, write.lease)
        for write, pair in zip(writes, current, strict=True)
    )


def _first(response: Any) -> KeyValue | None:
    return _key_value(response.kvs[0]) if response.kvs else None


def _key_value(pair: Any) -> KeyValue:
    return KeyValue(pair.key, pair.value, pair.mod_revision, pair.create_revision, pair.version, pair.lease)
