"""What an assignment costs over the twin in memory, so without etcd's own time.

Run with `python -m tests.bench ipam`; prints processor time, one line per curve.
"""

import asyncio
import gc
import time

from ipam.codec import parse_block, render_block
from ipam.ledger import Ledger, Sharer, parse_range
from ipam.loadbalancer import Granted, VipPool, VipService, choose_addresses
from tests.ipam.cluster import Cluster, pod

PODS = 1000


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


def main():
    """All curves."""
    gc.collect()
    for length in (26, 24, 20):
        asyncio.run(one_by_one(length))
    asyncio.run(at_once())
    asyncio.run(full_pool())
    blocks()
    services()


if __name__ == "__main__":
    main()
