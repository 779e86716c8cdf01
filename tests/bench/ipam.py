"""What an assignment costs over the twin in memory, and what a thousand nodes wait for on one real etcd.

Run with `python -m tests.bench ipam`. The twin's figures are processor time, one line per curve. The nodes are tasks of
this process, over four connections (tests/ipam/crowd.py), so that their waits hold its processor time too; etcd has its
data where temporary files are (TMPDIR=/dev/shm leaves the disk out). Beside them a bare transaction of three keys is
timed: what etcd, the disk and whoever else is on the machine take of it.
"""

import asyncio
import gc
import os
import random
import time
from contextlib import suppress

from ipam.codec import parse_block, render_block
from ipam.ledger import Ledger, Sharer, parse_range
from ipam.loadbalancer import Granted, VipPool, VipService, choose_addresses
from tests.ipam.cluster import Cluster, pod
from tests.ipam.crowd import make_crowd
from tests.support.etcd import Etcd

PODS = 1000
NODES, CONNECTIONS, IN_USE = 1000, 4, 100_000
RATE, SECONDS = 300, 20
CONTROL_EVERY_S = 0.05


def report(what, seconds, count, note=""):
    """One figure, in microseconds a piece and pieces a second."""
    print(f"{what:44} {seconds / count * 1e6:9.1f} µs {count / seconds:9.0f}/s  {note}")


async def one_by_one(block_length):
    cluster = Cluster()
    cluster.pool(cidr="10.0.0.0/16", blockSize=block_length)
    node = cluster.node()
    await node.assign(pod("first"))
    start = time.process_time()
    for number in range(PODS):
        await node.assign(pod(f"p{number}"))
    report(f"assign one by one, /{block_length} blocks", time.process_time() - start, PODS, f"{node.counters}")
    start = time.process_time()
    for number in range(PODS):
        await node.release(f"p{number}")
    report(f"release one by one, /{block_length} blocks", time.process_time() - start, PODS)


async def at_once():
    cluster = Cluster()
    cluster.pool(cidr="10.0.0.0/16")
    node = cluster.node()
    await node.load()
    start = time.process_time()
    await asyncio.gather(*(node.assign(pod(f"p{number}")) for number in range(PODS)))
    report("assign all at once", time.process_time() - start, PODS, f"{node.counters}")


async def full_pool():
    cluster = Cluster()
    cluster.pool(cidr="10.0.0.0/18")
    await asyncio.gather(*(cluster.node(f"n{number}").assign(pod(f"n{number}", v4=64)) for number in range(255)))
    node = cluster.node("last")
    start = time.process_time()
    await node.assign(pod("claim"))
    report("claim the last of 256 blocks", time.process_time() - start, 1, f"{node.counters}")


def blocks():
    cluster = Cluster()
    cluster.pool()
    asyncio.run(cluster.node().assign(pod("p", v4=64)))
    (key,) = cluster.keys("/assignment/")
    value = cluster.read(key)
    start = time.process_time()
    for _ in range(PODS):
        block = parse_block(value)
    report("parse a full /26", time.process_time() - start, PODS)
    start = time.process_time()
    for _ in range(PODS):
        render_block(block)
    report("render a full /26", time.process_time() - start, PODS)


def services():
    ledger, pools = Ledger(), [VipPool("p", (parse_range("10.0.0.0/16"),))]
    count = 20_000
    start = time.process_time()
    for number in range(count):
        service = VipService(Sharer(f"s{number}"), "default")
        answer = choose_addresses(service, pools, ledger)
        assert isinstance(answer, Granted)
        ledger.grant(service.sharer, (answer.vips[0].address,))
    report("a Service's address, up to 20,000", time.process_time() - start, count)


def report_waits(what, waits, note=""):
    """Percentiles in milliseconds."""
    waits = sorted(waits)
    p50, p90, p99 = (1000 * waits[int(len(waits) * part)] for part in (0.5, 0.9, 0.99))
    print(f"{what:44} p50 {p50:.1f}  p90 {p90:.1f}  p99 {p99:.1f}  max {1000 * waits[-1]:.1f} ms  {note}")


async def timed(waits, work):
    start = time.perf_counter()
    await work
    waits.append(time.perf_counter() - start)


async def in_one_instant(crowd, what, prefix):
    waits = []
    start, processor = time.perf_counter(), time.process_time()
    jobs = enumerate(crowd.nodes)
    await asyncio.gather(*(timed(waits, node.assign(pod(f"{prefix}{number}"))) for number, node in jobs))
    took, processor = time.perf_counter() - start, time.process_time() - processor
    note = f"all {len(crowd.nodes)} in {took:.2f} s (ours: {processor:.2f} s of processor)"
    report_waits(what, waits, note)


async def fill(crowd):
    each = IN_USE // NODES - 2
    start = time.perf_counter()
    for first in range(0, NODES, 50):
        numbers = range(first, min(NODES, first + 50))
        work = (crowd.nodes[number].assign(pod(f"f{number}-{one}")) for number in numbers for one in range(each))
        await asyncio.gather(*work)
    took = time.perf_counter() - start
    print(f"{'fill to 100,000 in use':44} {NODES * each / took:.0f} assigned a second, {each} at once on a node")


async def keep_time(store, waits):
    """Times a bare transaction again and again, whether or not the one before is done: a stall holds up all alike."""
    number = 0
    async with asyncio.TaskGroup() as tasks:
        while True:
            number += 1
            writes = {f"/control/{number % 1000}/{part}": b"x" * 1000 for part in range(3)}
            tasks.create_task(timed(waits, store.commit({}, writes)))
            await asyncio.sleep(CONTROL_EVERY_S)


async def churn(crowd):
    """Half of the rate assigns, half releases; each at a node of its own, at random times."""
    dice = random.Random(1)
    waits, control = {"assign": [], "release": []}, []
    timekeeper = asyncio.ensure_future(keep_time(crowd.stores[0].store, control))

    async def come_and_go(number, name):
        await timed(waits["assign"], crowd.nodes[number].assign(pod(name)))
        await asyncio.sleep(dice.uniform(0, 2))
        await timed(waits["release"], crowd.nodes[number].release(name))

    start, processor = time.perf_counter(), time.process_time()
    tasks, due, lost = [], start, crowd.conflicts
    while due < start + SECONDS:
        due += dice.expovariate(RATE / 2)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(come_and_go(dice.randrange(NODES), f"c{len(tasks)}")))
    await asyncio.gather(*tasks)
    processor = (time.process_time() - processor) / (time.perf_counter() - start)
    timekeeper.cancel()
    with suppress(asyncio.CancelledError):
        await timekeeper
    for verb, times in waits.items():
        report_waits(f"{verb}, {RATE} operations a second", times, f"{crowd.conflicts - lost} compares lost in all")
    report_waits("a bare transaction beside them", control, f"ours: {100 * processor:.0f} % of a processor")


def follow(news=20_000):
    """What being told of others' changes costs a node."""
    cluster = Cluster()
    cluster.pool(cidr="10.0.0.0/12")
    asyncio.run(cluster.node("other").assign(pod("p", v4=60)))
    (key,) = cluster.keys("/assignment/")
    value, node = cluster.read(key), cluster.node()
    start = time.process_time()
    for revision in range(1000, 1000 + news):
        node.observe(key, value, revision)
    report("told of a change of another's block", time.process_time() - start, news)


async def crowd():
    with Etcd() as etcd:
        async with make_crowd(etcd, NODES, CONNECTIONS, cidr="10.0.0.0/12", blockSize=26) as crowd:
            print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
            await crowd.begin()
            await in_one_instant(crowd, "all claim a block in the same instant", "a")
            print(f"{'':44} transactions per node: {crowd.tries()}; asked of etcd: {dict(crowd.calls)}")
            await in_one_instant(crowd, "all assign in the same instant", "b")
            await fill(crowd)
            await churn(crowd)


def main():
    """All curves."""
    gc.collect()
    for length in (26, 24, 20):
        asyncio.run(one_by_one(length))
    asyncio.run(at_once())
    asyncio.run(full_pool())
    blocks()
    services()
    follow()
    asyncio.run(crowd())


if __name__ == "__main__":
    main()
