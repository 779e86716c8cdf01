"""How long it takes to ask a cluster how it stands, and what an answer costs a node.

`python -m tests.bench status`: nodes that answer as agents do, in one process over one etcd (that process is most of
the time beyond some hundreds); then one real agent's processor time per question.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from felixpy.ctl.asking import survey
from felixpy.datastore.client import open_store
from felixpy.datastore.model import Store
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from felixpy.resources.kinds import ASK_PREFIX
from felixpy.status.answers import (
    Ask,
    BgpStatus,
    KernelStatus,
    NodeStatus,
    answer_key,
    parse,
    parse_ask_key,
    render,
)
from tests.agent.cluster import two_nodes
from tests.agent.node import CALICO, resource
from tests.support.etcd import Etcd

SIZES = (10, 100, 1_000, 5_000)
QUESTIONS = 200
ROLES = ("agent", "bgp")
TICK_HZ = os.sysconf("SC_CLK_TCK")


def open_client(url: str) -> Store:
    """A client of the etcd at `url`."""
    return open_store(EtcdSettings(parse_endpoints(url)))


async def answer_for(store: Store, nodes: list[str], revision: int) -> None:
    """Answers every question for all of these nodes, for ever."""
    async for events in store.watch([ASK_PREFIX.encode()], revision):
        for event in events:
            question = parse_ask_key(event.key)
            if question is None or event.value is None:
                continue
            lease = parse(event.value, Ask).lease
            puts = [(answer_key(question, node, ROLES), render(well(node, event.mod_revision))) for node in nodes]
            await asyncio.gather(*(store.put(key, value, lease) for key, value in puts))


def well(node: str, revision: int) -> NodeStatus:
    """An answer of the usual size."""
    kernel = KernelStatus(True, 50, 400)
    return NodeStatus(node, ROLES, "0.1.0", revision, "in sync", True, ROLES, kernel=kernel, bgp=BgpStatus("", 4))


async def ask_many(url: str, count: int) -> None:
    """One survey of `count` nodes."""
    store, asker = open_client(url), open_client(url)
    nodes = [f"node{number}" for number in range(count)]
    for node in nodes:
        await store.put(f"{CALICO}/nodes/{node}".encode(), render(well(node, 0)))
    revision = (await store.snapshot([ASK_PREFIX.encode()])).revision
    task = asyncio.create_task(answer_for(store, nodes, revision + 1))
    begin = time.monotonic()
    found = await survey(asker)
    took_s = time.monotonic() - begin
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    answered = sum(status is not None for status in found.nodes.values())
    print(f"  {count:5} nodes: {answered} answered in {took_s * 1e3:.0f} ms", flush=True)
    await store.close()
    await asker.close()


def ask_often(url: str, count: int) -> None:
    """Puts `count` questions to one node, one after the other, and prints the seconds that took."""

    async def run() -> float:
        store = open_client(url)
        begin = time.monotonic()
        for _ in range(count):
            await survey(store, ["n1"])
        took_s = time.monotonic() - begin
        await store.close()
        return took_s

    print(asyncio.run(run()))


def cpu_seconds(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK_HZ


def measure_agent() -> None:
    """Processor time of a real agent per answer."""
    with two_nodes("agent") as cluster:
        cluster.start()
        cluster.n1.put("nodes", resource("Node", "n1", {}))
        before = cpu_seconds(cluster.n1.agent.pid)
        code = f"from tests.bench.status import ask_often; ask_often('http://127.0.0.1:2379', {QUESTIONS})"
        took_s = float(cluster.n1.namespace.run(sys.executable, "-c", code))
        used_s = cpu_seconds(cluster.n1.agent.pid) - before
    each_ms, used_ms = (seconds / QUESTIONS * 1e3 for seconds in (took_s, used_s))
    print(f"  one agent: {each_ms:.1f} ms a question, {used_ms:.2f} ms of its processor")


def main() -> None:
    """Prints the figures."""
    for count in SIZES:
        with Etcd() as etcd:
            asyncio.run(ask_many(etcd.url, count))
    measure_agent()


if __name__ == "__main__":
    main()
