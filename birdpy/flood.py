"""Waits for the end of a flood: until each neighbour that tells its table has told it, or none tells anything new.

In: a connected driver. Out: nothing but time. The end-of-RIB that gobgpd hears is the moment itself; where none comes,
its counters are compared, seldom, since it counts a whole table to say them. Source: RFC 4724 §2 (End-of-RIB also
without graceful restart); measured on GoBGP 4.8.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from birdpy.gobgp.client import GobgpUnavailable
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.watch import watch_ends
from birdpy.session import Session

FLOOD_POLL_S, FLOOD_MOST_S = 0.03, 3.0
"""Between two looks whether it is over, and how long it may keep us from listening."""
_POLL_SHARE = 8
"""So many times as long as a look took is no other taken."""


async def until_quiet(driver: GobgpDriver) -> None:
    """Waits until no neighbour tells anything new, for a while that no flood can draw out.

    Where a table was being told, its end is the flood's.
    Raises  GobgpUnavailable, GobgpError.
    """
    until, before, calm, pause_s = time.monotonic() + FLOOD_MOST_S, -1, 0, 0.0
    table = _tells_table(driver.sessions)
    async with _ends(driver) as ended_now:
        while calm < 2 and time.monotonic() < until:
            await _wait(ended_now, pause_s)
            ended_now.clear()
            begin = time.monotonic()
            sessions = await driver.read_sessions()
            pause_s = max(FLOOD_POLL_S, _POLL_SHARE * (time.monotonic() - begin))
            if _tells_table(sessions):
                table = True
            elif table:
                return
            now = sum(session.got.updates for session in sessions.values())
            calm, before = calm + 1 if now == before else 0, now


def _tells_table(sessions: Mapping[bytes, Session]) -> bool:
    """Whether a neighbour has not told all of its table yet, as far as it says when it has."""
    return any(one.established and one.graceful and not one.end_of_rib for one in sessions.values())


@asynccontextmanager
async def _ends(driver: GobgpDriver) -> AsyncIterator[asyncio.Event]:
    """Set whenever a neighbour has come to the end of its table, or had already; never by GoBGP 3, which tells nobody."""
    told = asyncio.Event()
    noting = asyncio.ensure_future(_note_ends(driver, told))
    try:
        yield told
    finally:
        noting.cancel()
        await asyncio.gather(noting, return_exceptions=True)


async def _note_ends(driver: GobgpDriver, told: asyncio.Event) -> None:
    try:
        async for _ in watch_ends(driver.client):
            told.set()
    except GobgpUnavailable:
        return  # whoever reads sessions finds out


async def _wait(event: asyncio.Event, most_s: float) -> None:
    await asyncio.wait({waiting := asyncio.ensure_future(event.wait())}, timeout=most_s)
    waiting.cancel()
