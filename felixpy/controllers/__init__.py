"""What elected processes do: give Services addresses and ports, take back what nodes that are gone have held.

`leader` elects. `loadbalancer` gives addresses: `knowledge` is what it knows, `allocation` what is to be done next
(pure, with `vips`, `grants`, `turns`, `waiting`, `resting`, `service_status`, `pool_status` and `events`), `batch` many
of that at once; `calico_holdings` and `calico_writer` do it in Calico's IPAM. `nodeports` and `ports` do the same for
ports. `collector` takes back what `leftovers` finds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NoReturn

from felixpy.controllers import collector, loadbalancer, nodeports
from felixpy.controllers.collector import USUAL_TIMES, CollectTimes, serve_collector
from felixpy.controllers.leader import LEASE_TTL_S, lead
from felixpy.controllers.loadbalancer import Told, serve_load_balancer
from felixpy.controllers.nodeports import serve_node_ports
from felixpy.controllers.pool_status import PoolCount
from felixpy.datastore.model import Expect, Store


def _tell_nobody(_pools: Mapping[str, PoolCount]) -> None:
    return


async def serve_controllers(
    store: Store, node: str, ttl_s: int = LEASE_TTL_S, times: CollectTimes = USUAL_TIMES, told: Told = _tell_nobody
) -> NoReturn:
    """Runs every controller for which `node` is elected, until cancelled; an unusable datastore is waited for.

    `told` is told how full the pools are, by the one that gives addresses; nothing once it is another.
    Units   `ttl_s` is how long a dead leader is still taken for one.
    """

    async def balance(fence: Expect) -> None:
        try:
            await serve_load_balancer(store, fence, told)
        finally:
            told({})

    async def collect(fence: Expect) -> None:
        await serve_collector(store, fence, times)

    async def give_ports(fence: Expect) -> None:
        await serve_node_ports(store, fence)

    async with asyncio.TaskGroup() as group:
        group.create_task(lead(store, loadbalancer.LEADER_KEY, node, balance, ttl_s))
        group.create_task(lead(store, nodeports.LEADER_KEY, node, give_ports, ttl_s))
        group.create_task(lead(store, collector.LEADER_KEY, node, collect, ttl_s))
    raise AssertionError("leading never ends")
