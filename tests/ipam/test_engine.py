"""The allocator over the twin: what it gives, what it writes, how it says no, and how little it asks."""

import asyncio

import pytest

from ipam.addresses import parse_prefix
from ipam.block import Release, ReleaseRefusal
from ipam.choose import PoolRefusal
from ipam.model import LOAD_BALANCER, Use, affinity_key, block_key, handle_key, node_owner
from ipam.request import (
    AddressRefusal,
    AddressRefused,
    BlockInUse,
    ExpectationFailed,
    PoolExhausted,
    Tunnel,
    Unreadable,
    Write,
    tunnel_request,
)
from ipam.store import Fault, StoreFailure
from tests.ipam.cluster import pod, texts


async def fill(node, count, name="f"):
    return await asyncio.gather(*(node.assign(pod(f"{name}{number}")) for number in range(count)))


async def test_an_assignment_writes_block_claim_and_handle_at_one_revision(cluster):
    await cluster.node().assign(pod("a"))
    revisions = {found.mod_revision for key, found in cluster.store.values.items() if "/ipam/" in key}
    assert len(cluster.keys("/ipam/")) == 3
    assert len(revisions) == 1
    assert cluster.audit().is_clean


async def test_the_usual_assignment_is_one_transaction_and_no_read(cluster):
    node = cluster.node()
    await node.assign(pod("a"))
    reads = cluster.store.reads, cluster.store.commits
    await node.assign(pod("b"))
    assert (cluster.store.reads, cluster.store.commits) == (reads[0], reads[1] + 1)


async def test_assignments_at_once_share_a_transaction(cluster):
    node = cluster.node()
    await node.load()
    got = await fill(node, 60)
    assert len({texts(each)[0] for each in got}) == 60
    assert cluster.store.commits <= 2
    assert cluster.audit().is_clean


async def test_a_handle_is_given_the_same_again(cluster):
    first = await cluster.node().assign(pod("a"))
    again = await cluster.node().assign(pod("a"))
    assert again.repeated
    assert again.addresses == first.addresses
    assert cluster.handle("a") == {str(first.addresses[0].block): 1}


async def test_a_handle_asked_for_twice_at_once_holds_one_address(cluster):
    node = cluster.node()
    got = await asyncio.gather(node.assign(pod("a")), node.assign(pod("a")))
    assert texts(got[0]) == texts(got[1])
    assert sum(cluster.handle("a").values()) == 1


async def test_both_families_or_neither(cluster):
    with pytest.raises(PoolExhausted) as refusal:
        await cluster.node().assign(pod("a", v6=1))
    assert refusal.value.version == 6
    assert cluster.keys("/ipam/") == []
    cluster.pool("six", "fd00::/64")
    got = await cluster.node().assign(pod("a", v6=1))
    assert [each.pool for each in got.addresses] == ["default", "six"]


async def test_a_refusal_does_not_hold_back_the_others_in_its_transaction(cluster):
    node = cluster.node()
    results = await asyncio.gather(
        node.assign(pod("a")), node.assign(pod("b", v6=1)), node.assign(pod("c")), return_exceptions=True
    )
    assert isinstance(results[1], PoolExhausted)
    assert cluster.handle("a") == cluster.handle("c")
    assert cluster.handle("b") is None
    assert cluster.audit().is_clean


async def test_a_release_leaves_the_block_to_its_owner(cluster):
    node = cluster.node()
    got = await node.assign(pod("a"))
    receipt = await node.release("a")
    assert receipt.released == (got.addresses[0].address,)
    assert cluster.handle("a") is None
    assert cluster.block(str(got.addresses[0].block)).is_empty
    assert cluster.audit().is_clean


async def test_a_release_of_nothing_is_done(cluster):
    assert (await cluster.node().release("never")).released == ()


async def test_a_stale_release_of_an_address_that_was_given_anew_is_refused(cluster):
    node = cluster.node()
    cluster.pool("tiny", "10.9.0.0/32", blockSize=32)
    first = (await node.assign(pod("a", pools=("tiny",)))).addresses[0]
    await node.release("a")
    await node.assign(pod("a", pools=("tiny",)))
    receipt = await node.release_addresses([Release(first.address, "a", first.sequence)])
    assert receipt.refused == {first.address: ReleaseRefusal.OTHER_ALLOCATION}
    assert sum(cluster.handle("a").values()) == 1


async def test_an_address_is_released_by_a_node_that_knows_nothing_of_its_block(cluster):
    got = await cluster.node("n1").assign(pod("a", v4=2))
    address = got.addresses[0].address
    receipt = await cluster.node("n2").release_addresses([Release(address)])
    assert receipt.released == (address,)
    assert sum(cluster.handle("a").values()) == 1
    assert cluster.audit().is_clean


async def test_nodes_have_blocks_of_their_own(cluster):
    got = [await cluster.node(f"n{number}").assign(pod(f"p{number}")) for number in range(4)]
    assert len({each.addresses[0].block for each in got}) == 4
    assert cluster.audit().is_clean


async def test_a_full_pool_says_why_per_pool(cluster):
    cluster.pool("off", "10.1.0.0/24", disabled=True)
    cluster.pool("asked", "10.2.0.0/24", assignmentMode="Manual")
    cluster.pool("tunnels", "10.3.0.0/24", allowedUses=["Tunnel"])
    cluster.pool("small", "10.4.0.0/32", blockSize=32)
    node = cluster.node(selects=lambda pool: pool.name != "default")
    await node.assign(pod("a"))
    with pytest.raises(PoolExhausted) as refusal:
        await node.assign(pod("b"))
    assert refusal.value.reasons == {
        "off": PoolRefusal.DISABLED,
        "asked": PoolRefusal.ON_REQUEST,
        "tunnels": PoolRefusal.OTHER_USE,
        "default": PoolRefusal.NOT_SELECTED,
        "small": PoolRefusal.NO_FREE_BLOCK,
    }


async def test_a_pool_that_is_named_is_used_whatever_its_selectors(cluster):
    cluster.pool("asked", "10.2.0.0/24", assignmentMode="Manual")
    node = cluster.node(selects=lambda pool: False)
    assert (await node.assign(pod("a", pools=("asked",)))).addresses[0].pool == "asked"
    assert (await node.assign(pod("b", pools=("10.2.0.0/24",)))).addresses[0].pool == "asked"


async def test_a_pool_disabled_a_moment_ago_gives_nothing(cluster):
    node = cluster.node()
    await node.assign(pod("a"))
    cluster.pool(disabled=True)
    with pytest.raises(PoolExhausted) as refusal:
        await node.assign(pod("b"))
    assert refusal.value.reasons == {"default": PoolRefusal.DISABLED}


async def test_a_full_cluster_borrows(cluster):
    await fill(cluster.node("n1"), 193)
    got = await cluster.node("n2").assign(pod("b", v4=63))
    assert all(each.borrowed for each in got.addresses)
    assert cluster.audit().is_clean


async def test_every_address_of_a_pool_can_be_had_and_not_one_more(cluster):
    nodes = [cluster.node(f"n{number}") for number in range(3)]
    got = [await nodes[number % 3].assign(pod(f"p{number}")) for number in range(256)]
    assert len({texts(each)[0] for each in got}) == 256
    with pytest.raises(PoolExhausted):
        await nodes[0].assign(pod("more"))
    assert cluster.audit().is_clean


async def test_strict_affinity_does_not_borrow(cluster):
    cluster.config(strict_affinity=True)
    for number in range(4):
        await cluster.node(f"n{number}").assign(pod(f"p{number}"))
    with pytest.raises(PoolExhausted) as refusal:
        await cluster.node("n5").assign(pod("b"))
    assert refusal.value.reasons == {"default": PoolRefusal.STRICT_AFFINITY}


async def test_an_owner_has_as_many_blocks_as_it_may(cluster):
    cluster.config(max_blocks=1)
    node = cluster.node()
    await fill(node, 64)
    with pytest.raises(PoolExhausted) as refusal:
        await node.assign(pod("b"))
    assert refusal.value.reasons == {"default": PoolRefusal.BLOCK_LIMIT}


async def test_blocks_are_not_claimed_where_that_is_off(cluster):
    cluster.config(auto_allocate_blocks=False)
    with pytest.raises(PoolExhausted) as refusal:
        await cluster.node().assign(pod("b"))
    assert refusal.value.reasons == {"default": PoolRefusal.NO_NEW_BLOCKS}
    node = cluster.node()
    await node.claim(parse_prefix("10.0.0.64/26"))
    assert str((await node.assign(pod("b"))).addresses[0].block) == "10.0.0.64/26"


async def test_reserved_addresses_are_given_only_when_asked_for(cluster):
    cluster.pool("small", "10.1.0.0/29", blockSize=29)
    cluster.reserve("10.1.0.0/30")
    node = cluster.node()
    got = await node.assign(pod("a", v4=4, pools=("small",)))
    assert texts(got) == ["10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.7"]
    assert texts(await node.assign(pod("b", addresses=["10.1.0.1"]))) == ["10.1.0.1"]


async def test_a_fixed_address_is_the_very_one_with_the_rest_from_any_pool(cluster):
    cluster.pool("six", "fd00::/64")
    got = await cluster.node().assign(pod("a", v6=1, addresses=["10.0.0.77"]))
    assert texts(got)[0] == "10.0.0.77"
    assert len(got.addresses) == 2
    assert (await cluster.node().assign(pod("a", v6=1, addresses=["10.0.0.77"]))).repeated


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.0.0.1", AddressRefusal.IN_USE),
        ("10.0.0.2", AddressRefusal.COOLING_DOWN),
        ("192.0.2.1", AddressRefusal.NO_POOL),
        ("10.3.0.1", AddressRefusal.OTHER_USE),
        ("10.0.0.70", AddressRefusal.STRICT_AFFINITY),
        ("10.0.0.130", AddressRefusal.OVERLAP),
        ("10.0.0.200", AddressRefusal.UNREADABLE),
    ],
)
async def test_a_fixed_address_that_cannot_be_had_says_why(cluster, address, reason):
    cluster.config(strict_affinity=True, cooldown_s=60)
    cluster.pool("tunnels", "10.3.0.0/24", allowedUses=["Tunnel"])
    node = cluster.node()
    await node.assign(pod("one", addresses=["10.0.0.1"]))
    await node.assign(pod("two", addresses=["10.0.0.2"]))
    await node.release("two")
    await cluster.node("n2").assign(pod("three", addresses=["10.0.0.65"]))
    cluster.write(block_key(parse_prefix("10.0.0.192/26")), b"{}")
    node.observe(block_key(parse_prefix("10.0.0.128/28")), b"{}", 1000)
    with pytest.raises(AddressRefused) as refusal:
        await node.assign(pod("a", addresses=[address]))
    assert refusal.value.reason == reason


async def test_a_released_address_rests_before_it_is_given_again(cluster):
    cluster.pool("tiny", "10.9.0.0/32", blockSize=32)
    cluster.config(cooldown_s=60)
    node = cluster.node()
    await node.assign(pod("a", pools=("tiny",)))
    await node.release("a")
    assert cluster.audit().is_clean
    with pytest.raises(PoolExhausted):
        await node.assign(pod("b", pools=("tiny",)))
    cluster.wait(seconds=61)
    assert texts(await node.assign(pod("b", pools=("tiny",)))) == ["10.9.0.0"]


async def test_an_idle_block_of_another_node_is_taken_over(cluster):
    cluster.pool("tiny", "10.9.0.0/32", blockSize=32)
    n1, n2 = cluster.node("n1"), cluster.node("n2")
    await n1.assign(pod("a", pools=("tiny",)))
    await n1.release("a")
    cluster.wait(seconds=61)
    await n2.assign(pod("b", pools=("tiny",)))
    assert cluster.block("10.9.0.0/32").affinity == "host:n2"
    assert cluster.keys("host/n1") == []
    with pytest.raises(PoolExhausted):
        await n1.assign(pod("a", pools=("tiny",)))
    assert cluster.audit().is_clean


async def test_a_block_claimed_a_moment_ago_is_borrowed_from_not_taken(cluster):
    cluster.pool("tiny", "10.9.0.0/32", blockSize=32)
    n1, n2 = cluster.node("n1"), cluster.node("n2")
    await n1.assign(pod("a", pools=("tiny",)))
    await n1.release("a")
    assert (await n2.assign(pod("b", pools=("tiny",)))).addresses[0].borrowed
    assert cluster.block("10.9.0.0/32").affinity == "host:n1"


async def test_what_the_caller_writes_happens_with_the_address_or_not_at_all(cluster):
    node = cluster.node()

    def endpoint(assignment):
        return [Write("/endpoint/a", texts(assignment)[0].encode(), expect=0)]

    got = await node.assign(pod("a"), also=endpoint)
    assert cluster.read("/endpoint/a") == texts(got)[0].encode()
    with pytest.raises(ExpectationFailed) as refusal:
        await node.assign(pod("b"), also=endpoint)
    assert refusal.value.key == "/endpoint/a"
    assert cluster.handle("b") is None
    await node.release("a", also=[Write("/endpoint/a", None)])
    assert cluster.read("/endpoint/a") is None


async def test_one_callers_failed_expectation_is_not_the_others(cluster):
    node = cluster.node()
    cluster.write("/endpoint/a", b"newer")
    results = await asyncio.gather(
        node.assign(pod("a"), also=lambda _: [Write("/endpoint/a", b"", expect=0)]),
        node.assign(pod("b"), also=lambda _: [Write("/endpoint/b", b"", expect=0)]),
        return_exceptions=True,
    )
    assert isinstance(results[0], ExpectationFailed)
    assert cluster.handle("b") is not None
    assert cluster.read("/endpoint/b") == b""


@pytest.mark.parametrize("fault", list(Fault))
async def test_after_a_commit_with_unknown_outcome_asking_again_is_right(cluster, fault):
    node = cluster.node()
    await node.assign(pod("first"))
    cluster.store.fault = fault
    with pytest.raises(StoreFailure):
        await node.assign(pod("a"))
    got = await node.assign(pod("a"))
    assert got.repeated is (fault is Fault.AFTER)
    assert sum(cluster.handle("a").values()) == 1
    cluster.store.fault = fault
    with pytest.raises(StoreFailure):
        await node.release("a")
    await node.release("a")
    assert cluster.handle("a") is None
    assert cluster.audit().is_clean


async def test_a_block_is_given_up_only_when_empty(cluster):
    node = cluster.node()
    got = await node.assign(pod("a"))
    block = got.addresses[0].block
    with pytest.raises(BlockInUse):
        await node.release_block(block)
    await node.release("a")
    await node.release_block(block)
    assert cluster.keys("/ipam/") == []


async def test_a_removed_nodes_addresses_outlive_its_claim(cluster):
    node = cluster.node("n1")
    got = await node.assign(pod("a"))
    block = got.addresses[0].block
    await cluster.node("n2").release_block(block, node_owner("n1"), only_empty=False)
    assert cluster.block(str(block)).affinity is None
    assert cluster.audit().is_clean
    await node.release("a")
    assert cluster.keys("/ipam/") == []


async def test_claims_that_calico_left_half_made_are_made_good(cluster):
    node = cluster.node()
    got = await node.assign(pod("a"))
    claim = affinity_key(node_owner("n1"), got.addresses[0].block)
    for state in (b"pending", b"pendingDeletion"):
        cluster.write(claim, b'{"state":"%s","deleted":false,"later":1}' % state)
        await node.assign(pod(state.decode()))
        assert cluster.read(claim) == b'{"state":"confirmed","deleted":false,"later":1}'


async def test_a_pending_claim_without_block_is_the_next_block(cluster):
    cidr = parse_prefix("10.0.0.192/26")
    cluster.write(affinity_key(node_owner("n1"), cidr), b'{"state":"pending","deleted":false}')
    got = await cluster.node().assign(pod("a"))
    assert got.addresses[0].block == cidr
    assert cluster.audit().is_clean


async def test_an_orphan_handle_is_counted_anew(cluster):
    cluster.write(handle_key("a"), b'{"block":{"10.0.0.0/26":1,"10.7.0.0/26":3},"deleted":false}')
    got = await cluster.node().assign(pod("a"))
    assert cluster.handle("a") == {str(got.addresses[0].block): 1}
    assert cluster.audit().is_clean


async def test_an_unreadable_key_is_neither_used_nor_overwritten(cluster):
    cluster.write(handle_key("a"), b"nonsense")
    with pytest.raises(Unreadable):
        await cluster.node().assign(pod("a"))
    assert cluster.read(handle_key("a")) == b"nonsense"


async def test_unknown_fields_of_a_block_survive_assignments(cluster):
    node = cluster.node()
    got = await node.assign(pod("a"))
    key = block_key(got.addresses[0].block)
    cluster.write(key, cluster.read(key)[:-1] + b',"later":{"x":[1]}}')
    await node.assign(pod("b"))
    assert cluster.read(key).endswith(b'"deleted":false,"later":{"x":[1]}}')


async def test_what_a_watch_reports_saves_the_retry(cluster):
    n1, n2 = cluster.node("n1"), cluster.node("n2")
    got = await n1.assign(pod("a"))
    await n2.release_addresses([Release(got.addresses[0].address)])
    for change in cluster.store.log:
        n1.observe(change.key, change.value, change.mod_revision)
    await n1.assign(pod("b"))
    assert n1.counters.conflicts == 0


async def test_old_news_is_no_news(cluster):
    node = cluster.node()
    await node.assign(pod("a"))
    await node.assign(pod("b"))
    for change in cluster.store.log:
        node.observe(change.key, change.value, change.mod_revision)
    await node.assign(pod("c"))
    assert node.counters.conflicts == 0


async def test_a_tunnel_has_an_address_of_a_pool_for_tunnels(cluster):
    cluster.pool("tunnels", "10.3.0.0/24", allowedUses=["Tunnel"])
    node = cluster.node()
    got = await node.assign(tunnel_request("n1", Tunnel.VXLAN, pools=("tunnels",)))
    assert got.handle_id == "vxlan-tunnel-addr-n1"
    assert got.addresses[0].pool == "tunnels"
    assert cluster.block(str(got.addresses[0].block)).attributes[0].owner["type"] == "vxlanTunnelAddress"


async def test_service_addresses_belong_to_a_virtual_owner(cluster):
    cluster.pool("vips", "10.5.0.0/24", allowedUses=["LoadBalancer"])
    lb = cluster.node(owner=LOAD_BALANCER)
    got = await lb.assign(pod("lb-1", use=Use.LOAD_BALANCER))
    assert cluster.block(str(got.addresses[0].block)).affinity == "virtual:load-balancer"
    assert len(cluster.keys("/calico/ipam/v2/virtual/load-balancer/ipv4/block/")) == 1
    assert cluster.audit().is_clean


async def test_blocks_of_another_size_are_not_overlapped(cluster):
    node = cluster.node()
    await cluster.node("n2").assign(pod("a", addresses=["10.0.0.1"]))
    cluster.pool(blockSize=28)
    for change in cluster.store.log:
        node.observe(change.key, change.value, change.mod_revision)
    got = await fill(node, 16)
    assert all(parse_prefix("10.0.0.0/26").contains(each.addresses[0].address) is False for each in got)
    assert cluster.audit().is_clean


async def test_a_large_request_takes_several_blocks_at_once(cluster):
    got = await cluster.node().assign(pod("a", v4=130))
    assert len({each.block for each in got.addresses}) == 3
    assert sum(cluster.handle("a").values()) == 130


async def test_repeated_failures_of_the_store_are_not_taken_for_a_lack_of_addresses(cluster):
    node = cluster.node()
    for _ in range(3):
        cluster.store.fault = Fault.BEFORE
        with pytest.raises(StoreFailure):
            await node.assign(pod("a"))
    assert texts(await node.assign(pod("a")))
