"""gobgpd kept running, taken over, and left alone when we go."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from birdpy.gobgp.program import ENVIRONMENT, GobgpdSettings, gobgpd_program
from birdpy.process import LOG_KEPT_BYTES, LOG_MOST_BYTES, end_listener, listener_pid
from birdpy.supervisor import Supervisor
from tests.birdpy.conftest import GOBGPD
from tests.support.wait import eventually, eventually_async


@pytest.fixture(params=[4, 3], ids=["v4", "v3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GobgpdSettings]:
    directory = tmp_path / "run"
    yield GobgpdSettings(GOBGPD[request.param], directory / "gobgp.sock", tmp_path / "gobgpd.log")
    pid = listener_pid(directory / "gobgp.sock")
    if pid:
        os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def supervised(settings: GobgpdSettings) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(gobgpd_program(settings))
    running = asyncio.create_task(supervisor.run())
    try:
        await eventually_async(lambda: _has_pid(supervisor))
        yield supervisor
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _has_pid(supervisor: Supervisor) -> bool:
    return supervisor.pid != 0


async def test_it_starts_again_what_died(settings: GobgpdSettings) -> None:
    async with supervised(settings) as supervisor:
        first = supervisor.pid
        os.kill(first, signal.SIGKILL)
        await eventually_async(lambda: _runs_other(supervisor, first))
        assert listener_pid(settings.socket_path) == supervisor.pid


async def test_its_log_does_not_fill_the_memory(settings: GobgpdSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birdpy.supervisor.LOG_LOOK_S", 0.05)
    async with supervised(settings) as supervisor:
        pid, log = supervisor.pid, settings.log_path
        with log.open("ab") as chatter:
            chatter.write(b"the same again\n" * (LOG_MOST_BYTES // 15 + 1))
        await eventually_async(lambda: _is_small(log))
        kept = log.with_name(f"{log.name}.old").read_bytes()
        assert len(kept) == LOG_KEPT_BYTES
        assert kept.endswith(b"the same again\n")
        assert supervisor.pid == pid


async def _is_small(log: Path) -> bool:
    return log.stat().st_size < LOG_KEPT_BYTES


async def _runs_other(supervisor: Supervisor, first: int) -> bool:
    return supervisor.pid not in (0, first)


async def test_only_its_user_may_speak_to_it(settings: GobgpdSettings) -> None:
    async with supervised(settings):
        assert stat.S_IMODE(settings.socket_path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(settings.socket_path.stat().st_mode) & 0o077 == 0


async def test_it_opens_no_port(settings: GobgpdSettings) -> None:
    async with supervised(settings) as supervisor:
        listening = subprocess.run(["ss", "-Hltunp"], capture_output=True, text=True, check=True).stdout
        assert f"pid={supervisor.pid}," not in listening


@pytest.mark.parametrize("asked", ["", "50"])
async def test_it_collects_garbage_as_we_say_unless_somebody_else_has(
    settings: GobgpdSettings, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOGC", asked) if asked else monkeypatch.delenv("GOGC", raising=False)
    async with supervised(settings) as supervisor:
        environment = Path(f"/proc/{supervisor.pid}/environ").read_bytes().split(b"\0")
        assert f"GOGC={asked or ENVIRONMENT['GOGC']}".encode() in environment


async def test_a_stale_socket_is_no_obstacle(settings: GobgpdSettings) -> None:
    async with supervised(settings) as supervisor:
        os.kill(supervisor.pid, signal.SIGKILL)
    eventually(lambda: not listener_pid(settings.socket_path))
    assert settings.socket_path.exists()
    async with supervised(settings) as supervisor:
        assert listener_pid(settings.socket_path) == supervisor.pid


async def test_it_takes_over_what_runs(settings: GobgpdSettings) -> None:
    async with supervised(settings) as first:
        pid = first.pid
    async with supervised(settings) as second:
        assert (second.pid, second.starts) == (pid, 0)
        os.kill(pid, signal.SIGKILL)
        await eventually_async(lambda: _runs_other(second, pid))


def test_gobgpd_outlives_a_killed_agent_and_its_process_group(settings: GobgpdSettings) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from birdpy.gobgp.program import ENVIRONMENT, GobgpdSettings, gobgpd_program\n"
        "from birdpy.supervisor import Supervisor\n"
        "a, b, c = sys.argv[1:]\n"
        "settings = GobgpdSettings(a, pathlib.Path(b), pathlib.Path(c))\n"
        "asyncio.run(Supervisor(gobgpd_program(settings)).run())\n"
    )
    arguments = [settings.binary, str(settings.socket_path), str(settings.log_path)]
    agent = subprocess.Popen([sys.executable, "-c", program, *arguments], start_new_session=True)
    try:
        pid = eventually(lambda: listener_pid(settings.socket_path))
    finally:
        os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()
    assert listener_pid(settings.socket_path) == pid


async def test_ending_it_leaves_nobody_listening(settings: GobgpdSettings) -> None:
    async with supervised(settings) as supervisor:
        pid = supervisor.pid
    assert await end_listener(settings.socket_path)
    assert not listener_pid(settings.socket_path)
    assert not Path(f"/proc/{pid}").exists()


async def test_a_binary_that_cannot_run_is_tried_again_and_harms_nothing(tmp_path: Path) -> None:
    settings = GobgpdSettings("/nonexistent/gobgpd", tmp_path / "s" / "gobgp.sock", tmp_path / "log")
    supervisor = Supervisor(gobgpd_program(settings))
    running = asyncio.create_task(supervisor.run())
    await eventually_async(lambda: _tried(supervisor, 2))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert supervisor.pid == 0


async def _tried(supervisor: Supervisor, times: int) -> bool:
    return supervisor.starts >= times
