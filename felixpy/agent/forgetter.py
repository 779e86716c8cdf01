"""Has stale connections forgotten beside the event loop: the kernel walks its whole table, 10 ms when it is empty.

One walk at a time; what becomes stale meanwhile goes with the next one, so that a hundred pods cost two.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from felixpy.dataplane.stale_flows import Forget

_log = logging.getLogger(__name__)


class Forgetter:
    """`take` gives what became stale since it was last called; `forget` does the work, in a thread, and counts."""

    def __init__(self, take: Callable[[], Forget], forget: Callable[[Forget], int]) -> None:
        self._take = take
        self._forget = forget
        self._running: asyncio.Future[int] | None = None

    def start(self) -> None:
        """Begins, unless it is under way or nothing is stale; routes and translations must be gone by now."""
        if self._running is not None:
            return
        if stale := self._take():
            self._running = asyncio.get_running_loop().run_in_executor(None, self._forget, stale)
            self._running.add_done_callback(partial(self._finish, stale))

    def _finish(self, stale: Forget, ended: asyncio.Future[int]) -> None:
        self._running = None
        if ended.cancelled():
            return
        of = f"of {len(stale.addresses)} addresses, {len(stale.udp)} UDP frontends"
        if error := ended.exception():
            _log.warning("connections %s not forgotten: %s", of, error)
        else:
            _log.info("%d connections forgotten: %s", ended.result(), of)
        self.start()
