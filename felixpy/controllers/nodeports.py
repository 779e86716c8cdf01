"""The node port controller: gives Services ports of every node, where nobody else does, while this node leads.

In: a Store and the condition of our leadership; out: port grants in the datastore. Decides nothing: what to write is
ports.py's. After a refusal everything is read anew.
"""

from __future__ import annotations

import logging
from contextlib import aclosing

from felixpy.controllers.leader import check_fence
from felixpy.controllers.ports import WATCHED, PortAllocation
from felixpy.datastore.follow import follow
from felixpy.datastore.model import Expect, Store

LEADER_KEY = b"/felixpy/leaders/nodeports"

_log = logging.getLogger(__name__)


async def serve_node_ports(store: Store, fence: Expect) -> None:
    """Gives ports until cancelled.

    Raises  LeadershipLost; DatastoreError when the datastore cannot be read or written now.
    """
    while True:
        await _serve_until_refused(store, fence)


async def _serve_until_refused(store: Store, fence: Expect) -> None:
    ports = PortAllocation()
    async with aclosing(follow(store, WATCHED, "node ports")) as turns:
        async for turn in turns:
            if turn.anew:
                ports = PortAllocation()
            for event in turn.events:
                ports.observe(event.key, event.value, event.mod_revision)
            if turn.whole and not await settle_ports(store, fence, ports):
                return


async def settle_ports(store: Store, fence: Expect, ports: PortAllocation) -> bool:
    """Makes every transaction that is due; False once one is refused, for what relied on has changed."""
    before = ports.waiting
    while (batch := ports.next_batch()) is not None:
        result = await store.transact([fence, *batch.expect], batch.writes)
        if not result.succeeded:
            check_fence(fence, result.current[0])
            return False
        for step in batch.steps:
            _log.info("node ports: %s", step.why)
        ports.settle(batch, result.revision)
    for name in ports.waiting - before:
        _log.warning("node ports: %s has none: all are taken", name)
    return True
