"""Learned paths to routes, event by event and from scratch."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdpy.addresses import Prefix, parse_address, parse_prefix
from birdpy.fib import (
    LOCAL_PREF_TOP,
    Fib,
    LearnedRoute,
    Path,
    PathEvent,
    PathGone,
    PathPut,
    PathSet,
    Phase,
    RouteFilter,
    Source,
    choose_route,
    derive_routes,
)

BLOCK = parse_prefix("10.64.1.0/26")
OTHER = parse_prefix("10.64.2.0/26")
N2, N3 = parse_address("10.0.0.2"), parse_address("10.0.0.3")
FROM_2, FROM_3, OWN = Source("10.0.0.2"), Source("10.0.0.3"), Source("")
ANY = RouteFilter()


def live(*events: PathEvent, route_filter: RouteFilter = ANY) -> Fib:
    fib = Fib(route_filter)
    fib.resync()
    fib.update(events)
    fib.sweep()
    return fib


def test_a_path_becomes_a_route() -> None:
    assert choose_route(BLOCK, {FROM_2: Path(N2)}, ANY) == LearnedRoute((N2,), 1024)


def test_equal_paths_share() -> None:
    assert choose_route(BLOCK, {FROM_3: Path(N3), FROM_2: Path(N2)}, ANY) == LearnedRoute((N2, N3), 1024)


def test_our_own_path_means_no_route() -> None:
    assert choose_route(BLOCK, {FROM_2: Path(N2), OWN: Path(bytes(4))}, ANY) is None


def test_a_high_local_pref_carries_a_metric() -> None:
    assert choose_route(BLOCK, {FROM_2: Path(N2, LOCAL_PREF_TOP - 512)}, ANY) == LearnedRoute((N2,), 512)


@pytest.mark.parametrize(
    ("local_pref", "metric"),
    [
        (LOCAL_PREF_TOP - 499, 499),
        (LOCAL_PREF_TOP - 500, 500),
        (LOCAL_PREF_TOP - 1024, 500),
        (100, 500),
        (LOCAL_PREF_TOP, 500),
        (LOCAL_PREF_TOP + 1, 500),
        ((1 << 32) - 1, 500),
    ],
)
def test_the_normal_metric_is_given_and_only_a_lower_one_comes_before_it(local_pref: int, metric: int) -> None:
    four = RouteFilter(metrics=(500, 700))
    for paths in ({FROM_2: Path(N2, local_pref)}, {FROM_2: Path(N2, local_pref), FROM_3: Path(N3, local_pref)}):
        route = choose_route(BLOCK, paths, four)
        assert route is not None
        assert route.metric == metric
    assert choose_route(parse_prefix("fd00::/64"), {FROM_2: Path(N2)}, four) == LearnedRoute((N2,), 700)


def test_long_lived_stale_paths_yield_to_fresh_ones_only() -> None:
    stale = Path(N2, long_lived_stale=True)
    assert choose_route(BLOCK, {FROM_2: stale, FROM_3: Path(N3)}, ANY) == LearnedRoute((N3,))
    assert choose_route(BLOCK, {FROM_2: stale}, ANY) == LearnedRoute((N2,))


def test_what_stays_out() -> None:
    own = RouteFilter(frozenset({BLOCK}), frozenset({N2}), (parse_prefix("172.25.0.0/16"),))
    elsewhere = {FROM_3: Path(N3)}
    assert choose_route(BLOCK, elsewhere, own) is None
    assert choose_route(parse_prefix("172.25.1.1"), elsewhere, own) is None
    assert choose_route(OTHER, {FROM_2: Path(N2)}, own) is None
    assert choose_route(OTHER, {FROM_3: Path(bytes(4))}, own) is None
    assert choose_route(parse_prefix("10.64.1.7"), elsewhere, own) is not None


def test_a_default_route_comes_after_those_that_the_host_has_of_its_own() -> None:
    some = RouteFilter(metrics=(1024, 2048))
    for text, metric in (("0.0.0.0/0", 1025), ("::/0", 2049)):
        assert choose_route(parse_prefix(text), {FROM_3: Path(N3)}, some) == LearnedRoute((N3,), metric)


def test_a_lost_path_leaves_the_others() -> None:
    fib = live(PathPut((BLOCK,), FROM_2, Path(N2)), PathPut((BLOCK,), FROM_3, Path(N3)))
    assert fib.update([PathGone(BLOCK, FROM_2)]).put == {BLOCK: LearnedRoute((N3,))}
    assert fib.update([PathGone(BLOCK, FROM_3)]).drop == {BLOCK}


def test_prefixes_that_are_alike_stay_so_and_share_what_is_known_of_them() -> None:
    many = [Prefix(bytes([10, 0, number >> 8, number & 255]), 32) for number in range(600)]
    fib = live(PathPut(many, FROM_2, Path(N2)), PathPut(many[:400], FROM_3, Path(N3)))

    def kinds() -> list[int]:
        """How many prefixes share each value."""
        return sorted(Counter(id(paths) for paths in fib.paths.values()).values())

    assert kinds() == [200, 400]
    fib.update([PathGone(prefix, FROM_2) for prefix in many[100:500]])
    assert kinds() == [100, 100, 300]
    assert {fib.routes[prefix].next_hops for prefix in many[100:400]} == {(N3,)}


def test_nothing_new_is_no_delta() -> None:
    fib = live(PathPut((BLOCK,), FROM_2, Path(N2)))
    delta = fib.update([PathPut((BLOCK,), FROM_2, Path(N2))])
    assert (delta.put, delta.drop) == ({}, frozenset())


def test_absence_of_gobgpd_drops_nothing_until_the_sweep() -> None:
    fib = live(PathPut((BLOCK,), FROM_2, Path(N2)), PathPut((OTHER,), FROM_2, Path(N2)))
    fib.freeze()
    fib.resync()
    confirmed = fib.update([PathPut((BLOCK,), FROM_2, Path(N2))])
    assert (confirmed.put, confirmed.drop, confirmed.complete) == ({}, frozenset(), False)
    assert set(fib.routes) == {BLOCK, OTHER}
    assert fib.sweep().drop == {OTHER}
    assert fib.phase is Phase.LIVE


def test_a_withdrawal_while_resyncing_counts() -> None:
    fib = live(PathPut((BLOCK,), FROM_2, Path(N2)))
    fib.resync()
    assert fib.update([PathGone(BLOCK, FROM_2)]).drop == {BLOCK}


def test_a_new_own_block_drops_the_learned_route() -> None:
    fib = live(PathPut((BLOCK,), FROM_2, Path(N2)))
    assert fib.set_filter(RouteFilter(frozenset({BLOCK}))).drop == {BLOCK}


PREFIXES = st.sampled_from([BLOCK, OTHER, parse_prefix("0.0.0.0/0"), parse_prefix("fd00::/64")])
SOURCES = st.sampled_from([FROM_2, FROM_3, OWN, Source("10.0.0.2", 7)])
PATHS = st.builds(Path, st.sampled_from([N2, N3, bytes(4)]), st.sampled_from([100, LOCAL_PREF_TOP - 1]), st.booleans())
EVENTS = st.one_of(
    st.builds(PathPut, st.lists(PREFIXES, max_size=3), SOURCES, PATHS),
    st.builds(PathGone, PREFIXES, SOURCES),
    st.builds(PathSet, PREFIXES, st.dictionaries(SOURCES, PATHS, max_size=3)),
)
FILTERS = st.builds(RouteFilter, st.frozensets(PREFIXES, max_size=2), st.frozensets(st.just(N3)))
STEPS = st.lists(st.one_of(st.lists(EVENTS, max_size=4), FILTERS, st.sampled_from(["resync", "freeze", "sweep"])))


@given(STEPS)
def test_incremental_equals_from_scratch(steps: list[list[PathEvent] | RouteFilter | str]) -> None:
    fib = Fib()
    kernel: dict[Prefix, LearnedRoute] = {}
    for step in steps:
        if step in ("resync", "freeze"):
            fib.resync() if step == "resync" else fib.freeze()
            continue
        if isinstance(step, list):
            delta = fib.update(step)
        else:
            delta = fib.set_filter(step) if isinstance(step, RouteFilter) else fib.sweep()
        kernel.update(delta.put)
        for prefix in delta.drop:
            del kernel[prefix]
        expected = derive_routes(fib.paths, fib.route_filter)
        assert {prefix: route for prefix, route in kernel.items() if prefix not in fib.unconfirmed} == expected
        assert kernel == fib.routes
