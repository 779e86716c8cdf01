"""What the datastore costs: `python -m tests.bench.datastore`.

Snapshot of 50,000 keys of 700 bytes, the syncer's first sync with them, put to consumer, and compare-and-swap.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from felixpy.datastore.client import EtcdStore
from felixpy.datastore.model import Expect, Write
from felixpy.datastore.syncer import SyncSettings
from tests.datastore.world import PREFIXES, copied, initialise, opened, pool
from tests.support.etcd import Etcd
from tests.support.wait import until

KEYS, VALUE_BYTES, ROUNDS = 50_000, 700, 300


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints wall and CPU time, and the peak of memory so far."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what}: {wall_s:.2f} s, cpu {cpu_s:.2f} s, peak {peak_mb()} MB")


def peak_mb() -> int:
    """Resident memory at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


async def measure_sync(url: str) -> None:
    """A consumer's first sync, and what one change takes to reach it."""
    with tempfile.TemporaryDirectory() as directory:
        async with opened(url) as store, copied(store, Path(directory) / "cluster.json", SyncSettings()) as copy:
            with timed("first sync"):
                await until(lambda: copy.in_sync, within_s=60, every_s=0.002)
            times = []
            for number in range(ROUNDS):
                start, value = time.perf_counter(), b"%d" % number
                await store.put(pool("changing"), value)
                await until(lambda: copy.data.get(pool("changing")) == value, every_s=0)  # noqa: B023
                times.append((time.perf_counter() - start) * 1_000)
            print(f"put to consumer: p50 {statistics.median(times):.2f} ms, p99 {sorted(times)[-ROUNDS // 100]:.2f} ms")


async def measure_swaps(store: EtcdStore) -> None:
    """One after another, on one key."""
    start, revision = time.perf_counter(), 0
    for _ in range(ROUNDS):
        result = await store.transact([Expect(pool("swapped"), revision)], [Write(pool("swapped"), b"")])
        revision = result.revision
    print(f"compare-and-swap: {ROUNDS / (time.perf_counter() - start):.0f} a second")


async def measure() -> None:
    """All of it, on an etcd of its own."""
    with Etcd() as etcd:
        async with opened(etcd.url) as store:
            await initialise(store)
            for first in range(0, KEYS, 100):
                writes = [Write(pool(f"{number:06}"), b"x" * VALUE_BYTES) for number in range(first, first + 100)]
                await store.transact([], writes)
            await measure_sync(etcd.url)
            with timed("snapshot"):
                await store.snapshot(PREFIXES)
            await measure_swaps(store)


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
