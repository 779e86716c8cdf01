"""The outer prefixes are what merging all members gives, whatever came and went; a change costs what it changes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import Address, Prefix, mask_address
from felixpy.dataplane import cover as module
from felixpy.dataplane.cover import Cover
from felixpy.dataplane.sets import merge_prefixes


def prefix(number: int, length: int) -> Prefix:
    """One of few, which often lie in each other."""
    return Prefix(mask_address(bytes([10, 0, number >> 4, (number & 15) << 4]), length), length)


prefixes = st.builds(prefix, st.integers(0, 63), st.sampled_from((0, 8, 20, 22, 24, 26, 28, 32)))
members = st.frozensets(prefixes.map(lambda one: one.address if one.is_host else one), max_size=12)


@settings(max_examples=400, deadline=None)
@given(st.lists(members, min_size=1, max_size=8), st.sampled_from((0, 16)))
def test_any_history_leads_to_what_merging_gives(states: list[frozenset[Address | Prefix]], at_once: int) -> None:
    module.AT_ONCE, before = at_once, module.AT_ONCE
    try:
        cover = Cover(states[0])
        held = set(cover.outer)
        for old, now in pairwise(states):
            new, gone = cover.change(now - old, old - now)
            assert gone <= held
            assert not new & held
            held = held - gone | new
            assert held == set(cover.outer) == merge_prefixes(now)
    finally:
        module.AT_ONCE = before


def test_a_member_more_of_100_000_is_one_member_more() -> None:
    cover = Cover([Prefix(Address(bytes([10, high, low, 0])), 24) for high in range(255) for low in range(250)])
    inside, outside = Prefix(Address(bytes([10, 3, 3, 64])), 26), Prefix(Address(bytes([11, 0, 0, 0])), 8)
    assert cover.change([inside, outside], []) == ({outside}, set())
    wide = Prefix(Address(bytes([10, 3, 0, 0])), 23)
    new, gone = cover.change([wide], [inside])
    assert new == {wide}
    assert len(gone) == 2
    assert cover.change([], [wide]) == (gone, {wide})
