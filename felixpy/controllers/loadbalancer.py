"""The load balancer controller: gives Services of type LoadBalancer their addresses, while this node leads.

In: a Store and the condition of our leadership; out: grants and status in the datastore. Decides nothing: what to
write is `allocation.py`'s. Each transaction carries the leadership. What goes by itself
is written under leases that nobody keeps, one for all of a round.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import count

from felixpy.controllers.allocation import WATCHED, Allocation
from felixpy.controllers.batch import Batch
from felixpy.controllers.calico_writer import CalicoWriter, IpamError, Overtaken
from felixpy.controllers.leader import check_fence
from felixpy.controllers.pool_status import PoolCount
from felixpy.datastore.follow import follow
from felixpy.datastore.model import Event, Expect, Store, Write

LEADER_KEY = b"/felixpy/leaders/loadbalancer"
AT_A_TURN = 4
"""Transactions between two looks at the watch: what it brings of them would else pile up before what is new."""

_log = logging.getLogger(__name__)


Told = Callable[[Mapping[str, PoolCount]], None]
"""Is told how full each pool is."""


async def serve_load_balancer(store: Store, fence: Expect, told: Told = lambda _: None) -> None:
    """Gives addresses until cancelled, and tells how full the pools are.

    Raises  LeadershipLost; DatastoreError when the datastore cannot be read or written now.
    """
    allocation = Allocation()
    async with aclosing(follow(store, WATCHED, "load balancer")) as turns:
        async for turn in turns:
            if turn.anew:
                allocation = Allocation()
            observe_events(allocation, turn.events)
            if turn.whole:
                await settle_all(store, fence, allocation, AT_A_TURN)
                told(allocation.pool_counts())


def observe_events(allocation: Allocation, events: Sequence[Event]) -> None:
    """Takes in one batch of the watch."""
    for event in events:
        allocation.observe(event.key, event.value, event.mod_revision)
    allocation.resume()


async def settle_all(store: Store, fence: Expect, allocation: Allocation, most: int | None = None) -> None:
    """Makes every transaction that is due, or so many; a refused one waits for what it was refused for.

    What is left is due at the next turn, which the watch of what was made brings.
    """
    told = allocation.overlapping
    writer = CalicoWriter(store, fence)
    leases: dict[int, int] = {}
    for _ in count() if most is None else range(most):
        batch = allocation.next_batch(_now())
        if batch is None:
            break
        writes = (*batch.writes, *await _under_leases(store, batch, leases))
        if batch.ipam is not None:
            await _make_with_ipam(writer, allocation, batch, writes)
            continue
        result = await store.transact([fence, *batch.expect], writes)
        if result.succeeded:
            for step in batch.steps:
                _log.info("load balancer: %s", step.why)
            allocation.settle(batch, result.revision)
            continue
        check_fence(fence, result.current[0])
        allocation.refuse(batch)
    if allocation.overlapping != told:
        for pool, other in allocation.overlapping.items():
            _log.warning("load balancer: pool %s is not used: it overlaps pool %s", pool, other)


async def _make_with_ipam(writer: CalicoWriter, allocation: Allocation, batch: Batch, writes: Sequence[Write]) -> None:
    """A batch that Calico's IPAM has a part in."""
    try:
        revision = await writer.make(batch, writes)
    except (Overtaken, IpamError) as error:
        _log.info("load balancer: %s: not now: %s", batch.steps[0].why, error)
        allocation.refuse(batch)
        return
    _log.info("load balancer: %s", batch.steps[0].why)
    allocation.settle(batch, revision)


async def _under_leases(store: Store, batch: Batch, leases: dict[int, int]) -> list[Write]:
    """The writes that go by themselves; `leases` are those of this round, by how long they last."""
    for for_s in {one.for_s for one in batch.passing} - leases.keys():
        leases[for_s] = await store.passing_lease(for_s)
    return [Write(one.key, one.value, leases[one.for_s]) for one in batch.passing]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
