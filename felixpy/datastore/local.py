"""An etcd of its own for one machine (`--etcd local`): started, watched, restarted, and found again by the next agent.

In: a directory, and one for the data, which outlives the machine where the first does not; out: the endpoint of a live
etcd. It listens on a UNIX socket alone, so that only those who may enter the directory can write, and network
namespaces do not matter. The agent's death does not
end it: the next agent finds it by its pid file. Several processes may share a directory: a lock lets one of them start
it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from birdpy.process import bound_log
from felixpy.datastore.client import EtcdStore, open_store
from felixpy.datastore.model import DatastoreError
from felixpy.datastore.settings import Endpoint, EtcdSettings

# etcd 3.4 wants host:port in every URL and uses the two as the socket's file name, relative to its working directory
CLIENT_SOCKET = "client.sock:0"
PEER_SOCKET = "peer.sock:0"
_START_TIME = 18  # starttime, field 22 of /proc/PID/stat (proc(5)), counted from after the state: tells pids apart
LOG_LOOK_S = 60.0
READY_S = 15.0
STOP_S = 5.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0


class LocalEtcdError(Exception):
    """The local etcd cannot be had; the text tells why and where its log is."""


class LocalEtcd:
    """etcd in `directory`/etcd: sockets, pid file, lock and log. Its data is in `state`/etcd, or beside them."""

    def __init__(self, directory: Path, binary: str = "etcd", state: Path | None = None) -> None:
        self._home = directory.absolute() / "etcd"
        self._kept = self._home if state is None else state.absolute() / "etcd"
        self._binary = binary

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens; the same over restarts."""
        return Endpoint(False, "", 0, str(self._home / CLIENT_SOCKET))

    @property
    def _founded(self) -> Path:
        """Exists once etcd has served: one that was killed while it wrote its first data never elects itself."""
        return self._kept / "founded"

    @property
    def pid(self) -> int | None:
        """The live etcd's process, ours or adopted."""
        try:
            pid, started = (self._home / "pid").read_text().split()
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except (OSError, ValueError):
            return None
        return int(pid) if state != "Z" and fields[_START_TIME] == started else None

    async def start(self) -> Endpoint:
        """Adopts the live one or starts one, and waits until it serves.

        Raises  LocalEtcdError when there is no etcd program, or it ends, or it is not ready within READY_S.
        """
        await asyncio.to_thread(self._ensure_running)
        store = open_store(EtcdSettings((self.endpoint,), deadline_s=1.0))
        try:
            async with asyncio.timeout(READY_S):
                while not await self._serves(store):
                    if self.pid is None:
                        raise LocalEtcdError(f"etcd ended while starting; see {self._home / 'log'}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise LocalEtcdError(f"etcd is not ready after {READY_S:g} s; see {self._home / 'log'}") from None
        finally:
            await store.close()
        self._founded.touch()
        return self.endpoint

    async def supervise(self) -> NoReturn:
        """Starts it again whenever it ends, ever more slowly while it does not stay."""
        wait_s = FIRST_WAIT_S
        while True:
            started = asyncio.get_running_loop().time()
            await self._until_ended(bounding=True)
            lived_s = asyncio.get_running_loop().time() - started
            wait_s = FIRST_WAIT_S if lived_s > LONGEST_WAIT_S else min(LONGEST_WAIT_S, wait_s * 2)
            await asyncio.sleep(wait_s)
            await asyncio.to_thread(self._ensure_running)

    async def stop(self) -> None:
        """Ends it, with SIGKILL after STOP_S; cancel `supervise` first."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await self._until_ended()
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            await self._until_ended()

    def _ensure_running(self) -> None:
        for directory in (self._home, self._kept):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock():
            if self.pid is None:
                self._end_strays()
                self._spawn()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._home / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _end_strays(self) -> None:
        """An etcd whose run directory was removed goes on with our data, and no other one can have them meanwhile."""
        wanted = os.fsencode(f"\0--data-dir\0{self._kept / 'data'}\0")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if wanted in (process / "cmdline").read_bytes():
                    _end(int(process.name))

    def _spawn(self) -> None:
        program = shutil.which(self._binary)
        if program is None:
            raise LocalEtcdError(f"there is no program {self._binary!r} for --etcd local (Debian package: etcd-server)")
        data = self._kept / "data"
        if not self._founded.exists() and data.is_dir():
            shutil.rmtree(data)
        peer = f"unix://{PEER_SOCKET}"
        client = f"unix://{CLIENT_SOCKET}"
        command = [program, "--name", "local", "--data-dir", str(data)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"local={peer}", "--enable-grpc-gateway=false"]
        command += ["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1h"]
        for socket in (PEER_SOCKET, CLIENT_SOCKET):
            (self._home / socket).unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        # nobody's child from the start, so that the agent that started it and the next one treat it alike
        script = '"$@" </dev/null >>log 2>&1 & echo $! $(cut -d" " -f22 /proc/$!/stat) >pid'
        subprocess.run(
            ["/bin/sh", "-c", script, "sh", *command],
            cwd=self._home, env=environment, start_new_session=True, check=True,
        )  # fmt: skip

    async def _until_ended(self, *, bounding: bool = False) -> None:
        """Also keeps its log within bounds, where that is asked for."""
        pid = self.pid
        if pid is None:
            return
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            while bounding and not ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOG_LOOK_S):
                        await ended.wait()
                with suppress(OSError):
                    bound_log(self._home / "log")
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    async def _serves(self, store: EtcdStore) -> bool:
        try:
            await store.get(b"/")
        except DatastoreError:
            return False
        return True


def _end(pid: int) -> None:
    """Ends a process, with SIGKILL after STOP_S, and returns when it is gone. Raises  OSError."""
    descriptor = os.pidfd_open(pid)
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], (), (), STOP_S)[0]:
                return
    finally:
        os.close(descriptor)
