"""The address collector: gives back what nodes that are gone have left, while this node leads.

In: a Store and the condition of our leadership; out: releases through the allocator, each with the conditions that it
rests on: the leadership, the node still gone, the allocation the same (sequence number), the endpoint unchanged.
Decides nothing about what is left: leftovers.py does. Looks every `interval_s`; a look reads Nodes and blocks, and of
endpoints and pods only those that bear on a candidate.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from felixpy.controllers.fenced_store import FencedStore
from felixpy.controllers.leader import check_fence
from felixpy.controllers.leftovers import (
    NODES,
    READ,
    LeftAddress,
    LeftClaim,
    Users,
    find_forgotten,
    find_left,
    read_users,
)
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY, parse_cluster_information
from felixpy.datastore.model import Expect, KeyValue, Store
from felixpy.datastore.model import Write as StoreWrite
from felixpy.resources.kinds import HOLDERS_PREFIX, NODES_PREFIX, Name
from ipam.audit import GRACE, Suspicions
from ipam.engine import Allocator
from ipam.model import node_owner
from ipam.request import IpamError, Write

LEADER_KEY = b"/felixpy/leaders/addresses"
AT_ONCE = 20
"""Addresses that one transaction gives back: each has a block, a handle and an endpoint of its own at worst."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CollectTimes:
    """Between two looks, and how long something must have been left behind without a break; in seconds."""

    interval_s: float = 300.0
    grace_s: float = GRACE.total_seconds()


USUAL_TIMES = CollectTimes()


class Collector:
    """`look` once, again and again; what it suspects is forgotten with it."""

    def __init__(
        self,
        store: Store,
        fence: Expect,
        times: CollectTimes = USUAL_TIMES,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._fence = fence
        self._times = times
        self._now = now
        self._addresses: Suspicions[LeftAddress] = Suspicions()
        self._claims: Suspicions[LeftClaim] = Suspicions()

    async def look(self) -> None:
        """One look, and what follows from it.

        Raises  LeadershipLost; DatastoreError, IpamError when the datastore cannot be used now.
        """
        found = await self._store.snapshot([CLUSTER_INFORMATION_KEY, *READ])
        values = {pair.key.decode("utf-8", "replace"): pair.value for pair in found.items}
        guid, ready = parse_cluster_information(values.get(CLUSTER_INFORMATION_KEY.decode()))
        if not guid or not ready:
            return
        await self._forget(find_forgotten(values))
        left = find_left(values)
        endpoints: Mapping[str, KeyValue] = {}
        users = Users()
        if left.addresses:
            known = (await self._store.snapshot(left.endpoint_prefixes(), found.revision)).items
            pods = await self._store.get_many(left.pod_keys())
            endpoints = {pair.key.decode("utf-8", "replace"): pair for pair in (*known, *pods) if pair is not None}
            users = read_users((key, pair.value) for key, pair in endpoints.items())
        left = left.without_used(users)
        ripe = self._addresses.look(left.addresses, self._now(), self._times.grace_s)
        claims = self._claims.look(left.claims, self._now(), self._times.grace_s)
        if ripe or claims:
            await self._give_back(ripe, claims, users, endpoints)

    async def _forget(self, nodes: Iterable[str]) -> None:
        """A node that comes back says anew that it is ours."""
        for node in sorted(nodes):
            gone = [Expect(write.key.encode(), 0) for write in _still_gone(node)]
            key = f"{NODES_PREFIX}{node}".encode()
            done = await self._store.transact([self._fence, *gone], [StoreWrite(key, None)])
            if not done.succeeded:
                check_fence(self._fence, await self._store.get(self._fence.key))

    async def _give_back(
        self,
        ripe: Sequence[LeftAddress],
        claims: Sequence[LeftClaim],
        users: Users,
        endpoints: Mapping[str, KeyValue],
    ) -> None:
        allocator = Allocator(
            FencedStore(self._store, self._fence),
            node_owner("felixpy-collector"),
            now=lambda: datetime.now(UTC),
            rng=random.Random(),
        )
        for (node, gone), those in _by_node(ripe).items():
            for start in range(0, len(those), AT_ONCE):
                await self._release(allocator, node, gone, those[start : start + AT_ONCE], users, endpoints)
        for claim in sorted(claims):
            try:
                guards = _still_gone(claim.node)
                await allocator.release_block(claim.cidr, node_owner(claim.node), only_empty=False, also=guards)
                _log.warning("gave up the claim of %s, which is gone, to block %s", claim.node, claim.cidr)
            except IpamError as error:
                _log.warning("the claim of %s to block %s stays for now: %s", claim.node, claim.cidr, error)

    async def _release(
        self,
        allocator: Allocator,
        node: str,
        gone: bool,
        some: Sequence[LeftAddress],
        users: Users,
        endpoints: Mapping[str, KeyValue],
    ) -> None:
        dead = dict.fromkeys(key for one in some if gone for key in users.endpoints_of(one))
        writes = [Write(key, None, endpoints[key].mod_revision) for key in dead]
        guards = _still_gone(node) if gone else ()
        try:
            receipt = await allocator.release_addresses([one.suspect.release() for one in some], (*guards, *writes))
        except IpamError as error:
            _log.warning("%d addresses of %s stay for now: %s", len(some), node, error)
            return
        why = "which is gone" if gone else "which no endpoint has and which it does not see"
        _log.warning("gave back %d addresses and %d endpoints of %s, %s", len(receipt.released), len(dead), node, why)


def _by_node(ripe: Iterable[LeftAddress]) -> Mapping[tuple[str, bool], list[LeftAddress]]:
    nodes: dict[tuple[str, bool], list[LeftAddress]] = {}
    for one in sorted(ripe, key=lambda one: (one.node, one.suspect.address)):
        nodes.setdefault((one.node, one.gone), []).append(one)
    return nodes


def _still_gone(node: str) -> tuple[Write, ...]:
    """Deletes what must not exist, so that nothing happens where it does."""
    keys = (NODES.key(Name("", node)), f"{HOLDERS_PREFIX}{node}/agent")
    return tuple(Write(key, None, 0) for key in keys)


async def serve_collector(store: Store, fence: Expect, times: CollectTimes = USUAL_TIMES) -> None:
    """Looks until cancelled.

    Raises  LeadershipLost; DatastoreError when the datastore cannot be read or written now.
    """
    collector = Collector(store, fence, times)
    while True:
        try:
            await collector.look()
        except IpamError as error:
            _log.warning("what nodes have left cannot be given back now: %s", error)
        await asyncio.sleep(times.interval_s)
