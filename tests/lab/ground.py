"""Where a lab lives on this machine: its namespaces, its directory, the record of it, and how all of it is removed.

Standard library only, so that `down` works with any python3, after a crash and without the virtual environment.
Everything of a lab is found by name alone (namespaces that begin with its prefix, one directory); the record adds what
runs, for `status`, and processes that someone's `ip netns del` has hidden from us.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

RUN = Path("/run")
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Process:
    """A process by pid and start time (in clock ticks since boot), so that a reused pid is not taken for it."""

    role: str
    pid: int
    started: int

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self.started


@dataclass(slots=True)
class Record:
    """What is up, as far as it is known: written before each thing is made."""

    topology: str = ""
    complete: bool = False
    processes: list[Process] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ground:
    """One lab's place: `instance` is empty for the one of `make lab`, a word for any other beside it."""

    instance: str = ""

    @property
    def prefix(self) -> str:
        """What its namespaces' names begin with."""
        return f"fpl{self.instance}-"

    @property
    def directory(self) -> Path:
        return RUN / f"felixpy-lab{self.instance}"

    @property
    def record_path(self) -> Path:
        return self.directory / "state.json"

    def namespace_name(self, *parts: str) -> str:
        """The namespace of a node (`n1`), or of a pod on it (`n1`, `web-1`)."""
        return self.prefix + "-".join(parts)

    def node_directory(self, node: str) -> Path:
        """What stands for a node's own /run and /var/lib."""
        return self.directory / node

    def read_record(self) -> Record | None:
        """The record; None when there is none, or it was cut short by a crash."""
        try:
            data = json.loads(self.record_path.read_text())
            return Record(data["topology"], data["complete"], [Process(**p) for p in data["processes"]])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_record(self, record: Record) -> None:
        """Replaces the record as a whole."""
        self.directory.mkdir(parents=True, exist_ok=True)
        draft = self.record_path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(record), indent=1))
        draft.replace(self.record_path)

    def namespaces(self) -> list[str]:
        """Names of its namespaces that exist."""
        try:
            return sorted(name for name in os.listdir(RUN / "netns") if name.startswith(self.prefix))
        except FileNotFoundError:
            return []

    @property
    def is_clean(self) -> bool:
        """Whether nothing of it is left."""
        return not self.namespaces() and not self.directory.exists()

    def processes(self) -> list[int]:
        """Pids of everything that belongs to it: in its namespaces, or in its record and alive."""
        record = self.read_record()
        recorded = [process.pid for process in (record.processes if record else []) if process.alive]
        return sorted({*recorded, *_pids_in(self.namespaces())} - {os.getpid()})

    def clear(self) -> tuple[int, int]:
        """Removes all of it, whatever state it is in; how many processes and namespaces there were.

        Raises  RuntimeError when something resists.
        """
        ended: set[int] = set()
        for _ in range(100):
            pids = self.processes()
            if not pids:
                break
            ended.update(pids)
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        names = self.namespaces()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=30)
        shutil.rmtree(self.directory, ignore_errors=True)
        if not self.is_clean:
            left = [*self.namespaces(), *map(str, self.processes())]
            left += [str(self.directory)] if self.directory.exists() else []
            raise RuntimeError(f"still there: {', '.join(left)}: is something mounted in it, or waiting for a disk?")
        return len(ended), len(names)


def process_of(role: str, pid: int) -> Process:
    """A running process as the record has it."""
    return Process(role, pid, _start_time(pid))


def _start_time(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])


def _pids_in(names: Iterable[str]) -> set[int]:
    inodes = {os.stat(RUN / "netns" / name).st_ino for name in names}
    found: set[int] = set()
    for entry in os.listdir("/proc") if inodes else ():
        if entry.isdigit():
            try:
                if os.stat(f"/proc/{entry}/ns/net").st_ino in inodes and _start_time(int(entry)) >= 0:
                    found.add(int(entry))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                pass
    return found
