"""Learned routes on their way into the kernel, beside C and BIRD. `python -m tests.bench.fib [ROUTES ...]`.

Prints three things, each of ours beside the other's in alternating rounds of one run: routes installed a second, by our
driver, by all that a delta of learned routes passes, and by a C program; seconds from an established session to the
last of the neighbour's routes in the kernel, and the processor time of that and the memory, with gobgpd and this role,
with BIRD, and, to know what there is to gain, until gobgpd alone has all of them and nobody watches it; and
milliseconds from an announcement to the route in the neighbour's kernel.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from birdpy.fib import LearnedRoute, RouteDelta
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.plan import Announce, Withdraw
from birdpy.intent import BgpIntent
from birdpy.speaker import BgpRole, RoleSettings
from felixpy.addresses import Prefix, parse_address
from felixpy.agent.routing.learned import LearnedTable
from felixpy.dataplane.objects import NextHop, Put, Route
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkSocket, in_namespace
from tests.bench.bgp import cpu_seconds, hosts
from tests.birdpy.conftest import Router, build_link, make_so, remove_link, session
from tests.support.netns import Namespace

ROUNDS, SAMPLES = 3, 100
POLL_S = 0.01
"""Between two looks whether all are there: each costs a tenth of it."""
ALONE, DRIVER = "gobgpd alone", "ours, the driver"
HOP = 0x4000_0001
SOURCE = Path(__file__).with_name("_install.c")
BIRD = """
router id 10.99.0.3;
protocol device { scan time 2; }
protocol direct { ipv4; }
protocol kernel { learn; persist; scan time 20; ipv4 { import all; export all; }; merge paths on; }
protocol bgp feeder {
    local 10.99.0.3 as 64512; neighbor 10.99.0.1 as 64512; connect delay time 1; connect retry time 2;
    graceful restart on; ipv4 { import all; export none; gateway recursive; add paths on; };
}
"""


def count_routes(namespace: Namespace) -> int:
    """Prefixes in the main table; the kernel counts them itself."""
    with namespace.entered():
        text = Path("/proc/thread-self/net/fib_triestat").read_text()
    main = text.partition("Main:")[2] or text
    return next((int(line.split()[1]) for line in main.splitlines() if line.strip().startswith("Prefixes:")), 0)


def measure_install(count: int, directory: Path) -> None:
    """Our driver and C, turn by turn, in one namespace."""
    program = directory / "install"
    subprocess.run(["cc", "-O2", "-o", program, SOURCE], check=True)
    with Namespace.create("fibi") as namespace:
        namespace.ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
        for device in ("up0", "far0"):
            namespace.ip("link", "set", device, "up")
        namespace.ip("address", "add", "192.0.2.1/24", "dev", "up0")
        driver = in_namespace(namespace.path, lambda: RouteDriver(protocols=(177,)))
        driver.apply([Put(NextHop(HOP, parse_address("192.0.2.9"), "up0"))])
        prefixes = [Prefix(*one.prefix) for one in hosts(count)]  # type: ignore[arg-type]
        like = Route(prefixes[0], 177, nexthop_id=HOP, metric=1024)
        route = LearnedRoute((bytes([192, 0, 2, 9]),))
        whole = RouteDelta(dict.fromkeys((one.prefix for one in hosts(count)), route), frozenset(), True)
        gateway = int.from_bytes(bytes([192, 0, 2, 9]), sys.byteorder)
        c_ways = {"C, by nexthop object": ("30", str(HOP)), "C, by gateway": ("5", str(gateway))}
        times: dict[str, list[float]] = {name: [] for name in (DRIVER, "ours, from the delta on", *c_ways)}
        gc.collect()
        gc.freeze()  # as the agent does once it has started
        for _ in range(ROUNDS + 2):
            begin = time.perf_counter()
            assert not driver.put_alike(like, prefixes)
            times[DRIVER].append(time.perf_counter() - begin)
            driver.drop_alike(like, prefixes)
            for name, way in c_ways.items():
                times[name].append(int(namespace.run(program, str(count), *way)) / 1e6)
                driver.drop_alike(like, prefixes)
            table = in_namespace(namespace.path, LearnedTable)
            begin = time.perf_counter()
            in_namespace(namespace.path, lambda table=table: table.take(whole))  # type: ignore[misc]
            times["ours, from the delta on"].append(time.perf_counter() - begin)
            assert table.installed == count
            table.driver.close()
            driver.drop_alike(like, prefixes)
            driver.apply([Put(NextHop(HOP, parse_address("192.0.2.9"), "up0"))])
        driver.close()
    best = {name: min(seconds) for name, seconds in times.items()}
    c = best["C, by nexthop object"]
    for name, seconds in best.items():
        print(f"  {count} routes installed, {name}: {count / seconds / 1e3:.0f} k/s ({c / seconds:.2f} of C's rate)")


@contextmanager
def bird(router: Router) -> Iterator[list[int]]:
    """BIRD on a router; its process."""
    daemon = router.start_bird(BIRD)
    yield [daemon.pid]
    daemon.stop()
    router.others.clear()


@contextmanager
def ours(router: Router, feeder: Router) -> Iterator[list[int]]:
    """gobgpd and this bgp role on a router; both processes."""
    gobgpd = router.start_gobgpd()
    argv = [sys.executable, "-m", "tests.bench.fib", "--learn", str(router.directory), feeder.text]
    role = router.namespace.popen(*argv, cwd=Path(__file__).parents[2])
    yield [gobgpd.pid, role.pid]
    role.kill()
    role.wait()
    router.stop()


@contextmanager
def gobgpd_alone(router: Router, feeder: Router) -> Iterator[list[int]]:
    """gobgpd on a router, told of its neighbour and then left alone; its process."""
    gobgpd = router.start_gobgpd()

    async def tell() -> None:
        async with router.driver() as driver:
            await make_so(driver, BgpIntent(router.speaker(), {feeder.address: session(router, feeder)}))

    in_thread(tell)
    yield [gobgpd.pid]
    router.stop()


def in_thread(told: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it to its end in a loop of its own."""
    thread = threading.Thread(target=lambda: asyncio.run(told()))
    thread.start()
    thread.join()


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def measure_learning(routers: list[Router], count: int) -> None:
    """The same table to both, one after the other."""
    feeder, we, they = routers
    feeder.start_gobgpd()
    async with feeder.driver() as driver:
        others = {one.address: session(feeder, one) for one in (we, they)}
        await make_so(driver, BgpIntent(feeder.speaker(), others))
        await driver.apply([Announce(hosts(count))])
        times: dict[str, list[float]] = {"gobgpd and ours": [], "BIRD": [], ALONE: []}
        for _ in range(ROUNDS):
            for name, router, start in (
                ("gobgpd and ours", we, lambda: ours(we, feeder)),
                ("BIRD", they, lambda: bird(they)),
                (ALONE, we, lambda: gobgpd_alone(we, feeder)),
            ):
                with start() as pids:
                    await until_up(driver, router)
                    spent = [cpu_seconds(pid) for pid in pids]
                    if name == ALONE:
                        took_s = await until_known(router, count)
                    else:
                        took_s = await until_installed(router.namespace, count)
                    times[name].append(took_s)
                    used = ", ".join(
                        f"{cpu_seconds(pid) - before:.2f} s {memory_mib(pid):.0f} MiB"
                        for pid, before in zip(pids, spent, strict=True)
                    )
                    print(f"    {name}: {took_s:.2f} s; processor and memory: {used}", flush=True)
                router.namespace.ip("nexthop", "flush")
                router.namespace.run("ip", "route", "flush", "proto", "bird", check=False)
    mine, bird_s, alone = (statistics.median(times[name]) for name in times)
    print(
        f"  {count} routes, session up to kernel: ours {mine:.2f} s, BIRD {bird_s:.2f} s ({mine / bird_s:.2f});"
        f" until gobgpd alone knows them {alone:.2f} s ({alone / bird_s:.2f})"
    )


async def until_up(driver: GobgpDriver, router: Router) -> None:
    """Until the feeder's session with a router is up."""
    async with asyncio.timeout(60):
        while not (await driver.read_sessions())[router.address].established:
            await asyncio.sleep(0.01)


async def until_known(router: Router, count: int) -> float:
    """Until gobgpd has them, asked as seldom as the kernel is."""
    async with asyncio.timeout(120), router.driver() as driver:
        begin = time.perf_counter()
        while sum(one.accepted for one in (await driver.read_sessions()).values()) < count:
            await asyncio.sleep(POLL_S)
    return time.perf_counter() - begin


async def until_installed(namespace: Namespace, count: int) -> float:
    async with asyncio.timeout(120):
        begin = time.perf_counter()
        while count_routes(namespace) < count:
            await asyncio.sleep(POLL_S)
    return time.perf_counter() - begin


async def measure_latency(routers: list[Router]) -> None:
    """One host route at a time, from the call to the kernel's own word at the neighbour."""
    feeder, we, _ = routers
    feeder.start_gobgpd()
    times = []
    async with feeder.driver() as driver:
        await make_so(driver, BgpIntent(feeder.speaker(), {we.address: session(feeder, we)}))
        with ours(we, feeder):
            await until_up(driver, we)
            await asyncio.sleep(2)
            heard = in_namespace(we.namespace.path, lambda: NetlinkSocket(NETLINK_ROUTE, groups=1 << 6))
            for given in hosts(SAMPLES, first=0x0A700000):
                waiting = asyncio.get_running_loop().run_in_executor(None, heard.receive)
                begin = time.perf_counter()
                await driver.apply([Announce((given,))])
                await waiting
                times.append(time.perf_counter() - begin)
                waiting = asyncio.get_running_loop().run_in_executor(None, heard.receive)
                await driver.apply([Withdraw((given.prefix,))])
                await waiting
            heard.close()
    p90 = statistics.quantiles(times, n=10)[8]
    p50 = statistics.median(times)
    print(f"  announced to installed at the neighbour: p50 {p50 * 1e3:.2f} ms, p90 {p90 * 1e3:.2f} ms")


async def learn(directory: Path, feeder: str) -> None:
    """The child: a role on a gobgpd that is there, and its routes in the kernel."""
    local = Router(2, Namespace("none"), directory)
    remote = Router(1, Namespace("none"), directory)
    assert remote.text == feeder
    table = LearnedTable()
    role = BgpRole(RoleSettings(directory / "gobgp.sock", forwarding_survived=table.survived))
    role.set_intent(BgpIntent(local.speaker(), {remote.address: session(local, remote)}))
    gc.collect()
    gc.freeze()  # as the agent does once it has started

    async def follow() -> None:
        async for delta in role.routes():
            table.take(delta)

    async with asyncio.TaskGroup() as group:
        group.create_task(role.run())
        group.create_task(follow())


def main() -> None:
    if sys.argv[1:2] == ["--learn"]:
        asyncio.run(learn(Path(sys.argv[2]), sys.argv[3]))
        return
    counts = [int(word) for word in sys.argv[1:] if word.isdigit()] or [10_000, 100_000]
    print(f"  load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        measure_install(max(counts), directory)
        for step in (measure_latency, *((lambda routers, n=count: measure_learning(routers, n)) for count in counts)):
            place = directory / str(time.monotonic_ns())
            place.mkdir()
            switch, routers = build_link(place, 3)
            try:
                asyncio.run(step(routers))
            finally:
                remove_link(switch, routers)
    print(f"  this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most")


if __name__ == "__main__":
    main()
