"""How a speaker stands, for people: what it was asked to be, beside what gobgpd holds and says of its sessions.

In: an intent, a driver where gobgpd is there, and what failed. Out: a BgpStatus. Changes nothing, and decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from birdpy.addresses import Prefix, format_address
from birdpy.fib import Fib, Phase
from birdpy.gobgp.client import GobgpError
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.plan import Outcome, plan
from birdpy.gobgp.versions import find_impossible, possible
from birdpy.gobgp.watch import WatchBatch
from birdpy.intent import BgpIntent
from birdpy.ranges import find_meant
from birdpy.session import Overruns, Session, find_differences, match_sessions
from birdpy.told import derive_told

COUNT_SHARE = 20
"""What is advertised is counted so seldom that it takes a share of the time: gobgpd works it out anew from its whole
table for each neighbour (0.4 s of 50,000 paths), and who draws figures asks every few seconds.
"""


@dataclass(frozen=True, slots=True)
class BgpStatus:
    """What a person may want to know. `generation` 0: gobgpd is away. `errors`: operations that failed, in words.

    `pending`: operations that are still to be done for gobgpd to be as intended. `differences`: what of a session is
    not as was asked for, by the neighbour's address. `untold`: of how many of our own prefixes a neighbour is still to
    be told; empty where it was not asked. `refused`: neighbours that this version of gobgpd cannot have as asked, and
    why. gobgpd has told its whole table so many times (`tables_heard`), and `paths_heard` with these and one by one.
    """

    generation: int
    phase: Phase
    sessions: Mapping[bytes, Session]
    routes: int
    advertised: int
    errors: tuple[str, ...]
    pending: tuple[str, ...] = ()
    differences: Mapping[bytes, tuple[str, ...]] = field(default_factory=dict)
    untold: Mapping[bytes, int] = field(default_factory=dict)
    refused: Mapping[bytes, str] = field(default_factory=dict)
    tables_heard: int = 0
    paths_heard: int = 0


class Reporter:
    """Composes statuses for one role, whose learned routes are those of `fib`."""

    def __init__(self, fib: Fib) -> None:
        self._fib = fib
        self._overruns = Overruns()
        self._tables = self._paths = 0
        self._advertised: Mapping[bytes, int] = {}
        self._count_due = 0.0
        self._derived: tuple[BgpIntent, int, Mapping[bytes, frozenset[Prefix]]] | None = None

    def note(self, batch: WatchBatch) -> None:
        """Counts what gobgpd told: who reads the same twice is found out by it, however fast."""
        self._tables += batch.snapshot_end
        self._paths += batch.paths

    async def read_sessions(self, driver: GobgpDriver, intent: BgpIntent | None, counted: bool = False) -> None:
        """Has the driver read all sessions, and remembers of them what gobgpd forgets.

        Raises  GobgpError.
        """
        await driver.read_sessions(counted)
        self._overruns.note(driver.sessions, driver.actual.neighbors, intent.neighbors if intent else ())

    def compose(self, driver: GobgpDriver | None, intent: BgpIntent | None, failed: Sequence[Outcome]) -> BgpStatus:
        """How things stand, as far as is known without asking."""
        wanted = intent.neighbors if intent is not None else {}
        sessions = self._overruns.mark(driver.sessions) if driver else {}
        generation = driver.client.wire.generation if driver else None
        return BgpStatus(
            generation=generation or 0,
            phase=self._fib.phase,
            sessions=sessions,
            routes=len(self._fib.routes),
            advertised=len(driver.actual.advertisements) if driver else 0,
            errors=tuple(f"{outcome.operation.describe()}: {outcome.error}" for outcome in failed),
            pending=tuple(one.describe() for one in plan(intent, driver.actual, driver.client.wire.generation))
            if driver and intent
            else (),
            differences={
                address: found
                for address, neighbor, session in match_sessions(wanted, sessions)
                if driver and (found := find_differences(neighbor, session))
            },
            refused=find_impossible(intent, generation) if generation and intent else {},
            tables_heard=self._tables,
            paths_heard=self._paths,
        )

    async def ask(self, driver: GobgpDriver | None, intent: BgpIntent | None, failed: Sequence[Outcome]) -> BgpStatus:
        """The same, with counters asked for now where gobgpd is there to answer; what is advertised at its intervals.

        What it calls accepted is what no policy has judged yet, so that is counted here.
        """
        asked, counted, began = False, time.monotonic() >= self._count_due, time.monotonic()
        if driver is not None:
            try:
                with suppress(GobgpError):
                    await self.read_sessions(driver, intent, counted)
                    asked = True
            finally:
                if counted:
                    self._count_due = time.monotonic() + (COUNT_SHARE - 1) * (time.monotonic() - began)
            if asked and counted:
                self._advertised = {address: one.advertised for address, one in driver.sessions.items()}
        status, taken = self.compose(driver, intent, failed), self._fib.count_taken()
        sessions = {
            address: replace(
                session,
                accepted=taken.get(format_address(address), 0),
                advertised=self._advertised.get(address, 0) if session.established else 0,
            )
            for address, session in status.sessions.items()
        }
        untold = self._count_untold(driver, intent, sessions, counted) if asked and driver and intent else {}
        return replace(status, sessions=sessions, untold=untold)

    def _count_untold(
        self, driver: GobgpDriver, intent: BgpIntent, sessions: Mapping[bytes, Session], counted: bool
    ) -> Mapping[bytes, int]:
        """Of a session that is down all that it should be told; else what gobgpd lacks, or tells it fewer of.

        The latter where it has just `counted`. Adj-RIB-Out counts what is passed on from others, too: where that makes
        up for what is missing, gobgpd's own table has to tell.
        """
        told, held = self._derive_told(driver, intent), driver.actual.advertisements
        lacking = {prefix for prefix, one in intent.advertisements.items() if held.get(prefix) != one}
        found: dict[bytes, int] = {}
        for address, session in sessions.items():
            meant = find_meant(address, told)
            due = told[meant] if meant is not None else frozenset[Prefix]()
            missing = max(len(due & lacking), len(due) - session.advertised if counted else 0)
            found[address] = missing if session.established else len(due)
        return found

    def find_told(
        self, driver: GobgpDriver | None, intent: BgpIntent | None, prefixes: Iterable[Prefix]
    ) -> Mapping[Prefix, Sequence[bytes]]:
        """The neighbours with a session that the policy tells of each prefix of ours that gobgpd has."""
        if driver is None or intent is None:
            return {}
        told = self._derive_told(driver, intent)
        up = sorted(address for address, session in driver.sessions.items() if session.established)
        due = [(one, told[meant]) for one in up if (meant := find_meant(one, told)) is not None]
        held = driver.actual.advertisements
        return {prefix: [one for one, some in due if prefix in some] for prefix in prefixes if prefix in held}

    def _derive_told(self, driver: GobgpDriver, intent: BgpIntent) -> Mapping[bytes, frozenset[Prefix]]:
        generation = driver.client.wire.generation
        if self._derived is None or self._derived[0] is not intent or self._derived[1] != generation:
            self._derived = intent, generation, derive_told(possible(intent, generation))
        return self._derived[2]
