"""Whose route has a place in the kernel: of one destination and metric there is one, and theirs is left alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from felixpy.addresses import Prefix, parse_prefix
from felixpy.agent.routing.places import TakenPlaces
from felixpy.agent.routing.route_reconciler import Lead
from felixpy.dataplane.objects import Route

PREFIXES = [parse_prefix(text) for text in ("198.51.100.0/24", "0.0.0.0/0", "2001:db8:1::/48")]
ROUTES = st.builds(
    lambda to, metric, table: Route(to, 4, metric=metric, table=table),
    st.sampled_from(PREFIXES),
    st.integers(1022, 1027),
    st.sampled_from([254, 254, 250]),
)
METRICS = st.dictionaries(st.sampled_from(PREFIXES), st.integers(1022, 1026))


@given(st.lists(st.tuples(ROUTES, st.booleans())), METRICS)
def test_ours_come_at_the_next_place_that_is_free_whatever_happened_before(
    history: list[tuple[Route, bool]], metrics: dict[Prefix, int]
) -> None:
    followed, there = TakenPlaces(), dict[object, Route]()
    for route, gone in history:
        news = followed.note(route.key, gone)
        known = route.key in there and route.table == 254
        assert (news is not None) is (route.table == 254 and known is gone)
        there.pop(route.key, None)
        if not gone:
            there[route.key] = route
    read = TakenPlaces()
    read.reset((one.destination, one.key) for one in there.values())
    assert read.destinations == followed.destinations
    wanted = {to: Lead(7, metric) for to, metric in metrics.items()}
    ours, again = dict(wanted), dict(wanted)
    followed.give_way(ours)
    read.give_way(again)
    assert ours == again
    for to, lead in ours.items():
        taken = {one.key.id[3] for one in there.values() if one.table == 254 and one.destination == to}
        assert lead.metric not in taken
        assert set(range(metrics[to], lead.metric)) <= taken
