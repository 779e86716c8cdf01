"""When changes are a flood, and when it is over: each neighbour that tells its table has told it, or none tells more.

In: how many changes came, sessions, and a connected driver. Out: a yes or no, and time. The end-of-RIB that gobgpd
hears is the moment itself; where none comes, its counters are compared, seldom, since it counts a whole table to say
them. Source: RFC 4724 §2 (End-of-RIB also without graceful restart); measured on GoBGP 4.8.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping

from birdpy.addresses import format_address
from birdpy.fib import PathPut
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.watch import WatchBatch
from birdpy.session import Session

FLOOD_PATHS, FLOOD_SHARE, FLOOD_S = 500, 50, 0.25
"""So many changes in so short a time are a flood, or so large a share of the table: to read that costs what it is."""
TABLE_PATHS = 50
"""So many are one already of a neighbour that tells its table: more will come."""
FEW_PATHS, BEGIN_MOST_S = 1000, 0.3
"""With no more known than this, a session that comes up is let tell its table for so long before it is listened to."""
FLOOD_POLL_S, FLOOD_MOST_S = 0.03, 3.0
"""Between two looks whether it is over, and how long it may keep us from listening."""
END_POLL_S = 0.5
"""As FLOOD_POLL_S, where the end of a table is told."""
_POLL_SHARE = 8
"""So many times as long as a look took is no other taken."""


class FloodGauge:
    """Counts changes as they come, from `now` on (of any clock, in seconds). `senders`: whose they are, by name."""

    def __init__(self, now: float) -> None:
        self.senders: frozenset[str] = frozenset()
        self._since, self._paths = now, 0

    def floods(self, batch: WatchBatch, known: int, sessions: Mapping[bytes, Session], now: float) -> bool:
        """Whether they are a flood, with these more, for a table that has so many `known`."""
        if now - self._since > FLOOD_S:
            self._since, self._paths, self.senders = now, 0, frozenset()
        self._paths += batch.paths
        self.senders |= {event.source.neighbor for event in batch.events if isinstance(event, PathPut)}
        if self._paths < max(TABLE_PATHS, known // FLOOD_SHARE):
            return False
        return self._paths >= FLOOD_PATHS or tell_table(self.senders, sessions)


def tell_table(senders: Collection[str], sessions: Mapping[bytes, Session]) -> bool:
    """Whether one of them has not told all of its table yet, as far as it says when it has."""
    return any(_tells_table(one) and format_address(address) in senders for address, one in sessions.items())


class Beginnings:
    """Which neighbours have just begun to tell their tables: each is named once a session."""

    def __init__(self) -> None:
        self._up_since: dict[bytes, float | None] = {}

    def find_new(self, sessions: Mapping[bytes, Session], known: int) -> frozenset[str]:
        """Those of these sessions, by name; none where so much is `known` that to read it anew costs more."""
        before = self._up_since
        self._up_since = {address: one.up_since for address, one in sessions.items() if one.established}
        if known > FEW_PATHS:
            return frozenset()
        new = {address for address, since in self._up_since.items() if before.get(address, 0) != since}
        return frozenset(format_address(address) for address in new if _tells_table(sessions[address]))


async def until_quiet(
    driver: GobgpDriver, senders: frozenset[str], table_ended: asyncio.Event, most_s: float = FLOOD_MOST_S
) -> None:
    """Waits until no neighbour tells anything new, for a while that no flood can draw out.

    Where `senders` tell their tables, the end of these is the flood's. `table_ended` is set when the driver knows of
    one.
    Raises  GobgpUnavailable, GobgpError.
    """
    until, before, calm, pause_s = time.monotonic() + most_s, -1, 0, FLOOD_POLL_S
    table = tell_table(senders, driver.sessions)
    while calm < 2 and time.monotonic() < until:
        if not await _is_set(table_ended, min(END_POLL_S, most_s) if table and driver.tells_ends else pause_s):
            begin = time.monotonic()
            await driver.read_sessions()
            pause_s = max(FLOOD_POLL_S, _POLL_SHARE * (time.monotonic() - begin))
        table_ended.clear()
        if tell_table(senders, driver.sessions):
            table = True
        elif table:
            return
        now = sum(session.got.updates for session in driver.sessions.values())
        calm, before = calm + 1 if now == before else 0, now


def _tells_table(session: Session) -> bool:
    return session.established and session.graceful and not session.end_of_rib


async def _is_set(event: asyncio.Event, within_s: float) -> bool:
    await asyncio.wait({waiting := asyncio.ensure_future(event.wait())}, timeout=within_s)
    waiting.cancel()
    return event.is_set()
