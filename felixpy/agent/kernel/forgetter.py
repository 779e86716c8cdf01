"""Has stale connections forgotten beside the event loop: the kernel walks its whole table, 10 ms when it is empty.

A walk begins a moment after the first pod went, and one at a time: a hundred pods that go together cost two, and the
grace periods that setting a link down waits for are not stretched for each of them. Addresses are given out again
longest free first (ipam), so that the moment is not seen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from felixpy.dataplane.stale_flows import Forget

WALK_AFTER_S = 0.05

_log = logging.getLogger(__name__)


class Forgetter:
    """`take` gives what became stale since it was last called; `forget` does the work, in a thread, and counts."""

    def __init__(self, take: Callable[[], Forget], forget: Callable[[Forget], int]) -> None:
        self._take = take
        self._forget = forget
        self._awaited = False

    def start(self) -> None:
        """Something may be stale; routes and translations of it must be gone by now."""
        if not self._awaited:
            self._awaited = True
            asyncio.get_running_loop().call_later(WALK_AFTER_S, self._walk)

    def _walk(self) -> None:
        if stale := self._take():
            running = asyncio.get_running_loop().run_in_executor(None, self._forget, stale)
            running.add_done_callback(partial(self._finish, stale))
        else:
            self._awaited = False

    def _finish(self, stale: Forget, ended: asyncio.Future[int]) -> None:
        self._awaited = False
        if ended.cancelled():
            return
        of = f"of {len(stale.addresses)} addresses, {len(stale.udp)} UDP frontends"
        if error := ended.exception():
            _log.warning("connections %s not forgotten: %s", of, error)
        else:
            _log.info("%d connections forgotten: %s", ended.result(), of)
        self.start()
