"""Learned routes by the kind, against a kernel in memory: whatever happened, what is there is what is wanted."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felixpy.addresses import Prefix, parse_address, parse_prefix
from felixpy.agent.routing.route_reconciler import Lead, RouteReconciler
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_LEARNED,
    Drop,
    Hop,
    Key,
    NextHop,
    Outcome,
    Put,
    Route,
    Seen,
)
from tests.fakes.kernel import FakeKernel

PREFIXES = [parse_prefix(text) for text in ("10.1.0.0/24", "10.1.0.7/32", "10.1.0.8/32", "fd00::/64", "fd00::7/128")]
GATEWAY = Hop(parse_address("192.0.2.2"), "eth0")
NUMBERS = (0x4000_0001, 0x4000_0002)
HOPS = {number: NextHop(number, GATEWAY.gateway, "eth0") for number in NUMBERS}
LEADS = st.builds(Lead, st.sampled_from([*NUMBERS, (GATEWAY,), (GATEWAY, Hop(GATEWAY.gateway, "eth1"))]),
                  st.sampled_from([100, 1024]))  # fmt: skip
FOREIGN = Route(parse_prefix("10.1.0.7/32"), 3, device="eth0", metric=7)


class Kernel(FakeKernel):
    """The kernel in memory, with the short ways; `messages` counts what went by them, `late` is yet to be told."""

    def __init__(self) -> None:
        super().__init__(("eth0", "eth1"), (ROUTE_PROTOCOL_LEARNED,))
        self.messages = 0
        self.late: list[Outcome] = []

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        keys = set(wanted)
        objects = super().read().objects
        return Seen({key: one for key, one in objects.items() if isinstance(one, NextHop) or key in keys})

    def read_alike(self) -> Iterator[tuple[Prefix, Route]]:
        for one in self.routes().values():
            yield one.destination, replace(one, destination=PREFIXES[3 if one.destination.version == 6 else 0])

    def put_alike(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        assert len({(prefix.length, len(prefix.address)) for prefix in destinations}) == 1
        self.messages += len(destinations)
        outcomes = self.apply([Put(replace(example, destination=prefix)) for prefix in destinations])
        return {at: outcome for at, outcome in enumerate(outcomes) if outcome.error}

    def put_ahead(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        self.late += self.put_alike(example, destinations).values()
        return {}

    def tell(self) -> list[Outcome]:
        late, self.late = self.late, []
        return late

    def drop_alike(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        self.messages += len(destinations)
        routes = [replace(example, destination=prefix) for prefix in destinations]
        outcomes = self.apply([Drop(route.key, route) for route in routes])
        return {at: outcome for at, outcome in enumerate(outcomes) if outcome.error}

    def routes(self) -> dict[Key, Route]:
        return {key: one for key, one in super().read().objects.items() if isinstance(one, Route)}

    def take_away(self, prefix: Prefix) -> None:
        for route in [one for one in self.routes().values() if one.destination == prefix]:
            self.apply([Drop(route.key, route)])


STEPS = st.one_of(
    st.tuples(st.just("put"), st.dictionaries(st.sampled_from(PREFIXES), LEADS, min_size=1)),
    st.tuples(st.just("drop"), st.lists(st.sampled_from(PREFIXES), min_size=1)),
    st.tuples(st.just("taken"), st.sampled_from(PREFIXES)),
    st.tuples(st.just("flushed"), st.booleans()),
    st.tuples(st.just("refused"), st.sampled_from(PREFIXES)),
    st.tuples(st.just("silent"), st.none()),
    st.tuples(st.just("told"), st.none()),
    st.tuples(st.just("applied"), st.none()),
    st.tuples(st.just("restart"), st.booleans()),
)


def fresh(kernel: Kernel, routes: Mapping[Prefix, Lead], prune: bool = True) -> RouteReconciler:
    made = RouteReconciler(kernel)
    made.want(Changes({one.key: one for one in HOPS.values()}), routes)
    made.distrust(prune)
    return made


@given(st.lists(STEPS, max_size=12))
def test_what_is_there_is_what_is_wanted_whatever_happened(steps: list[tuple[str, object]]) -> None:
    kernel, wanted = Kernel(), dict[Prefix, Lead]()
    kernel.objects[FOREIGN.key] = FOREIGN
    routes = fresh(kernel, {})
    for verb, subject in steps:
        if verb == "put":
            wanted.update(subject)  # type: ignore[call-overload]
            routes.want(Changes(), subject)  # type: ignore[arg-type]
        elif verb == "drop":
            for prefix in subject:  # type: ignore[attr-defined]
                wanted.pop(prefix, None)
            routes.want(Changes(), {}, subject)  # type: ignore[arg-type]
        elif verb == "taken" and subject in wanted:
            kernel.take_away(subject)  # type: ignore[arg-type]
            routes.touch(wanted[subject].route(subject).key)  # type: ignore[index, arg-type]
        elif verb == "flushed":
            for prefix in PREFIXES:
                kernel.take_away(prefix)
            routes.distrust(prune=bool(subject))
        elif verb == "refused":
            kernel.refuse = {
                lead.route(prefix).key: errno.EINVAL for prefix, lead in wanted.items() if prefix == subject
            }
            routes.apply()
            kernel.refuse = {}
            routes.retry()
        elif verb == "told":
            routes.note_refused(kernel.tell())
        elif verb == "silent":
            kernel.unreachable = True
            try:
                routes.apply()
            except OSError:
                kernel.unreachable = False
            kernel.unreachable = False
        elif verb == "applied":
            routes.apply()
        elif verb == "restart":
            routes.apply()
            routes = fresh(kernel, wanted, bool(subject))
    routes.apply()
    routes.note_refused(kernel.tell())
    routes.retry()
    routes.prune()
    routes.apply()
    assert kernel.routes() == {one.key: one for prefix, lead in wanted.items() for one in [lead.route(prefix)]}
    assert kernel.objects[FOREIGN.key] == FOREIGN
    assert not routes.failed
    assert routes.installed == len(wanted)
    kernel.messages = 0
    again = fresh(kernel, wanted)
    again.apply()
    assert kernel.messages == 0, "what is right is not touched"


def test_what_was_refused_is_named_and_the_rest_is_put() -> None:
    kernel = Kernel()
    routes = fresh(kernel, {prefix: Lead(NUMBERS[0]) for prefix in PREFIXES})
    bad = Lead(NUMBERS[0]).route(PREFIXES[1]).key
    kernel.refuse = {bad: errno.EINVAL}
    assert not routes.apply().failed
    report = routes.note_refused(kernel.tell())
    assert [outcome.op for outcome in report.failed] == [Put(Lead(NUMBERS[0]).route(PREFIXES[1]))]
    assert set(routes.failed) == {bad}
    assert routes.why_failed(PREFIXES[1])
    assert (routes.installed, len(kernel.routes())) == (4, 4)
    kernel.refuse = {}
    assert routes.apply().applied == 0
    assert routes.retry({bad})
    assert routes.apply().applied == 1
    assert not routes.failed


@pytest.mark.parametrize("then", [{}, {PREFIXES[0]: Lead(NUMBERS[1])}], ids=["dropped", "wanted again"])
def test_what_stands_where_a_change_was_refused_late_is_not_forgotten(then: Mapping[Prefix, Lead]) -> None:
    kernel = Kernel()
    routes = fresh(kernel, {PREFIXES[0]: Lead(NUMBERS[0])})
    routes.apply()
    routes.want(Changes(), {PREFIXES[0]: Lead(NUMBERS[1])})
    kernel.refuse = {Lead(NUMBERS[1]).route(PREFIXES[0]).key: errno.EINVAL}
    routes.apply()
    kernel.refuse = {}
    routes.want(Changes(), {PREFIXES[0]: Lead(NUMBERS[0])})
    assert not routes.note_refused(kernel.tell()).failed, "it is wanted otherwise by now"
    routes.want(Changes(), then, () if then else PREFIXES[:1])
    routes.apply()
    assert {one.nexthop_id for one in kernel.routes().values()} == {lead.target for lead in then.values()}


def test_leftovers_stay_until_they_may_go_and_a_right_one_is_not_put_again() -> None:
    kernel = Kernel()
    fresh(kernel, {prefix: Lead(NUMBERS[0]) for prefix in PREFIXES}).apply()
    routes = fresh(kernel, {PREFIXES[0]: Lead(NUMBERS[0])}, prune=False)
    kernel.messages = 0
    routes.apply()
    assert (kernel.messages, len(kernel.routes())) == (0, 5)
    routes.want(Changes(), {PREFIXES[1]: Lead(NUMBERS[0]), PREFIXES[2]: Lead(NUMBERS[0], 100)})
    routes.apply()
    assert kernel.messages == 2, "one with another metric: put, and the old one dropped"
    routes.prune()
    routes.apply()
    assert {route.destination for route in kernel.routes().values()} == set(PREFIXES[:3])


def test_a_nexthop_goes_after_the_routes_that_named_it() -> None:
    kernel = Kernel()
    routes = fresh(kernel, {prefix: Lead(NUMBERS[0]) for prefix in PREFIXES[:3]})
    routes.apply()
    changes = Changes({HOPS[NUMBERS[0]].key: None})
    routes.want(changes, dict.fromkeys(PREFIXES[:3], Lead(NUMBERS[1])))
    routes.apply()
    assert {route.nexthop_id for route in kernel.routes().values()} == {NUMBERS[1]}
    assert len(kernel.routes()) == 3
    assert HOPS[NUMBERS[0]].key not in kernel.objects
