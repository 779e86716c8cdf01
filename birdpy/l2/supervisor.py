"""Keeps one responder running behind its UNIX socket, and lets it outlive us.

The responder runs in a session of its own: a later agent finds the process that listens on the socket and watches over
that one. Only a dead one is replaced; what it was told is lost with it, so whoever feeds it begins anew then.
Never speaks to it. Source: posix_spawn(3), setsid(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import birdpy
from birdpy.gobgp.process import listener_pid, reap, wait_for_exit

_log = logging.getLogger(__name__)

START_DEADLINE_S = 10.0
START_POLL_S = 0.01
BACKOFF_FIRST_S = 0.05
BACKOFF_MOST_S = 10.0
STEADY_S = 10.0
"""A process that lived so long begins its back-off anew."""


@dataclass(frozen=True, slots=True)
class ResponderSettings:
    """Where the responder's socket and log are; their directory exists."""

    socket_path: Path
    log_path: Path


def responder_argv(socket_path: Path) -> list[str]:
    """The command that runs a responder: this interpreter, without what it would look up and not need."""
    return [sys.executable, "-P", "-S", "-m", "birdpy.l2", str(socket_path)]


def responder_environment() -> Mapping[str, str]:
    """The environment that it needs to find itself."""
    return {**os.environ, "PYTHONPATH": str(Path(birdpy.__file__).parents[1])}


class Supervisor:
    """Runs until cancelled, and the responder on after that. `pid` is the one watched over, 0 when there is none."""

    def __init__(self, settings: ResponderSettings) -> None:
        self.settings = settings
        self.pid = 0

    async def run(self) -> None:
        """Never returns by itself."""
        backoff_s = BACKOFF_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            self.pid = listener_pid(self.settings.socket_path)
            if self.pid:
                _log.info("the responder %d is running: taking it over", self.pid)
            else:
                await self._start()
            if self.pid:
                await wait_for_exit(self.pid)
                _log.warning("the responder %d is gone", self.pid)
                self.pid = 0
            if loop.time() - started >= STEADY_S:
                backoff_s = BACKOFF_FIRST_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MOST_S)

    def end(self) -> None:
        """Ends the responder that is watched over; another one follows."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    async def _start(self) -> None:
        settings = self.settings
        try:
            pid = _spawn(settings)
        except OSError as error:
            _log.error("cannot start a responder: %s", error)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_DEADLINE_S
        while loop.time() < deadline and not reap(pid):
            if listener_pid(settings.socket_path) == pid:
                self.pid = pid
                _log.info("started a responder as %d", pid)
                return
            await asyncio.sleep(START_POLL_S)
        _log.error("the responder does not answer on %s; its log is %s", settings.socket_path, settings.log_path)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        await wait_for_exit(pid)


def _spawn(settings: ResponderSettings) -> int:
    """Starts a responder; by posix_spawn, since asyncio and subprocess end or warn of a child that outlives them.

    Raises  OSError.
    """
    argv = responder_argv(settings.socket_path)
    log = os.open(settings.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        redirections = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        return os.posix_spawn(argv[0], argv, responder_environment(), file_actions=redirections, setsid=True)
    finally:
        os.close(log)
        os.close(null)
