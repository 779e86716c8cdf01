"""The BGP role of a node: one gobgpd kept as intended, and what its neighbours say as routes.

In: intents (the last one counts). Out: coalesced route deltas and a status. Survives the absence of gobgpd: routes
stay, and are swept only when the neighbours have spoken again. Touches neither the kernel nor a datastore. Source:
RFC 4724 §4 (restarting speaker).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from birdpy.addresses import Prefix
from birdpy.fib import Fib, Phase, RouteDelta, RouteFilter
from birdpy.flood import BEGIN_MOST_S, Beginnings, FloodGauge, tell_table, until_quiet
from birdpy.gobgp.client import CALL_DEADLINE_S, GobgpClient, GobgpError, GobgpUnavailable
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.plan import Agreed, Outcome, RemoveNeighbor, UpdateNeighbor, Withdraw, plan
from birdpy.gobgp.program import GobgpdSettings, gobgpd_program
from birdpy.gobgp.versions import possible
from birdpy.gobgp.watch import WatchBatch, watch, watch_ends
from birdpy.intent import BgpIntent
from birdpy.losses import Losses
from birdpy.mailbox import RouteMailbox
from birdpy.parting import carry_out, read_own
from birdpy.process import end_listener
from birdpy.pulse import feel_pulse, is_silence
from birdpy.report import BgpStatus, Reporter
from birdpy.session import Passed, unsettled_neighbors
from birdpy.supervisor import Supervisor

_log = logging.getLogger(__name__)

RECONNECT_S = 0.1
RETRY_FIRST_S = 1.0
RETRY_MOST_S = 30.0
SILENCES_MOST = 2
SETTLE_POLL_S, SETTLE_ASK_S = 0.5, 5.0
"""Between two looks whether all have spoken, and two questions to a gobgpd that tells when one has."""


@dataclass(frozen=True, slots=True)
class RoleSettings:
    """Where gobgpd is, or how to run it (`gobgpd`; None where somebody else does).

    `forwarding_survived`: the kernel holds routes of an earlier run, so neighbours may go on sending to us. A gobgpd
    that does not answer for `patience_s` counts as away; one that we run is replaced after SILENCES_MOST times more.
    """

    socket_path: Path
    gobgpd: GobgpdSettings | None = None
    forwarding_survived: bool = False
    patience_s: float = CALL_DEADLINE_S


class BgpRole:
    """Runs until cancelled (`run`); told what to be by `set_intent`; read by `routes` and `status`."""

    def __init__(
        self,
        settings: RoleSettings,
        route_filter: RouteFilter | None = None,
        carried_out: Callable[[], None] = lambda: None,
        went_down: Callable[[frozenset[bytes]], None] = lambda down: None,
        found: Callable[[Collection[bytes]], None] = lambda _: None,
    ) -> None:
        """`found` is told whose sessions a gobgpd has, before any is changed."""
        self.settings = settings
        self._found = found
        self.supervisor = Supervisor(gobgpd_program(settings.gobgpd)) if settings.gobgpd else None
        self._fib = Fib(route_filter or RouteFilter())
        self._mailbox = RouteMailbox()
        self._intent: BgpIntent | None = None
        self._asked = self._done = 0
        self._agreed: Agreed | None = None
        self._carried_out = carried_out
        self._went_down = went_down
        self._work = asyncio.Event()
        self._driver: GobgpDriver | None = None
        self._snapshot_told = asyncio.Event()
        self._renew, self._began = asyncio.Event(), asyncio.Event()
        self._beginnings, self._beginners = Beginnings(), frozenset[str]()
        self._table_ended = asyncio.Event()
        self._told = self._settled = False
        self._losses = Losses()
        self._reporter = Reporter(self._fib)
        self._stray: dict[Prefix, None] = {}
        self._sessions_changed = False
        self._failed: Sequence[Outcome] = ()
        self._complaint = ""
        self._said: Mapping[str, str | None] = {}

    def set_intent(self, intent: BgpIntent) -> None:
        """What the speaker should be from now on; an intent that was not yet carried out is forgotten."""
        self._intent = intent
        self._asked += 1
        self._work.set()

    def set_filter(self, route_filter: RouteFilter) -> None:
        """Which learned routes to give out from now on."""
        self._mailbox.post(self._fib.set_filter(route_filter))

    @property
    def settled(self) -> bool:
        """Whether gobgpd has heard of every withdrawal of the last intent; so it is where there is no gobgpd.

        What it refuses otherwise withdraws nothing, and may be refused for ever.
        """
        return self._driver is None or self._done >= self._asked

    async def routes(self) -> AsyncIterator[RouteDelta]:
        """Route deltas for one reader, from nothing on. Never ends by itself."""
        while True:
            yield await self._mailbox.take()

    def status(self) -> BgpStatus:
        """How things stand, as far as is known without asking."""
        return self._reporter.compose(self._driver, self._intent, self._failed)

    async def read_status(self) -> BgpStatus:
        """As `status`, with counters asked for now where gobgpd is there to answer."""
        return await self._reporter.ask(self._driver, self._intent, self._failed)

    def find_told(self, prefixes: Iterable[Prefix]) -> Mapping[Prefix, Sequence[bytes]]:
        """The neighbours with a session that are told of each of these, as far as is known without asking."""
        return self._reporter.find_told(self._driver, self._intent, prefixes)

    def find_next_hops(self, prefix: Prefix) -> tuple[bytes, ...]:
        """Where the route to `prefix` leads; nowhere where there is none."""
        route = self._fib.routes.get(prefix)
        return route.next_hops if route is not None else ()

    def find_teachers(self, prefix: Prefix) -> tuple[str, ...]:
        """The neighbours that taught the route to `prefix`; none for one that is left of an earlier run."""
        return self._fib.find_teachers(prefix)

    async def run(self) -> None:
        """Never returns by itself; gobgpd and its sessions go on when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            if self.supervisor is not None:
                group.create_task(self.supervisor.run())
            group.create_task(self._serve())

    async def _serve(self) -> None:
        silences = 0
        while True:
            try:
                client = await GobgpClient.connect(self.settings.socket_path, self.settings.patience_s)
            except GobgpError as error:
                silences = silences + 1 if is_silence(error) else 0
                if silences or not isinstance(error, GobgpUnavailable):
                    self._complain(error)
                if silences >= SILENCES_MOST and self.supervisor is not None:
                    _log.warning("gobgpd takes connections and answers nobody: another one takes its place")
                    await end_listener(self.settings.socket_path)
                await asyncio.sleep(RECONNECT_S)
                continue
            silences = 0
            try:
                await self._follow(GobgpDriver(client))
            except* GobgpError as group:
                self._complain(group.exceptions[0])
            finally:
                self._driver = None
                self._fib.freeze()
                await client.close()
            await asyncio.sleep(RECONNECT_S)

    def _complain(self, error: BaseException) -> None:
        """Once for each change of what is wrong."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            _log.warning("gobgpd is away, routes stay as they are: %s", error)

    async def _follow(self, driver: GobgpDriver) -> None:
        """One connection, until gobgpd goes away."""
        while self._intent is None:
            await self._work.wait()
        self._agreed = None
        await driver.read()
        self._found(driver.actual.neighbors)
        await self._wait_for_speaker(driver)
        fresh = driver.actual.speaker is None
        self._driver = driver
        inherited = bool(self._fib.routes) or self.settings.forwarding_survived
        restarting = fresh and inherited
        since, begun = time.time(), time.monotonic()
        _log.info("gobgpd version %d, %s", driver.client.wire.generation, "fresh" if fresh else "already configured")
        if not fresh:
            await self._find_strays(driver)
        await self._reconcile(driver, restarting)
        self._snapshot_told.clear()
        self._told = self._settled = False
        async with asyncio.TaskGroup() as group:
            group.create_task(feel_pulse(driver.client, self.settings.patience_s))
            group.create_task(self._reconcile_forever(driver))
            group.create_task(self._watch(driver))
            group.create_task(self._note_ends(driver))
            group.create_task(self._settle(driver, since, begun, restarting, inherited))

    async def _wait_for_speaker(self, driver: GobgpDriver) -> None:
        """Where there is no speaker and is to be none, nobody will confirm a route of an earlier run."""
        while driver.actual.speaker is None and (self._intent is None or self._intent.speaker is None):
            self._mailbox.post(self._fib.sweep())
            self._work.clear()
            await self._work.wait()

    async def _reconcile_forever(self, driver: GobgpDriver) -> None:
        backoff_s = RETRY_FIRST_S
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), backoff_s if self._failed else None)
            if self._failed:
                await driver.read()
            await self._reconcile(driver, restarting=False)
            backoff_s = min(backoff_s * 2, RETRY_MOST_S) if self._failed else RETRY_FIRST_S

    async def _reconcile(self, driver: GobgpDriver, restarting: bool) -> None:
        self._work.clear()
        asked, intent = self._asked, self._intent
        if intent is None:
            return
        if self._sessions_changed:
            self._sessions_changed = False
            await self._reporter.read_sessions(driver, intent)
            before = self._losses.down
            self._losses.note_sessions(driver.sessions)
            if self._losses.down != before:
                self._went_down(self._losses.down)
            self._mailbox.post_lost(self._losses.lost)
            self._beginners |= self._beginnings.find_new(driver.sessions, len(self._fib.paths))
            if self._beginners:
                self._began.set()
        driver.recognise(possible(intent, driver.client.wire.generation).policy)
        operations = list(plan(intent, driver.actual, driver.client.wire.generation, self._agreed))
        if any(isinstance(one, UpdateNeighbor | RemoveNeighbor) for one in operations):
            await self._reporter.read_sessions(
                driver, intent
            )  # gobgpd tells that a session is down before it tells that it has shut it
            operations = list(plan(intent, driver.actual, driver.client.wire.generation))
        self._agreed = None
        stray = tuple(prefix for prefix in self._stray if prefix not in intent.advertisements)
        self._stray.clear()
        if stray:
            operations.insert(0, Withdraw(stray))
        outcomes: Sequence[Outcome] = ()
        if operations:
            started = time.monotonic()
            outcomes = await carry_out(driver, operations, restarting)
            self._say(outcomes, time.monotonic() - started)
        self._failed = [outcome for outcome in outcomes if outcome.error]
        if not self._failed:
            self._agreed = Agreed(intent, driver.actual)
        if not any(isinstance(outcome.operation, Withdraw) for outcome in self._failed):
            self._done = asked
            self._carried_out()

    def _say(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """What failed is said once, until it fails otherwise or nothing does."""
        failed = {outcome.operation.describe(): outcome.error for outcome in outcomes if outcome.error}
        news = {what: why for what, why in failed.items() if self._said.get(what) != why}
        first, last = outcomes[0].operation.describe(), outcomes[-1].operation.describe()
        level = logging.INFO if news or len(failed) < len(outcomes) else logging.DEBUG
        _log.log(
            level, "%d operations in %.3f s, %d failed: %s ... %s", len(outcomes), seconds, len(failed), first, last
        )
        for what, why in news.items():
            _log.warning("%s: %s", what, why)
        self._said = failed

    async def _find_strays(self, driver: GobgpDriver) -> None:
        """What a gobgpd of an earlier run announces is read before any of its sessions is ended."""
        intent = self._intent
        if intent is None:
            return
        planned = plan(intent, driver.actual, driver.client.wire.generation)
        if not any(isinstance(one, RemoveNeighbor) for one in planned):
            return
        self._stray.update(dict.fromkeys(await read_own(driver)))

    async def _watch(self, driver: GobgpDriver) -> NoReturn:
        """Follows gobgpd. A flood is let pass, and then read as a whole; so is a table as it begins to be told.

        gobgpd tells each change in a message of its own, which costs it and us as much again as the change itself; all
        that it knows it tells in a twentieth of that.
        """
        while True:
            self._told = False
            self._fib.resync()
            self._renew.clear()
            senders = await self._watch_until_flood(driver)
            beginners, self._beginners = self._beginners, frozenset()
            self._began.clear()
            if senders:
                await until_quiet(driver, senders, self._table_ended)
            elif tell_table(beginners, driver.sessions):
                await until_quiet(driver, beginners, self._table_ended, BEGIN_MOST_S)

    async def _note_ends(self, driver: GobgpDriver) -> None:
        async for _ in watch_ends(driver.client):
            await driver.read_sessions()
            self._table_ended.set()

    async def _watch_until_flood(self, driver: GobgpDriver) -> frozenset[str]:
        """Follows until there is a flood, and says whose; nobody's where a table begins, or all is to be read anew."""
        following = asyncio.ensure_future(self._follow_watch(driver))
        signs = [asyncio.ensure_future(event.wait()) for event in (self._renew, self._began)]
        try:
            await asyncio.wait({following, *signs}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*signs, following):
                task.cancel()
            await asyncio.gather(following, return_exceptions=True)  # also where it failed as we were told to end
        return frozenset() if following.cancelled() else following.result()

    async def _follow_watch(self, driver: GobgpDriver) -> frozenset[str]:
        gauge: FloodGauge | None = None
        async with aclosing(watch(driver.client)) as batches:
            async for batch in batches:
                self._take(batch)
                if batch.snapshot_end:
                    self._told = True
                    self._snapshot_told.set()
                    self._sweep_when_told()
                    gauge = FloodGauge(time.monotonic())
                elif gauge and gauge.floods(batch, len(self._fib.paths), driver.sessions, time.monotonic()):
                    _log.info("a flood of changes: they are let pass, and all is read anew")
                    return gauge.senders
        raise AssertionError("a watch never ends by itself")

    async def _settle(self, driver: GobgpDriver, since: float, begun: float, restarting: bool, inherited: bool) -> None:
        """Ends the restart: once every neighbour has spoken or had its time, routes that were `inherited` go.

        What a neighbour said before its end-of-RIB may still be on its way to us when gobgpd knows of that: so where
        there are such routes, and not all neighbours have spoken by now, all is read anew once they have.
        """

        def waits() -> bool:
            wanted = self._intent.neighbors if self._intent else {}
            passed = Passed(since, time.time(), time.monotonic() - begun)
            return bool(unsettled_neighbors(wanted, driver.sessions, passed, restarting))

        late = waits()
        await self._snapshot_told.wait()
        due = 0.0
        while True:
            if time.monotonic() >= due:
                await driver.read_sessions()
                due = time.monotonic() + (SETTLE_ASK_S if driver.tells_ends else 0)
            if not waits():
                break
            await asyncio.sleep(SETTLE_POLL_S)
        self._complaint = ""
        self._settled = True
        if late and inherited:
            self._renew.set()
        else:
            self._sweep_when_told()

    def _sweep_when_told(self) -> None:
        """Routes that nobody confirmed go, once everybody could have, and all that gobgpd knows has been told."""
        if not self._settled or not self._told:
            return
        first = self._fib.phase is not Phase.LIVE
        swept = self._fib.sweep()
        self._mailbox.post(swept)
        if first:
            _log.info("routes settled: %d, %d swept", len(self._fib.routes), len(swept.drop))

    def _take(self, batch: WatchBatch) -> None:
        self._reporter.note(batch)
        self._losses.note_events(batch.events)
        self._mailbox.post_lost(self._losses.lost)
        if batch.events:
            self._mailbox.post(self._fib.update(batch.events))
        for prefix in batch.own:
            if self._intent is None or prefix not in self._intent.advertisements:
                self._stray[prefix] = None
        self._sessions_changed = self._sessions_changed or batch.sessions_changed
        known = self._told or batch.snapshot_end  # what a snapshot begins with was read of late
        if self._stray or (known and self._sessions_changed):
            self._work.set()
