"""Other announcements in a speaker's plan: after any sequence as if it had been derived from scratch."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import Prefix, parse_address, parse_prefix
from felixpy.calc.announcing.announce import AnnounceDelta
from felixpy.calc.announcing.announcements import Announcement, Why
from felixpy.calc.bgp.speaker import BgpPlan, derive_bgp, reannounce
from felixpy.resources.bgp_types import BgpFilter, BgpPeer, FilterRule
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table
from felixpy.resources.view import View
from tests.calc.tunnel_world import ME, NODES

PREFIXES = tuple(map(parse_prefix, ("203.0.113.1", "203.0.113.0/24", "192.0.2.0/24", "fd00::1")))
RULE = FilterRule(False, cidr=parse_prefix("203.0.113.0/24"))


def world(*, filtered: bool) -> View:
    """Nodes and a router outside, with a filter of what it may be told or without."""
    filters = ("some",) if filtered else ()
    view = View()
    for change in NODES:
        view.put(*change)
    view.put(Ref(Table.BGP_FILTER, Name("", "some")), BgpFilter(export4=(RULE,)))
    view.put(Ref(Table.BGP_PEER, Name("", "tor")), BgpPeer(parse_address("192.0.2.254"), 179, 65000, filters=filters))
    return view


ANNOUNCED = st.builds(
    Announcement,
    st.sampled_from(PREFIXES),
    st.sampled_from(Why),
    st.sampled_from([None, 50]),
    st.sampled_from([(), ("65000:1",)]),
    st.sampled_from([(), ("tor",), ("nobody",)]),
    endpoints=st.sampled_from([None, 1, 2]),
    prepend=st.sampled_from([0, 0, 2]),
)
CHANGES = st.lists(st.tuples(st.sampled_from(PREFIXES), st.none() | ANNOUNCED), min_size=1, max_size=3)


@pytest.mark.parametrize("filtered", [False, True])
@settings(max_examples=100, deadline=None)
@given(history=st.lists(CHANGES, max_size=8))
def test_after_any_sequence_it_is_the_plan_from_scratch(
    filtered: bool, history: list[list[tuple[Prefix, Announcement | None]]]
) -> None:
    tables = world(filtered=filtered).tables
    announced: dict[Prefix, Announcement] = {}
    before: dict[Prefix, Announcement] = {}
    plan = derive_bgp(tables, ME, ())
    for changes in history:
        puts: dict[Prefix, Announcement] = {}
        drops: set[Prefix] = set()
        for prefix, one in changes:
            if one is None:
                puts.pop(prefix, None)
                if prefix in announced:
                    drops.add(prefix)
            else:
                puts[one.prefix] = one
                drops.discard(one.prefix)
        announced = {prefix: one for prefix, one in announced.items() if prefix not in drops} | puts
        assert isinstance(plan, BgpPlan)
        scratch = derive_bgp(tables, ME, announced.values())
        made = reannounce(plan, AnnounceDelta(puts, frozenset(drops)))
        assert made in (None, scratch)
        assert (
            made is not None or filtered or any(one.peers or one.prepend for one in (*puts.values(), *before.values()))
        )
        before = announced
        plan = made or scratch
