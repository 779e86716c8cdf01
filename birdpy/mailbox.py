"""Between the learned table and whoever puts routes into the kernel: the last word per prefix.

In: deltas; out: one delta of all that came since the last. Slowness costs prefixes, not events.
"""

from __future__ import annotations

import asyncio

from birdpy.addresses import Prefix
from birdpy.fib import LearnedRoute, RouteDelta


class RouteMailbox:
    """Deltas for one reader, merged while it is busy: the last word per prefix."""

    def __init__(self) -> None:
        self._put: dict[Prefix, LearnedRoute] = {}
        self._drop: set[Prefix] = set()
        self._complete = False
        self._lost: frozenset[bytes] = frozenset()
        self._changed = asyncio.Event()

    def post(self, delta: RouteDelta) -> None:
        """Merges `delta` in."""
        self._put.update(delta.put)
        if self._drop:
            self._drop.difference_update(delta.put)
        for prefix in delta.drop:
            self._put.pop(prefix, None)
            self._drop.add(prefix)
        if delta.put or delta.drop or delta.complete != self._complete:
            self._complete = delta.complete
            self._changed.set()

    def post_lost(self, lost: frozenset[bytes]) -> None:
        """The neighbours that are lost now."""
        if lost != self._lost:
            self._lost = lost
            self._changed.set()

    async def take(self) -> RouteDelta:
        """Waits for something to tell, and takes all of it."""
        await self._changed.wait()
        self._changed.clear()
        delta = RouteDelta(self._put, frozenset(self._drop), self._complete, self._lost)
        self._put, self._drop = {}, set()
        return delta
