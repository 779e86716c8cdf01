"""The driver against real gobgpd, version 4 and version 3 alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from birdpy.addresses import Prefix, parse_address, parse_prefix
from birdpy.gobgp.client import GobgpUnavailable
from birdpy.gobgp.driver import HELD_BACK, GobgpDriver
from birdpy.gobgp.plan import AddNeighbor, Announce, RemoveNeighbor, ReplaceProcess, UpdateNeighbor, plan
from birdpy.gobgp.versions import NO_BFD, find_impossible
from birdpy.intent import (
    ANY_AS,
    HOLD_TIME_S_MAX,
    RESTART_TIME_S_MAX,
    Advertisement,
    Bfd,
    BgpIntent,
    Change,
    GracefulRestart,
    Match,
    Neighbor,
    NextHopRule,
    Policy,
    PrefixRange,
    Reflection,
    RouteOrigin,
    Statement,
)
from birdpy.process import listener_pid
from birdpy.told import derive_told
from tests.birdpy.conftest import Router, Star, announcing, established, make_so, meet_anew, sees, session
from tests.support.wait import eventually_async

BLOCK = parse_prefix("10.64.1.0/26")
OTHER = parse_prefix("10.64.2.0/26")
THIRD = parse_prefix("10.64.3.0/26")
BLOCK6 = parse_prefix("fd64:1::/122")


@asynccontextmanager
async def gobgpds(routers: Iterable[Router]) -> AsyncIterator[list[GobgpDriver]]:
    """A started gobgpd and its driver for each router."""
    async with AsyncExitStack() as stack:
        drivers = []
        for router in routers:
            router.start_gobgpd()
            drivers.append(await stack.enter_async_context(router.driver()))
        yield drivers


async def test_a_star_learns_both_families(star: Star) -> None:
    six = Advertisement(BLOCK6, next_hop=star.a.address6)
    intent = star.intent(star.a, BLOCK)
    await make_so(star.drivers[0], replace(intent, advertisements={**intent.advertisements, BLOCK6: six}))
    for driver in star.drivers[1:]:
        await sees(driver, {BLOCK: (star.a.address,), BLOCK6: (star.a.address6,)})
    await sees(star.drivers[0], {})


async def test_a_change_touches_only_what_changed(star: Star) -> None:
    driver, second, _ = star.drivers
    assert await make_so(driver, star.intent(star.a)) == []
    assert await make_so(driver, star.intent(star.a, BLOCK)) == ["gobgp global rib add 10.64.1.0/26"]
    assert await make_so(driver, star.intent(star.a, BLOCK, OTHER)) == ["gobgp global rib add 10.64.2.0/26"]
    await sees(second, {BLOCK: (star.a.address,), OTHER: (star.a.address,)})
    assert await make_so(driver, star.intent(star.a, BLOCK)) == ["gobgp global rib del 10.64.2.0/26"]
    await sees(second, {BLOCK: (star.a.address,)})


async def test_a_neighbour_is_told_what_its_export_policy_lets_by(star: Star) -> None:
    _, second, third = star.drivers
    via, via6 = (star.a.address,), (star.a.address6,)
    held_back = Match(neighbors=(star.b.address,), prefixes=(PrefixRange(OTHER, 26, 26),))
    policy = Policy(exports=(Statement(held_back, False),))
    intent = star.intent(star.a, BLOCK, OTHER, policy=policy)
    both = replace(intent, advertisements={**intent.advertisements, BLOCK6: Advertisement(BLOCK6, via6[0])})
    await star.apply(both)
    assert derive_told(both) == {star.b.address: {BLOCK, BLOCK6}, star.c.address: {BLOCK, OTHER, BLOCK6}}
    await sees(second, {BLOCK: via, BLOCK6: via6})
    await sees(third, {BLOCK: via, OTHER: via, BLOCK6: via6})
    less = star.intent(star.a, OTHER, policy=policy)
    await star.apply(less)
    assert derive_told(less) == {star.b.address: frozenset(), star.c.address: {OTHER}}
    await sees(second, {})
    await sees(third, {OTHER: via})


async def test_a_restarted_client_leaves_sessions_alone(star: Star) -> None:
    driver, second, _ = star.drivers
    policy = Policy(imports=(Statement(Match(neighbors=(star.b.address,)), True, Change(med=7)),))
    await make_so(driver, star.intent(star.a, BLOCK, policy=policy))
    await sees(second, {BLOCK: (star.a.address,)})
    before = (await second.read_sessions())[star.a.address]
    async with star.a.driver() as again:
        intent = star.intent(star.a, BLOCK, policy=policy)
        assert plan(intent, again.actual, again.client.wire.generation) == [Announce((Advertisement(BLOCK),))]
        await make_so(again, intent)
        await make_so(again, star.intent(star.a, BLOCK, OTHER, policy=policy))
    await sees(second, {BLOCK: (star.a.address,), OTHER: (star.a.address,)})
    after = (await second.read_sessions())[star.a.address]
    assert (after.up_since, after.got.updates) == (before.up_since, before.got.updates + 1)
    for counts, earlier in ((after.got, before.got), (after.sent, before.sent)):
        assert (counts.opens, counts.notifications) == (earlier.opens, earlier.notifications)
        assert counts.total >= counts.opens + counts.updates + counts.keepalives > counts.updates


async def test_md5_passwords_must_agree(routers: list[Router]) -> None:
    a, b = routers[:2]
    async with gobgpds([b, a]) as (right, wrong):
        await make_so(right, BgpIntent(b.speaker(), {a.address: session(b, a, password="secret")}))
        intent = BgpIntent(a.speaker(), {b.address: session(a, b, password="wrong")})
        await make_so(wrong, intent)
        assert not (await right.read_sessions())[a.address].established
        assert await make_so(wrong, replace(intent, neighbors={b.address: session(a, b, password="secret")})) == [
            "gobgp neighbor update 10.99.0.2"
        ]
        await established(wrong, right)


async def test_a_reflector_reflects_and_a_neighbour_can_become_a_client(routers: list[Router]) -> None:
    reflector, client, other = routers[:3]
    cluster = Reflection(parse_address("224.0.0.1"))
    plain = {r.address: session(reflector, r) for r in (client, other)}
    reflecting = {address: replace(neighbor, reflection=cluster) for address, neighbor in plain.items()}
    async with gobgpds([other, reflector, client]) as (c, r, a):
        await make_so(c, BgpIntent(other.speaker(), {reflector.address: session(other, reflector)}))
        intent = BgpIntent(reflector.speaker(), plain)
        await make_so(r, intent)
        to_reflector = {reflector.address: session(client, reflector)}
        await make_so(a, BgpIntent(client.speaker(), to_reflector, announcing(BLOCK)))
        await established(a, r, c)
        await sees(c, {})
        operations = plan(replace(intent, neighbors=reflecting), r.actual, r.client.wire.generation)
        assert [type(operation) for operation in operations] == [RemoveNeighbor] * 2 + [AddNeighbor] * 2
        await make_so(r, replace(intent, neighbors=reflecting))
        await meet_anew(a)
        await meet_anew(c)
        await sees(c, {BLOCK: (client.address,)})


async def test_import_policy_rejects_by_neighbor_and_prefix(star: Star) -> None:
    driver, second, _ = star.drivers
    via = (star.b.address,)
    block_of_b = Match(neighbors=via, prefixes=(PrefixRange(BLOCK, 26, 32),))
    await make_so(second, star.intent(star.b, BLOCK, OTHER))
    await sees(driver, {BLOCK: via, OTHER: via})
    closed = star.intent(star.a, policy=Policy(imports=(Statement(block_of_b, False),)))
    assert await make_so(driver, closed) == [
        "set policies: 1 import, 0 export statements",
        "gobgp neighbor 10.99.0.2 softresetin",
    ]
    await sees(driver, {OTHER: via})
    elsewhere = Statement(replace(block_of_b, neighbors=(star.c.address,)), False)
    await make_so(driver, star.intent(star.a, policy=Policy(imports=(elsewhere,))))
    await sees(driver, {BLOCK: via, OTHER: via})


async def test_a_tighter_export_policy_withdraws_from_whom_it_names(star: Star) -> None:
    driver, second, third = star.drivers
    both = {BLOCK: (star.a.address,), OTHER: (star.a.address,)}
    await make_so(driver, star.intent(star.a, BLOCK, OTHER))
    await sees(second, both)
    narrow = Match(neighbors=(star.b.address,), prefixes=(PrefixRange(OTHER, 26, 26),))
    up_since = (await third.read_sessions())[star.a.address].up_since
    await star.apply(star.intent(star.a, BLOCK, OTHER, policy=Policy(exports=(Statement(narrow, False),))))
    await sees(second, {BLOCK: (star.a.address,)})
    await sees(third, both)
    assert (await third.read_sessions())[star.a.address].up_since == up_since


async def test_a_prefix_for_some_comes_and_goes_without_a_session(star: Star) -> None:
    driver, second, third = star.drivers
    via = (star.a.address,)
    up_since = (await third.read_sessions())[star.a.address].up_since

    def told(*prefixes: Prefix) -> BgpIntent:
        """These, and all but the first not for c."""
        ranges = tuple(PrefixRange(prefix, 26, 26) for prefix in prefixes[1:])
        not_c = Statement(Match((star.c.address,), prefixes=ranges, origin=RouteOrigin.LOCAL), False)
        return star.intent(star.a, *prefixes, policy=Policy(exports=(not_c,)))

    for prefixes in ((BLOCK, OTHER), (BLOCK, OTHER, THIRD), (BLOCK, THIRD), (BLOCK,)):
        await make_so(driver, told(*prefixes))
        await sees(second, dict.fromkeys(prefixes, via))
        await sees(third, {BLOCK: via})
    assert (await third.read_sessions())[star.a.address].up_since == up_since


async def test_an_empty_list_matches_nothing(star: Star) -> None:
    nobody = Policy(exports=(Statement(Match(neighbors=()), False), Statement(Match(prefixes=()), False)))
    await star.apply(star.intent(star.a, BLOCK, policy=nobody))
    await sees(star.drivers[1], {BLOCK: (star.a.address,)})


async def test_the_first_verdict_wins_and_the_family_is_told_apart(star: Star) -> None:
    policy = Policy(
        exports=(
            Statement(Match(prefixes=(PrefixRange(BLOCK, 26, 26),)), True),
            Statement(Match(prefixes=(PrefixRange(BLOCK6, 122, 128),), prefixes_negated=True), False),
            Statement(Match(version=4), False),
        )
    )
    intent = star.intent(star.a, BLOCK, OTHER, policy=policy)
    six = Advertisement(BLOCK6, next_hop=star.a.address6)
    await star.apply(replace(intent, advertisements={**intent.advertisements, BLOCK6: six}))
    await sees(star.drivers[1], {BLOCK: (star.a.address,), BLOCK6: (star.a.address6,)})


async def test_export_can_set_the_next_hop(star: Star) -> None:
    fixed, given = parse_address("10.99.0.9"), parse_address("10.99.0.8")
    to_c = Statement(Match(neighbors=(star.c.address,), origin=RouteOrigin.LOCAL), True, Change(next_hop=fixed))
    block = Match(prefixes=(PrefixRange(BLOCK, 26, 26),))
    keep = Statement(block, True, Change(next_hop=NextHopRule.UNCHANGED))
    intent = star.intent(star.a, OTHER, policy=Policy(exports=(to_c, keep)))
    elsewhere = Advertisement(BLOCK, next_hop=given)
    await star.apply(replace(intent, advertisements={**intent.advertisements, BLOCK: elsewhere}))
    await sees(star.drivers[1], {BLOCK: (given,), OTHER: (star.a.address,)})
    await sees(star.drivers[2], {BLOCK: (fixed,), OTHER: (fixed,)})


async def test_equal_paths_share_and_a_lost_one_leaves_the_rest(star: Star) -> None:
    driver, second, third = star.drivers
    await make_so(second, star.intent(star.b, BLOCK))
    await make_so(third, star.intent(star.c, BLOCK))
    await sees(driver, {BLOCK: (star.b.address, star.c.address)})
    await make_so(second, star.intent(star.b))
    await sees(driver, {BLOCK: (star.c.address,)})


async def test_a_refused_announcement_names_itself_and_holds_back_no_other(star: Star) -> None:
    driver = star.drivers[0]
    if driver.client.wire.generation == 3:
        pytest.skip("GoBGP 3 takes a prefix of any length")
    intent = star.intent(star.a, OTHER, Prefix(bytes(4), 99), BLOCK)
    outcomes = await driver.apply(plan(intent, driver.actual, 4))
    errors = [outcome.error for outcome in outcomes if outcome.error]
    assert len(errors) == 1
    assert errors[0].startswith("0.0.0.0/99: ")
    await sees(star.drivers[1], {BLOCK: (star.a.address,), OTHER: (star.a.address,)})


async def test_without_its_policy_nothing_is_told_and_nobody_is_met(routers: list[Router]) -> None:
    a, b = routers[:2]
    unreadable = Policy(exports=(Statement(Match(as_path=("(",)), False),))
    async with gobgpds([a]) as (driver,):
        intent = BgpIntent(a.speaker(), {b.address: session(a, b)}, announcing(BLOCK), unreadable)
        outcomes = await driver.apply(plan(intent, driver.actual, driver.client.wire.generation))
        errors = {type(one.operation).__name__: one.error for one in outcomes}
        assert errors["SetPolicy"]
        assert (errors["Announce"], errors["AddNeighbor"]) == (HELD_BACK, HELD_BACK)
        assert (driver.actual.neighbors, driver.actual.advertisements) == ({}, {})
        await make_so(driver, replace(intent, policy=Policy()))
        assert set(driver.actual.neighbors) == {b.address}


async def test_timers_alone_leave_the_session_up_on_version_4(star: Star) -> None:
    driver, second, _ = star.drivers
    if driver.client.wire.generation == 3:
        pytest.skip("GoBGP 3 resets a session on every update")
    before = (await second.read_sessions())[star.a.address].up_since
    intent = star.intent(star.a)
    slower = replace(intent.neighbors[star.b.address], hold_time_s=180, keepalive_s=60)
    operations = plan(replace(intent, neighbors={**intent.neighbors, star.b.address: slower}), driver.actual, 4)
    assert operations == [UpdateNeighbor(slower)]
    await driver.apply(operations)
    assert (await second.read_sessions())[star.a.address].up_since == before


async def test_a_session_over_ipv6_announces_its_own_address(routers: list[Router]) -> None:
    a, b = routers[:2]
    to_b = replace(session(a, b), address=b.address6, source=a.address6)
    to_a = replace(session(b, a), address=a.address6, source=b.address6)
    async with gobgpds([b, a]) as (second, first):
        await make_so(second, BgpIntent(b.speaker(), {a.address6: to_a}))
        await make_so(first, BgpIntent(a.speaker(), {b.address6: to_b}, announcing(BLOCK6)))
        await sees(second, {BLOCK6: (a.address6,)})


async def test_too_many_prefixes_end_the_session_and_are_named(routers: list[Router]) -> None:
    a, b = routers[:2]
    async with gobgpds([b, a]) as (second, first):
        await make_so(second, BgpIntent(b.speaker(), {a.address: session(b, a)}, announcing(BLOCK, OTHER)))
        await make_so(first, BgpIntent(a.speaker(), {b.address: session(a, b, prefix_limit=1)}))

        async def over() -> bool:
            return (await first.read_sessions())[b.address].over_prefix_limit

        await eventually_async(over, within_s=20)


def neighbors_of_all_kinds(own: Router) -> list[Neighbor]:
    base = Neighbor(parse_address("10.99.0.77"), 64512, source=own.address)
    return [
        base,
        replace(base, source=None),
        replace(base, asn=65001, multihop_ttl=3),
        replace(base, asn=65001, ttl_security_hops=2, local_asn=65002),
        replace(base, password="secret", passive=True, port=1790),
        replace(base, hold_time_s=9, keepalive_s=3, connect_retry_s=1),
        replace(base, reflection=Reflection(parse_address("1.2.3.4"))),
        replace(base, versions=(6, 4), prefix_limit=100),
        replace(base, graceful_restart=replace(base.graceful_restart, enabled=False)),
        replace(base, graceful_restart=replace(base.graceful_restart, long_lived_s=3600)),
        replace(base, asn=65001, allow_own_asn=2),
        replace(base, asn=ANY_AS, multihop_ttl=255),
        replace(base, asn=65002, local_asn=65002),
        replace(base, hold_time_s=HOLD_TIME_S_MAX, keepalive_s=HOLD_TIME_S_MAX),
        replace(base, graceful_restart=GracefulRestart(restart_time_s=RESTART_TIME_S_MAX)),
        replace(base, address=parse_address("fd99::77"), source=own.address6, asn=65001, multihop_ttl=255),
    ]


async def test_what_is_read_back_is_what_was_asked_for(routers: list[Router]) -> None:
    a = routers[0]
    async with gobgpds([a]) as (driver,):
        for neighbor in neighbors_of_all_kinds(a):
            intent = BgpIntent(a.speaker(), {neighbor.address: neighbor})
            await make_so(driver, intent)
            async with a.driver() as again:
                assert plan(intent, again.actual, again.client.wire.generation) == []
            await make_so(driver, BgpIntent(a.speaker()))


async def test_bfd_is_read_back_and_refused_by_version_3(routers: list[Router]) -> None:
    a = routers[0]
    neighbor = Neighbor(parse_address("10.99.0.77"), 64512, bfd=Bfd(100, 100, 3))
    async with gobgpds([a]) as (driver,):
        intent = BgpIntent(a.speaker(), {neighbor.address: neighbor})
        operations = plan(intent, driver.actual, driver.client.wire.generation)
        outcomes = await driver.apply(operations)
        assert [outcome.error for outcome in outcomes if outcome.error] == []
        if driver.client.wire.generation == 3:
            assert find_impossible(intent, 3) == {neighbor.address: NO_BFD}
            assert driver.actual.neighbors == {}
        else:
            async with a.driver() as again:
                assert plan(intent, again.actual, 4) == []


async def test_another_router_id_takes_a_new_process(routers: list[Router]) -> None:
    a = routers[0]
    intent = BgpIntent(a.speaker(), {}, announcing(BLOCK))
    async with gobgpds([a]) as (driver,):
        await make_so(driver, intent)
        moved = replace(intent, speaker=replace(a.speaker(), router_id=parse_address("10.99.0.99")))
        operations = plan(moved, driver.actual, driver.client.wire.generation)
        assert operations == [ReplaceProcess()]
        with pytest.raises(GobgpUnavailable):
            await driver.apply(operations)
        assert not listener_pid(a.socket_path)
