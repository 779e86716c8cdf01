"""Keeps one gobgpd running behind its UNIX socket, and lets it outlive us.

gobgpd runs in a session of its own, so that neither a signal to the agent's process group nor the agent's death
reaches it; a later agent finds the process that listens on the socket and watches over that one. Only a dead gobgpd is
replaced. Never talks BGP or gRPC. Source: posix_spawn(3), setsid(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from birdpy.gobgp.process import listener_pid, reap, wait_for_exit

_log = logging.getLogger(__name__)

START_DEADLINE_S = 10.0
BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 10.0
STEADY_S = 10.0
"""A process that lived so long begins its back-off anew."""


@dataclass(frozen=True, slots=True)
class GobgpdSettings:
    """Which gobgpd, and where its socket and log are. The directory is made with mode 0700 where it is missing."""

    binary: str
    socket_path: Path
    log_path: Path
    log_level: str = "warn"


class Supervisor:
    """Runs until cancelled, and gobgpd on after that. `pid` is the process watched over, 0 when there is none."""

    def __init__(self, settings: GobgpdSettings) -> None:
        self.settings = settings
        self.pid = 0
        self.starts = 0

    async def run(self) -> None:
        """Never returns by itself."""
        backoff_s = BACKOFF_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            self.pid = listener_pid(self.settings.socket_path)
            if self.pid:
                _log.info("gobgpd %d is running: taking it over", self.pid)
            else:
                await self._start()
            if self.pid:
                await wait_for_exit(self.pid)
                _log.warning("gobgpd %d is gone", self.pid)
                self.pid = 0
            if loop.time() - started >= STEADY_S:
                backoff_s = BACKOFF_FIRST_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MOST_S)

    async def _start(self) -> None:
        settings = self.settings
        settings.socket_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.socket_path.unlink(missing_ok=True)
        self.starts += 1
        try:
            pid = await _spawn(settings)
        except OSError as error:
            _log.error("cannot start %s: %s", settings.binary, error)
            return
        deadline = asyncio.get_running_loop().time() + START_DEADLINE_S
        while asyncio.get_running_loop().time() < deadline and not reap(pid):
            if listener_pid(settings.socket_path) == pid:
                self.pid = pid
                _log.info("started %s as %d", settings.binary, pid)
                return
            await asyncio.sleep(0.02)
        _log.error("gobgpd does not answer on %s; its log is %s", settings.socket_path, settings.log_path)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        await wait_for_exit(pid)


async def _spawn(settings: GobgpdSettings) -> int:
    """Starts gobgpd in a session of its own; its socket is for its user alone.

    posix_spawn, since asyncio and subprocess end or warn of a child that outlives them.
    Raises  OSError when the binary cannot be run.
    """
    arguments = [
        settings.binary,
        f"--api-hosts=unix://{settings.socket_path}",
        "--pprof-disable",
        "--log-plain",
        f"--log-level={settings.log_level}",
    ]
    if await _serves_metrics(settings.binary):
        arguments.append("--metrics-path=")
    log = os.open(settings.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    mask = os.umask(0o077)
    try:
        redirections = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        return os.posix_spawnp(settings.binary, arguments, os.environ, file_actions=redirections, setsid=True)
    finally:
        os.umask(mask)
        os.close(log)
        os.close(null)


async def _serves_metrics(binary: str) -> bool:
    """Whether it has the option that closes its port 6060 (version 3 opens none, and refuses the option)."""
    process = await asyncio.create_subprocess_exec(binary, "--help", stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return b"--metrics-path" in output
