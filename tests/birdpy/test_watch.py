"""The watch's snapshot and live parts, at the sizes where they change shape."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from birdpy.addresses import Prefix, parse_prefix
from birdpy.fib import Fib
from birdpy.gobgp.client import GobgpUnavailable
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.plan import Announce, Withdraw
from birdpy.gobgp.watch import SNAPSHOT_BATCH, watch
from birdpy.intent import Advertisement, BgpIntent
from tests.birdpy.conftest import Router, announcing, established, hosts, make_so, session
from tests.support.wait import eventually_async

BLOCK = parse_prefix("10.64.1.0/26")


@pytest.mark.parametrize("count", [0, 1, SNAPSHOT_BATCH, SNAPSHOT_BATCH + 1, 2 * (SNAPSHOT_BATCH + 1)])
async def test_a_snapshot_of_any_size_ends(routers: list[Router], count: int) -> None:
    a = routers[0]
    a.start_gobgpd()
    async with a.driver() as driver:
        await make_so(driver, BgpIntent(a.speaker()))
        await driver.apply([Announce(hosts(count))])
        seen = 0
        async with asyncio.timeout(40), aclosing(watch(driver.client)) as batches:
            async for batch in batches:
                seen += len(batch.own)
                if batch.snapshot_end:
                    break
        assert seen == count


async def test_our_own_path_takes_a_learned_one_out_and_gives_it_back(routers: list[Router]) -> None:
    a, b = routers[:2]
    b.start_gobgpd()
    a.start_gobgpd()
    async with a.driver() as here, b.driver() as there:
        await make_so(there, BgpIntent(b.speaker(), {a.address: session(b, a)}, announcing(BLOCK)))
        await make_so(here, BgpIntent(a.speaker(), {b.address: session(a, b)}))
        await established(here, there)
        fib = Fib()
        fib.resync()

        async def follow() -> None:
            async for batch in watch(here.client):
                fib.update(batch.events)

        following = asyncio.create_task(follow())
        await eventually_async(lambda: _has(fib, BLOCK))
        await here.apply([Announce((Advertisement(BLOCK),))])
        await eventually_async(lambda: _lacks(fib, BLOCK))
        await here.apply([Withdraw((BLOCK,))])
        await eventually_async(lambda: _has(fib, BLOCK))
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following


async def test_a_flood_of_single_events_is_read_to_its_end(routers: list[Router]) -> None:
    a = routers[0]
    a.start_gobgpd()
    many = hosts(20_000)
    async with a.driver() as driver:
        await make_so(driver, BgpIntent(a.speaker()))
        async with asyncio.timeout(80), aclosing(watch(driver.client)) as batches:
            seen: set[Prefix] = set()
            announcing_all: asyncio.Task[object] | None = None
            async for batch in batches:
                seen.update(batch.own)
                if batch.snapshot_end:
                    announcing_all = asyncio.create_task(driver.apply([Announce(many)]))
                if len(seen) == len(many):
                    break
        assert announcing_all is not None
        await announcing_all


async def follow(driver: GobgpDriver, at_snapshot_end: Callable[[], object]) -> None:
    async with asyncio.timeout(40), aclosing(watch(driver.client)) as batches:
        async for batch in batches:
            if batch.snapshot_end:
                at_snapshot_end()


async def test_the_end_of_gobgpd_is_told(routers: list[Router]) -> None:
    a = routers[0]
    gobgpd = a.start_gobgpd()
    async with a.driver() as driver:
        await make_so(driver, BgpIntent(a.speaker()))
        with pytest.raises(GobgpUnavailable):
            await follow(driver, gobgpd.kill)
        with pytest.raises(GobgpUnavailable):
            await follow(driver, gobgpd.kill)


async def _has(fib: Fib, prefix: Prefix) -> bool:
    return prefix in fib.routes


async def _lacks(fib: Fib, prefix: Prefix) -> bool:
    return prefix not in fib.routes
