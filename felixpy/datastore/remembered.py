"""The node's state file: which cluster it last obeyed, and how far. Must outlive the agent, and better the machine.

In: a path; out: `Remembered` or None. A file that cannot be read as ours raises: starting without memory would obey
any datastore.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from felixpy.datastore.cluster import Remembered


class MemoryBroken(Exception):
    """The state file exists and is not what we write; a person must look at it, or remove it."""


class ClusterMemory:
    """One state file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Remembered | None:
        """What was written last; None on the first run.

        Raises  MemoryBroken; OSError when the file is there and cannot be read.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Remembered)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise MemoryBroken(f"{self._path}: {error}") from error

    def write(self, remembered: Remembered) -> None:
        """Replaces the file as a whole, so that a crash leaves the old one or the new one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(self._path.name + ".new")
        with draft.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(remembered)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)

    def forget(self) -> None:
        """Back to the first run."""
        self._path.unlink(missing_ok=True)
