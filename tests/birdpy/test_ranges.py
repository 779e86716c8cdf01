"""Whoever connects from a prefix: which addresses that means (pure), and real gobgpds that connect from one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdpy.addresses import Prefix, anyone_in, format_address, parse_address, parse_prefix, range_of, version_of
from birdpy.gobgp.versions import NO_RANGE_PASSWORD, find_impossible
from birdpy.intent import BgpIntent, Match, Neighbor, Policy, Statement
from birdpy.ranges import find_meant, leave_out
from tests.birdpy.conftest import QUICK_RESTART, Router, announcing, established, make_so, sees, session
from tests.support.wait import eventually_async

RANGE = anyone_in(parse_prefix("10.99.0.0/24"))
OURS, SECRET, THEIRS = (parse_prefix(f"10.64.{number}.0/26") for number in (1, 9, 2))

_SMALL = st.integers(24, 32).flatmap(lambda length: st.builds(lambda n: parse_prefix(f"10.0.0.{n}/{length}"), _BYTE))
_BYTE = st.integers(0, 255)


@given(_SMALL, st.lists(_SMALL, max_size=4))
def test_what_is_left_of_a_prefix_is_every_address_that_is_in_no_hole(prefix: Prefix, holes: list[Prefix]) -> None:
    def members(one: Prefix) -> set[object]:
        return set(ip_network(str(one)))

    left = leave_out(prefix, holes)
    assert set().union(*map(members, left)) == members(prefix).difference(*map(members, holes))
    assert sum(len(members(one)) for one in left) == len(set().union(*map(members, left))), "none twice"


@given(_BYTE, st.lists(_SMALL, max_size=4), st.lists(_BYTE, max_size=2))
def test_an_address_means_itself_or_the_longest_prefix(last: int, prefixes: list[Prefix], singles: list[int]) -> None:
    address = parse_address(f"10.0.0.{last}")
    known = {*map(anyone_in, prefixes), *(parse_address(f"10.0.0.{one}") for one in singles)}
    found = find_meant(address, known)
    around = [one for one in prefixes if ip_address(f"10.0.0.{last}") in ip_network(str(one))]
    if last in singles:
        assert found == address
    elif around:
        assert found is not None
        assert range_of(found) == max(around, key=lambda one: one.length)
    else:
        assert found is None


@pytest.mark.parametrize("text", ["10.99.0.0/24", "10.0.0.0/8", "47.47.47.47/32", "2f2f::/64", "2f2f:2f2f::2f2f/128"])
def test_a_prefix_in_an_addresss_place_is_known_as_one(text: str) -> None:
    prefix = parse_prefix(text)
    one = anyone_in(prefix)
    assert range_of(one) == prefix
    assert format_address(one) == text
    assert version_of(one) == version_of(prefix.address)
    assert range_of(prefix.address) is None


def visitors(**settings: object) -> Neighbor:
    return replace(Neighbor(RANGE, 64512, passive=True, graceful_restart=QUICK_RESTART), **settings)  # type: ignore[arg-type]


async def test_whoever_connects_from_a_prefix_is_taken_and_let_go(routers: list[Router]) -> None:
    a, b, c = routers[:3]
    for router in (a, b, c):
        router.start_gobgpd()
    hidden = Policy(exports=(Statement(Match((RANGE,), prefixes=None), accept=False),), apart=(c.address, RANGE))
    neighbors = {RANGE: visitors(), c.address: session(a, c)}
    intent = BgpIntent(a.speaker(), neighbors, announcing(OURS), hidden)
    async with a.driver() as driver, b.driver() as visitor, c.driver() as known:
        await make_so(driver, intent)
        for router, other in ((b, visitor), (c, known)):
            neighbor = session(router, a)
            mine = announcing(THEIRS) if router is b else {}
            await make_so(other, BgpIntent(router.speaker(), {a.address: neighbor}, mine))
        await established(visitor, known)
        await sees(driver, {THEIRS: (b.address,)})
        await sees(known, {OURS: (a.address,)})
        await sees(visitor, {})
        assert await make_so(driver, intent) == [], "what is read back is what was asked for"
        async with a.driver() as restarted:
            assert set(restarted.actual.neighbors) == {c.address}
            restarted.recognise(hidden)
            again = replace(intent, advertisements={})
            assert await make_so(restarted, again) == [], "a restarted client finds all as it was"
        done = await make_so(driver, replace(intent, policy=Policy(apart=hidden.apart)))
        expected = "softresetout" if a.generation == 4 else "neighbor del"  # version 3 ends what is told otherwise
        assert [one for one in done if expected in one], done
        await sees(visitor, {OURS: (a.address,)})
        before = (await known.read_sessions())[a.address].up_since
        await make_so(driver, replace(intent, neighbors={c.address: neighbors[c.address]}))
        assert set(await driver.read_sessions()) == {c.address}

        async def gone() -> bool:
            return not (await visitor.read_sessions())[a.address].established

        await eventually_async(gone)
        assert (await known.read_sessions())[a.address].up_since == before


async def test_another_as_is_asked_of_those_who_come_next(routers: list[Router]) -> None:
    a, b = routers[:2]
    a.start_gobgpd()
    b.start_gobgpd()
    async with a.driver() as driver, b.driver() as visitor:
        await make_so(driver, BgpIntent(a.speaker(), {RANGE: visitors()}))
        await make_so(visitor, BgpIntent(b.speaker(), {a.address: session(b, a)}))
        await established(visitor)
        done = await make_so(driver, BgpIntent(a.speaker(), {RANGE: visitors(asn=65001)}))
        assert done == ["gobgp neighbor del 10.99.0.0/24", "gobgp neighbor add 10.99.0.0/24 as 65001"]

        async def refused() -> bool:
            found = (await visitor.read_sessions())[a.address]
            return not found.established and found.got.notifications > 0

        await eventually_async(refused, within_s=20)


async def test_they_have_a_password_with_version_4(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    a.start_gobgpd()
    b.start_gobgpd()
    locked = BgpIntent(a.speaker(), {RANGE: visitors(password="open-sesame")})
    assert find_impossible(locked, 3) == {RANGE: NO_RANGE_PASSWORD}
    async with a.driver() as driver, b.driver() as visitor:
        await make_so(driver, locked)
        mine = session(b, a)
        await make_so(visitor, BgpIntent(b.speaker(), {a.address: replace(mine, password="other")}))

        async def tried() -> bool:
            return (await visitor.read_sessions())[a.address].state != "Idle"

        await eventually_async(tried, within_s=20)
        assert not (await visitor.read_sessions())[a.address].established
        assert await driver.read_sessions() == {}
        await make_so(visitor, BgpIntent(b.speaker(), {a.address: replace(mine, password="open-sesame")}))
        await established(visitor)
