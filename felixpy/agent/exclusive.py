"""What a process has alone while it runs: each role in its run directory, the agent in its network namespace."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

NAMESPACE_LOCK = "\0felixpy/agent"


LOOK_S = 2.0
"""Between two looks at whether the run directory is still there."""


class AlreadyRunning(Exception):
    """Another process has this role, in this run directory or in this network namespace."""


class RunDirGone(Exception):
    """Somebody removed the run directory, or what is in it: the sockets cannot be reached any more."""


@contextmanager
def hold_role(path: Path) -> Iterator[int]:
    """Holds the lock of a role, by the descriptor. The file stays: it tells that some process has had this role here.

    Raises  AlreadyRunning; OSError when the run directory cannot be written.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"{path} is held: another process runs this role here") from None
        yield file
    finally:
        os.close(file)


async def keep_locks(locks: Mapping[Path, int]) -> NoReturn:
    """Looks whether the files of these locks are still the ones that are held.

    Raises  RunDirGone when they are not: whoever starts us again makes sockets anew, and nobody else may have the role.
    """
    while True:
        for path, file in locks.items():
            try:
                held = os.path.samestat(os.stat(path), os.fstat(file))
            except FileNotFoundError:
                held = False
            except OSError:
                held = True  # what cannot be looked at now is looked at later
            if not held:
                raise RunDirGone(f"{path} was removed, and with it our sockets: felixpy ends, to be started anew")
        await asyncio.sleep(LOOK_S)


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
