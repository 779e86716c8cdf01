"""Sysctls: files under /proc/sys of the network namespace that we are in.

In → out: `read(keys)` → the values there; ops → Outcomes. A file that is not there (its device is gone) is an Outcome,
never an exception. Nothing is ever dropped: what was there before us is not known.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from felixpy.dataplane.objects import Key, Object, Op, Outcome, Put, Sysctl
from felixpy.drivers.outcomes import failed


class SysctlDriver:
    """Reads and writes below `root`."""

    def __init__(self, root: Path = Path("/proc/sys")) -> None:
        self._root = root

    def read(self, keys: Iterable[Key]) -> Mapping[Key, Object]:
        """The sysctls of `keys` that exist, as they are."""
        found: dict[Key, Object] = {}
        for key in keys:
            path = str(key.id[0])
            try:
                found[key] = Sysctl(path, (self._root / path).read_text().strip())
            except OSError:
                continue
        return found

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """One outcome per op, in order."""
        return tuple(self._apply(op) for op in ops)

    def _apply(self, op: Op) -> Outcome:
        if not isinstance(op, Put) or not isinstance(op.object, Sysctl):
            return failed(op, errno.EOPNOTSUPP, "sysctls are only put")
        try:
            (self._root / op.object.path).write_text(op.object.value)
        except OSError as error:
            return failed(op, error.errno or errno.EIO, error.strerror or "", op.object.path)
        return Outcome(op)
