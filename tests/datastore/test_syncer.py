"""The syncer against the store in memory: every world, event and expectation, with no server in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY, FreezeReason
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import ConnectReason, Event, Snapshot, Unavailable, Write
from felixpy.datastore.syncer import HEARTBEAT_KEY, Phase
from tests.datastore.world import FAST, PREFIXES, cluster_information, copied, initialise, pool
from tests.support.wait import until

AWAY = Unavailable(ConnectReason.REFUSED, "on request")


class CountingStore(MemoryStore):
    """Counts how often someone looks at the cluster."""

    looks = 0

    async def snapshot(self, prefixes: Sequence[bytes], revision: int = 0) -> Snapshot:
        self.looks += prefixes == [CLUSTER_INFORMATION_KEY]
        return await super().snapshot(prefixes, revision)


async def cluster_with(**pools: str) -> CountingStore:
    store = CountingStore()
    await initialise(store)
    for name, value in pools.items():
        await store.put(pool(name), value.encode())
    return store


async def test_the_snapshot_comes_first_and_then_every_change(state_file: Path) -> None:
    store = await cluster_with(a="1", b="1")
    async with copied(store, state_file) as copy:
        await copy.holds(a="1", b="1")
        await store.put(pool("a"), b"2")
        await store.delete(pool("b"))
        await copy.holds(a="2")
    assert [state.phase for state in copy.states] == [Phase.SYNCING, Phase.IN_SYNC]


async def test_a_large_snapshot_comes_in_parts_and_is_in_sync_with_the_last(state_file: Path) -> None:
    store = await cluster_with()
    await store.transact([], [Write(pool(f"{number:05}"), b"") for number in range(12_000)])
    async with copied(store, state_file) as copy:
        await until(lambda: copy.in_sync)
    assert [batch.in_sync for batch in copy.batches] == [False] * (len(copy.batches) - 1) + [True]
    assert max(len(batch.events) for batch in copy.batches) <= 5_001
    assert len(copy.pools) == 12_000


async def test_a_slow_consumer_gets_the_last_value_of_each_key(state_file: Path) -> None:
    store = await cluster_with(a="0")
    async with copied(store, state_file) as copy:
        await copy.holds(a="0")
        copy.taking.clear()
        await store.put(pool("first"), b"")
        await until(lambda: "first" in copy.pools)
        before = len(copy.batches)
        for number in range(1_000):
            await store.put(pool("a"), b"%d" % number)
        last = await store.put(pool("b"), b"x")
        await until(lambda: copy.syncer._position == last)
        copy.taking.set()
        await copy.holds(first="", a="999", b="x")
        assert copy.batches[before].events == (Event(pool("a"), b"999", last - 1), Event(pool("b"), b"x", last))


async def test_what_was_deleted_while_history_was_lost_is_deleted(state_file: Path) -> None:
    store = await cluster_with(keep="1", change="1", gone="1")
    async with copied(store, state_file) as copy:
        await copy.holds(keep="1", change="1", gone="1")
        handed = len(copy.batches)
        store.drop_watches()
        await store.transact([], [Write(pool("change"), b"2"), Write(pool("gone"), None)])
        await store.put(b"/elsewhere", b"")
        await store.compact(store.revision)
        await copy.holds(keep="1", change="2")
        events = [event for batch in copy.batches[handed:] for event in batch.events]
    assert events == [Event(pool("change"), b"2", store.revision - 1), Event(pool("gone"), None, store.revision)]


async def test_what_the_watch_deleted_is_not_deleted_again(state_file: Path) -> None:
    store = await cluster_with(a="1")
    async with copied(store, state_file) as copy:
        await copy.holds(a="1")
        await store.delete(pool("a"))
        await copy.holds()
        store.drop_watches()
        await store.put(b"/elsewhere", b"")
        await store.put(pool("b"), b"1")
        await store.compact(store.revision)
        await copy.holds(b="1")
        assert copy.batches[-1].events == (Event(pool("b"), b"1", store.revision),)


async def test_a_cluster_that_was_away_for_a_moment_is_read_again(state_file: Path) -> None:
    store = OneByOneStore()
    await initialise(store)
    async with copied(store, state_file) as copy:
        await copy.reaches(Phase.IN_SYNC)
        await store.delete(CLUSTER_INFORMATION_KEY)
        await initialise(store)
        await store.put(pool("a"), b"1")
        await copy.holds(a="1")


async def test_a_dropped_watch_resumes_after_the_last_event(state_file: Path) -> None:
    store = await cluster_with(a="1")
    async with copied(store, state_file) as copy:
        await copy.holds(a="1")
        store.drop_watches()
        await store.put(pool("b"), b"1")
        await copy.holds(a="1", b="1")
        assert copy.batches[-1].events == (Event(pool("b"), b"1", store.revision),)


async def test_an_outage_is_told_and_survived(state_file: Path) -> None:
    store = await cluster_with(a="1")
    async with copied(store, state_file) as copy:
        await copy.holds(a="1")
        store.fail_next(AWAY, calls=4)
        store.drop_watches()
        await copy.reaches(Phase.UNAVAILABLE, ConnectReason.REFUSED)
        await copy.reaches(Phase.IN_SYNC)
        await copy.holds(a="1")


async def test_an_empty_datastore_is_only_reported_on_the_first_run(state_file: Path) -> None:
    store = MemoryStore()
    async with copied(store, state_file) as copy:
        await copy.reaches(Phase.FROZEN, FreezeReason.UNINITIALISED)
        await initialise(store)
        await store.put(pool("a"), b"1")
        await copy.holds(a="1")


async def test_a_datastore_that_was_emptied_is_not_obeyed(state_file: Path) -> None:
    store = await cluster_with(a="1")
    async with copied(store, state_file) as copy:
        await copy.holds(a="1")
        await store.transact([], [Write(pool("a"), None), Write(CLUSTER_INFORMATION_KEY, None)])
        await copy.reaches(Phase.FROZEN, FreezeReason.EMPTY)
        assert copy.pools == {"a": "1"}
        await store.put(pool("b"), b"2")
        await initialise(store)
        await copy.holds(b="2")


async def test_a_restarted_node_does_not_obey_an_empty_datastore(state_file: Path) -> None:
    async with copied(await cluster_with(a="1"), state_file) as copy:
        await copy.holds(a="1")
    async with copied(MemoryStore(), state_file) as copy:
        await copy.reaches(Phase.FROZEN, FreezeReason.EMPTY)
        assert copy.batches == []


async def test_a_datastore_that_is_not_ready_is_not_obeyed_until_it_is(state_file: Path) -> None:
    store = await cluster_with(a="1")
    async with copied(store, state_file) as copy:
        await copy.holds(a="1")
        await initialise(store, ready=False)
        await copy.reaches(Phase.FROZEN, FreezeReason.NOT_READY)
        assert not copy.syncer.accept()
        await store.put(pool("a"), b"2")
        await initialise(store)
        await copy.holds(a="2")


async def test_another_cluster_is_obeyed_only_when_accepted(state_file: Path) -> None:
    async with copied(await cluster_with(a="1"), state_file) as copy:
        await copy.holds(a="1")
    other = MemoryStore(cluster_id=2)
    await initialise(other, guid="guid-2")
    await other.put(pool("b"), b"2")
    async with copied(other, state_file) as copy:
        await copy.reaches(Phase.FROZEN, FreezeReason.OTHER_CLUSTER)
        assert copy.batches == []
        assert copy.syncer.accept()
        await copy.holds(b="2")
    async with copied(other, state_file) as copy:
        await copy.holds(b="2")


async def test_a_rolled_back_datastore_is_obeyed_only_when_accepted(state_file: Path) -> None:
    store = await cluster_with(a="1")
    backup = store.revision
    async with copied(store, state_file) as copy:
        await store.put(pool("a"), b"2")
        await copy.holds(a="2")
        store.roll_back(backup)
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
        await store.put(pool("a"), b"3")
        await store.put(CLUSTER_INFORMATION_KEY, cluster_information())
        await store.put(pool("a"), b"4")
        looks = store.looks
        await until(lambda: store.looks > looks + 1)
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
        assert copy.pools == {"a": "2"}
        assert copy.syncer.accept()
        await copy.holds(a="4")


async def test_a_rollback_is_found_however_rarely_the_state_file_is_written(state_file: Path) -> None:
    store = await cluster_with(a="1")
    async with copied(store, state_file, replace(FAST, remember_s=3_600)) as copy:
        await copy.holds(a="1")
        backup = store.revision
        await store.put(pool("a"), b"2")
        await copy.holds(a="2")
        store.roll_back(backup)
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)


async def test_a_rollback_of_a_deletion_is_found(state_file: Path) -> None:
    store = await cluster_with(a="1")
    async with copied(store, state_file) as copy:
        await copy.holds(a="1")
        await store.delete(pool("a"))
        await copy.holds()
        store.roll_back(store.revision - 1)
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)


async def test_a_rollback_is_not_forgotten_when_history_is_compacted(state_file: Path) -> None:
    store = await cluster_with()
    async with copied(store, state_file) as copy:
        await store.put(pool("a"), b"1")
        await copy.holds(a="1")
        store.roll_back(store.revision - 1)
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
        await store.put(pool("a"), b"other")
        await initialise(store)
        await store.put(pool("a"), b"another")
        await store.compact(store.revision)
        looks = store.looks
        await until(lambda: store.looks > looks + 1)
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
        assert copy.pools == {"a": "1"}


async def test_the_same_revision_of_another_history_is_not_taken_for_known(state_file: Path) -> None:
    store = await cluster_with()
    backup = store.revision
    async with copied(store, state_file) as copy:
        await copy.holds()
        await store.put(pool("a"), b"1")
        await copy.holds(a="1")
        store.roll_back(backup)
        await store.put(pool("a"), b"other")
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
        assert copy.syncer.accept()
        await copy.holds(a="other")


async def test_a_silent_watch_is_found_and_replaced(state_file: Path) -> None:
    store = DeafStore()
    await initialise(store)
    async with copied(store, state_file) as copy:
        await copy.reaches(Phase.IN_SYNC)
        store.deaf = True
        await store.put(pool("a"), b"1")
        await copy.reaches(Phase.UNAVAILABLE, ConnectReason.UNREACHABLE)
        store.deaf = False
        await copy.holds(a="1")


async def test_one_heartbeat_serves_all(state_file: Path, tmp_path: Path) -> None:
    store = await cluster_with(a="1")
    slow = replace(FAST, quiet_s=60)
    async with copied(store, state_file), copied(store, tmp_path / "other.json", slow) as quiet:
        await quiet.holds(a="1")
        await until(lambda: HEARTBEAT_KEY in store.data)
        beat = store.data[HEARTBEAT_KEY].mod_revision
        await until(lambda: quiet.syncer._position >= beat)
    assert HEARTBEAT_KEY not in quiet.data


class DeafStore(MemoryStore):
    """Brings no events while it is deaf."""

    deaf = False

    def _wake(self) -> None:
        if not self.deaf:
            super()._wake()


class OneByOneStore(MemoryStore):
    """Brings every revision in a batch of its own."""

    async def watch(self, prefixes: Sequence[bytes], start_revision: int) -> AsyncGenerator[tuple[Event, ...], None]:
        async for events in super().watch(prefixes, start_revision):
            for _, group in groupby(events, key=lambda event: event.mod_revision):
                yield tuple(group)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "delete", "drop", "compact", "pause", "go", "look"]), st.integers(0, 5)
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_copy_becomes_the_store_after_any_sequence(tmp_path: Path, steps: list[tuple[str, int]]) -> None:
    asyncio.run(run_sequence(tmp_path / "cluster.json", steps))


async def run_sequence(state_file: Path, steps: list[tuple[str, int]]) -> None:
    state_file.unlink(missing_ok=True)
    store = await cluster_with()
    async with copied(store, state_file, replace(FAST, first_wait_s=0.0)) as copy:
        for step, number in steps:
            match step:
                case "put":
                    store._write([Write(pool(str(number)), b"%d" % store.revision)])
                case "delete":
                    store._write([Write(pool(str(number)), None)])
                case "drop":
                    store.drop_watches()
                case "compact":
                    await store.compact(store.revision)
                case "pause":
                    copy.taking.clear()
                case "go":
                    copy.taking.set()
                case _:
                    await asyncio.sleep(0.001 * number)
        copy.taking.set()
        expected = {key: pair.value for key, pair in store.data.items() if key.startswith(PREFIXES)}
        await until(lambda: copy.in_sync and copy.data == expected, every_s=0.001)
