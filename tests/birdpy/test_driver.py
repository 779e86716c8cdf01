"""The driver against real gobgpd, version 4 and version 3 alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from birdpy.addresses import Prefix, parse_address, parse_prefix
from birdpy.gobgp.client import GobgpUnavailable
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.plan import AddNeighbor, Announce, RemoveNeighbor, ReplaceProcess, UpdateNeighbor, plan
from birdpy.gobgp.process import listener_pid
from birdpy.intent import (
    Advertisement,
    Bfd,
    BgpIntent,
    Change,
    Match,
    Neighbor,
    NextHopRule,
    Policy,
    PrefixRange,
    Reflection,
    RouteOrigin,
    Statement,
)
from tests.birdpy.conftest import Router, announcing, established, learned, make_so, session
from tests.support.wait import eventually_async

BLOCK = parse_prefix("10.64.1.0/26")
OTHER = parse_prefix("10.64.2.0/26")
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


@asynccontextmanager
async def pair(a: Router, b: Router, intent: BgpIntent) -> AsyncIterator[tuple[GobgpDriver, GobgpDriver]]:
    """`a` as `intent` says and `b` plain, with a session between them."""
    async with gobgpds([b, a]) as (plain, told):
        await make_so(plain, BgpIntent(b.speaker(), {a.address: session(b, a)}))
        await make_so(told, intent)
        await established(told, plain)
        yield told, plain


async def sees(driver: GobgpDriver, expected: dict[Prefix, tuple[bytes, ...]]) -> None:
    """Waits until the driver's gobgpd has learned exactly these, by these next hops."""

    async def probe() -> bool:
        found = {prefix: route.next_hops for prefix, route in (await learned(driver)).items()}
        assert found == expected
        return True

    await eventually_async(probe, within_s=20)


async def test_a_mesh_learns_both_families(routers: list[Router]) -> None:
    a, b, c = routers[:3]
    six = Advertisement(BLOCK6, next_hop=a.address6)
    async with gobgpds([c, b, a]) as drivers:
        for router, driver in zip((c, b, a), drivers, strict=True):
            others = [other for other in (a, b, c) if other is not router]
            neighbors = {o.address: session(router, o, versions=(4, 6)) for o in others}
            given = {**announcing(BLOCK), BLOCK6: six} if router is a else {}
            await make_so(driver, BgpIntent(router.speaker(), neighbors, given))
        await established(*drivers)
        for driver in drivers[:2]:
            await sees(driver, {BLOCK: (a.address,), BLOCK6: (a.address6,)})
        await sees(drivers[2], {})


async def test_a_change_touches_only_what_changed(routers: list[Router]) -> None:
    a, b = routers[:2]
    intent = BgpIntent(a.speaker(), {b.address: session(a, b)}, announcing(BLOCK))
    async with pair(a, b, intent) as (driver, plain):
        assert await make_so(driver, intent) == []
        more = replace(intent, advertisements=announcing(BLOCK, OTHER))
        assert await make_so(driver, more) == ["gobgp global rib add 10.64.2.0/26"]
        await sees(plain, {BLOCK: (a.address,), OTHER: (a.address,)})
        assert await make_so(driver, intent) == ["gobgp global rib del 10.64.2.0/26"]
        await sees(plain, {BLOCK: (a.address,)})


async def test_a_restarted_client_leaves_sessions_alone(routers: list[Router]) -> None:
    a, b = routers[:2]
    policy = Policy(exports=(Statement(Match(neighbors=(b.address,)), True, Change(med=7)),))
    intent = BgpIntent(a.speaker(), {b.address: session(a, b)}, announcing(BLOCK), policy)
    async with pair(a, b, intent) as (_, plain):
        await sees(plain, {BLOCK: (a.address,)})
        before = (await plain.read_sessions())[a.address]
        async with a.driver() as again:
            assert plan(intent, again.actual, again.client.wire.generation) == [Announce((Advertisement(BLOCK),))]
            await make_so(again, intent)
            await make_so(again, replace(intent, advertisements=announcing(BLOCK, OTHER)))
        await sees(plain, {BLOCK: (a.address,), OTHER: (a.address,)})
        after = (await plain.read_sessions())[a.address]
        assert (after.up_since, after.updates_received) == (before.up_since, before.updates_received + 1)


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
    client, reflector, other = routers[:3]
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
        await sees(c, {BLOCK: (client.address,)})


async def test_import_policy_rejects_by_neighbor_and_prefix(routers: list[Router]) -> None:
    a, b = routers[:2]
    intent = BgpIntent(a.speaker(), {b.address: session(a, b)})
    block_only = Match(neighbors=(b.address,), prefixes=(PrefixRange(BLOCK, 26, 32),))
    async with pair(a, b, intent) as (driver, plain):
        sending = BgpIntent(b.speaker(), {a.address: session(b, a)}, announcing(BLOCK, OTHER))
        await make_so(plain, sending)
        await sees(driver, {BLOCK: (b.address,), OTHER: (b.address,)})
        closed = Policy(imports=(Statement(block_only, False),))
        assert await make_so(driver, replace(intent, policy=closed)) == [
            "set policies: 1 import, 0 export statements",
            "gobgp neighbor 10.99.0.2 softresetin",
        ]
        await sees(driver, {OTHER: (b.address,)})
        elsewhere = Statement(replace(block_only, neighbors=(routers[3].address,)), False)
        await make_so(driver, replace(intent, policy=Policy(imports=(elsewhere,))))
        await sees(driver, {BLOCK: (b.address,), OTHER: (b.address,)})


async def test_a_tighter_export_policy_withdraws(routers: list[Router]) -> None:
    a, b = routers[:2]
    intent = BgpIntent(a.speaker(), {b.address: session(a, b)}, announcing(BLOCK, OTHER))
    async with pair(a, b, intent) as (driver, plain):
        await sees(plain, {BLOCK: (a.address,), OTHER: (a.address,)})
        tight = Policy(exports=(Statement(Match(prefixes=(PrefixRange(OTHER, 26, 26),)), False),))
        await make_so(driver, replace(intent, policy=tight))
        await sees(plain, {BLOCK: (a.address,)})
        await make_so(driver, intent)
        await sees(plain, {BLOCK: (a.address,), OTHER: (a.address,)})


async def test_an_empty_list_matches_nothing(routers: list[Router]) -> None:
    a, b = routers[:2]
    nobody = Policy(exports=(Statement(Match(neighbors=()), False), Statement(Match(prefixes=()), False)))
    intent = BgpIntent(a.speaker(), {b.address: session(a, b)}, announcing(BLOCK), nobody)
    async with pair(a, b, intent) as (_, plain):
        await sees(plain, {BLOCK: (a.address,)})


async def test_the_first_verdict_wins_and_the_family_is_told_apart(routers: list[Router]) -> None:
    a, b = routers[:2]
    policy = Policy(
        exports=(
            Statement(Match(prefixes=(PrefixRange(BLOCK, 26, 26),)), True),
            Statement(Match(prefixes=(PrefixRange(BLOCK6, 122, 128),), prefixes_negated=True), False),
            Statement(Match(version=4), False),
        )
    )
    six = {BLOCK6: Advertisement(BLOCK6, next_hop=a.address6)}
    both = {b.address: session(a, b, versions=(4, 6))}
    async with gobgpds([b, a]) as (plain, driver):
        await make_so(plain, BgpIntent(b.speaker(), {a.address: session(b, a, versions=(4, 6))}))
        await make_so(driver, BgpIntent(a.speaker(), both, {**announcing(BLOCK, OTHER), **six}, policy))
        await established(driver, plain)
        await sees(plain, {BLOCK: (a.address,), BLOCK6: (a.address6,)})


async def test_export_can_set_the_next_hop(routers: list[Router]) -> None:
    a, b, c = routers[:3]
    to_c = Statement(Match(neighbors=(c.address,), origin=RouteOrigin.LOCAL), True, Change(next_hop=b.address))
    given = {BLOCK: Advertisement(BLOCK, next_hop=b.address), OTHER: Advertisement(OTHER)}
    keep = Statement(Match(), True, Change(next_hop=NextHopRule.UNCHANGED))
    neighbors = {b.address: session(a, b), c.address: session(a, c)}
    async with gobgpds([c, b, a]) as (third, second, driver):
        await make_so(third, BgpIntent(c.speaker(), {a.address: session(c, a)}))
        await make_so(second, BgpIntent(b.speaker(), {a.address: session(b, a)}))
        await make_so(driver, BgpIntent(a.speaker(), neighbors, given, Policy(exports=(to_c, keep))))
        await established(driver, second, third)
        await sees(third, {BLOCK: (b.address,), OTHER: (b.address,)})


async def test_equal_paths_share_and_a_lost_one_leaves_the_rest(routers: list[Router]) -> None:
    a, b, c = routers[:3]
    async with gobgpds([c, b, a]) as (third, second, first):
        sender = BgpIntent(b.speaker(), {a.address: session(b, a)}, announcing(BLOCK))
        await make_so(third, BgpIntent(c.speaker(), {a.address: session(c, a)}, announcing(BLOCK)))
        await make_so(second, sender)
        await make_so(first, BgpIntent(a.speaker(), {b.address: session(a, b), c.address: session(a, c)}))
        await sees(first, {BLOCK: (b.address, c.address)})
        await make_so(second, replace(sender, advertisements={}))
        await sees(first, {BLOCK: (c.address,)})


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
        errors = [outcome.error for outcome in outcomes if outcome.error]
        if driver.client.wire.generation == 3:
            assert errors == ["GoBGP 3 has no BFD"]
        else:
            assert errors == []
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


async def test_a_refused_announcement_names_itself_and_holds_back_no_other(routers: list[Router]) -> None:
    a, b = routers[:2]
    if a.generation == 3:
        pytest.skip("GoBGP 3 takes a prefix of any length")
    broken = Prefix(bytes(4), 99)
    intent = BgpIntent(a.speaker(), {b.address: session(a, b)}, announcing(OTHER, broken, BLOCK))
    async with gobgpds([b, a]) as (plain, driver):
        await make_so(plain, BgpIntent(b.speaker(), {a.address: session(b, a)}))
        outcomes = await driver.apply(plan(intent, driver.actual, driver.client.wire.generation))
        errors = [outcome.error for outcome in outcomes if outcome.error]
        assert len(errors) == 1
        assert errors[0].startswith("0.0.0.0/99: ")
        await sees(plain, {BLOCK: (a.address,), OTHER: (a.address,)})


async def test_timers_alone_leave_the_session_up_on_version_4(routers: list[Router]) -> None:
    a, b = routers[:2]
    intent = BgpIntent(a.speaker(), {b.address: session(a, b)})
    if a.generation == 3:
        pytest.skip("GoBGP 3 resets a session on every update")
    async with pair(a, b, intent) as (driver, plain):
        before = (await plain.read_sessions())[a.address].up_since
        slower = replace(session(a, b), hold_time_s=180, keepalive_s=60)
        operations = plan(replace(intent, neighbors={b.address: slower}), driver.actual, 4)
        assert operations == [UpdateNeighbor(slower)]
        await driver.apply(operations)
        assert (await plain.read_sessions())[a.address].up_since == before
