"""What one elected process of the cluster does: gives Services their addresses."""

from __future__ import annotations

from typing import NoReturn

from felixpy.controllers.leader import LEASE_TTL_S, lead
from felixpy.controllers.loadbalancer import LEADER_KEY, serve_load_balancer
from felixpy.datastore.model import Expect, Store


async def serve_controllers(store: Store, node: str, ttl_s: int = LEASE_TTL_S) -> NoReturn:
    """Runs every controller for which `node` is elected, until cancelled; an unusable datastore is waited for.

    Units   `ttl_s` is how long a dead leader is still taken for one.
    """

    async def work(fence: Expect) -> None:
        await serve_load_balancer(store, fence)

    await lead(store, LEADER_KEY, node, work, ttl_s)
