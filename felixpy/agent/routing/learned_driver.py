"""The route driver for routes that BGP taught, which has the kernel take many while the next are worked out.

A large batch is put by a thread, one at a time, and counts as taken; what the kernel refuses of it is told in the loop
later. All else that is asked for waits for that batch, so the kernel sees everything in the order of asking. Where no
loop runs, every batch is waited for. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace

from felixpy.addresses import Prefix
from felixpy.dataplane.objects import ROUTE_PROTOCOL_LEARNED, Key, Kind, Object, Op, Outcome, Route, Seen
from felixpy.drivers.netlink.rtnetlink import RouteDriver

MANY = 256
"""From so many routes on a batch takes the kernel longer than it takes to hand it to a thread."""

_Flight = Future[Mapping[int, Outcome]]


class LearnedRoutes(RouteDriver):
    """`refused` is told what the kernel did not take of a batch; `silent`, that it did not answer to one."""

    def __init__(self, refused: Callable[[Sequence[Outcome]], None], silent: Callable[[], None]) -> None:
        super().__init__(protocols=(ROUTE_PROTOCOL_LEARNED,))
        self._refused, self._silent = refused, silent
        self._thread: ThreadPoolExecutor | None = None
        self._flight: _Flight | None = None

    def close(self) -> None:
        """Gives the socket back, and the thread."""
        self.join()
        if self._thread is not None:
            self._thread.shutdown()
        super().close()

    def join(self) -> None:
        """Waits until the kernel has taken, or refused, all that it was given."""
        if self._flight is not None:
            wait([self._flight])
            self._flight = None

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """Nexthops with our protocol number, and of the routes with it those that are `wanted`."""
        self.join()
        found: dict[Key, Object] = {one.key: one for one in self.read_nexthops()}
        keys = {key for key in wanted if key.kind is Kind.ROUTE}
        for destination, alike in self.read_alike() if keys else ():
            route = replace(alike, destination=destination)
            if route.key in keys:
                found[route.key] = route
        return Seen(found)

    def read_subnets(self) -> Mapping[str, frozenset[Prefix]]:
        """As everywhere, once the kernel has taken what it was given."""
        self.join()
        return super().read_subnets()

    def read_alike(self) -> Iterator[tuple[Prefix, Route]]:
        """As everywhere, once the kernel has taken what it was given."""
        self.join()
        return super().read_alike()

    def read_foreign(self) -> Iterator[tuple[Prefix, Route]]:
        """As everywhere, once the kernel has taken what it was given."""
        self.join()
        return super().read_foreign()

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """As everywhere, once the kernel has taken what it was given."""
        self.join()
        return super().apply(ops)

    def drop_alike(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        """As everywhere, once the kernel has taken what it was given."""
        self.join()
        return super().drop_alike(example, destinations)

    def put_alike(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        """As everywhere, once the kernel has taken what it was given."""
        self.join()
        return super().put_alike(example, destinations)

    def put_ahead(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        """As `put_alike` for a few; of many nothing is refused as yet."""
        self.join()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return super().put_alike(example, destinations)
        if len(destinations) < MANY:
            return super().put_alike(example, destinations)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "learned-routes")
        self._flight = self._thread.submit(super().put_alike, example, destinations)

        def landed(flight: _Flight) -> None:
            with suppress(RuntimeError):  # the loop has ended, and so nobody needs to know
                loop.call_soon_threadsafe(self._hear, flight)

        self._flight.add_done_callback(landed)
        return {}

    def _hear(self, flight: _Flight) -> None:
        error = flight.exception()
        if isinstance(error, OSError):
            self._silent()
        elif refused := flight.result():
            self._refused([*refused.values()])
