"""The node's state file: which cluster it last obeyed, and how far. Must outlive the agent, and better the machine.

In: a path; out: `Remembered` or None. `ClusterMemory` is the file, `MemoryKeeper` keeps it for a process; those of a
node's processes, each with roles of its own, keep one file. A file that cannot be read as ours raises: starting without
memory would obey any datastore.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import msgspec

from felixpy.datastore.cluster import Remembered
from felixpy.resources.foreign_json import UNREADABLE

_log = logging.getLogger(__name__)


class MemoryBroken(Exception):
    """The state file exists and is not what we write; a person must look at it, or remove it."""


class ClusterMemory:
    """One state file. `writer` tells apart the processes that write it: no two of a node have it in common."""

    def __init__(self, path: Path, writer: str = "") -> None:
        self.path = path
        self._draft = path.with_name(f"{path.name}.{writer}.new" if writer else f"{path.name}.new")

    def read(self) -> Remembered | None:
        """What was written last; None on the first run.

        Raises  MemoryBroken; OSError when the file is there and cannot be read.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Remembered)
        except FileNotFoundError:
            return None
        except UNREADABLE as error:
            advice = "put back a copy, or remove it: the node then obeys whatever cluster it finds"
            raise MemoryBroken(f"{self.path} is not what felixpy keeps there ({error}): {advice}") from error

    def write(self, remembered: Remembered) -> None:
        """Replaces the file as a whole, so that a crash leaves the old one or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._draft.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(remembered)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._draft.replace(self.path)

    def forget(self) -> None:
        """Back to the first run."""
        self.path.unlink(missing_ok=True)


class MemoryKeeper:
    """Keeps the state file as the process knows it: off the event loop, one write at a time, only what changed.

    A write that fails is logged, once per cause, and made up for by the next `keep`. A write that has begun outlives
    the cancellation of its caller, and the next one waits for it.
    """

    def __init__(self, memory: ClusterMemory) -> None:
        self._memory = memory
        self._stored: Remembered | None = None
        self._turn = asyncio.Lock()
        self._failure = ""

    async def read(self) -> Remembered | None:
        """What was written last; None on the first run.

        Raises  MemoryBroken; OSError when the file is there and cannot be read.
        """
        self._stored = await asyncio.to_thread(self._memory.read)
        return self._stored

    async def keep(self, remembered: Remembered | None) -> None:
        """Makes the file say `remembered`; None makes it a first run."""
        if remembered != self._stored or self._turn.locked():
            await asyncio.shield(self._store(remembered))

    async def _store(self, remembered: Remembered | None) -> None:
        async with self._turn:
            if remembered == self._stored:
                return
            try:
                if remembered is None:
                    await asyncio.to_thread(self._memory.forget)
                else:
                    await asyncio.to_thread(self._memory.write, remembered)
            except OSError as error:
                if self._failure != str(error):
                    words = "what this node remembers is not written to %s, which is tried again: %s"
                    _log.warning(words, self._memory.path, error.strerror or error)
                self._failure = str(error)
            else:
                self._stored, self._failure = remembered, ""
