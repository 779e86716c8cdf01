"""What the datastore tests share: stores of both kinds, a consumer that keeps a copy, a TCP proxy that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from felixpy.datastore.client import EtcdStore, open_store
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY
from felixpy.datastore.mailbox import Batch
from felixpy.datastore.model import Store
from felixpy.datastore.remembered import ClusterMemory
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from felixpy.datastore.syncer import Phase, Syncer, SyncSettings, SyncState
from felixpy.resources.kinds import WATCHED_PREFIXES
from tests.support.wait import eventually_async, until

PREFIXES = tuple(prefix.encode() for prefix in WATCHED_PREFIXES)
FAST = SyncSettings(
    first_wait_s=0.02, longest_wait_s=0.2, quiet_s=0.5, answer_s=0.5, remember_s=0.05, frozen_check_s=0.5
)


def pool(name: str) -> bytes:
    """The key of an IPPool."""
    return f"/calico/resources/v3/projectcalico.org/ippools/{name}".encode()


def cluster_information(guid: str = "guid-1", ready: bool = True) -> bytes:
    return json.dumps({"kind": "ClusterInformation", "spec": {"clusterGUID": guid, "datastoreReady": ready}}).encode()


async def initialise(store: Store, guid: str = "guid-1", ready: bool = True) -> None:
    """Makes it a cluster's datastore."""
    await store.put(CLUSTER_INFORMATION_KEY, cluster_information(guid, ready))


@asynccontextmanager
async def opened(urls: str, **settings: object) -> AsyncGenerator[EtcdStore, None]:
    """A store that is closed in the end."""
    store = open_store(EtcdSettings(parse_endpoints(urls), **settings))  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.close()


@dataclass
class Copy:
    """A consumer: what it holds, what it was handed, and the states it was told."""

    syncer: Syncer
    data: dict[bytes, bytes] = field(default_factory=dict)
    in_sync: bool = False
    batches: list[Batch] = field(default_factory=list)
    states: list[SyncState] = field(default_factory=list)
    taking: asyncio.Event = field(default_factory=asyncio.Event)

    async def consume(self) -> None:
        async for batch in self.syncer:
            self.batches.append(batch)
            for event in batch.events:
                if event.value is None:
                    self.data.pop(event.key, None)
                else:
                    self.data[event.key] = event.value
            self.in_sync = batch.in_sync
            await self.taking.wait()

    @property
    def pools(self) -> dict[str, str]:
        """The IPPools it holds, as text."""
        return {k[len(pool("")) :].decode(): v.decode() for k, v in self.data.items() if k.startswith(pool(""))}

    async def holds(self, **pools: str) -> None:
        """Waits until it is in sync with exactly these IPPools."""
        await until(lambda: self.in_sync and self.pools == pools, what=f"{pools}, has {self.pools}")

    async def reaches(self, phase: Phase, reason: object = None) -> None:
        """Waits until the syncer is in this phase, for this reason where one is given."""

        async def reached() -> bool:
            return self.syncer.state.phase is phase and reason in (None, self.syncer.state.reason)

        await eventually_async(reached, what=f"{phase} {reason}, is {self.syncer.state}")


@asynccontextmanager
async def copied(
    store: Store, state_file: Path, settings: SyncSettings = FAST, prefixes: Sequence[bytes] = PREFIXES
) -> AsyncGenerator[Copy, None]:
    """A consumer of `store`, running."""
    states: list[SyncState] = []
    copy = Copy(Syncer(store, prefixes, ClusterMemory(state_file), settings, states.append), states=states)
    copy.taking.set()
    tasks = [asyncio.create_task(copy.syncer.run()), asyncio.create_task(copy.consume())]
    try:
        yield copy
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


class Proxy:
    """A TCP proxy on loopback that refuses, resets or goes silent on request."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self.port = 0

    async def open(self) -> None:
        """Listens, at the same port as before."""
        self._up.set()
        self._down.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuses connections, and ends those there are."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Resets all connections; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def swallow(self) -> None:
        """From now on nothing comes through."""
        self._up.clear()
        self._down.clear()

    def swallow_answers(self) -> None:
        """From now on the server hears, and is not heard."""
        self._down.clear()

    def resume(self) -> None:
        """From now on new connections work."""
        self.cut()
        self._up.set()
        self._down.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        for source, sink, passing in ((reader, up_writer, self._up), (up_reader, writer, self._down)):
            task = asyncio.create_task(self._pump(source, sink, passing))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, passing: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                await passing.wait()
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.transport.abort()


@asynccontextmanager
async def proxied(port: int) -> AsyncGenerator[Proxy, None]:
    """A proxy in front of a port of loopback."""
    proxy = Proxy(port)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
