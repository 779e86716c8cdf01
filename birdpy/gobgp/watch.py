"""Follows gobgpd's best paths and sessions: a snapshot, then every change.

In: a connected client. Out: batches of path events. gobgpd queues without limit for a slow reader, so a flood of single
events ends the stream (`Lagging`): a new snapshot tells the same 100 times cheaper. Source: measured on 3.10 and 4.8
(snapshot: chunks of BATCH + 1 paths, a shorter one last; version 3: one message).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from birdpy.addresses import Prefix, parse_address
from birdpy.fib import PathEvent
from birdpy.gobgp.client import GobgpClient
from birdpy.gobgp.paths import read_table_event
from birdpy.gobgp.peers import disconnect_words
from birdpy.gobgp.wire import Message

SNAPSHOT_BATCH = 1000
FLOOD_EVENTS = 5000
FLOOD_WINDOW_S = 1.0
_FILTER_BEST = 0
_PEER_STATE = 3


class Lagging(Exception):
    """More single events than are worth reading one by one: take a new snapshot when it is quiet."""


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """What one message told. `own`: prefixes among the events that we originate.

    `sessions_changed`: some session changed its state; `lost` names the neighbour that went down and says why.
    `snapshot_end`: with this batch, all that gobgpd knew at the start has been told.
    """

    events: tuple[PathEvent, ...] = ()
    own: tuple[Prefix, ...] = ()
    sessions_changed: bool = False
    lost: tuple[bytes, str] | None = None
    snapshot_end: bool = False


async def watch(client: GobgpClient) -> AsyncIterator[WatchBatch]:
    """Never returns by itself.

    Raises  Lagging; GobgpUnavailable when gobgpd goes away.
    """
    wire = client.wire
    call = client.message(
        "WatchCall",
        peers=client.message("Empty"),
        table=client.message(
            "TableWatch", filters=[client.message("TableFilter", type=wire.enum(_FILTER_BEST), init=True)]
        ),
        batch=SNAPSHOT_BATCH,
    )
    in_snapshot = True
    window_start, in_window = time.monotonic(), 0
    async for reply in client.stream("WatchEvent", call, "WatchReply"):
        if reply.HasField("peer"):
            yield _peer_batch(reply.peer)
            continue
        paths = reply.table.paths
        change = read_table_event(wire, paths)
        ends = in_snapshot and (wire.generation == 3 or len(paths) <= SNAPSHOT_BATCH)
        yield WatchBatch(change.events, change.own, snapshot_end=ends)
        if in_snapshot:
            in_snapshot = not ends
            window_start, in_window = time.monotonic(), 0
            continue
        in_window += 1
        if in_window >= FLOOD_EVENTS:
            now = time.monotonic()
            if now - window_start < FLOOD_WINDOW_S:
                raise Lagging
            window_start, in_window = now, 0


def _peer_batch(event: Message) -> WatchBatch:
    words = disconnect_words(event.peer)
    if event.type != _PEER_STATE or not words:
        return WatchBatch(sessions_changed=True)
    try:
        address = parse_address(event.peer.conf.address or event.peer.state.address)
    except ValueError:
        return WatchBatch(sessions_changed=True)
    return WatchBatch(sessions_changed=True, lost=(address, words))
