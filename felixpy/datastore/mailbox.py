"""Between the watch and its consumer: a map with the last event of each key, so that slowness costs keys, not events.

In: whole groups of events, in order; out: everything that came since the last time, as one Batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from felixpy.datastore.model import Event


@dataclass(frozen=True, slots=True)
class Batch:
    """What changed, the last event per key. After a batch that is `in_sync`, the consumer holds all keys as they are at
    `revision`; before, it holds a part of them, and must not act on it.
    """

    events: tuple[Event, ...]
    revision: int
    in_sync: bool


class Mailbox:
    """Holds what the consumer has not taken yet."""

    def __init__(self) -> None:
        self._events: dict[bytes, Event] = {}
        self._revision = 0
        self._in_sync = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def put(self, events: Iterable[Event], revision: int, in_sync: bool) -> None:
        """Adds events that belong together; they are taken together."""
        self._events.update((event.key, event) for event in events)
        self._revision, self._in_sync = revision, in_sync
        self._emptied.clear()
        self._filled.set()

    async def take(self) -> Batch:
        """Waits until there is something, and takes all of it."""
        await self._filled.wait()
        batch = Batch(tuple(self._events.values()), self._revision, self._in_sync)
        self._events.clear()
        self._filled.clear()
        self._emptied.set()
        return batch

    async def emptied(self) -> None:
        """Waits until the consumer has taken everything."""
        await self._emptied.wait()
