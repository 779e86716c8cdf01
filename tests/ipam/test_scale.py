"""How little many nodes ask of etcd; how long that takes is tests/bench/ipam.py's."""

import asyncio
from datetime import UTC, datetime

import pytest

from ipam.addresses import parse_prefix
from ipam.block import assign, new_block
from ipam.choose import iter_blocks
from ipam.codec import parse_pool, render_block
from ipam.model import block_key, node_owner, pool_key
from ipam.request import PoolExhausted
from tests.ipam.cluster import pod, texts
from tests.ipam.crowd import make_crowd

LARGE = {"cidr": "10.0.0.0/12", "blockSize": 26}


async def test_nodes_that_claim_in_the_same_instant_need_three_tries_at_most_and_list_nothing(etcd):
    async with make_crowd(etcd, 300, **LARGE) as crowd:
        await crowd.begin()
        got = await asyncio.gather(*(node.assign(pod(f"p{number}")) for number, node in enumerate(crowd.nodes)))
        assert len({each.addresses[0].block for each in got}) == 300
        assert max(crowd.tries()) <= 3
        assert set(crowd.calls) <= {"commit", "read"}
        assert crowd.calls["commit"] == 300 + crowd.conflicts
        assert crowd.calls["read"] <= crowd.conflicts


async def test_an_assignment_and_a_release_are_one_transaction_each_however_many_nodes_there_are(etcd):
    async with make_crowd(etcd, 100, **LARGE) as crowd:
        await crowd.begin()
        await asyncio.gather(*(node.assign(pod(f"a{number}")) for number, node in enumerate(crowd.nodes)))
        lost = crowd.conflicts
        await crowd.begin()
        for number, node in enumerate(crowd.nodes):
            await node.assign(pod(f"b{number}"))
        await asyncio.gather(*(node.release(f"a{number}") for number, node in enumerate(crowd.nodes)))
        assert crowd.calls == {"commit": 200}
        assert crowd.conflicts == lost


async def test_what_a_node_is_asked_for_at_once_shares_transactions(etcd):
    async with make_crowd(etcd, 1, **LARGE) as crowd:
        await crowd.begin()
        got = await asyncio.gather(*(crowd.nodes[0].assign(pod(f"p{number}")) for number in range(200)))
        assert len({texts(each)[0] for each in got}) == 200
        assert crowd.calls["commit"] <= 4
        assert set(crowd.calls) == {"commit"}


@pytest.fixture
async def crowded(cluster):
    """A node that follows, and a pool of 16,384 blocks, the first 16,000 of another's and full, in the order given."""
    cluster.pool("large", **LARGE)
    blocks = list(iter_blocks(parse_pool(cluster.read(pool_key("large"))), 7))
    node = cluster.node()
    await node.load()
    tell_full(node, blocks[:16_000])
    node.follow()
    return node, blocks


def tell_full(node, blocks):
    """As the watch would, of blocks without a free address."""
    full = new_block(blocks[0], node_owner("other"), datetime(2026, 8, 22, tzinfo=UTC))
    for ordinal in range(64):
        full = assign(full, ordinal, "h", {})
    template = render_block(full)
    for revision, cidr in enumerate(blocks, start=100):
        node.observe(block_key(cidr), template.replace(str(blocks[0]).encode(), str(cidr).encode()), revision)


async def test_a_claim_in_a_pool_of_sixteen_thousand_blocks_is_one_transaction(cluster, crowded):
    node, blocks = crowded
    before = cluster.store.reads, cluster.store.commits
    got = await node.assign(pod("a", pools=("large",)))
    assert (cluster.store.reads, cluster.store.commits) == (before[0], before[1] + 1)
    assert got.addresses[0].block in blocks[16_000:]


async def test_in_a_full_pool_only_the_block_that_is_borrowed_from_is_read(cluster, crowded):
    node, blocks = crowded
    tell_full(node, blocks[16_000:-1])
    other = cluster.node("other")
    await other.claim(blocks[-1])
    change = next(change for change in cluster.store.log if change.key == block_key(blocks[-1]))
    node.observe(change.key, change.value, change.mod_revision)
    before = cluster.store.reads, cluster.store.commits
    got = await node.assign(pod("a", pools=("large",)))
    assert got.addresses[0].block == blocks[-1]
    assert got.addresses[0].borrowed
    assert (cluster.store.reads, cluster.store.commits) == (before[0] + 1, before[1] + 1)


async def test_that_a_pool_is_full_is_said_without_a_look_at_its_blocks(cluster, crowded):
    node, blocks = crowded
    tell_full(node, blocks[16_000:])
    before = cluster.store.reads
    with pytest.raises(PoolExhausted):
        await node.assign(pod("a", pools=("large",)))
    assert cluster.store.reads - before <= 6


def test_an_owner_comes_by_every_block_of_a_pool_once(cluster):
    pool = parse_pool(cluster.read(pool_key("default")))
    for seed in (0, 5, 1 << 64, (3 << 64) + 2, (1 << 128) - 1):
        assert sorted(map(str, iter_blocks(pool, seed))) == sorted(f"10.0.0.{64 * each}/26" for each in range(4))
    assert next(iter_blocks(pool, 1)) == parse_prefix("10.0.0.64/26")
