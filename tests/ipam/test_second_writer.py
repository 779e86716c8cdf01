"""Allocators beside Calico nodes at the same blocks, with crashes: on the twin in any order, and on a real etcd."""

import asyncio
import random
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial

import pytest

from felixpy.datastore.client import open_store
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from ipam.addresses import parse_prefix
from ipam.audit import Problem
from ipam.model import BLOCKS_PREFIX, HANDLES_PREFIX, pool_key
from tests.ipam.calico_writer import CalicoWriter, GatewayKeys, TwinKeys
from tests.ipam.cluster import Cluster, pod, texts
from tests.ipam.hammer import BLOCK_LENGTH, CRASHED, POOL, UNFINISHED, Hammer, advance

SPEC = {"cidr": str(POOL), "blockSize": BLOCK_LENGTH}


def twin(seed, strict=False, cooldown_s=0, **options):
    """A hammer on the twin; its seed says how many turns of the event loop a pause takes and what news it brings."""
    cluster = Cluster()
    cluster.pool(**SPEC)
    cluster.config(strict_affinity=strict, cooldown_s=cooldown_s)
    rng = random.Random(seed)
    heard = 0

    async def pause():
        nonlocal heard
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        news = cluster.store.log[heard : heard + rng.randrange(4)]
        heard += len(news)
        for change in news:
            hammer.observe(change.key, change.value, change.mod_revision)
        if rng.random() < 0.02:
            cluster.wait(seconds=20)

    async def step(call, *arguments):
        return call(*arguments)

    async def values():
        return {key: found.value for key, found in cluster.store.values.items()}

    def follow(node):
        for key, found in cluster.store.values.items():
            node.observe(key, found.value, found.mod_revision)
        node.follow()

    hammer = Hammer(
        seed,
        begin=follow if seed % 2 else None,
        store=cluster.store,
        keys=TwinKeys(cluster.store),
        clock=lambda: cluster.now,
        step=step,
        pause=pause,
        values=values,
        strict=strict,
        **options,
    )
    return hammer


@pytest.mark.parametrize("deaths", [0.0, 0.1])
async def test_no_order_of_steps_gives_an_address_twice_or_loses_one(deaths):
    for seed in range(15):
        hammer = twin(seed, seed % 3 == 1, 30 * (seed % 3 == 2), deaths=deaths, again=0.2 * (seed % 2))
        await hammer.run(12)
        assert hammer.book.troubles == [], f"seed {seed}"


@pytest.mark.parametrize("forgotten", [BLOCKS_PREFIX, HANDLES_PREFIX], ids=["block", "handle"])
async def test_a_transaction_that_does_not_compare_all_is_caught(forgotten):
    for seed in range(60):
        hammer = twin(seed, forgets=forgotten)
        await hammer.run(12)
        if hammer.book.troubles:
            return
    pytest.fail("nothing was noticed")


@pytest.mark.parametrize("deaths", [0.0, 0.1])
async def test_nor_does_any_on_a_real_etcd(etcd, deaths):
    etcd.delete_prefix("/calico/")
    etcd.put(pool_key("p"), {"metadata": {"name": "p"}, "spec": SPEC})
    client = open_store(EtcdSettings(endpoints=parse_endpoints(etcd.url)))
    start = datetime.now(UTC)

    async def values():
        return {key: value.encode() for key, value in etcd.get_prefix("/calico/").items()}

    hammer = Hammer(
        1,
        store=IpamStore(client),
        keys=GatewayKeys(etcd),
        clock=lambda: start + 30 * (datetime.now(UTC) - start),
        step=asyncio.to_thread,
        pause=partial(asyncio.sleep, 0),
        values=values,
        deaths=deaths,
    )

    async def follow():
        async with aclosing(client.watch([b"/calico/"], etcd.revision + 1)) as batches:
            async for events in batches:
                for event in events:
                    hammer.observe(event.key.decode(), event.value, event.mod_revision)

    following = asyncio.ensure_future(follow())
    try:
        await hammer.run(12)
    finally:
        following.cancel()
        await client.close()
    assert hammer.book.troubles == []


def calico(cluster, host="c1"):
    """A Calico node on the twin."""
    return CalicoWriter(TwinKeys(cluster.store), host, "10.0.0.0/28", 30, lambda: cluster.now)


def play(verb, steps=1000):
    """Goes so many steps through a Calico node's verb; whether it came to its end, and what came of it."""
    for _ in range(steps):
        done, value = advance(verb)
        if done:
            return True, value
    return False, None


VERBS = {
    "assigns of a new block": lambda c1: c1.assign("new"),
    "assigns of its block": lambda c1: c1.assign_from(c1.cidrs[0], "old"),
    "assigns an address": lambda c1: c1.assign_address("10.0.0.13", "new", 30),
    "reclaims": lambda c1: c1.assign_reclaimed(c1.cidrs[1], "new"),
    "releases": lambda c1: c1.release("old"),
    "gives up its block": lambda c1: c1.give_up(c1.cidrs[0], "c1", None, only_empty=False),
    "gives up another's": lambda c1: c1.give_up(c1.cidrs[1], "n9"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_wherever_a_calico_node_dies_what_it_leaves_is_named_used_and_not_lost(verb):
    for steps in range(60):
        cluster = Cluster()
        cluster.pool(cidr="10.0.0.0/28", blockSize=30)
        c1 = calico(cluster)
        play(c1.assign("old"))
        await cluster.node("n9").claim(parse_prefix(c1.cidrs[1]))
        cluster.wait(seconds=61)
        done, _ = play(VERBS[verb](c1), steps)
        found = cluster.audit().findings
        assert {each.problem for each in found} <= (set() if done else CRASHED)
        assert all(each.subject in ("old", "new") or each.subject[:7] == "10.0.0." for each in found)
        node = cluster.node("n1")
        await node.release("old")
        await node.release("new")
        got = [texts(await node.assign(pod(f"p{number}")))[0] for number in range(16)]
        assert len(set(got)) == 16
        assert {each.problem for each in cluster.audit().findings} <= {*UNFINISHED, Problem.CLAIM_MISSING}
        if done:
            return
    pytest.fail("it never ends")


async def test_what_calico_has_counted_and_not_yet_written_is_counted_anew_after_a_release(cluster):
    cluster.pool(cidr="10.0.0.0/28", blockSize=30)
    work = calico(cluster).assign("a")
    while cluster.handle("a") is None:
        advance(work)
    await cluster.node().release("a")
    assert cluster.handle("a") is None
    assert play(work)[1] is not None
    assert sum(cluster.handle("a").values()) == 1
    assert cluster.audit().is_clean


async def test_an_assignment_leaves_what_calico_has_counted_and_not_yet_written(cluster):
    cluster.pool(cidr="10.0.0.0/28", blockSize=30)
    work = calico(cluster).assign("a")
    while cluster.handle("a") is None:
        advance(work)
    await cluster.node().assign(pod("a"))
    assert play(work)[1] is not None
    assert sum(cluster.handle("a").values()) == 2
    assert cluster.audit().is_clean
