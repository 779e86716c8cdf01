"""The etcd that one machine starts for itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from felixpy.agent.settings import WITH_ETCD_MOST_BYTES
from felixpy.datastore.local import LocalEtcd, LocalEtcdError
from tests.datastore.world import opened
from tests.support.wait import eventually_async


@pytest.fixture
async def local(tmp_path: Path) -> AsyncGenerator[LocalEtcd, None]:
    """A local etcd that runs."""
    etcd = LocalEtcd(tmp_path)
    await etcd.start()
    yield etcd
    await LocalEtcd(tmp_path).stop()


async def test_it_serves_on_a_socket_and_keeps_its_data(local: LocalEtcd) -> None:
    async with opened(str(local.endpoint)) as store:
        await store.put(b"/t/a", b"1")
    await local.stop()
    assert local.pid is None
    await local.start()
    async with opened(str(local.endpoint)) as store:
        assert await store.get(b"/t/a")


async def test_its_data_outlives_the_run_directory(tmp_path: Path) -> None:
    run_dir, state = tmp_path / "run", tmp_path / "state"
    for boot in range(2):
        etcd = LocalEtcd(run_dir, state=state)
        await etcd.start()
        try:
            async with opened(str(etcd.endpoint)) as store:
                assert (await store.get(b"/t/a") is not None) == bool(boot)
                await store.put(b"/t/a", b"1")
        finally:
            await etcd.stop()
        shutil.rmtree(run_dir)


async def test_only_its_owner_may_enter(local: LocalEtcd) -> None:
    assert Path(local.endpoint.path).parent.stat().st_mode & 0o777 == 0o700


async def test_the_next_agent_adopts_it(local: LocalEtcd, tmp_path: Path) -> None:
    pid = local.pid
    following = LocalEtcd(tmp_path)
    await following.start()
    assert following.pid == pid


async def test_one_whose_run_directory_was_removed_makes_way_and_its_data_stay(tmp_path: Path) -> None:
    run_dir, state = tmp_path / "run", tmp_path / "state"
    etcd = LocalEtcd(run_dir, state=state)
    await etcd.start()
    try:
        first = etcd.pid
        async with opened(str(etcd.endpoint)) as store:
            await store.put(b"/t/a", b"1")
        shutil.rmtree(run_dir)

        await etcd.start()

        assert processes_with(f"{state}/etcd/data") == [etcd.pid] != [first]
        async with opened(str(etcd.endpoint)) as store:
            assert await store.get(b"/t/a")
    finally:
        await etcd.stop()


async def test_it_serves_in_the_longest_directory_that_an_agent_takes() -> None:
    with tempfile.TemporaryDirectory() as base:
        etcd = LocalEtcd(Path(base, "x" * (WITH_ETCD_MOST_BYTES - len(base) - 1)))
        await etcd.start()
        await etcd.stop()


async def test_those_that_start_at_once_share_one(tmp_path: Path) -> None:
    agents = [LocalEtcd(tmp_path) for _ in range(4)]
    try:
        await asyncio.gather(*(agent.start() for agent in agents))
        assert processes_with(f"{tmp_path}/etcd/data") == [agents[0].pid]
    finally:
        await agents[0].stop()


@pytest.mark.parametrize("adopted", [False, True])
async def test_it_is_started_again_when_it_dies(local: LocalEtcd, tmp_path: Path, adopted: bool) -> None:
    agent = LocalEtcd(tmp_path) if adopted else local
    pid = agent.pid
    assert pid is not None
    supervisor = asyncio.create_task(agent.supervise())
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    await eventually_async(lambda: is_another(agent, pid))
    supervisor.cancel()
    await asyncio.gather(supervisor, return_exceptions=True)
    await agent.start()
    async with opened(str(agent.endpoint)) as store:
        assert await store.get(b"/t/a") is None


@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.06, 0.1])
async def test_one_that_is_killed_while_it_is_founded_starts_again(tmp_path: Path, delay_s: float) -> None:
    first = asyncio.create_task(LocalEtcd(tmp_path).start())
    pid = await eventually_async(lambda: pid_of(LocalEtcd(tmp_path)))
    await asyncio.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    await asyncio.gather(first, return_exceptions=True)
    local = LocalEtcd(tmp_path)
    try:
        await local.start()
    finally:
        await local.stop()


async def test_there_is_no_etcd_program(tmp_path: Path) -> None:
    with pytest.raises(LocalEtcdError, match="no program 'no-such-etcd'"):
        await LocalEtcd(tmp_path, binary="no-such-etcd").start()


async def test_an_etcd_that_cannot_start_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "etcd").mkdir()
    (tmp_path / "etcd" / "data").write_text("not a directory")
    with pytest.raises(LocalEtcdError, match=r"see .*/etcd/log"):
        await LocalEtcd(tmp_path).start()


async def is_another(local: LocalEtcd, pid: int) -> bool:
    return local.pid not in (None, pid)


async def pid_of(local: LocalEtcd) -> int | None:
    return local.pid


def processes_with(argument: str) -> list[int]:
    """The processes that were started with this argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if argument.encode() in arguments:
            found.append(int(path.parent.name))
    return found
