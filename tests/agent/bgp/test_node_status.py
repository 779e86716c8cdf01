"""CalicoNodeStatus: wishes that come and go while others are fulfilled."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from felixpy.agent.doors.status import StatusReader
from felixpy.agent.node.bgp_status import NodeStatusWriter
from felixpy.agent.settings import parse_settings
from felixpy.datastore.memory import MemoryStore
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import NodeStatusWish
from tests.agent.node import CALICO
from tests.datastore.world import copied, initialise
from tests.support.wait import eventually_async, until

WISHES = ("one", "two")


async def test_a_wish_that_goes_while_another_is_fulfilled_ends_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    await initialise(store)
    settings = parse_settings(["--etcd", "http://x", "--node", "n1", "--run-dir", str(tmp_path)], {}, "felixpy")

    def now() -> datetime:
        """Called in the midst of the first: the other goes."""
        writer.update(Ref(Table.NODE_STATUS, Name("", "two")), None)
        return datetime.now(UTC)

    async with copied(store, tmp_path / "cluster.json") as copy:
        await until(lambda: copy.in_sync)
        writer = NodeStatusWriter("n1", store, StatusReader(settings, store, copy.syncer, {}), now)
        for name in WISHES:
            await store.put(f"{CALICO}/caliconodestatuses/{name}".encode(), b"{}")
            writer.update(Ref(Table.NODE_STATUS, Name("", name)), NodeStatusWish("n1", ("Agent",), 0))
        serving = asyncio.create_task(writer.serve())
        await eventually_async(lambda: _is_written(store, "one"))
        await store.put(f"{CALICO}/caliconodestatuses/three".encode(), b"{}")
        writer.update(Ref(Table.NODE_STATUS, Name("", "three")), NodeStatusWish("n1", ("Agent",), 0))
        await eventually_async(lambda: _is_written(store, "three"))
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _is_written(store: MemoryStore, name: str) -> bool:
    pair = await store.get(f"{CALICO}/caliconodestatuses/{name}".encode())
    return pair is not None and b"lastUpdated" in pair.value
