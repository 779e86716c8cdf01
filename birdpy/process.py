"""The process behind a UNIX socket: which one it is, its end, and its ending; the log that it writes, its environment.

In: the path of a socket, or of a log. Never starts anything. Source: unix(7) (SO_PEERCRED), pidfd_open(2), proc_net(5).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_OURS = ("FELIXPY_", "ETCD_")
_UNIX_SOCKETS = Path("/proc/thread-self/net/unix")
_UNIX_SOCKET = re.compile(rb"\S+: \S+ \S+ (?P<flags>[0-9A-F]+) \S+ \S+ +(?P<inode>\d+) (?P<path>.+)")
"""A row of it. The path is that of the bind: a socket that was made elsewhere (unix_socket.py) keeps it."""
_LISTENS = 0x10000
"""__SO_ACCEPTCON of linux/net.h."""
LOG_MOST_BYTES = 4 << 20
LOG_KEPT_BYTES = 256 << 10


def bare_environment() -> dict[str, str]:
    """The environment of programs that outlive us: without our settings, of which one may be etcd's password."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def bound_log(log_path: Path, most_bytes: int = LOG_MOST_BYTES) -> bool:
    """Empties a log that has grown beyond `most_bytes`; its end is then in `LOG.old`. Whether it had.

    Whoever writes it has to append, and goes on: /run, where these logs are, is memory.

    Raises  OSError.
    """
    with log_path.open("r+b") as log:
        size = log.seek(0, os.SEEK_END)
        if size <= most_bytes:
            return False
        log.seek(max(size - LOG_KEPT_BYTES, 0))
        with contextlib.suppress(OSError):  # a full disk keeps nothing, and gets its space back
            log_path.with_name(f"{log_path.name}.old").write_bytes(log.read())
        log.truncate(0)
        return True


def listener_pid(socket_path: Path) -> int:
    """The process that listens on the socket; 0 when none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(1)
            probe.connect(str(socket_path))
        except OSError:
            return 0
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def find_strays(socket_path: Path) -> tuple[int, ...]:
    """The processes that listen at a socket of this path that nobody can reach: its file is gone, or another's.

    Who wipes a run directory leaves such ones: they go on, keep their ports, and take no more orders.
    """
    try:
        rows = map(_UNIX_SOCKET.match, _UNIX_SOCKETS.read_bytes().split(b"\n"))
    except OSError:
        return ()
    path, temporary = map(os.fsencode, (socket_path, socket_path.with_name(f".{socket_path.name}.")))
    files = {
        f"socket:[{int(row['inode'])}]"
        for row in rows
        if row is not None
        and int(row["flags"], 16) & _LISTENS
        and (row["path"] == path or row["path"].startswith(temporary))
    }
    reached = listener_pid(socket_path) if files else 0
    found = sorted(_who_has(files, path)) if files else ()
    return tuple(pid for pid in found if pid not in (reached, os.getpid()))


def _who_has(files: set[str], path: bytes) -> Iterator[int]:
    """Processes that have one of these sockets and were started to listen at `path`.

    Others are let be: an abstract name may have a line's end in it, and so anybody can write a row of that table.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path in (process / "cmdline").read_bytes() and any(
                os.readlink(one) in files for one in (process / "fd").iterdir()
            ):
                yield int(process.name)


async def end_strays(socket_path: Path, number: int = signal.SIGKILL, within_s: float = 5.0) -> tuple[int, ...]:
    """Ends those whom nobody can reach at this path any more; which ones."""
    strays = find_strays(socket_path)
    for pid in strays:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wait_for_exit(pid), within_s)
    return strays


async def end_listener(socket_path: Path, within_s: float = 5.0) -> bool:
    """Ends the process that listens on the socket, by SIGKILL; whether there is none now.

    BGP neighbours with graceful restart keep what a killed gobgpd announced; on SIGTERM it withdraws all of it.
    """
    pid = listener_pid(socket_path)
    if not pid:
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(wait_for_exit(pid), within_s)
        return True
    return False


async def wait_for_exit(pid: int) -> None:
    """Returns when the process has ended; a child of ours is then gone from the process table too."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    reap(pid)


def reap(pid: int) -> bool:
    """Whether a child of ours has ended, and is now gone from the process table; False for somebody else's."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False
