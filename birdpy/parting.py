"""Sessions end only after their neighbours have heard what is taken back from them.

A neighbour would keep the routes for as long as it waits for a restart (RFC 8538 §3), and gobgpd does not send what is
left to say before it ends a session.
In: operations, in their order. Out: what became of each. Decides nothing: `gobgp/plan.py` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing

from birdpy.addresses import Prefix
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.plan import Operation, Outcome, RemoveNeighbor, Withdraw
from birdpy.gobgp.watch import watch

TELL_POLL_S, TELL_MOST_S = 0.03, 1.0
"""Between two looks whether neighbours have been told, and how long they may take."""


async def carry_out(driver: GobgpDriver, operations: Sequence[Operation], restarting: bool) -> Sequence[Outcome]:
    """Carries them out, with a pause before sessions end where something is withdrawn.

    Raises  GobgpUnavailable, GobgpError.
    """
    withdrawals = [one for one in operations if isinstance(one, Withdraw)]
    if not withdrawals or not any(isinstance(one, RemoveNeighbor) for one in operations):
        return await driver.apply(operations, restarting)
    outcomes = await driver.apply(withdrawals)
    until, before, calm = time.monotonic() + TELL_MOST_S, -1, 0
    while calm < 2 and time.monotonic() < until:
        await asyncio.sleep(TELL_POLL_S)
        now = sum(session.sent.updates for session in (await driver.read_sessions()).values())
        calm, before = calm + 1 if now == before else 0, now
    rest = [one for one in operations if not isinstance(one, Withdraw)]
    return [*outcomes, *await driver.apply(rest, restarting)]


async def read_own(driver: GobgpDriver) -> Sequence[Prefix]:
    """All that a gobgpd announces of its own, whoever told it to.

    Raises  GobgpUnavailable.
    """
    found: list[Prefix] = []
    async with aclosing(watch(driver.client)) as batches:
        async for batch in batches:
            found += batch.own
            if batch.snapshot_end:
                break
    return found
