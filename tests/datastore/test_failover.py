"""Three members, one of which dies under load."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from felixpy.datastore.model import ConnectReason, Event, Expect, Store, TxnResult, Unavailable, Write
from tests.datastore.world import copied, initialise, opened, pool, proxied
from tests.support.etcd import Etcd, free_port
from tests.support.process import Daemon
from tests.support.wait import eventually_async

Members = dict[str, Daemon]


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    """Three members of a cluster, by URL."""
    urls = [(f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}") for _ in range(3)]
    cluster = ",".join(f"m{number}={peer}" for number, (_, peer) in enumerate(urls))
    daemons = {}
    for number, (client, peer) in enumerate(urls):
        argv = [
            "etcd",
            f"--name=m{number}",
            f"--data-dir={tmp_path / f'm{number}'}",
            "--log-level=warn",
            "--logger=zap",
        ]
        argv += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--initial-cluster={cluster}"]
        argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        daemons[client] = Daemon(argv, tmp_path / f"m{number}.log").start()
    yield daemons
    for daemon in daemons.values():
        daemon.kill()


async def test_a_killed_member_costs_no_error_and_no_write(members: Members, tmp_path: Path) -> None:
    async with opened(",".join(members)) as store:
        await eventually_async(lambda: initialise_once(store), within_s=20)
        async with copied(store, tmp_path / "cluster.json") as copy:
            await copy.holds()
            revision = 0
            for number in range(300):
                if number == 100:
                    next(iter(members.values())).kill()
                result = await store.transact([Expect(pool("a"), revision)], [Write(pool("a"), b"%d" % number)])
                assert result == TxnResult(True, result.revision)
                revision = result.revision
            await copy.holds(a="299")


async def test_many_callers_at_once_get_through(members: Members) -> None:
    async with opened(",".join(members)) as store:
        await eventually_async(lambda: initialise_once(store), within_s=20)

        async def write(number: int) -> None:
            for value in range(20):
                await store.put(pool(str(number)), b"%d" % value)

        writers = [asyncio.create_task(write(number)) for number in range(16)]
        await store.put(pool("first"), b"")
        next(iter(members.values())).kill()
        await asyncio.gather(*writers)
        snapshot = await store.snapshot([pool("")])
        assert {pair.value for pair in snapshot.items if pair.key != pool("first")} == {b"19"}


async def test_a_watch_of_a_member_that_lost_its_leader_ends(members: Members) -> None:
    last, *others = members
    async with opened(",".join(members)) as store:
        await eventually_async(lambda: initialise_once(store), within_s=20)
    async with opened(last, deadline_s=2.0) as store:
        batches = store.watch([pool("")], 1)
        start = await store.put(pool("a"), b"")
        assert await anext(batches) == (Event(pool("a"), b"", start),)
        for url in others:
            members[url].kill()
        with pytest.raises(Unavailable) as failed:
            await asyncio.wait_for(anext(batches), 20)
        assert failed.value.reason is ConnectReason.NO_LEADER
        with pytest.raises(Unavailable) as failed:
            await store.put(pool("a"), b"")
        assert failed.value.reason in (ConnectReason.NO_LEADER, ConnectReason.UNREACHABLE)


async def test_a_transaction_whose_answer_was_lost_is_not_taken_for_a_conflict(etcd: Etcd) -> None:
    async with (
        proxied(etcd.port) as proxy,
        opened(f"http://127.0.0.1:{proxy.port},{etcd.url}", deadline_s=2.0) as store,
    ):
        await store.put(b"/t/other", b"")
        proxy.swallow_answers()
        result = await store.transact([Expect(b"/t/a", 0)], [Write(b"/t/a", b"1"), Write(b"/t/b", b"1")])
        pair = await store.get(b"/t/b")
        assert pair is not None
        assert (result.succeeded, result.revision, pair.version) == (True, pair.mod_revision, 1)


async def initialise_once(store: Store) -> bool:
    await initialise(store)
    return True
