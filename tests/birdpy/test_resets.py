"""Which changes end a session: what docs/bgp.md says, measured. All others leave it as it is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from birdpy.addresses import parse_prefix
from birdpy.intent import (
    Bfd,
    BgpIntent,
    Change,
    GracefulRestart,
    Match,
    Neighbor,
    Policy,
    PrefixRange,
    Statement,
)
from tests.birdpy.conftest import Star, established, generation, make_so
from tests.support.wait import eventually_async

BLOCK, OTHER = parse_prefix("10.64.1.0/26"), parse_prefix("10.64.2.0/26")
STAYS_S = 0.7
"""How long a session is looked at before it counts as left alone; one that ends does so at once."""

ENDS: dict[str, dict[str, object]] = {
    "password": {"password": "secret"},
    "restart time": {"graceful_restart": GracefulRestart(restart_time_s=33, deferral_time_s=2)},
    "AS allowed in the path": {"allow_own_asn": 2},
}
"""Measured too, and left out for their time: families, TTL security, passive, port, local AS.

On version 3 every update ends the session.
"""
STAYS: dict[str, dict[str, object]] = {
    "hold and keepalive time": {"hold_time_s": 180, "keepalive_s": 60},
}


async def check_end(star: Star, changed: BgpIntent, ends: bool) -> None:
    """Whether the other side sees its session end, when `changed` is carried out, is as said."""
    driver, second, _ = star.drivers
    before = (await second.read_sessions())[star.a.address]
    assert before.established
    await make_so(driver, changed)

    async def ended() -> bool:
        now = (await second.read_sessions())[star.a.address]
        return not now.established or now.up_since != before.up_since

    if ends:
        await eventually_async(ended, what="the session ends")
        return
    end = asyncio.get_running_loop().time() + STAYS_S
    while asyncio.get_running_loop().time() < end:
        assert not await ended(), "the session ends"
        await asyncio.sleep(0.02)


def towards_b(star: Star, **settings: object) -> BgpIntent:
    intent = star.intent(star.a, BLOCK, OTHER)
    neighbor: Neighbor = replace(intent.neighbors[star.b.address], **settings)  # type: ignore[arg-type]
    return replace(intent, neighbors={**intent.neighbors, star.b.address: neighbor})


@pytest.mark.parametrize("what", ENDS)
async def test_a_session_ends_with_what_its_open_message_or_its_connection_says(star: Star, what: str) -> None:
    if generation(star.drivers[0]) == 4 or what == "restart time":
        await check_end(star, towards_b(star, **ENDS[what]), ends=True)


@pytest.mark.parametrize("settings", STAYS.values(), ids=STAYS.keys())
async def test_version_4_leaves_a_session_alone_where_only_times_change(
    star: Star, settings: dict[str, object]
) -> None:
    await make_so(star.drivers[0], towards_b(star))
    await check_end(star, towards_b(star, **settings), ends=generation(star.drivers[0]) == 3)


async def test_policies_leave_sessions_alone_but_a_tighter_export_ends_them_on_version_3(star: Star) -> None:
    driver = star.drivers[0]
    block = Match(prefixes=(PrefixRange(BLOCK, 26, 26),))
    await make_so(driver, towards_b(star))
    for policy, tighter in (
        (Policy(imports=(Statement(block, False),)), False),
        (Policy(exports=(Statement(block, None, Change(add_communities=(64512 << 16 | 7,))),)), False),
        (Policy(exports=(Statement(block, False),)), True),
    ):
        await check_end(star, replace(towards_b(star), policy=policy), ends=tighter and generation(driver) == 3)


async def test_bfd_is_taken_up_and_left_with_a_new_session(star: Star) -> None:
    """Version 4 alone; both ends see each other's packets."""
    driver, second, _ = star.drivers
    if generation(driver) == 3:
        return
    fast = Bfd(100, 100, 3)
    back = star.intent(star.b)
    to_a = replace(back.neighbors[star.a.address], bfd=fast)
    await make_so(second, replace(back, neighbors={star.a.address: to_a}))
    await make_so(driver, towards_b(star, bfd=fast))
    await established(second)

    async def up() -> bool:
        bfd = (await driver.read_sessions())[star.b.address].bfd
        return bfd is not None and bfd.up

    await eventually_async(up, within_s=20)
