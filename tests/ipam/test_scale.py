"""How little many nodes ask of etcd; how long that takes is tests/bench/ipam.py's."""

import asyncio

from ipam.addresses import parse_prefix
from ipam.block import new_block
from ipam.choose import iter_blocks
from ipam.codec import parse_pool, render_block
from ipam.model import block_key, node_owner, pool_key
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


async def test_a_claim_in_a_pool_of_sixteen_thousand_blocks_is_one_transaction(cluster):
    cluster.pool("large", **LARGE)
    pool = parse_pool(cluster.read(pool_key("large")))
    blocks = list(iter_blocks(pool, 7))
    template = render_block(new_block(blocks[0], node_owner("other"), cluster.now))
    node = cluster.node()
    await node.load()
    for revision, cidr in enumerate(blocks[:16_000], start=100):
        value = template.replace(str(blocks[0]).encode(), str(cidr).encode())
        node.observe(block_key(cidr), value, revision)
    node.follow()
    before = cluster.store.reads, cluster.store.commits
    got = await node.assign(pod("a", pools=("large",)))
    assert (cluster.store.reads, cluster.store.commits) == (before[0], before[1] + 1)
    assert got.addresses[0].block in blocks[16_000:]


def test_an_owner_comes_by_every_block_of_a_pool_once(cluster):
    pool = parse_pool(cluster.read(pool_key("default")))
    for seed in (0, 5, 1 << 64, (3 << 64) + 2, (1 << 128) - 1):
        assert sorted(map(str, iter_blocks(pool, seed))) == sorted(f"10.0.0.{64 * each}/26" for each in range(4))
    assert next(iter_blocks(pool, 1)) == parse_prefix("10.0.0.64/26")
