"""Keeps one program running behind its UNIX socket, and lets it outlive us: gobgpd, and the responder of layer 2.

The program runs in a session of its own, so that neither a signal to the agent's process group nor the agent's death
reaches it; a later agent finds the process that listens on the socket and watches over that one. Only a dead one is
replaced; what it was told is lost with it, so whoever feeds it begins anew then. Never speaks to it.
Source: posix_spawn(3), setsid(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from birdpy.process import bound_log, end_strays, listener_pid, reap, wait_for_exit

_log = logging.getLogger(__name__)

START_DEADLINE_S = 10.0
START_POLL_S = 0.01
BACKOFF_FIRST_S = 0.05
BACKOFF_MOST_S = 10.0
STEADY_S = 10.0
"""A process that lived so long begins its back-off anew."""
LOG_LOOK_S = 60.0
"""How often the size of a program's log is looked at."""
UMASK = 0o077
"""Sockets and files of the program are for its user alone."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and where it listens and writes its log. The socket's directory is made where it is missing.

    `find_command` gives the arguments, the program first, each time that it is started.
    """

    name: str
    socket_path: Path
    log_path: Path
    find_command: Callable[[], Awaitable[list[str]]]
    environment: Mapping[str, str]


class Supervisor:
    """Runs until cancelled, and the program on after that. `pid` is the one watched over, 0 when there is none."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.pid = 0
        self.starts = 0

    async def run(self) -> None:
        """Never returns by itself."""
        name = self.program.name
        backoff_s = BACKOFF_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            self.pid = listener_pid(self.program.socket_path)
            if self.pid:
                _log.info("%s %d is running: taking it over", name, self.pid)
            else:
                for stray in await end_strays(self.program.socket_path):
                    _log.warning("%s %d was out of reach, its socket's file is gone: it was ended", name, stray)
                await self._start()
            if self.pid:
                await self._until_gone()
                _log.warning("%s %d is gone", name, self.pid)
                self.pid = 0
            if loop.time() - started >= STEADY_S:
                backoff_s = BACKOFF_FIRST_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MOST_S)

    async def _until_gone(self) -> None:
        """Waits for the end of the process, and keeps its log within bounds."""
        gone = asyncio.ensure_future(wait_for_exit(self.pid))
        try:
            while not (await asyncio.wait([gone], timeout=LOG_LOOK_S))[0]:
                with contextlib.suppress(OSError):
                    bound_log(self.program.log_path)
            await gone
        finally:
            gone.cancel()

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends the process that is watched over, by SIGKILL where it hangs; another one follows."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _start(self) -> None:
        program = self.program
        self.starts += 1
        try:
            program.socket_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            program.socket_path.unlink(missing_ok=True)
            pid = _spawn(program, await program.find_command())
        except OSError as error:
            _log.error("cannot start %s: %s", program.name, error)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_DEADLINE_S
        while loop.time() < deadline and not reap(pid):
            if listener_pid(program.socket_path) == pid:
                self.pid = pid
                _log.info("started %s as %d", program.name, pid)
                return
            await asyncio.sleep(START_POLL_S)
        _log.error("%s does not answer on %s; its log is %s", program.name, program.socket_path, program.log_path)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        await wait_for_exit(pid)


def _spawn(program: Program, command: list[str]) -> int:
    """Starts the program; by posix_spawn, since asyncio and subprocess end or warn of a child that outlives them.

    Raises  OSError when it cannot be run.
    """
    log = os.open(program.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    mask = os.umask(UMASK)
    try:
        redirections = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        return os.posix_spawnp(command[0], command, program.environment, file_actions=redirections, setsid=True)
    finally:
        os.umask(mask)
        os.close(log)
        os.close(null)
