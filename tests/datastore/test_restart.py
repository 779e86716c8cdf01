"""A node that is restarted, or killed, while its datastore is not to be obeyed: it stays frozen all the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from felixpy.datastore.cluster import FreezeReason
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.remembered import ClusterMemory
from felixpy.datastore.syncer import Phase, SyncSettings
from tests.datastore.world import FAST, copied, initialise, pool
from tests.support.wait import until

RARELY = replace(FAST, remember_s=3_600)


async def cluster_at(**pools: str) -> MemoryStore:
    """The same history of one cluster, each time."""
    store = MemoryStore()
    await initialise(store)
    for name, value in pools.items():
        await store.put(pool(name), value.encode())
    return store


async def roll_back_and_wait(store: MemoryStore, state_file: Path, settings: SyncSettings = FAST) -> Path:
    """Obeys, writes, loses the write; returns the state file as a killed process leaves it."""
    async with copied(store, state_file, settings) as copy:
        await copy.reaches(Phase.IN_SYNC)
        backup = store.revision
        await store.put(pool("a"), b"lost")
        await copy.holds(a="lost")
        store.roll_back(backup)
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
        return Path(shutil.copy(state_file, state_file.with_name("killed.json")))


async def stays_frozen(store: MemoryStore, state_file: Path, reason: FreezeReason) -> None:
    async with copied(store, state_file) as copy:
        await copy.reaches(Phase.FROZEN, reason)
        assert copy.batches == []


@pytest.mark.parametrize("settings", [FAST, RARELY], ids=["often", "rarely"])
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_a_rollback_outlives_the_process(state_file: Path, settings: SyncSettings, killed: bool) -> None:
    store = await cluster_at(a="1")
    left = await roll_back_and_wait(store, state_file, settings)
    await stays_frozen(store, left if killed else state_file, FreezeReason.ROLLED_BACK)


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_a_rollback_that_was_passed_outlives_the_process(state_file: Path, compacted: bool, killed: bool) -> None:
    store = await cluster_at(a="1")
    left = await roll_back_and_wait(store, state_file)
    for number in range(10):
        await store.put(pool("b"), b"%d" % number)
    if compacted:
        await store.compact(store.revision)
    restarted = left if killed else state_file
    await stays_frozen(store, restarted, FreezeReason.ROLLED_BACK)
    await stays_frozen(store, restarted, FreezeReason.ROLLED_BACK)
    async with copied(store, restarted) as copy:
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
        assert copy.syncer.accept()
        await copy.holds(a="1", b="9")
    async with copied(store, restarted) as copy:
        await copy.holds(a="1", b="9")


@pytest.mark.parametrize("lost", [1, 2], ids=["deletion", "with its put"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_deletion_that_was_lost_is_missed_whatever_comes_after(
    state_file: Path, restarted: bool, lost: int
) -> None:
    store = await cluster_at(a="1", b="1")
    async with copied(store, state_file) as copy:
        await copy.holds(a="1", b="1")
        await store.delete(pool("b"))
        await copy.holds(a="1")
        store.roll_back(store.revision - lost)
        for _ in range(5):
            await store.put(pool("c"), b"1")
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
        assert copy.pools == {"a": "1"}
    if restarted:
        await stays_frozen(store, state_file, FreezeReason.ROLLED_BACK)


async def test_a_deletion_that_was_kept_is_known(state_file: Path) -> None:
    store = await cluster_at(a="1", b="1")
    async with copied(store, state_file) as copy:
        await copy.holds(a="1", b="1")
        await store.delete(pool("b"))
        await copy.holds(a="1")
    await stays_frozen(MemoryStore(), state_file, FreezeReason.EMPTY)
    async with copied(store, state_file) as copy:
        await copy.holds(a="1")


async def test_a_rollback_while_the_node_is_stopped_is_found(state_file: Path) -> None:
    store = await cluster_at(a="1")
    async with copied(store, state_file, RARELY) as copy:
        await copy.holds(a="1")
        await store.put(pool("a"), b"lost")
        await copy.holds(a="lost")
    store.roll_back(store.revision - 1)
    await stays_frozen(store, state_file, FreezeReason.ROLLED_BACK)


async def test_a_killed_node_remembers_the_last_event_of_a_burst(state_file: Path) -> None:
    store = await cluster_at()
    async with copied(store, state_file) as copy:
        await copy.reaches(Phase.IN_SYNC)
        for number in range(20):
            last = await store.put(pool("a"), b"%d" % number)
        await until(lambda: stored_revision(state_file) >= last)
        left = Path(shutil.copy(state_file, state_file.with_name("killed.json")))
    store.roll_back(last - 1)
    await stays_frozen(store, left, FreezeReason.ROLLED_BACK)


async def test_a_lost_connection_is_when_a_node_notes_how_far_it_came(state_file: Path) -> None:
    store = await cluster_at()
    async with copied(store, state_file, replace(RARELY, first_wait_s=1e6, longest_wait_s=1e6)) as copy:
        await copy.reaches(Phase.IN_SYNC)
        last = await store.put(pool("a"), b"1")
        await copy.holds(a="1")
        assert stored_revision(state_file) < last
        store.drop_watches()
        await until(lambda: stored_revision(state_file) == last)


def stored_revision(state_file: Path) -> int:
    remembered = ClusterMemory(state_file).read()
    return remembered.revision if remembered else 0


async def test_the_datastore_that_was_obeyed_is_obeyed_again(state_file: Path) -> None:
    async with copied(await cluster_at(a="1", b="2"), state_file) as copy:
        await copy.holds(a="1", b="2")
    await stays_frozen(await cluster_at(a="1"), state_file, FreezeReason.ROLLED_BACK)
    await stays_frozen(MemoryStore(), state_file, FreezeReason.EMPTY)
    async with copied(await cluster_at(a="1", b="2", c="3"), state_file) as copy:
        await copy.holds(a="1", b="2", c="3")


async def test_a_cluster_made_anew_is_not_the_one_that_was_lost(state_file: Path) -> None:
    async with copied(await cluster_at(a="1"), state_file) as copy:
        await copy.holds(a="1")
    await stays_frozen(MemoryStore(), state_file, FreezeReason.EMPTY)
    anew = await cluster_at(b="1", c="1", d="1")
    await anew.compact(anew.revision)
    await stays_frozen(anew, state_file, FreezeReason.EMPTY)


async def test_a_datastore_marked_as_not_ready_needs_no_proof(state_file: Path) -> None:
    store = await cluster_at(a="1")
    async with copied(store, state_file) as copy:
        await copy.holds(a="1")
    await initialise(store, ready=False)
    await stays_frozen(store, state_file, FreezeReason.NOT_READY)
    await initialise(store)
    await store.compact(store.revision)
    async with copied(store, state_file) as copy:
        await copy.holds(a="1")


async def test_a_disk_that_is_full_ends_nothing_and_is_made_up_for(
    state_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await cluster_at(a="1")
    obstacle = state_file.with_name("cluster.json.new")
    obstacle.mkdir()
    async with copied(store, state_file) as copy:
        await copy.holds(a="1")
        backup = store.revision
        await store.put(pool("a"), b"lost")
        await copy.holds(a="lost")
        store.roll_back(backup)
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
        assert len([line for line in caplog.messages if "not written" in line]) == 1
        obstacle.rmdir()
        await until(lambda: state_file.exists())
        left = Path(shutil.copy(state_file, state_file.with_name("killed.json")))
    await store.put(pool("b"), b"2")
    await store.compact(store.revision)
    await stays_frozen(store, left, FreezeReason.ROLLED_BACK)
