"""UNIX sockets for one user: one to listen on, and who is at the other end of a connection. Standard library alone.

Source: unix(7), SO_PEERCRED.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from struct import Struct
from typing import NamedTuple

BACKLOG = 128
_CREDENTIALS = Struct("3i")
"""struct ucred: process, user, group."""


class Peer(NamedTuple):
    """The process at the other end, and its user, as they were when it connected (or began to listen)."""

    pid: int
    uid: int

    @property
    def is_allowed(self) -> bool:
        """Whether it is of root or of our own user; nobody else may ask for anything."""
        return self.uid in (0, os.geteuid())


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    return Peer(pid, uid)


def listen(path: Path, backlog: int = BACKLOG) -> socket.socket:
    """A socket at `path`, of mode 0600 and not blocking, in place of whatever is there; clients find it whole.

    Raises  OSError when the directory is missing or may not be written.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(backlog)
        temporary.rename(path)
    except BaseException:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise
    return listener
