"""Many nodes in one process: each with an allocator and a cache of its own, all over the same few connections to etcd.

What is simulated: a node whose agent has read the datastore and follows it. What is not: that every node is told of
every other's change; here each learns of others from a lost compare only, so that more is lost than in a real cluster.
"""

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from felixpy.datastore.client import open_store
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from ipam.engine import Allocator
from ipam.model import node_owner, pool_key


class CountingStore:
    """A store that counts its calls; of `list` by what is listed."""

    def __init__(self, store):
        self.store = store
        self.calls = Counter()

    async def read(self, keys):
        self.calls["read"] += 1
        return await self.store.read(keys)

    async def list(self, prefix):
        self.calls[f"list {prefix}"] += 1
        return await self.store.list(prefix)

    async def commit(self, expect, writes):
        self.calls["commit"] += 1
        return await self.store.commit(expect, writes)


class Crowd:
    """`nodes` by number; `stores` has what each asked of the datastore."""

    def __init__(self, clients, count):
        self.stores = [CountingStore(IpamStore(clients[number % len(clients)])) for number in range(count)]
        self.nodes = [
            Allocator(store, node_owner(f"n{number}"), now=lambda: datetime.now(UTC), rng=random.Random(number))
            for number, store in enumerate(self.stores)
        ]

    async def begin(self):
        """Every node reads what an agent's first snapshot brings, and follows from there; that is not counted."""
        await asyncio.gather(*(node.load() for node in self.nodes))
        for node, store in zip(self.nodes, self.stores, strict=True):
            node.follow()
            store.calls.clear()

    @property
    def calls(self):
        return sum((store.calls for store in self.stores), Counter())

    @property
    def conflicts(self):
        return sum(node.counters.conflicts for node in self.nodes)

    def tries(self):
        """How many nodes needed how many transactions since the last `begin`."""
        return dict(sorted(Counter(store.calls["commit"] for store in self.stores).items()))


@asynccontextmanager
async def make_crowd(etcd, count, connections=1, **spec):
    """Nodes on an etcd that has one pool and nothing else."""
    etcd.delete_prefix("/calico/")
    etcd.put(pool_key("p"), {"metadata": {"name": "p"}, "spec": spec})
    clients = [open_store(EtcdSettings(endpoints=parse_endpoints(etcd.url))) for _ in range(connections)]
    try:
        yield Crowd(clients, count)
    finally:
        for client in clients:
            await client.close()
