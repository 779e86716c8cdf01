"""Daemons of a test: started with a log of their own, ended by their own pid."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.wait import eventually


class Daemon:
    """One process in the background, in a session of its own; its output goes to `log`.

    `netns` names a network namespace under /run/netns to start it in. Nothing runs before `start`.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        log: Path,
        *,
        netns: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        enter = ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []
        self.argv = [*enter, *map(str, argv)]
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; nsenter becomes the daemon, so the two are one."""
        if self._process is None:
            raise RuntimeError(f"not started: {self.argv}")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Daemon:
        """Starts it; an earlier run's log is kept and added to."""
        assert not self.running, f"it runs already: {self.argv}"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
        return self

    def wait_ready(self, ready: Callable[[], object], within_s: float = 10.0) -> Daemon:
        """Waits until `ready` is truthy.

        Raises  AssertionError with the tail of the log when the process ended first, or the time did.
        """

        def ready_or_ended() -> object:
            return not self.running or ready()

        try:
            eventually(ready_or_ended, within_s, what=f"{self.argv} ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None
        if not self.running:
            raise AssertionError(f"{self.argv} ended with {self._process and self._process.poll()}\n{self.tail()}")
        return self

    def tail(self, lines: int = 40) -> str:
        """The end of the log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, within_s: float = 20.0) -> int | None:
        """Asks it to end, and kills it when it has not by then; the exit code."""
        return self._end(signal.SIGTERM, within_s)

    def kill(self) -> int | None:
        """Ends it at once, as a crash would."""
        return self._end(signal.SIGKILL, 5.0)

    def _end(self, first: signal.Signals, within_s: float) -> int | None:
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(first)
        try:
            return process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(20.0)

    def __enter__(self) -> Daemon:
        return self if self.running else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
