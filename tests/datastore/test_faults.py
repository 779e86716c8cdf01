"""The syncer over a real etcd that restarts, forgets, goes silent or comes back older, and through etcd's own proxy."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from felixpy.datastore.client import EtcdStore
from felixpy.datastore.cluster import FreezeReason
from felixpy.datastore.model import Write
from felixpy.datastore.syncer import Phase, SyncSettings
from tests.datastore.world import FAST, copied, initialise, opened, pool, proxied
from tests.support.etcd import Etcd, free_port
from tests.support.process import Daemon
from tests.support.wait import eventually_async, until


@pytest.fixture
async def cluster(etcd_store: EtcdStore) -> EtcdStore:
    """A client that sees etcd directly, with a cluster in it."""
    await initialise(etcd_store)
    return etcd_store


@pytest.fixture
def own_etcd() -> Iterator[Etcd]:
    """An etcd for tests that stop it."""
    with Etcd() as server:
        yield server


async def test_a_restarted_etcd_is_found_again(own_etcd: Etcd, state_file: Path) -> None:
    async with opened(own_etcd.url) as store, copied(store, state_file) as copy:
        await initialise(store)
        await store.put(pool("a"), b"1")
        await copy.holds(a="1")
        own_etcd.kill()
        await copy.reaches(Phase.UNAVAILABLE)
        own_etcd.start()
        await store.put(pool("b"), b"2")
        await copy.holds(a="1", b="2")
    assert all(batch.in_sync for batch in copy.batches if batch.revision > copy.batches[0].revision)


async def test_history_lost_during_an_outage_costs_only_the_difference(
    etcd: Etcd, cluster: EtcdStore, state_file: Path
) -> None:
    await cluster.transact([], [Write(pool(str(number)), b"old") for number in range(100)])
    async with (
        proxied(etcd.port) as proxy,
        opened(f"http://127.0.0.1:{proxy.port}") as store,
        copied(store, state_file) as copy,
    ):
        await until(lambda: copy.in_sync and len(copy.pools) == 100)
        handed = len(copy.batches)
        await proxy.close()
        await cluster.put(pool("1"), b"new")
        await cluster.delete(pool("2"))
        await cluster.compact(await cluster.put(b"/elsewhere", b""))
        await proxy.open()
        await until(lambda: pool("2") not in copy.data)
        events = {event.key: event.value for batch in copy.batches[handed:] for event in batch.events}
        assert events == {pool("1"): b"new", pool("2"): None}


async def test_a_connection_that_goes_silent_is_replaced(etcd: Etcd, cluster: EtcdStore, state_file: Path) -> None:
    async with (
        proxied(etcd.port) as proxy,
        opened(f"http://127.0.0.1:{proxy.port}", deadline_s=1.0) as store,
        copied(store, state_file) as copy,
    ):
        await copy.reaches(Phase.IN_SYNC)
        proxy.swallow()
        await cluster.put(pool("a"), b"1")
        await copy.reaches(Phase.UNAVAILABLE)
        proxy.resume()
        await copy.holds(a="1")


async def test_connections_that_are_reset_lose_no_event(etcd: Etcd, cluster: EtcdStore, state_file: Path) -> None:
    async with (
        proxied(etcd.port) as proxy,
        opened(f"http://127.0.0.1:{proxy.port}") as store,
        copied(store, state_file) as copy,
    ):
        await copy.reaches(Phase.IN_SYNC)
        for number in range(60):
            await cluster.put(pool(str(number)), b"1")
            await cluster.delete(pool(str(number - 10)))
            if number % 20 == 10:
                proxy.cut()
        await copy.holds(**{str(number): "1" for number in range(50, 60)})


async def test_a_restored_backup_is_not_obeyed(own_etcd: Etcd, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    async with opened(own_etcd.url) as store, copied(store, tmp_path / "cluster.json") as copy:
        await initialise(store)
        await store.put(pool("a"), b"1")
        subprocess.run(
            ["etcdctl", "--endpoints", own_etcd.url, "snapshot", "save", backup], check=True, capture_output=True
        )
        await store.put(pool("a"), b"2")
        await copy.holds(a="2")
        own_etcd.stop()
        restore(own_etcd, backup)
        own_etcd.start()
        await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
        await store.put(pool("b"), b"3")
        assert copy.pools == {"a": "2"}
        assert copy.syncer.accept()
        await copy.holds(a="1", b="3")


async def test_a_restored_backup_is_not_obeyed_by_a_restarted_node(own_etcd: Etcd, tmp_path: Path) -> None:
    backup, state_file, killed = tmp_path / "backup", tmp_path / "cluster.json", tmp_path / "killed.json"
    async with opened(own_etcd.url) as store:
        async with copied(store, state_file, SyncSettings()) as copy:
            await initialise(store)
            await copy.reaches(Phase.IN_SYNC)
            subprocess.run(
                ["etcdctl", "--endpoints", own_etcd.url, "snapshot", "save", backup], check=True, capture_output=True
            )
            for number in range(30):
                await store.put(pool("a"), b"%d" % number)
            await copy.holds(a="29")
            own_etcd.stop()
            restore(own_etcd, backup)
            own_etcd.start()
            await copy.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
            shutil.copy(state_file, killed)
        for passed in (False, True):
            for left in (state_file, killed):
                async with copied(store, left) as restarted:
                    await restarted.reaches(Phase.FROZEN, FreezeReason.ROLLED_BACK)
                    assert restarted.batches == []
            if not passed:
                for _ in range(60):
                    await store.put(pool("b"), b"")
                await store.compact(await store.put(pool("b"), b""))


def restore(etcd: Etcd, backup: Path) -> None:
    """Replaces the data of a stopped etcd."""
    data = etcd.directory / "data"
    shutil.rmtree(data)
    flags = [flag for flag in etcd.daemon.argv if flag.startswith(("--initial-", "--data-dir"))]
    subprocess.run(
        ["etcdctl", "snapshot", "restore", backup, "--name=default", *flags], check=True, capture_output=True
    )


async def test_an_emptied_etcd_is_not_obeyed(cluster: EtcdStore, etcd: Etcd, state_file: Path) -> None:
    await cluster.put(pool("a"), b"1")
    async with copied(cluster, state_file) as copy:
        await copy.holds(a="1")
        etcd.delete_prefix("/calico/")
        await copy.reaches(Phase.FROZEN, FreezeReason.EMPTY)
        assert copy.pools == {"a": "1"}


async def test_it_works_through_etcds_own_proxy(etcd: Etcd, cluster: EtcdStore, state_file: Path) -> None:
    port = free_port()
    argv = ["etcd", "grpc-proxy", "start", f"--endpoints=127.0.0.1:{etcd.port}", f"--listen-addr=127.0.0.1:{port}"]
    with Daemon(argv, state_file.parent / "proxy.log"):
        async with opened(f"http://127.0.0.1:{port}") as store:
            await eventually_async(
                lambda: store.get(b"/calico/resources/v3/projectcalico.org/clusterinformations/default")
            )
            async with copied(store, state_file, replace(FAST, answer_s=20.0)) as copy:
                await cluster.put(pool("a"), b"1")
                await copy.holds(a="1")
                quiet = copy.syncer._position
                await until(lambda: copy.syncer._position > quiet)
                assert [state.phase for state in copy.states] == [Phase.SYNCING, Phase.IN_SYNC]
