"""What every Store keeps, for etcd and for its twin in memory."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from felixpy.datastore.client import EtcdStore
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import (
    Compacted,
    DatastoreError,
    Event,
    Expect,
    FutureRevision,
    KeyValue,
    TxnResult,
    Write,
)

AnyStore = EtcdStore | MemoryStore


async def first_events(store: AnyStore, prefixes: list[bytes], start: int, count: int) -> list[Event]:
    """The first `count` events of a watch, at least."""
    events: list[Event] = []
    async with asyncio.timeout(40), aclosing(store.watch(prefixes, start)) as batches:
        async for batch in batches:
            events.extend(batch)
            if len(events) >= count:
                break
    return events


async def test_a_key_has_its_value_and_counts_its_writes(store: AnyStore) -> None:
    created = await store.put(b"/t/a", b"1")
    changed = await store.put(b"/t/a", b"2")
    assert await store.get(b"/t/a") == KeyValue(b"/t/a", b"2", changed, created, 2)


async def test_an_absent_key_is_none_and_deleting_it_says_so(store: AnyStore) -> None:
    await store.put(b"/t/a", b"1")
    assert await store.delete(b"/t/a")
    assert not await store.delete(b"/t/a")
    assert await store.get(b"/t/a") is None


async def test_many_keys_come_in_the_order_asked_for(store: AnyStore) -> None:
    keys = [b"/t/%d" % number for number in range(300)]
    for key in keys[::2]:
        await store.put(key, key)
    pairs = await store.get_many(keys[::-1])
    assert [pair.value if pair else None for pair in pairs] == [k if n % 2 == 0 else None for n, k in enumerate(keys)][
        ::-1
    ]


async def test_a_transaction_creates_only_what_is_absent(store: AnyStore) -> None:
    first = await store.transact([Expect(b"/t/a", 0)], [Write(b"/t/a", b"1")])
    second = await store.transact([Expect(b"/t/a", 0)], [Write(b"/t/a", b"2")])
    assert first.succeeded
    current = (KeyValue(b"/t/a", b"1", first.revision, first.revision),)
    assert second == TxnResult(False, first.revision, current)


async def test_a_transaction_writes_all_or_nothing(store: AnyStore) -> None:
    old = await store.put(b"/t/a", b"1")
    await store.put(b"/t/b", b"1")
    lost = await store.transact(
        [Expect(b"/t/a", old), Expect(b"/t/b", old)], [Write(b"/t/a", b"x"), Write(b"/t/c", b"x")]
    )
    assert (lost.succeeded, [pair and pair.value for pair in lost.current]) == (False, [b"1", b"1"])
    assert await store.get(b"/t/c") is None
    won = await store.transact([Expect(b"/t/a", old)], [Write(b"/t/a", None), Write(b"/t/c", b"y")])
    assert won.succeeded
    deleted, made = await store.get_many([b"/t/a", b"/t/c"])
    assert deleted is None
    assert made is not None
    assert made.mod_revision == won.revision


async def test_a_snapshot_holds_several_prefixes_at_one_revision(store: AnyStore) -> None:
    for key in (b"/t/b/2", b"/t/a/1", b"/t/ab", b"/t/b/1"):
        await store.put(key, b"old")
    then = await store.snapshot([b"/t/b/", b"/t/a/"])
    await store.put(b"/t/a/1", b"new")
    assert [pair.key for pair in then.items] == [b"/t/b/1", b"/t/b/2", b"/t/a/1"]
    assert await store.snapshot([b"/t/b/", b"/t/a/"], then.revision) == then
    now = await store.snapshot([b"/t/a/"])
    assert (now.items[0].value, now.revision, now.cluster_id) == (b"new", then.revision + 1, then.cluster_id)


async def test_a_snapshot_of_many_pages_has_each_key_once(store: AnyStore) -> None:
    keys = [b"/t/%06d" % number for number in range(10_500)]
    for start in range(0, len(keys), 100):
        await store.transact([], [Write(key, b"") for key in keys[start : start + 100]])
    pages = [page async for page in store.pages([b"/t/"])]
    assert [pair.key for page in pages for pair in page.items] == keys
    assert len(pages) == 3


async def test_an_empty_prefix_is_one_empty_page(store: AnyStore) -> None:
    pages = [page async for page in store.pages([b"/t/none/"])]
    assert [(page.items, page.revision > 0) for page in pages] == [((), True)]


async def test_a_snapshot_of_lost_or_future_history_is_refused(store: AnyStore) -> None:
    old = await store.put(b"/t/a", b"1")
    new = await store.put(b"/t/a", b"2")
    with pytest.raises(FutureRevision):
        await store.snapshot([b"/t/"], new + 1)
    await store.compact(new)
    with pytest.raises(Compacted):
        await store.snapshot([b"/t/"], old)
    assert (await store.snapshot([b"/t/"], new)).items[0].value == b"2"


async def test_a_watch_brings_the_past_from_its_start_and_then_the_present(store: AnyStore) -> None:
    await store.put(b"/t/a", b"0")
    start = await store.put(b"/t/a", b"1")
    await store.put(b"/other", b"")
    await store.delete(b"/t/a")
    watched = asyncio.create_task(first_events(store, [b"/t/"], start, 3))
    last = await store.put(b"/t/b", b"2")
    assert await watched == [
        Event(b"/t/a", b"1", start),
        Event(b"/t/a", None, start + 2),
        Event(b"/t/b", b"2", last),
    ]


async def test_a_transaction_below_two_prefixes_comes_in_one_batch(store: AnyStore) -> None:
    start = await store.put(b"/t/m", b"between")
    batches = store.watch([b"/t/a/", b"/t/z/"], start)
    async with asyncio.timeout(40), aclosing(batches):
        pending = asyncio.ensure_future(anext(batches))
        done = await store.transact([], [Write(b"/t/z/1", b"z"), Write(b"/t/m", b"no"), Write(b"/t/a/1", b"a")])
        assert set(await pending) == {Event(b"/t/z/1", b"z", done.revision), Event(b"/t/a/1", b"a", done.revision)}


async def test_a_watch_from_lost_history_is_refused(store: AnyStore) -> None:
    start = await store.put(b"/t/a", b"1")
    last = await store.put(b"/t/a", b"2")
    await store.compact(last)
    with pytest.raises(Compacted) as refused:
        await first_events(store, [b"/t/"], start, 1)
    assert refused.value.revision == last
    assert await first_events(store, [b"/t/"], last, 1) == [Event(b"/t/a", b"2", last)]


async def test_keys_under_a_lease_go_when_it_is_closed(store: AnyStore) -> None:
    lease = await store.lease(10)
    await store.put(b"/t/a", b"1", lease.id)
    pair = await store.get(b"/t/a")
    assert pair is not None
    assert pair.lease == lease.id
    await lease.close()
    assert await store.get(b"/t/a") is None
    with pytest.raises(DatastoreError, match="lease not found"):
        await store.put(b"/t/a", b"1", lease.id)
