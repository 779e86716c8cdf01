"""Each field of a pool, a reservation and the settings, and what is recorded of an address, one by one."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from ipam.addresses import parse_prefix
from ipam.choose import PoolRefusal
from ipam.model import CONFIGURATION_KEY, block_key, handle_key
from ipam.request import Conflict, PoolExhausted, Request, pod_handle, pod_owner
from tests.ipam.cluster import pod, texts


@pytest.mark.parametrize("length", range(20, 33))
async def test_blocks_of_ipv4_have_every_size_that_calico_has(cluster, length):
    cluster.pool("sized", f"10.128.0.0/{max(16, length - 4)}", blockSize=length)
    got = await cluster.node().assign(pod("a", v4=2, pools=("sized",)))
    assert {each.block.length for each in got.addresses} == {length}
    assert len(cluster.block(str(got.addresses[0].block)).allocations) == 1 << (32 - length)
    assert texts(await cluster.node("n2").assign(pod("b", addresses=["10.128.0.1"]))) == ["10.128.0.1"]
    assert cluster.audit().is_clean


@pytest.mark.parametrize("length", range(116, 129))
async def test_blocks_of_ipv6_have_every_size_that_calico_has(cluster, length):
    cluster.pool("sized", "fd00:1::/112", blockSize=length)
    got = await cluster.node().assign(pod("a", v4=0, v6=2, pools=("sized",)))
    assert {each.block.length for each in got.addresses} == {length}
    assert len(cluster.block(str(got.addresses[0].block)).allocations) == 1 << (128 - length)
    assert texts(await cluster.node("n2").assign(pod("b", v4=0, addresses=["fd00:1::1"]))) == ["fd00:1::1"]
    assert cluster.audit().is_clean


@pytest.mark.parametrize(("cidr", "usual"), [("10.7.0.0/16", 26), ("fd00:2::/48", 122)])
async def test_the_usual_size_is_calicos(cluster, cidr, usual):
    cluster.pool("usual", cidr)
    v4 = int(":" not in cidr)
    got = await cluster.node().assign(pod("a", v4=v4, v6=1 - v4, pools=("usual",)))
    assert got.addresses[0].block.length == usual


async def test_pools_are_drawn_from_in_the_order_of_their_names(cluster):
    cluster.pool("b", "10.2.0.0/31", blockSize=31)
    cluster.pool("a", "10.3.0.0/31", blockSize=31)
    node = cluster.node()
    got = [(await node.assign(pod(f"p{number}"))).addresses[0].pool for number in range(5)]
    assert got == ["a", "a", "b", "b", "default"]


async def test_named_pools_are_drawn_from_in_the_order_named(cluster):
    cluster.pool("b", "10.2.0.0/31", blockSize=31)
    cluster.pool("a", "10.3.0.0/31", blockSize=31)
    node = cluster.node()
    got = [(await node.assign(pod(f"p{number}", pools=("b", "a")))).addresses[0].pool for number in range(4)]
    assert got == ["b", "b", "a", "a"]
    with pytest.raises(PoolExhausted) as refusal:
        await node.assign(pod("more", pools=("b", "a")))
    assert set(refusal.value.reasons) == {"a", "b"}


async def test_a_pools_selectors_are_the_nodes_and_the_namespaces(cluster):
    cluster.pool("here", "10.2.0.0/24", nodeSelector="rack == 'r1'", namespaceSelector="team == 'blue'")
    node = cluster.node(selects=lambda pool: pool.node_selector != "")
    assert (await node.assign(pod("a", selects=lambda pool: True))).addresses[0].pool == "here"
    with pytest.raises(PoolExhausted) as refusal:
        await node.assign(pod("b", selects=lambda pool: pool.namespace_selector == ""))
    assert set(refusal.value.reasons.values()) == {PoolRefusal.NOT_SELECTED}


async def test_a_block_that_is_reserved_as_a_whole_is_not_claimed(cluster):
    cluster.pool("wide", "10.16.0.0/12")
    cluster.reserve("10.16.0.0/13", "10.24.0.0/14", "10.28.0.0/15", "10.31.0.0/16")
    got = await cluster.node().assign(pod("a", pools=("wide",)))
    assert parse_prefix("10.30.0.0/16").covers(got.addresses[0].block)
    cluster.reserve("10.16.0.0/12")
    with pytest.raises(PoolExhausted):
        await cluster.node("n2").assign(pod("b", pools=("wide",)))
    assert texts(await cluster.node("n2").assign(pod("c", addresses=["10.16.0.9"]))) == ["10.16.0.9"]


async def test_the_settings_that_people_apply_count_where_calicos_own_do_not_exist(cluster):
    spec = {"strictAffinity": True, "autoAllocateBlocks": True, "maxBlocksPerHost": 1, "ipCooldownSeconds": 60}
    cluster.write(CONFIGURATION_KEY, json.dumps({"spec": spec}).encode())
    node = cluster.node()
    await asyncio.gather(*(node.assign(pod(f"p{number}")) for number in range(64)))
    with pytest.raises(PoolExhausted) as refusal:
        await node.assign(pod("more"))
    assert refusal.value.reasons == {"default": PoolRefusal.BLOCK_LIMIT}
    await node.release("p0")
    with pytest.raises(PoolExhausted):
        await node.assign(pod("more"))
    cluster.config(max_blocks=2)
    for change in cluster.store.log:
        node.observe(change.key, change.value, change.mod_revision)
    assert await node.assign(pod("more"))


async def test_both_families_come_together_and_go_together(cluster):
    cluster.pool("six", "fd00::/64")
    got = await cluster.node().assign(pod("a", v6=1))
    assert [each.block.version for each in got.addresses] == [4, 6]
    assert cluster.handle("a") == {str(each.block): 1 for each in got.addresses}
    writes = [change for change in cluster.store.log if "/ipam/" in change.key]
    assert len({change.mod_revision for change in writes}) == 1
    receipt = await cluster.node("n2").release("a")
    assert len(receipt.released) == 2
    assert cluster.keys("/handle/") == []


async def test_what_is_recorded_of_a_pods_address_is_calicos(cluster):
    now = datetime(2026, 8, 22, 6, 33, 20, 5, tzinfo=UTC)
    owner = pod_owner("n1", "web", "shop-0", now)
    got = await cluster.node().assign(Request(pod_handle("k8s-pod-network", "c1"), owner, v4=1))
    block = json.loads(cluster.read(block_key(got.addresses[0].block)))
    assert block["attributes"] == [
        {
            "handle_id": "k8s-pod-network.c1",
            "secondary": {
                "namespace": "web",
                "node": "n1",
                "pod": "shop-0",
                "timestamp": "2026-08-22 06:33:20.000005 +0000 UTC",
            },
        }
    ]
    assert block["affinity"] == "host:n1"
    assert block["sequenceNumberForAllocation"] == {"0": got.addresses[0].sequence}
    assert json.loads(cluster.read(handle_key("k8s-pod-network.c1"))) == {
        "block": {str(got.addresses[0].block): 1},
        "deleted": False,
    }


async def test_who_is_overtaken_again_and_again_pauses_at_random_and_says_where(cluster):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    node = cluster.node()
    node._sleep = sleep
    await node.assign(pod("first"))
    apply = cluster.store.apply

    def overtaken(expect, writes):
        key = next(key for key in expect if "/assignment/" in key)
        apply({}, {key: cluster.read(key)})
        return apply(expect, writes)

    cluster.store.apply = overtaken
    with pytest.raises(Conflict, match=r"100 attempts .* at /calico/ipam/v2/assignment/ipv4/block/10\.0\.0"):
        await node.assign(pod("a"))
    assert cluster.handle("a") is None
    assert len(pauses) == 99
    assert max(pauses) <= 0.1
    assert len(set(pauses)) == 99
    cluster.store.apply = apply
    assert await node.assign(pod("a"))
    assert cluster.audit().is_clean
