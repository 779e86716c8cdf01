"""What a node tells those who watch over it: /metrics for Prometheus, /liveness and /readiness for the kubelet.

In: where to listen, the process's status, and sources of more figures; out: pages. A scrape reads state and changes
none; text is made beside the event loop. Source: felix/config/config_params.go (prometheusMetrics*, health*).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

from felixpy.agent.doors.http import NOT_FOUND, HttpServer, Page
from felixpy.agent.doors.status import StatusReader
from felixpy.agent.listener import Listener
from felixpy.calc.options import Options
from felixpy.metrics import Family, FamilyKind, derive_families
from felixpy.status.problems import find_unready

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

STARTING_S = 60.0
"""How long a node that has started is not ready before all its BGP sessions are up."""
Source = Callable[[], Iterable[Family]]
"""Figures as they are now; called in the event loop, so it returns at once."""
SlowSource = Callable[[], Awaitable[Iterable[Family]]]
"""Figures that have to be asked for."""


class Observed:
    """The pages of one process, with the figures of `sources` and `slow` ones as they are at each scrape."""

    def __init__(
        self,
        reader: StatusReader,
        sources: Sequence[Source],
        server: HttpServer,
        metrics: Listener | None,
        slow: Sequence[SlowSource] = (),
    ) -> None:
        self._reader = reader
        self._sources = sources
        self._slow = slow
        self._server = server
        self._metrics = metrics
        self._since = time.monotonic()

    def listen(self, options: Options) -> None:
        """Listens where the settings say, or else FelixConfiguration."""
        metrics = self._metrics or (Listener(*options.metrics_at) if options.metrics_at else None)
        health = Listener(*options.health_at) if options.health_at else None
        self._server.want({listener: self._page for listener in (metrics, health) if listener is not None})

    async def _page(self, path: str) -> Page:
        match path:
            case "/metrics":
                return await self._render_metrics()
            case "/liveness":
                return Page(b"alive\n")
            case "/readiness":
                starting = time.monotonic() - self._since < STARTING_S
                problems = find_unready(await self._reader.read(), starting)
                if not problems:
                    return Page(b"ready\n")
                return Page("".join(f"{one}\n" for one in problems).encode(), HTTPStatus.SERVICE_UNAVAILABLE)
            case _:
                return NOT_FOUND

    async def _render_metrics(self) -> Page:
        families = list(derive_families(await self._reader.read()))
        for source in self._sources:
            families += source()
        for slow in self._slow:
            families += await slow()
        return await asyncio.to_thread(render_families, families)


def render_families(families: Sequence[Family]) -> Page:
    """Prometheus's text of all families, and of the process's own figures (processor, memory, files)."""
    from prometheus_client import CollectorRegistry, ProcessCollector  # slow to load, and most nodes are not scraped
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    class All:
        def collect(self) -> Iterable[Metric]:
            return map(_metric, families)

    registry = CollectorRegistry()
    registry.register(All())
    ProcessCollector(registry=registry)
    return Page(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _metric(family: Family) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, UnknownMetricFamily

    shapes = {FamilyKind.COUNTER: CounterMetricFamily, FamilyKind.UNTYPED: UnknownMetricFamily}
    shape: type[GaugeMetricFamily | CounterMetricFamily | UnknownMetricFamily] = shapes.get(
        family.kind, GaugeMetricFamily
    )
    metric = shape(family.name, family.words, labels=family.labels)
    for labels, figure in family.rows.items():
        metric.add_metric(labels, figure)
    return metric
