"""What a neighbour's faults do to learned routes, and ours to those that it learned from us: FRR and BIRD beside us."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

import pytest

from birdpy.addresses import Prefix, parse_prefix
from birdpy.fib import PathPut
from birdpy.gobgp.plan import Announce, Withdraw
from birdpy.gobgp.watch import watch
from birdpy.intent import (
    Advertisement,
    Bfd,
    BgpIntent,
    GracefulRestart,
    Match,
    Policy,
    PrefixRange,
    Statement,
)
from tests.birdpy.conftest import Router, announcing, established, make_so, session
from tests.birdpy.role_world import BLOCK, THEIR_OTHER, THEIRS, bird_config, end_gobgpd, intent_of, running, settled
from tests.support.process import Daemon
from tests.support.wait import eventually_async, until

FRR = """
router bgp 64512
 bgp router-id 10.99.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart restart-time 20
 neighbor 10.99.0.1 remote-as 64512
 neighbor 10.99.0.1 timers connect 2
 address-family ipv4 unicast
  network 10.64.2.0/26
 exit-address-family
"""
NO_RESTART = GracefulRestart(enabled=False)


def start_frr(router: Router, text: str = FRR) -> Daemon:
    config = router.directory / "frr.conf"
    config.write_text(text)
    (router.directory / "bgpd.vty").unlink(missing_ok=True)
    argv = ["/usr/lib/frr/bgpd", "-S", "-Z", "-f", str(config), "-i", str(router.directory / "bgpd.pid")]
    argv += ["--vty_socket", str(router.directory), "-P", "0"]
    bgpd = Daemon(argv, router.directory / "bgpd.log", netns=router.namespace.name).start()
    router.others.append(bgpd)
    return bgpd.wait_ready(lambda: (router.directory / "bgpd.vty").exists())


def vtysh(router: Router, command: str) -> str:
    return router.namespace.run("vtysh", "--vty_socket", router.directory, "-c", command)


def frr_has(router: Router, prefix: Prefix) -> bool:
    return str(prefix) in json.loads(vtysh(router, "show bgp ipv4 unicast json"))["routes"]


@contextmanager
def silence(router: Router) -> Iterator[None]:
    """No packet reaches the router or leaves it, and no device tells of it."""
    rules = (
        "add table netdev mute",
        "add chain netdev mute in { type filter hook ingress device eth0 priority 0; policy drop; }",
    )
    for rule in rules:
        router.namespace.run("nft", rule)
    try:
        yield
    finally:
        router.namespace.run("nft", "delete table netdev mute")


async def test_a_neighbour_that_falls_silent_is_noticed_by_the_hold_timer(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    config = bird_config(THEIRS).replace("graceful restart on;", "graceful restart off;")
    try:
        b.start_bird(config)
        async with running(a, with_settings(intent_of(a, b, BLOCK), hold_time_s=3, keepalive_s=1)) as (_, kernel):
            await settled(kernel, THEIRS)
            with silence(b):
                await until(lambda: not kernel.routes, within_s=8)
            await settled(kernel, THEIRS)
    finally:
        end_gobgpd(a)


async def test_a_neighbour_that_falls_silent_is_noticed_by_bfd_long_before(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    bfd = Bfd(100, 100, 3)
    theirs = replace(session(b, a), bfd=bfd, graceful_restart=NO_RESTART)
    try:
        b.start_gobgpd()
        async with b.driver() as other:
            await make_so(other, BgpIntent(b.speaker(), {a.address: theirs}, announcing(THEIRS)))
            async with running(a, with_settings(intent_of(a, b, BLOCK), bfd=bfd)) as (role, kernel):
                await settled(kernel, THEIRS)

                async def bfd_runs() -> bool:
                    now = (await role.read_status()).sessions[b.address].bfd
                    return now is not None and now.up and now.sent > 0 and now.got > 0

                await eventually_async(bfd_runs, within_s=20)
                with silence(b):
                    await until(lambda: not kernel.routes, within_s=5)
    finally:
        end_gobgpd(a)


def with_settings(intent: BgpIntent, **settings: object) -> BgpIntent:
    """Its neighbours with these settings, and without graceful restart, which would keep the routes."""
    changed = {"graceful_restart": NO_RESTART, **settings}
    return replace(
        intent,
        neighbors={
            address: replace(neighbor, **changed)  # type: ignore[arg-type]
            for address, neighbor in intent.neighbors.items()
        },
    )


async def test_a_restarting_frr_keeps_its_routes_here_and_ours_there(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    try:
        bgpd = start_frr(b)
        async with running(a, intent_of(a, b, BLOCK)) as (role, kernel):
            await settled(kernel, THEIRS)
            await until(lambda: frr_has(b, BLOCK))
            bgpd.kill()
            await until(lambda: not role.status().sessions[b.address].established)
            assert THEIRS in kernel.routes
            b.others.clear()
            start_frr(b)
            await until(lambda: role.status().sessions[b.address].established and frr_has(b, BLOCK))
            assert kernel.removed == [], "helper"
            lost: list[bool] = []

            async def look() -> None:
                while True:
                    lost.append(not await asyncio.to_thread(frr_has, b, BLOCK))
                    await asyncio.sleep(0.1)

            looking = asyncio.create_task(look())
            end_gobgpd(a)
            await until(lambda: not role.status().sessions)
            await until(lambda: (found := role.status().sessions.get(b.address)) and found.established)
            await settled(kernel, THEIRS)
            looking.cancel()
            assert not any(lost), "restarter"
            assert kernel.removed == []
    finally:
        end_gobgpd(a)


LONG_LIVED = {
    "bird": (
        "graceful restart on;",
        "graceful restart on; graceful restart time 2; long lived graceful restart on; long lived stale time 8;",
    ),
    "frr": (
        " bgp graceful-restart restart-time 20",
        " bgp graceful-restart restart-time 2\n bgp long-lived-graceful-restart stale-time 8",
    ),
}


def start_long_lived(kind: str, router: Router, *prefixes: Prefix) -> Daemon:
    """A neighbour that keeps and wants kept what is stale 2 s after a restart for 8 s more, as one that others lack."""
    if kind == "bird":
        return router.start_bird(bird_config(*prefixes).replace(*LONG_LIVED[kind]))
    networks = "".join(f"  network {prefix}\n" for prefix in prefixes)
    return start_frr(router, FRR.replace("  network 10.64.2.0/26\n", networks).replace(*LONG_LIVED[kind]))


async def stale(router: Router) -> set[Prefix]:
    """The prefixes whose paths gobgpd holds as long-lived stale ones."""
    found: set[Prefix] = set()
    async with router.driver() as driver, aclosing(watch(driver.client)) as batches:
        async for batch in batches:
            puts = (one for one in batch.events if isinstance(one, PathPut) and one.path.long_lived_stale)
            found.update(prefix for one in puts for prefix in one.prefixes)
            if batch.snapshot_end:
                return found
    return found


@pytest.mark.parametrize("kind", ["bird", "frr"])
async def test_a_neighbour_that_stays_away_keeps_its_routes_for_the_long_lived_time(
    routers4: list[Router], kind: str
) -> None:
    a, b = routers4[:2]
    restart = GracefulRestart(restart_time_s=2, deferral_time_s=2, long_lived_s=8)
    try:
        daemon = start_long_lived(kind, b, THEIRS, THEIR_OTHER)
        intent = intent_of(a, b, BLOCK)
        neighbors = {b.address: replace(intent.neighbors[b.address], graceful_restart=restart)}
        async with running(a, replace(intent, neighbors=neighbors)) as (role, kernel):
            await settled(kernel, THEIRS, THEIR_OTHER)
            daemon.kill()
            await until(lambda: not role.status().sessions[b.address].established)

            async def all_stale() -> bool:
                return await stale(a) == {THEIRS, THEIR_OTHER}

            await eventually_async(all_stale, within_s=20)
            assert set(kernel.routes) == {THEIRS, THEIR_OTHER}, "past the restart time"
            await until(lambda: not kernel.routes, within_s=20)
            b.others.clear()
            start_long_lived(kind, b, THEIRS)
            await settled(kernel, THEIRS)
    finally:
        end_gobgpd(a)


@pytest.mark.parametrize("kind", ["bird", "frr"])
async def test_ours_are_kept_for_the_long_lived_time_while_we_stay_away(routers4: list[Router], kind: str) -> None:
    a, b = routers4[:2]

    def shown() -> str:
        if kind == "bird":
            return b.birdc("show", "route", "all")
        return vtysh(b, f"show bgp ipv4 unicast {BLOCK}")

    start_long_lived(kind, b, THEIRS)
    restart = GracefulRestart(restart_time_s=2, deferral_time_s=2, long_lived_s=20)
    neighbor = replace(session(a, b), graceful_restart=restart)
    intent = BgpIntent(a.speaker(), {b.address: neighbor}, announcing(BLOCK))
    a.start_gobgpd()
    async with a.driver() as driver:
        await make_so(driver, intent)
        await established(driver)
        await until(lambda: a.text in shown())
    assert a.gobgpd is not None
    a.gobgpd.kill()
    mark = "(65535,6)" if kind == "bird" else "llgr-stale"
    await until(lambda: mark in shown())
    assert a.text in shown(), "past the restart time"
    a.start_gobgpd()
    async with a.driver() as driver:
        await make_so(driver, intent, restarting=True)
        await established(driver)
        await until(lambda: a.text in shown() and mark not in shown())
        await make_so(driver, replace(intent, advertisements={}))
        await until(lambda: a.text not in shown())


async def test_flapping_routes_end_as_they_are_and_cost_no_memory(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    given = [Advertisement(parse_prefix(f"10.70.{number // 250}.{number % 250}/32")) for number in range(500)]
    prefixes = tuple(one.prefix for one in given)
    try:
        b.start_gobgpd()
        async with b.driver() as flapper:
            neighbor = session(b, a)
            await make_so(flapper, BgpIntent(b.speaker(), {a.address: neighbor}))
            async with running(a, intent_of(a, b, BLOCK)) as (role, kernel):
                await established(flapper)
                for _ in range(20):
                    await flapper.apply([Announce(given), Withdraw(prefixes)])
                last = Advertisement(THEIRS)
                await flapper.apply([Announce(given), Withdraw(prefixes[100:]), Announce([last])])
                await settled(kernel, *prefixes[:100], THEIRS)
                assert role.status().routes == 101
    finally:
        end_gobgpd(a)


async def test_garbage_from_a_neighbour_harms_no_session(routers4: list[Router]) -> None:
    a, b, liar = routers4[:3]
    try:
        b.start_bird(bird_config(THEIRS))
        intent = intent_of(a, b, BLOCK)
        strange = session(a, liar)
        async with running(a, replace(intent, neighbors={**intent.neighbors, liar.address: strange})) as (role, kernel):
            await until(lambda: THEIRS in kernel.routes)
            up_since = (await role.read_status()).sessions[b.address].up_since
            for garbage in (b"\x00" * 64, b"\xff" * 16 + b"\x00\x13\x09", b"\xff" * 16 + b"\xff\xff\x02" + b"x" * 4000):
                with liar.namespace.entered():
                    talker = socket.create_connection((a.text, 179), 2)
                talker.sendall(garbage)
                talker.settimeout(3)
                try:
                    while talker.recv(4096):
                        pass
                except OSError:
                    pass
                talker.close()
            assert (await role.read_status()).sessions[b.address].up_since == up_since
            assert THEIRS in kernel.routes
            assert not kernel.removed
    finally:
        end_gobgpd(a)


async def test_what_an_import_policy_refuses_never_gets_here(routers4: list[Router]) -> None:
    a, b = routers4[:2]
    unwanted = [Advertisement(parse_prefix(f"10.{number >> 8 & 255}.{number & 255}.7/32")) for number in range(20_000)]
    wanted = (PrefixRange(THEIRS, 26, 26),)
    policy = Policy(imports=(Statement(Match(prefixes=wanted), accept=True), Statement(accept=False)))
    try:
        b.start_gobgpd()
        async with b.driver() as flood:
            neighbor = session(b, a)
            await make_so(flood, BgpIntent(b.speaker(), {a.address: neighbor}, announcing(THEIRS)))
            async with running(a, replace(intent_of(a, b, BLOCK), policy=policy)) as (role, kernel):
                await settled(kernel, THEIRS)
                await flood.apply([Announce(unwanted), Withdraw((THEIRS,)), Announce((Advertisement(THEIR_OTHER),))])
                await flood.apply([Announce((Advertisement(THEIRS),))])

                async def told() -> bool:
                    return (await role.read_status()).sessions[b.address].received == len(unwanted) + 2

                await eventually_async(told, within_s=30)
                await settled(kernel, THEIRS)
                assert set(kernel.removed) <= {THEIRS}
    finally:
        end_gobgpd(a)


async def test_a_flood_is_learned_to_the_last_route(routers4: list[Router], caplog: pytest.LogCaptureFixture) -> None:
    a, b = routers4[:2]
    many = [Advertisement(parse_prefix(f"10.{number >> 8 | 64}.{number & 255}.7/32")) for number in range(12_000)]
    stay, go = many[:6_000], tuple(one.prefix for one in many[6_000:])
    caplog.set_level(logging.INFO)
    try:
        b.start_gobgpd()
        async with b.driver() as flood:
            neighbor = session(b, a)
            await make_so(flood, BgpIntent(b.speaker(), {a.address: neighbor}, announcing(THEIRS)))
            async with running(a, intent_of(a, b, BLOCK)) as (_, kernel):
                await settled(kernel, THEIRS)
                await flood.apply([Announce(many)])
                await settled(kernel, THEIRS, *(one.prefix for one in many))
                assert "a flood of changes" in caplog.text
                assert kernel.removed == []
                await flood.apply([Withdraw(go)])
                await settled(kernel, THEIRS, *(one.prefix for one in stay))
                assert sorted(kernel.removed) == sorted(go)
    finally:
        end_gobgpd(a)
