"""Waits for the end of a flood: until each neighbour that tells its table has told it, or none tells anything new.

In: a connected driver. Out: nothing but time. The end-of-RIB that gobgpd hears is the moment itself; where none comes,
its counters are compared, seldom, since it counts a whole table to say them. Source: RFC 4724 §2 (End-of-RIB also
without graceful restart); measured on GoBGP 4.8.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from birdpy.gobgp.client import GobgpUnavailable
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.watch import watch_ends

FLOOD_POLL_S, FLOOD_MOST_S = 0.03, 3.0
"""Between two looks whether it is over, and how long it may keep us from listening."""
_POLL_SHARE = 8
"""So many times as long as a look took is no other taken."""


async def until_quiet(driver: GobgpDriver) -> None:
    """Waits until no neighbour tells anything new, for a while that no flood can draw out.

    Raises  GobgpUnavailable, GobgpError.
    """
    until, before, calm, pause_s = time.monotonic() + FLOOD_MOST_S, -1, 0, FLOOD_POLL_S
    async with _ends(driver) as ended_now:
        while calm < 2 and time.monotonic() < until:
            await _wait(ended_now, pause_s)
            told, begin = ended_now.is_set(), time.monotonic()
            ended_now.clear()
            sessions = (await driver.read_sessions()).values()
            pause_s = max(FLOOD_POLL_S, _POLL_SHARE * (time.monotonic() - begin))
            now = sum(session.got.updates for session in sessions)
            ended = all(session.end_of_rib for session in sessions if session.established)
            calm = 2 if ended and (told or now == before) else calm + 1 if now == before else 0
            before = now


@asynccontextmanager
async def _ends(driver: GobgpDriver) -> AsyncIterator[asyncio.Event]:
    """Set whenever a neighbour has come to the end of its table; never by GoBGP 3, which tells nobody."""
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
