"""Follows gobgpd's best paths and sessions: a snapshot, then every change.

In: a connected client. Out: batches of path events, as much at a time as has come. gobgpd queues without limit for a
slow reader; this one takes 100,000 paths in less time than gobgpd needs to send them. Source: measured on 3.10 and 4.8
(snapshot: chunks of BATCH + 1 paths, a shorter one last; version 3: one message).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from birdpy.addresses import Prefix
from birdpy.fib import PathEvent
from birdpy.gobgp.client import GobgpClient
from birdpy.gobgp.paths import read_table_event
from birdpy.gobgp.wire import Message, Wire

SNAPSHOT_BATCH = 1000
_FILTER_BEST = 0


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """What was told since the last one. `own`: prefixes among the events that we originate.

    `sessions_changed`: some session changed its state.
    `snapshot_end`: with this batch, all that gobgpd knew at the start has been told.
    """

    events: Sequence[PathEvent] = ()
    own: Sequence[Prefix] = ()
    sessions_changed: bool = False
    snapshot_end: bool = False


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
    in_snapshot = True
    async with aclosing(client.watch("WatchEvent", call, "WatchReply")) as chunks:
        async for replies in chunks:
            batch = _merge(wire, replies, in_snapshot)
            in_snapshot = in_snapshot and not batch.snapshot_end
            yield batch


def _merge(wire: Wire, replies: Sequence[Message], in_snapshot: bool) -> WatchBatch:
    events: list[PathEvent] = []
    own: list[Prefix] = []
    sessions_changed = ends = False
    for reply in replies:
        if reply.HasField("peer"):
            sessions_changed = True
            continue
        paths = reply.table.paths
        change = read_table_event(wire, paths)
        events += change.events
        own += change.own
        if in_snapshot and (wire.generation == 3 or len(paths) <= SNAPSHOT_BATCH):
            ends = True
    return WatchBatch(events, own, sessions_changed, ends)
