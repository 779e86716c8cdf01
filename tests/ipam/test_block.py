"""One block: its queue of free addresses, the sequence numbers, and addresses that rest after their release."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from ipam.addresses import parse_prefix
from ipam.block import Release, ReleaseRefusal, assign, collect, free_ordinals, held_by, new_block, release, stamp
from ipam.codec import parse_block, render_block
from ipam.model import node_owner

NOW = datetime(2026, 8, 22, 6, 33, 20, tzinfo=UTC)
CIDR = parse_prefix("10.0.0.0/30")


def a_block(*handles):
    block = new_block(CIDR, node_owner("n1"), NOW)
    for handle in handles:
        block = stamp(assign(block, block.unallocated[0], handle, {"node": "n1"}))
    return block


def give_back(block, *ordinals, cooldown_s=0, now=NOW, **guard):
    return release(block, [Release(CIDR.nth(ordinal), **guard) for ordinal in ordinals], cooldown_s, now)


def test_a_released_address_goes_to_the_end_of_the_queue():
    block = give_back(a_block("a", "b"), 0).block
    assert block.unallocated == (2, 3, 0)
    assert held_by(block, "b") == (1,)
    assert held_by(block, "a") == ()


def test_records_that_nobody_refers_to_are_dropped_and_the_others_renumbered():
    block = give_back(a_block("a", "b", "c"), 0).block
    assert [attribute.handle_id for attribute in block.attributes] == ["b", "c"]
    assert block.allocations == (None, 0, 1, None)


def test_a_release_of_an_earlier_allocation_is_refused():
    block = a_block("a")
    then = block.sequence_of[0]
    block = stamp(give_back(block, 0).block)
    block = stamp(assign(block, 0, "a", {}))
    refused = give_back(block, 0, sequence=then)
    assert refused.refused == {CIDR.nth(0): ReleaseRefusal.OTHER_ALLOCATION}
    assert held_by(refused.block, "a") == (0,)


def test_a_release_by_another_handle_is_refused():
    assert give_back(a_block("a"), 0, handle_id="b").refused == {CIDR.nth(0): ReleaseRefusal.OTHER_HANDLE}


def test_a_release_of_a_free_address_is_done_already():
    block = a_block("a")
    assert give_back(block, 3).refused == {}
    assert give_back(block, 0, 3).by_handle == {"a": 1}


def test_a_handle_that_a_migration_spoilt_is_known_by_its_first_part():
    block = a_block("a\r\neth0")
    assert held_by(block, "a") == (0,)
    assert give_back(block, 0, handle_id="a").by_handle == {"a": 1}


def test_an_address_rests_for_the_cooldown():
    resting = give_back(a_block("a"), 0, cooldown_s=60).block
    assert resting.unallocated == (1, 2, 3)
    assert held_by(resting, "a") == ()
    assert not resting.is_empty
    assert collect(resting, 60, NOW + timedelta(seconds=59)) is resting
    rested = collect(resting, 60, NOW + timedelta(seconds=60))
    assert rested.unallocated == (1, 2, 3, 0)
    assert rested.attributes == ()
    assert rested.is_empty


def test_a_resting_address_is_not_released_twice():
    resting = give_back(a_block("a"), 0, cooldown_s=60).block
    again = give_back(resting, 0, cooldown_s=60, now=NOW + timedelta(seconds=30), handle_id="a")
    assert again.by_handle == {}
    assert collect(again.block, 60, NOW + timedelta(seconds=60)).is_empty


def test_reserved_addresses_are_passed_over():
    reserved = parse_prefix("10.0.0.0/31").contains
    assert tuple(free_ordinals(a_block(), reserved)) == (2, 3)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans(), st.integers(0, 2))))
def test_any_history_keeps_every_address_in_exactly_one_place(history):
    block, now = a_block(), NOW
    for handle, ordinal, giving, minutes in history:
        now += timedelta(minutes=minutes)
        block = collect(block, 60, now)
        if giving:
            block = give_back(block, ordinal, cooldown_s=60, now=now).block
        elif ordinal in block.unallocated:
            block = assign(block, ordinal, handle, {})
        block = stamp(block)
    assert parse_block(render_block(block)).allocations == block.allocations
    held = {ordinal for ordinal, index in enumerate(block.allocations) if index is not None}
    assert sorted([*held, *block.unallocated]) == [0, 1, 2, 3]
    assert set(block.sequence_of) == held
