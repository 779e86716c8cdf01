"""Addresses for Services, over a real etcd: a cold controller with thousands of them, one more, one that makes room.

python -m tests.bench.allocation [SERVICES]   prints seconds; the cold figure is from an empty memory to the last grant.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time

from felixpy.controllers.loadbalancer import LEADER_KEY, serve_load_balancer
from felixpy.datastore.model import Expect, Store, Write
from tests.controllers.world import GRANTS, SERVICES, STATUS, Cluster
from tests.datastore.world import opened
from tests.support.etcd import Etcd

MORE = 50
TIMEOUT_S = 120


def body(number: int) -> bytes:
    """A Service as people write it."""
    metadata = {"name": f"s{number}", "namespace": "a", "creationTimestamp": f"2026-01-01T00:00:{number % 60:02}Z"}
    spec = {"type": "LoadBalancer", "selector": {"app": f"s{number}"}, "ports": [{"port": 80, "protocol": "TCP"}]}
    return json.dumps({"metadata": metadata, "spec": spec}).encode()


class Held:
    """How many addresses are held, as a watch tells: one that was there before, as etcd serves late ones late."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    async def follow(self, store: Store, revision: int) -> None:
        async for events in store.watch([GRANTS.encode()], revision):
            self.count += sum(event.value is not None for event in events)
            self._changed.set()

    async def reaches(self, count: int) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self.count < count:
                self._changed.clear()
                await self._changed.wait()


async def prepare(store: Store, services: int, cidr: str) -> tuple[Cluster, int]:
    """A cluster with one pool, and Services that have no address yet; and the revision of a leadership for it."""
    cluster = Cluster(store)
    await cluster.initialise()
    await cluster.put_pool("default", cidr)
    for first in range(0, services, 100):
        numbers = range(first, min(first + 100, services))
        await store.transact([], [Write(f"{SERVICES}a/s{one}".encode(), body(one)) for one in numbers])
    return cluster, await store.put(LEADER_KEY, b"{}")


async def measure_waiting(services: int) -> None:
    """A pool of few addresses: how long until somebody who waits has the one that a deleted Service had."""
    with Etcd() as etcd:
        async with opened(etcd.url) as store:
            cluster, revision = await prepare(store, services, "10.0.0.0/24")
            held = Held()
            following = asyncio.create_task(held.follow(store, revision + 1))
            running = asyncio.create_task(serve_load_balancer(store, Expect(LEADER_KEY, revision)))
            await held.reaches(256)
            while len(await cluster.read(STATUS)) < services:
                await asyncio.sleep(0.2)
            await asyncio.sleep(1)
            grants, times, cpu = await cluster.grants(), [], time.process_time()
            for count, (name,) in enumerate(list(grants.values())[:MORE], 257):
                start = time.perf_counter()
                await cluster.delete_service(name)
                await held.reaches(count)
                times.append((time.perf_counter() - start) * 1000)
            await asyncio.sleep(0.5)
            cpu = (time.process_time() - cpu) / MORE * 1000
            print(
                f"{services - 256} waiting, one deleted to another granted: p50 {statistics.median(times):.2f} ms, "
                f"worst {max(times):.2f} ms, {cpu:.2f} ms of processor time each"
            )
            for task in (running, following):
                task.cancel()
            await asyncio.gather(running, following, return_exceptions=True)


async def measure(services: int) -> None:
    """Runs it once, on an etcd of its own."""
    with Etcd() as etcd:
        async with opened(etcd.url) as store:
            _, revision = await prepare(store, services, "10.0.0.0/16")
            held = Held()
            following = asyncio.create_task(held.follow(store, revision + 1))
            start, cpu = time.perf_counter(), time.process_time()
            running = asyncio.create_task(serve_load_balancer(store, Expect(LEADER_KEY, revision)))
            await held.reaches(services)
            took, of_cpu = time.perf_counter() - start, time.process_time() - cpu
            print(f"{services} services, cold: {took:.2f} s, of the controller's own processor time {of_cpu:.2f} s")
            times = []
            for number in range(services, services + MORE):
                start = time.perf_counter()
                await store.put(f"{SERVICES}a/s{number}".encode(), body(number))
                await held.reaches(number + 1)
                times.append((time.perf_counter() - start) * 1000)
            print(f"one more, put to granted: p50 {statistics.median(times):.2f} ms, worst {max(times):.2f} ms")
            for task in (running, following):
                task.cancel()
            await asyncio.gather(running, following, return_exceptions=True)


def main(services: int = 5000) -> None:
    asyncio.run(measure(services))
    asyncio.run(measure_waiting(services))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
