"""Nexthop objects of learned routes: which there are at any time, and what the kernel does with them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdpy.addresses import Prefix, parse_prefix
from birdpy.fib import LearnedRoute, RouteDelta
from felixpy.addresses import Address, parse_address
from felixpy.addresses import parse_prefix as parse_felix_prefix
from felixpy.agent.routing.learned import LearnedTable
from felixpy.agent.routing.learned_driver import LearnedRoutes
from felixpy.agent.routing.next_hops import HopSet, NextHops
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.objects import ROUTE_PROTOCOL_LEARNED, Key, Object, Route
from felixpy.drivers.netlink.lookup import Outlet
from felixpy.drivers.netlink.monitor import watch_kernel
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.drivers.netlink.socket import in_namespace
from tests.support.netns import Namespace, link_namespaces
from tests.support.wait import eventually_async

A, B, C, D = (parse_address(f"192.0.2.{number}") for number in (2, 3, 4, 5))
HOPS = st.sampled_from([(A,), (B,), (A, B), (A, C), (A, B, C), (D,)])
WAYS = st.dictionaries(st.sampled_from([A, B, C]), st.sampled_from([Outlet("eth0"), Outlet("eth1", D)]))
LOST = st.frozensets(st.sampled_from([A, B, C]), max_size=2)
STEPS = st.one_of(
    st.tuples(st.just("take"), HOPS),
    st.tuples(st.just("leave"), HOPS),
    st.tuples(st.just("ways"), WAYS),
    st.tuples(st.just("lose"), LOST),
)


def after(changes: Changes, objects: dict[Key, Object]) -> dict[Key, Object]:
    for key, one in changes.objects.items():
        objects.pop(key, None)
        if one is not None:
            objects[key] = one
    return objects


@given(st.lists(STEPS, max_size=25))
def test_what_there_is_depends_on_who_uses_what_only(steps: list[tuple[str, Any]]) -> None:
    hops, objects = NextHops(), dict[Key, Object]()
    used: Counter[HopSet] = Counter()
    ways: dict[Address, Outlet] = {}
    lost: frozenset[bytes] = frozenset()
    for verb, subject in steps:
        changes = Changes()
        if verb == "take":
            hops.take(subject, changes)
            used[subject] += 1
        elif verb == "leave" and used[subject]:
            hops.leave(subject, changes)
            used[subject] -= 1
        elif verb == "ways":
            hops.resolve(subject, changes)
            ways.update(subject)
        elif verb == "lose":
            hops.lose(subject, changes)
            lost = subject
        after(changes, objects)
        changes = Changes()
        hops.resolve({hop: ways[hop] for hop in hops.unknown(list(+used)) & ways.keys()}, changes)
        after(changes, objects)
    assert objects == from_scratch(+used, ways, lost)


def from_scratch(used: Counter[HopSet], ways: Mapping[Address, Outlet], lost: frozenset[bytes]) -> dict[Key, Object]:
    fresh, changes = NextHops(lost=lost), Changes()
    fresh.resolve(ways, changes)
    for hops, users in used.items():
        fresh.take(hops, changes, users)
    return {key: one for key, one in changes.objects.items() if one is not None}


PREFIXES = [parse_prefix(f"10.80.{number // 256}.{number % 256}/32") for number in range(1000)]


@pytest.mark.parametrize("objects", [True, False], ids=["nexthop objects", "plain routes"])
def test_a_lost_next_hop_costs_one_message_and_a_hop_behind_a_gateway_is_reached(objects: bool) -> None:
    with Namespace.create("h") as here, Namespace.create("t") as there:
        link_namespaces(
            here,
            "eth0",
            there,
            "eth0",
            left_addresses=["192.0.2.1/24", "2001:db8::1/64"],
            right_addresses=["192.0.2.2/24", "192.0.2.3/24", "2001:db8::2/64", "2001:db8::3/64"],
        )
        here.ip("route", "add", "198.51.100.0/24", "via", "192.0.2.3")
        table = in_namespace(here.path, lambda: LearnedTable(objects))

        def take(**delta: Any) -> None:
            whole = {"put": {}, "drop": frozenset(), "complete": True, **delta}
            in_namespace(here.path, lambda: table.take(RouteDelta(**whole)))

        def route(prefix: str = "10.80.0.7") -> str:
            return here.ip("route", "get", prefix)

        take(put=dict.fromkeys(PREFIXES, LearnedRoute((A, B))))
        assert table.installed == len(PREFIXES)
        seen = {via for number in range(60) for via in route(f"10.80.0.{number}").split() if via.startswith("192.0.2.")}
        assert {"192.0.2.2", "192.0.2.3"} <= seen
        assert bool(here.ip("nexthop")) is objects
        assert ("nhid" in here.ip("route", "show", "10.80.0.7")) is objects
        before, base = dict(table.reconciler.desired), dict(table.reconciler.base.desired)
        take(lost=frozenset({A}))
        changed = dict(table.reconciler.desired).items() ^ before.items()
        others = dict(table.reconciler.base.desired).items() - base.items()
        assert (bool(changed), len(others)) == (not objects, objects), (
            "one object of a thousand and three, or all routes"
        )
        assert all("via 192.0.2.3 " in route(f"10.80.1.{number}") for number in range(40))
        take()
        assert any("via 192.0.2.2 " in route(f"10.80.1.{number}") for number in range(60)), "it is back"
        far = parse_address("198.51.100.9")
        take(put={PREFIXES[7]: LearnedRoute((far,))})
        assert "via 192.0.2.3 dev eth0" in route()
        take(put={PREFIXES[7]: LearnedRoute((A,)), PREFIXES[6]: LearnedRoute((far,))})
        assert "via 192.0.2.3 dev eth0" in route("10.80.0.6"), "a hop that one route leaves and another takes at once"
        six, hops6 = parse_prefix("fd80::/122"), tuple(parse_address(f"2001:db8::{number}") for number in (2, 3))
        take(put={six: LearnedRoute(hops6), PREFIXES[8]: LearnedRoute(hops6[:1])})
        seen6 = here.ip("-6", "route", "show", "fd80::/122")
        assert "via 2001:db8::2 " in seen6
        assert "via 2001:db8::3 " in seen6
        assert "via inet6 2001:db8::2 " in route("10.80.0.8"), "IPv4 by a next hop of IPv6"
        assert not table.reconciler.failed
        table.reconciler.distrust()
        assert table.reconciler.apply().applied == 0, "what is read back is what was asked for"
        take(drop=frozenset({*PREFIXES, six}))
        assert here.ip("route", "show", "proto", "177") == here.ip("nexthop") == ""
        table.driver.close()


MANY = [parse_prefix(f"10.81.{number // 256}.{number % 256}/32") for number in range(5000)]


@pytest.mark.parametrize("objects", [True, False], ids=["nexthop objects", "plain routes"])
async def test_a_flush_of_all_that_was_learned_is_undone(objects: bool) -> None:
    with Namespace.create("h") as here, Namespace.create("t") as there:
        far = ["192.0.2.2/24"]
        link_namespaces(here, "eth0", there, "eth0", left_addresses=["192.0.2.1/24"], right_addresses=far)
        with here.entered():
            table = LearnedTable(objects)
            events = watch_kernel({table.driver.port_id})

            async def follow() -> None:
                async with aclosing(events):  # type: ignore[type-var]
                    async for event in events:
                        table.notice(event)

            async def whole() -> bool:
                return len(here.ip("route", "show", "proto", "177").splitlines()) == len(MANY)

            following = asyncio.create_task(follow())
            table.take(RouteDelta(dict.fromkeys(MANY, LearnedRoute((A,))), frozenset(), True))
            table.driver.join()
            assert await whole()
            with RouteDriver(protocols=(177,)) as other:
                example = next(iter(table.reconciler.desired.values())).route(MANY[0])  # type: ignore[arg-type]
                other.drop_alike(example, MANY)  # type: ignore[arg-type]
            await eventually_async(whole, within_s=10, what="after a flush")

            async def named() -> bool:
                here.ip("route", "del", str(MANY[0]), "proto", "177")
                assert await eventually_async(whole, within_s=10, every_s=0.01)
                return "learned routes" in [contest.what for contest in table.contests]

            await eventually_async(named, within_s=60, what="who keeps undoing it")
            for damage in (["nexthop", "flush"], ["link", "set", "eth0", "down"]):
                here.ip(*damage)
                here.ip("link", "set", "eth0", "up")
                await eventually_async(whole, within_s=10, what=" ".join(damage))
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            table.driver.close()


MORE = [parse_prefix(f"10.82.{number // 256}.{number % 256}/32") for number in range(3000)]


@pytest.mark.parametrize("objects", [True, False], ids=["nexthop objects", "plain routes"])
async def test_what_the_kernel_refuses_of_many_routes_is_known_later_and_put_in_the_end(objects: bool) -> None:
    with Namespace.create("h") as here, Namespace.create("t") as there:
        far = ["192.0.2.2/24"]
        link_namespaces(here, "eth0", there, "eth0", left_addresses=["192.0.2.1/24"], right_addresses=far)
        with here.entered():
            table = LearnedTable(objects)
            table.take(RouteDelta(dict.fromkeys(MANY, LearnedRoute((A,))), frozenset(), True))
            table.driver.join()
            here.ip(*(["nexthop", "flush"] if objects else ["link", "set", "eth0", "down"]))
            table.take(RouteDelta(dict.fromkeys(MORE, LearnedRoute((A,))), frozenset(), True))
            assert table.installed == len(MANY) + len(MORE), "nothing is known against them yet"

            async def refused() -> bool:
                return {Prefix(*key.id[1:3]) for key in table.reconciler.failed} == set(MORE)

            await eventually_async(refused, within_s=5, what="all of them refused")
            assert table.installed == len(MANY)
            here.ip("link", "set", "eth0", "up")
            table.reconciler.distrust()
            table.reconciler.retry()
            table.take(RouteDelta({}, frozenset(), True))

            async def whole() -> bool:
                return len(here.ip("route", "show", "proto", "177").splitlines()) == len(MANY) + len(MORE)

            await eventually_async(whole, within_s=10, what="all of them, after all")
            assert not table.reconciler.failed
            table.driver.close()


async def test_a_kernel_that_does_not_answer_to_many_routes_is_known() -> None:
    silent: list[bool] = []
    driver = LearnedRoutes(lambda _: None, lambda: silent.append(True))
    driver.close()
    destinations = [parse_felix_prefix(str(prefix)) for prefix in MORE]
    example = Route(destinations[0], ROUTE_PROTOCOL_LEARNED, nexthop_id=0x4000_0001)
    try:
        assert not driver.put_ahead(example, destinations)

        async def known() -> bool:
            return bool(silent)

        await eventually_async(known, within_s=5)
    finally:
        driver.close()
