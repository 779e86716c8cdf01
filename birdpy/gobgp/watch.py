"""Follows gobgpd's best paths and sessions: a snapshot, then every change.

In: a connected client. Out: batches of path events, as much at a time as has come. gobgpd queues without limit for a
slow reader; this one takes 100,000 paths in less time than gobgpd needs to send them. Source: measured on 3.10 and 4.8
(snapshot: chunks of BATCH + 1 paths, a shorter one last; version 3: one message).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from birdpy.addresses import Prefix
from birdpy.fib import PathEvent, PathPut, PathSet
from birdpy.gobgp.alike import AlikePaths
from birdpy.gobgp.client import GobgpClient
from birdpy.gobgp.paths import read_path, read_sets
from birdpy.gobgp.wire import Wire

SNAPSHOT_BATCH = 1000
_FILTER_BEST, _FILTER_END = 0, 3
_PEER_EVENT = 0x12
"""How a reply begins that tells of a session."""


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """What was told since the last one, of so many `paths`. `sessions_changed`: some session changed its state.

    `snapshot_end`: with this batch, all that gobgpd knew at the start has been told.
    """

    events: Sequence[PathEvent] = ()
    paths: int = 0
    sessions_changed: bool = False
    snapshot_end: bool = False

    @property
    def own(self) -> list[Prefix]:
        """Prefixes among the events that we originate."""
        own: list[Prefix] = []
        for event in self.events:
            if isinstance(event, PathPut):
                own += () if event.source.neighbor else event.prefixes
            elif isinstance(event, PathSet) and any(not source.neighbor for source in event.paths):
                own.append(event.prefix)
        return own


async def watch(client: GobgpClient) -> AsyncGenerator[WatchBatch, None]:
    """Never returns by itself.

    Raises  GobgpUnavailable when gobgpd goes away.
    """
    wire = client.wire
    best = client.message("TableFilter", type=wire.enum(_FILTER_BEST), init=True)
    call = client.message(
        "WatchCall",
        peers=client.message("Empty"),
        table=client.message("TableWatch", filters=[best]),
        batch=SNAPSHOT_BATCH,
    )
    read = _reader(wire)
    in_snapshot = True
    async with aclosing(client.watch("WatchEvent", call)) as chunks:
        async for replies in chunks:
            batch = _merge(read, replies, in_snapshot)
            in_snapshot = in_snapshot and not batch.snapshot_end
            yield batch


async def watch_ends(client: GobgpClient) -> AsyncGenerator[None, None]:
    """Tells of each neighbour that has come to the end of its table, or comes to it; of none with version 3.

    Raises  GobgpUnavailable when gobgpd goes away.
    """
    if client.wire.generation == 3:
        return
    end = client.message("TableFilter", type=client.wire.enum(_FILTER_END), init=True)
    call = client.message("WatchCall", table=client.message("TableWatch", filters=[end]))
    async with aclosing(client.watch("WatchEvent", call)) as chunks:
        async for _ in chunks:
            yield


_Told = tuple[Sequence[PathEvent], int, bool]
"""Path events, of how many paths a reply tells, and whether a snapshot ends with it, if it is of one."""


def _merge(read: Callable[[bytes], _Told], replies: Sequence[bytes], in_snapshot: bool) -> WatchBatch:
    events: list[PathEvent] = []
    sessions_changed = ends = False
    paths = 0
    for reply in replies:
        if reply[0] == _PEER_EVENT:
            sessions_changed = True
            continue
        told, count, last = read(reply)
        events += told
        paths += count
        ends = ends or (in_snapshot and last)
    return WatchBatch(events, paths, sessions_changed, ends)


def _reader(wire: Wire) -> Callable[[bytes], _Told]:
    """How to read a table event of this version."""
    if wire.generation == 3:
        reply_type = wire.messages["WatchReply"]

        def read_whole(reply: bytes) -> _Told:
            paths = reply_type.FromString(reply).table.paths
            return list(read_sets(wire, paths)), len(paths), True

        return read_whole
    path_type = wire.messages["Path"]
    alike = AlikePaths(lambda path: read_path(wire, path_type.FromString(path)))

    def read_alike(reply: bytes) -> _Told:
        events, count = alike.read(reply)
        return events, count, count <= SNAPSHOT_BATCH

    return read_alike
