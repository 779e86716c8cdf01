"""How fast routes travel: gobgpd beside a role that learns them. `python -m tests.bench.bgp [3|4] [PATHS ...]`.

Prints the time from an announcement to the delta at the neighbour's role, and wall and processor seconds to learn a
whole table. The role's processor time is the whole bench process's, the reading of deltas included.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from birdpy.addresses import Prefix
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.plan import Announce, Withdraw
from birdpy.intent import Advertisement, BgpIntent
from birdpy.speaker import BgpRole, RoleSettings
from tests.birdpy.conftest import Router, build_link, make_so, remove_link, session

SAMPLES = 200
TICK_HZ = os.sysconf("SC_CLK_TCK")


def hosts(count: int, first: int = 0x0A640000) -> tuple[Advertisement, ...]:
    """`count` host routes."""
    return tuple(Advertisement(Prefix((first + number).to_bytes(4, "big"), 32)) for number in range(count))


def cpu_seconds(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK_HZ


class Reader:
    """Counts what a role's deltas amount to."""

    def __init__(self, role: BgpRole) -> None:
        self.role = role
        self.prefixes: set[Prefix] = set()
        self.changed = asyncio.Event()

    async def follow(self) -> None:
        async for delta in self.role.routes():
            self.prefixes.update(delta.put)
            self.prefixes -= delta.drop
            self.changed.set()

    async def until(self, count: int) -> None:
        while len(self.prefixes) != count:
            self.changed.clear()
            await self.changed.wait()


async def latency(driver: GobgpDriver, reader: Reader) -> None:
    """One host route announced and withdrawn at a time."""
    announced, withdrawn = [], []
    for given in hosts(SAMPLES):
        start = time.perf_counter()
        await driver.apply([Announce((given,))])
        await reader.until(1)
        announced.append(time.perf_counter() - start)
        start = time.perf_counter()
        await driver.apply([Withdraw((given.prefix,))])
        await reader.until(0)
        withdrawn.append(time.perf_counter() - start)
    for name, times in (("announced", announced), ("withdrawn", withdrawn)):
        p90 = statistics.quantiles(times, n=10)[8]
        print(f"  {name} to delta: p50 {statistics.median(times) * 1e3:.2f} ms, p90 {p90 * 1e3:.2f} ms")


async def table(driver: GobgpDriver, reader: Reader, intent: BgpIntent, gobgpd: int, count: int) -> None:
    """A whole table announced at once, while the session is up; then a second client's first snapshot of it."""
    cpu, daemon, start = time.process_time(), cpu_seconds(gobgpd), time.perf_counter()
    await driver.apply([Announce(hosts(count))])
    sent = time.perf_counter() - start
    await reader.until(count)
    print(
        f"  {count} paths: sent in {sent:.2f} s, learned after {time.perf_counter() - start:.2f} s;"
        f" processor: both clients {time.process_time() - cpu:.2f} s, gobgpd {cpu_seconds(gobgpd) - daemon:.2f} s"
    )
    cpu, start = time.process_time(), time.perf_counter()
    running, again = await another(reader.role, intent)
    await again.until(count)
    print(f"  {count} paths: restarted role {time.perf_counter() - start:.2f} s, {time.process_time() - cpu:.2f} s cpu")
    running.cancel()
    start = time.perf_counter()
    await driver.apply([Withdraw(tuple(given.prefix for given in hosts(count)))])
    await reader.until(0)
    print(f"  {count} paths: withdrawn after {time.perf_counter() - start:.2f} s")


async def another(role: BgpRole, intent: BgpIntent) -> tuple[asyncio.Task[None], Reader]:
    """A second role on the same gobgpd, with the same intent."""
    second = BgpRole(role.settings)
    second.set_intent(intent)
    reader = Reader(second)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(second.run())
            group.create_task(reader.follow())

    return asyncio.create_task(both()), reader


async def measure(routers: list[Router], counts: list[int]) -> None:
    a, b = routers
    a.start_gobgpd()
    pid = b.start_gobgpd().pid
    role = BgpRole(RoleSettings(b.socket_path))
    intent = BgpIntent(b.speaker(), {a.address: session(b, a)})
    role.set_intent(intent)
    reader = Reader(role)
    async with a.driver() as driver, asyncio.TaskGroup() as group:
        tasks = [group.create_task(role.run()), group.create_task(reader.follow())]
        await make_so(driver, BgpIntent(a.speaker(), {b.address: session(a, b)}))
        await driver.apply([Announce(hosts(1))])
        await reader.until(1)
        await driver.apply([Withdraw((hosts(1)[0].prefix,))])
        await reader.until(0)
        await latency(driver, reader)
        for count in counts:
            await table(driver, reader, intent, pid, count)
        for task in tasks:
            task.cancel()


def main() -> None:
    generation = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    counts = [int(word) for word in sys.argv[2:]] or [10_000, 100_000]
    with tempfile.TemporaryDirectory() as directory:
        switch, routers = build_link(Path(directory), 2)
        try:
            for router in routers:
                router.generation = generation
            print(f"gobgpd {generation}")
            asyncio.run(measure(routers, counts))
        finally:
            remove_link(switch, routers)


if __name__ == "__main__":
    main()
