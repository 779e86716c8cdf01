"""Opens this process's pages for those who watch over it, once anybody wants them; nothing of it is loaded before.

In: where to listen (settings, FelixConfiguration), and sources of figures; out: Observed, listening.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from felixpy.agent.doors.status import StatusReader
from felixpy.agent.listener import Listener
from felixpy.calc.options import Options

if TYPE_CHECKING:
    from felixpy.agent.doors.observed import Observed, SlowSource, Source


class Pages:
    """`sources` and `slow` ones are added before the first `open`."""

    def __init__(self, status: StatusReader, group: asyncio.TaskGroup, metrics: Listener | None) -> None:
        self.sources: list[Source] = []
        self.slow: list[SlowSource] = []
        self._status = status
        self._group = group
        self._metrics = metrics
        self._observed: Observed | None = None

    def open(self, options: Options) -> None:
        """Listens where the settings say, or else FelixConfiguration."""
        if self._observed is None and (self._metrics or options.metrics_at or options.health_at) is not None:
            from felixpy.agent.doors.http import HttpServer
            from felixpy.agent.doors.observed import Observed

            server = HttpServer(self._group)
            self._observed = Observed(self._status, self.sources, server, self._metrics, self.slow)
        if self._observed is not None:
            self._observed.listen(options)
