"""Connections are forgotten beside the loop: it never waits, no two walks overlap, and nothing is left out."""

from __future__ import annotations

import asyncio
import threading

from felixpy.addresses import Address, parse_address
from felixpy.agent.kernel.forgetter import Forgetter
from felixpy.dataplane.stale_flows import Forget

FIRST, SECOND, THIRD = (parse_address(text) for text in ("10.65.0.1", "10.65.0.2", "fd00::3"))


async def test_what_becomes_stale_during_a_walk_goes_with_the_next() -> None:
    stale: list[Address] = [FIRST]
    walks: list[frozenset[Address]] = []
    begun, go_on = threading.Event(), threading.Event()

    def take() -> Forget:
        taken = Forget(frozenset(stale), {})
        stale.clear()
        return taken

    def forget(what: Forget) -> int:
        walks.append(what.addresses)
        begun.set()
        assert go_on.wait(10)
        if len(walks) == 1:
            raise OSError("the kernel tracks nothing")
        return 1

    forgetter = Forgetter(take, forget)
    forgetter.start()
    assert await asyncio.to_thread(begun.wait, 10)
    for address in (SECOND, THIRD):
        stale.append(address)
        forgetter.start()
    assert walks == [{FIRST}], "one at a time, and the loop goes on"
    go_on.set()
    async with asyncio.timeout(40):
        while len(walks) < 2:
            await asyncio.sleep(0.01)
    assert walks == [{FIRST}, {SECOND, THIRD}]
