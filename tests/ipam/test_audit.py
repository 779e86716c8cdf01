"""What an audit finds, and what two of them agree to release."""

from datetime import UTC, datetime, timedelta

import pytest

from ipam.addresses import parse_address, parse_prefix
from ipam.audit import GRACE, Problem, derive_releases
from ipam.block import ReleaseRefusal
from ipam.model import affinity_key, block_key, handle_key, node_owner, pool_key
from tests.ipam.cluster import pod, texts

THEN = datetime(2026, 8, 22, tzinfo=UTC)
BLOCK = parse_prefix("10.0.0.0/26")
CLAIM = affinity_key(node_owner("n1"), BLOCK)


def problems(cluster, **live):
    return {finding.problem for finding in cluster.audit(**live).findings}


@pytest.fixture
async def used(cluster):
    """Two pods of n1 in 10.0.0.0/26."""
    node = cluster.node()
    await node.claim(BLOCK)
    await node.assign(pod("a"))
    await node.assign(pod("b"))
    return cluster


def rewrite(cluster, key, find, put):
    assert find in cluster.read(key)
    cluster.write(key, cluster.read(key).replace(find, put))


async def test_what_is_in_order_is_clean(used):
    live = [parse_address("10.0.0.0"), parse_address("10.0.0.1")]
    assert used.audit(live_handles={"a", "b"}, live_addresses=live).is_clean


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda c: c.write(handle_key("a"), None), Problem.NO_HANDLE),
        (lambda c: c.write(handle_key("c"), b'{"block":{"10.0.0.0/26":1}}'), Problem.NO_ADDRESS),
        (lambda c: c.write(handle_key("a"), b'{"block":{"10.0.0.0/26":2}}'), Problem.COUNT_WRONG),
        (lambda c: c.write(pool_key("default"), None), Problem.OUTSIDE_POOLS),
        (lambda c: rewrite(c, block_key(BLOCK), b'"unallocated":[2,3', b'"unallocated":[2'), Problem.LOST),
        (lambda c: c.write(CLAIM, None), Problem.CLAIM_MISSING),
        (lambda c: c.write(CLAIM, b'{"state":"pending"}'), Problem.CLAIM_UNCONFIRMED),
        (lambda c: c.write(CLAIM.replace("n1", "n2"), b'{"state":"confirmed"}'), Problem.CLAIM_STALE),
        (lambda c: c.write(handle_key("x"), b"{"), Problem.UNREADABLE),
    ],
    ids=lambda each: each.name if isinstance(each, Problem) else "",
)
async def test_each_problem_is_found(used, spoil, found):
    spoil(used)
    assert problems(used) == {found}


async def test_an_empty_block_outside_every_pool_is_found(cluster):
    await cluster.node().claim(BLOCK)
    assert problems(cluster) == set()
    cluster.write(pool_key("default"), None)
    assert problems(cluster) == {Problem.EMPTY_OUTSIDE_POOLS}


async def test_overlapping_blocks_are_found(used):
    small = used.read(block_key(BLOCK)).replace(b"10.0.0.0/26", b"10.0.0.0/25")
    doubled = small.replace(b"[0,1,", b"[0,1," + b"null," * 64)
    used.write(block_key(parse_prefix("10.0.0.0/25")), doubled)
    assert Problem.OVERLAP in problems(used)


async def test_an_address_in_use_that_is_not_allocated_is_found(used):
    assert problems(used, live_addresses=[parse_address("10.0.0.9")]) == {Problem.NOT_ALLOCATED}
    assert problems(used, live_addresses=[parse_address("192.0.2.1")]) == set()


async def test_not_knowing_who_is_alive_suspects_nobody(used):
    assert used.audit().suspects == frozenset()


async def test_a_leak_is_released_after_two_looks_far_enough_apart(used):
    first = used.audit(live_handles={"a"})
    second = used.audit(live_handles={"a"})
    assert derive_releases(first, THEN, second, THEN + GRACE - timedelta(seconds=1)) == ()
    releases = derive_releases(first, THEN, second, THEN + GRACE)
    await used.node().release_addresses(releases)
    assert used.handle("b") is None
    assert used.audit(live_handles={"a"}).is_clean


async def test_a_handle_with_one_live_address_is_left_alone(used):
    got = await used.node().assign(pod("c", v4=2))
    assert used.audit(live_handles={"a", "b"}, live_addresses=[got.addresses[0].address]).suspects == frozenset()


async def test_a_handle_that_grew_in_between_is_left_alone(used):
    first = used.audit(live_handles={"a"})
    await used.node().assign(pod("b", v4=2))
    assert derive_releases(first, THEN, used.audit(live_handles={"a"}), THEN + GRACE) == ()


async def test_an_address_that_was_given_anew_survives_the_release(used):
    first = used.audit(live_handles={"a"})
    releases = derive_releases(first, THEN, first, THEN + GRACE)
    node = used.node()
    await node.release("b")
    got = await node.assign(pod("b", addresses=["10.0.0.1"]))
    receipt = await node.release_addresses(releases)
    assert list(receipt.refused.values()) == [ReleaseRefusal.OTHER_ALLOCATION]
    assert texts(got) == ["10.0.0.1"]
    assert used.handle("b") == {"10.0.0.0/26": 1}
