"""Who follows a node's flows, while the datastore is away."""

from __future__ import annotations

import asyncio
import logging

import pytest

from felixpy.agent.flows.followers import FlowFollowers
from felixpy.agent.flows.watch import FlowWatch
from felixpy.agent.kernel.dataplane import Dataplane
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import ConnectReason, Unavailable
from felixpy.flows.records import FlowsAnswer, FlowsQuestion
from felixpy.flows.sighting import Sighting
from felixpy.status.answers import Ask, answer_key, parse
from tests.fakes.kernel import FakeKernel
from tests.flows.heads import ipv4, ports
from tests.support.wait import eventually_async, until


async def test_what_a_datastore_that_is_away_does_not_take_is_told_with_what_comes_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    store = MemoryStore()
    flows = FlowWatch("n1", Dataplane("n1", FakeKernel(), dict, lambda _: 0))
    followers = FlowFollowers(store, "n1", flows)

    def see(port: int) -> None:
        flows.table.add(Sighting(f"rule {port}", 0, 0, ipv4(6, ports(40000, port))), port)
        flows.changed.set()

    async def told() -> set[int]:
        pair = await store.get(answer_key("q", "n1", ("agent",)))
        return {one.destination_port for one in parse(pair.value, FlowsAnswer).flows} if pair is not None else set()

    async def tells(*ports: int) -> bool:
        return await told() == set(ports)

    see(1)
    await followers.answer("q", Ask(0), FlowsQuestion(follow=True))
    assert await told() == {1}
    serving = asyncio.create_task(followers.serve())
    store.fail_next(Unavailable(ConnectReason.REFUSED, "on request"))
    see(2)
    await until(lambda: "told later" in caplog.text)
    see(3)
    await eventually_async(lambda: tells(2, 3))
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
