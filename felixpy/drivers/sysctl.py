"""Kernel settings below /proc/sys.

In → out: paths → their values; ops → Outcomes. The files under `net/` are those of the calling thread's network
namespace, whatever mounts it sees. Must never drop anything: what was there before us is not known.
Source: proc_sys(5); net/sysctl_net.c.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from felixpy.dataplane.objects import Drop, Key, Kind, Op, Outcome, Put, Seen, Sysctl
from felixpy.drivers.outcomes import failed

KINDS = frozenset({Kind.SYSCTL})
PROC_SYS = "/proc/sys"
_VALUE_BYTES = 4096
"""More than any setting's value takes."""


class SysctlDriver:
    """Reads and writes the files below `root`."""

    def __init__(self, root: str = PROC_SYS) -> None:
        self._root = root

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """The values of the sysctls among `wanted`, words separated by one space; what is not there is left out."""
        objects = {}
        for key in wanted:
            if key.kind is Kind.SYSCTL:
                path = str(key.id[0])
                try:
                    text = Path(self._root, path).read_text()
                except OSError:
                    continue
                objects[key] = Sysctl(path, " ".join(text.split()))
        return Seen(objects)

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """One outcome per op, in order; ENOENT says that the setting, or the device that it is of, is not there."""
        return tuple(map(self._apply_one, ops))

    def _apply_one(self, op: Op) -> Outcome:
        match op:
            case Put(object=Sysctl() as sysctl):
                try:
                    write_sysctl(sysctl, self._root)
                except OSError as error:
                    return failed(op, error.errno or errno.EIO, subject=sysctl.path)
                return Outcome(op)
            case Drop():
                return Outcome(op)
            case _:
                raise TypeError(f"not an op on a sysctl: {op}")


def write_sysctl(sysctl: Sysctl, root: str = PROC_SYS) -> None:
    """Gives a setting its value; one that has it already is left alone.

    To leave it alone is more than thrift: it may be all that a read-only /proc/sys allows, and a write of `forwarding`
    waits for the lock that making links holds.

    Raises  OSError.
    """
    file = os.open(f"{root}/{sysctl.path}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.read(file, _VALUE_BYTES).split() == sysctl.value.encode().split():
            return
    finally:
        os.close(file)
    file = os.open(f"{root}/{sysctl.path}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, sysctl.value.encode())
    finally:
        os.close(file)
