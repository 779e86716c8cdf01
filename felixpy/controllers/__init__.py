"""What one elected process of the cluster does: gives Services addresses, takes back those of nodes that are gone."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from felixpy.controllers import collector
from felixpy.controllers.collector import USUAL_TIMES, CollectTimes, serve_collector
from felixpy.controllers.leader import LEASE_TTL_S, lead
from felixpy.controllers.loadbalancer import LEADER_KEY, serve_load_balancer
from felixpy.datastore.model import Expect, Store


async def serve_controllers(
    store: Store, node: str, ttl_s: int = LEASE_TTL_S, times: CollectTimes = USUAL_TIMES
) -> NoReturn:
    """Runs every controller for which `node` is elected, until cancelled; an unusable datastore is waited for.

    Units   `ttl_s` is how long a dead leader is still taken for one.
    """

    async def balance(fence: Expect) -> None:
        await serve_load_balancer(store, fence)

    async def collect(fence: Expect) -> None:
        await serve_collector(store, fence, times)

    async with asyncio.TaskGroup() as group:
        group.create_task(lead(store, LEADER_KEY, node, balance, ttl_s))
        group.create_task(lead(store, collector.LEADER_KEY, node, collect, ttl_s))
    raise AssertionError("leading never ends")
