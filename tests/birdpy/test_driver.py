"""The driver against real gobgpd, version 4 and version 3 alike."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from birdpy.addresses import Prefix, parse_prefix
from birdpy.fib import Fib, LearnedRoute
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.watch import watch
from birdpy.intent import Advertisement, BgpIntent
from tests.birdpy.conftest import Router, make_so, session
from tests.support.wait import eventually_async

BLOCK = parse_prefix("10.64.1.0/26")
BLOCK6 = parse_prefix("fd64:1::/122")


def announcing(*prefixes: Prefix) -> dict[Prefix, Advertisement]:
    return {prefix: Advertisement(prefix) for prefix in prefixes}


async def established(*drivers: GobgpDriver) -> None:
    async def all_up() -> bool:
        up = True
        for driver in drivers:
            await driver.read_sessions()
            up = up and bool(driver.sessions) and all(s.established for s in driver.sessions.values())
        return up

    await eventually_async(all_up, within_s=20)


async def learned(driver: GobgpDriver) -> dict[Prefix, LearnedRoute]:
    """What a snapshot tells now."""
    fib = Fib()
    fib.resync()
    async with asyncio.timeout(10):
        async for batch in watch(driver.client):
            fib.update(batch.events)
            if batch.snapshot_end:
                return fib.routes
    raise AssertionError("the watch ended")


async def test_a_mesh_learns_both_families(routers: list[Router]) -> None:
    a, b, c = routers[:3]
    async with AsyncExitStack() as stack:
        drivers = []
        for router in (a, b, c):
            router.start_gobgpd()
            drivers.append(await stack.enter_async_context(router.driver()))
        for router, driver in zip((a, b, c), drivers, strict=True):
            others = [other for other in (a, b, c) if other is not router]
            neighbors = {o.address: session(router, o, versions=(4, 6)) for o in others}
            given = announcing(BLOCK, BLOCK6) if router is a else {}
            await make_so(driver, BgpIntent(router.speaker(), neighbors, given))
        await established(*drivers)

        async def both() -> bool:
            return {BLOCK, BLOCK6} <= (await learned(drivers[1])).keys() & (await learned(drivers[2])).keys()

        await eventually_async(both)
        assert (await learned(drivers[1]))[BLOCK] == LearnedRoute(BLOCK, (a.address,))
        assert await learned(drivers[0]) == {}
