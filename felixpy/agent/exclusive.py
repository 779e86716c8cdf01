"""What a process has alone while it runs: each role in its run directory, the agent in its network namespace."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMESPACE_LOCK = "\0felixpy/agent"


class AlreadyRunning(Exception):
    """Another process has this role, in this run directory or in this network namespace."""


@contextmanager
def hold_role(path: Path) -> Iterator[None]:
    """Holds the lock of a role. The file stays: it tells that some process has had this role here.

    Raises  AlreadyRunning; OSError when the run directory cannot be written.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"{path} is held: another process runs this role here") from None
        yield
    finally:
        os.close(file)


def hold_namespace() -> socket.socket:
    """One agent a network namespace: two would undo each other's rules for ever. Abstract names are the namespace's.

    Raises  AlreadyRunning.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        held.bind(NAMESPACE_LOCK)
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise AlreadyRunning("another agent runs in this network namespace") from None
    return held
