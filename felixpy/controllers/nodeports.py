"""The node port controller: gives Services ports of every node, where nobody else does, while this node leads.

In: a Store and the condition of our leadership; out: port grants in the datastore. Decides nothing: what to write is
ports.py's. One snapshot, then one watch; after a refusal everything is read anew.
"""

from __future__ import annotations

import logging
from contextlib import aclosing

from felixpy.controllers.leader import check_fence
from felixpy.controllers.ports import WATCHED, PortAllocation
from felixpy.datastore.model import Compacted, Expect, FutureRevision, Store

LEADER_KEY = b"/felixpy/leaders/nodeports"

_log = logging.getLogger(__name__)


async def serve_node_ports(store: Store, fence: Expect) -> None:
    """Gives ports until cancelled.

    Raises  LeadershipLost; DatastoreError when the datastore cannot be read or written now.
    """
    while True:
        try:
            await _serve_from_snapshot(store, fence)
        except (Compacted, FutureRevision) as error:
            _log.info("node ports: read anew: %s", error)


async def _serve_from_snapshot(store: Store, fence: Expect) -> None:
    """Until a transaction is refused."""
    ports, revision = PortAllocation(), 0
    async with aclosing(store.pages(WATCHED)) as pages:
        async for page in pages:
            revision = page.revision
            for pair in page.items:
                ports.observe(pair.key, pair.value, pair.mod_revision)
    if not await settle_ports(store, fence, ports):
        return
    async with aclosing(store.watch(WATCHED, revision + 1)) as batches:
        async for events in batches:
            for event in events:
                ports.observe(event.key, event.value, event.mod_revision)
            if not await settle_ports(store, fence, ports):
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
