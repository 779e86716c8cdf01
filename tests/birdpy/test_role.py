"""The whole role: gobgpd supervised, a BIRD and a gobgpd beside it, restarts of either side."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from birdpy.addresses import Prefix, parse_prefix
from birdpy.fib import LearnedRoute, Phase
from birdpy.intent import Advertisement, BgpIntent, Match, Policy, Statement
from birdpy.process import listener_pid
from birdpy.session import DownReason
from birdpy.speaker import BgpRole, RoleSettings
from tests.birdpy.conftest import Router, announcing, make_so, session
from tests.birdpy.role_world import (
    BLOCK,
    THEIR_OTHER,
    THEIRS,
    Kernel,
    bird_config,
    end_gobgpd,
    intent_of,
    running,
    settled,
    supervised,
)
from tests.support.wait import eventually_async, until

VIP = parse_prefix("172.25.1.100")


def kernel_has(router: Router, prefix: Prefix) -> bool:
    text = str(prefix).removesuffix("/32")
    return any(line.split()[0] == text for line in router.namespace.ip("route").splitlines())


@asynccontextmanager
async def removals(router: Router, log: Path) -> AsyncIterator[Path]:
    """Every route that goes from the router's kernel is a line that begins with `Deleted` in the file."""
    with log.open("w") as output:
        monitor = router.namespace.popen("ip", "monitor", "route", stdout=output)
    try:
        yield log
    finally:
        monitor.kill()
        monitor.wait()


def deleted(log: Path, prefix: Prefix) -> int:
    return sum(line.startswith(f"Deleted {prefix} ") for line in log.read_text().splitlines())


async def test_it_announces_to_bird_and_learns_from_it(routers: list[Router]) -> None:
    a, b = routers[:2]
    vip = Advertisement(VIP, None, (64512 << 16 | 7,), ((64512, 1, 2),), local_pref=200, med=5)
    try:
        b.start_bird(bird_config(THEIRS))
        intent = replace(intent_of(a, b), advertisements={BLOCK: Advertisement(BLOCK), VIP: vip})
        async with running(a, intent) as (role, kernel):
            await settled(kernel, THEIRS)
            assert kernel.routes[THEIRS] == LearnedRoute((b.address,))
            await until(lambda: kernel_has(b, BLOCK) and kernel_has(b, VIP))
            shown = b.birdc("show", "route", "172.25.1.100/32", "all")
            for line in ("local_pref: 200", "community: (64512,7)", "large_community: (64512, 1, 2)", "med: 5"):
                assert line in shown
            status = await role.read_status()
            assert (status.phase, status.routes, status.advertised) == (Phase.LIVE, 1, 2)
            assert status.sessions[b.address].established
            assert status.sessions[b.address].advertised >= 2
    finally:
        end_gobgpd(a)


async def test_a_restarted_agent_changes_nothing_but_what_changed_meanwhile(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    try:
        b.start_bird(bird_config(THEIRS))
        async with running(a, intent_of(a, b, BLOCK, VIP)) as (_, kernel):
            await settled(kernel, THEIRS)
            await until(lambda: kernel_has(b, BLOCK) and kernel_has(b, VIP))
        pid = listener_pid(a.socket_path)
        async with removals(b, b.directory / "monitor") as log:
            async with running(a, intent_of(a, b, BLOCK)) as (_, kernel):
                await settled(kernel, THEIRS)
                await until(lambda: not kernel_has(b, VIP))
            assert listener_pid(a.socket_path) == pid
            assert deleted(log, BLOCK) == 0
    finally:
        end_gobgpd(a)


async def test_a_speaker_that_is_to_be_none_is_stripped_and_becomes_one_again(routers: list[Router]) -> None:
    a, b = routers[:2]
    try:
        b.start_bird(bird_config(THEIRS))
        async with running(a, intent_of(a, b, BLOCK)) as (_, kernel):
            await settled(kernel, THEIRS)
            await until(lambda: kernel_has(b, BLOCK))
        async with running(a, BgpIntent(speaker=None)) as (role, kernel):
            await until(lambda: not kernel_has(b, BLOCK))
            await until(lambda: "Established" not in b.birdc("show", "protocols"))
            role.set_intent(intent_of(a, b, BLOCK))
            await settled(kernel, THEIRS)
            await until(lambda: kernel_has(b, BLOCK))
    finally:
        end_gobgpd(a)


async def test_a_fresh_gobgpd_waits_to_be_told_what_it_is(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    try:
        b.start_bird(bird_config(THEIRS))
        async with running(a, BgpIntent(speaker=None)) as (role, kernel):
            await settled(kernel)
            role.set_intent(intent_of(a, b, BLOCK))
            await settled(kernel, THEIRS)
    finally:
        end_gobgpd(a)


async def test_killed_gobgpd_comes_back_without_a_lost_route(routers: list[Router]) -> None:
    a, b = routers[:2]
    try:
        b.start_bird(bird_config(THEIRS))
        async with running(a, intent_of(a, b, BLOCK, VIP)) as (role, kernel):
            await settled(kernel, THEIRS)
            await until(lambda: kernel_has(b, BLOCK) and kernel_has(b, VIP))
            async with removals(b, b.directory / "monitor") as log:
                role.set_intent(intent_of(a, b, BLOCK, VIP))
                end_gobgpd(a)
                await until(lambda: role.status().phase is Phase.FROZEN)
                role.set_intent(intent_of(a, b, BLOCK))
                await until(lambda: role.status().phase is Phase.LIVE)
                await settled(kernel, THEIRS)
                await until(lambda: not kernel_has(b, VIP), within_s=25)
                assert (deleted(log, BLOCK), kernel.removed) == (0, [])
                assert kernel_has(b, BLOCK)
    finally:
        end_gobgpd(a)


async def test_a_gobgpd_that_hangs_is_known_to_and_replaced_without_a_lost_route(routers: list[Router]) -> None:
    a, b = routers[:2]
    try:
        b.start_bird(bird_config(THEIRS))
        async with running(a, intent_of(a, b, BLOCK), replace(supervised(a), patience_s=2.0)) as (role, kernel):
            await settled(kernel, THEIRS)
            await until(lambda: kernel_has(b, BLOCK))
            async with removals(b, b.directory / "monitor") as log:
                pid = listener_pid(a.socket_path)
                os.kill(pid, signal.SIGSTOP)
                await until(lambda: role.status().generation == 0)
                await until(lambda: role.status().generation and listener_pid(a.socket_path) not in (0, pid))
                await settled(kernel, THEIRS)
                await until(lambda: role.status().sessions[b.address].established and kernel_has(b, BLOCK))
                assert (deleted(log, BLOCK), kernel.removed) == (0, [])
    finally:
        end_gobgpd(a)


async def test_what_the_neighbour_dropped_meanwhile_is_swept(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    try:
        bird = b.start_bird(bird_config(THEIRS, THEIR_OTHER))
        async with running(a, intent_of(a, b, BLOCK)) as (role, kernel):
            await settled(kernel, THEIRS, THEIR_OTHER)
            end_gobgpd(a)
            await until(lambda: role.status().phase is Phase.FROZEN)
            bird.kill()
            b.start_bird(bird_config(THEIRS))
            await settled(kernel, THEIRS)
            assert kernel.removed == [THEIR_OTHER]
    finally:
        end_gobgpd(a)


async def test_a_gobgpd_neighbour_keeps_the_routes_of_a_killed_one(routers: list[Router]) -> None:
    a, b = routers[:2]
    b.generation = a.generation
    try:
        b.start_gobgpd()
        async with b.driver() as plain:
            neighbor = session(b, a)
            await make_so(plain, BgpIntent(b.speaker(), {a.address: neighbor}, announcing(THEIRS)))
        watching, seen = BgpRole(RoleSettings(b.socket_path)), Kernel()
        watching.set_intent(BgpIntent(b.speaker(), {a.address: neighbor}, announcing(THEIRS)))
        tasks = [asyncio.create_task(watching.run()), asyncio.create_task(seen.follow(watching))]
        async with running(a, intent_of(a, b, BLOCK, VIP)) as (role, kernel):
            await settled(kernel, THEIRS)
            await settled(seen, BLOCK, VIP)
            end_gobgpd(a)
            await until(lambda: role.status().phase is Phase.FROZEN)
            role.set_intent(intent_of(a, b, BLOCK))
            await settled(seen, BLOCK)
            assert (seen.removed, kernel.removed) == ([VIP], [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        end_gobgpd(a)


async def test_an_unreachable_neighbour_holds_back_announcements_for_the_deferral_time_only(
    routers4: list[Router],
) -> None:
    a, b, absent = routers4[:3]
    try:
        b.start_bird(bird_config(THEIRS))
        intent = intent_of(a, b, BLOCK)
        both = {**intent.neighbors, absent.address: session(a, absent)}
        settings = replace(supervised(a), forwarding_survived=True)
        async with running(a, replace(intent, neighbors=both), settings):
            await until(lambda: kernel_has(b, BLOCK), within_s=15)
    finally:
        end_gobgpd(a)


async def test_status_says_why_a_session_went_down(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    try:
        bird = b.start_bird(bird_config(THEIRS))
        async with running(a, intent_of(a, b, BLOCK)) as (role, kernel):
            await settled(kernel, THEIRS)
            bird.kill()

            await until(lambda: role.status().sessions[b.address].why_down is DownReason.NO_CONNECTION)
    finally:
        end_gobgpd(a)


async def test_what_gobgpd_refuses_for_ever_holds_up_no_withdrawal_and_is_said_once(
    routers: list[Router], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "birdpy.speaker")
    (a, b), unreadable = routers[:2], Policy(exports=(Statement(Match(as_path=("(",)), False),))
    good = BgpIntent(a.speaker(), {b.address: session(a, b)}, announcing(BLOCK, VIP))
    async with running(a, good) as (role, _):
        await until(lambda: role.status().advertised == 2)
        role.set_intent(replace(good, advertisements=announcing(BLOCK), policy=unreadable))
        assert not role.settled
        await until(lambda: role.status().errors)
        await until(lambda: role.settled)
        assert role.status().advertised == 1
        await until(lambda: sum("failed: set policies" in one.getMessage() for one in caplog.records) >= 3)
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == len(set(warnings))
    end_gobgpd(a)


async def test_what_is_advertised_is_counted_for_a_share_of_the_time_and_known_in_between(
    routers4: list[Router],
) -> None:
    """gobgpd itself, read without counting, tells none."""
    a, b = routers4[:2]
    many = [Prefix((0x0A640000 + number).to_bytes(4, "big"), 32) for number in range(5_000)]
    try:
        b.start_bird(bird_config(THEIRS))
        async with running(a, intent_of(a, b, *many)) as (role, kernel):
            await settled(kernel, THEIRS)

            async def known() -> bool:
                told = await role.read_status()
                counted = role.status().sessions[b.address].advertised
                return (told.sessions[b.address].advertised, told.untold, counted) == (len(many), {b.address: 0}, 0)

            await eventually_async(known, within_s=30)
    finally:
        end_gobgpd(a)
