"""What GoBGP does that nobody expects, and which test would fail if we walked into it.

TRAPS is the list; a test of this module holds every entry to tests that exist. Below it are those traps that no other
test has for its subject.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from importlib import import_module
from importlib.util import find_spec

from birdpy.addresses import parse_prefix
from birdpy.gobgp.plan import AddNeighbor, Announce, Refresh, SetPolicy, StartSpeaker, UpdateNeighbor, plan
from birdpy.gobgp.watch import watch
from birdpy.intent import Advertisement, BgpIntent, Direction, Match, Policy, PrefixRange, Statement
from birdpy.session import DownReason
from tests.birdpy.conftest import Router, Star, generation, hosts, make_so, sees
from tests.birdpy.role_world import BLOCK, THEIRS, bird_config, end_gobgpd, intent_of, running, settled
from tests.support.wait import eventually_async, until

OTHER = parse_prefix("10.64.2.0/26")
HERE = "tests.birdpy.test_traps"
DRIVER, PLAN, ROLE = "tests.birdpy.test_driver", "tests.birdpy.test_plan", "tests.birdpy.test_role"
FAULTS, WATCH, RESETS = "tests.birdpy.test_faults", "tests.birdpy.test_watch", "tests.birdpy.test_resets"
SUPERVISOR = "tests.birdpy.test_supervisor"

TRAPS: Mapping[str, tuple[str, ...]] = {
    "1 an update of a neighbour ends its session; with version 3 even one that changes nothing": (
        f"{HERE}.test_an_update_that_changes_nothing_is_never_sent_since_version_3_ends_a_session_for_it",
        f"{RESETS}.test_a_session_ends_with_what_its_open_message_or_its_connection_says",
        f"{DRIVER}.test_timers_alone_leave_the_session_up_on_version_4",
    ),
    "2 becoming a reflector's client by an update is ignored": (
        f"{DRIVER}.test_a_reflector_reflects_and_a_neighbour_can_become_a_client",
    ),
    "3 a policy of a neighbour's own is not heeded, but for route servers' clients": (
        f"{DRIVER}.test_a_tighter_export_policy_withdraws_from_whom_it_names",
        f"{DRIVER}.test_import_policy_rejects_by_neighbor_and_prefix",
    ),
    "4 another policy is heeded after a soft reset; with version 3 one outwards takes nothing back": (
        f"{HERE}.test_a_tighter_export_takes_nothing_back_by_a_soft_reset_of_version_3",
        f"{DRIVER}.test_import_policy_rejects_by_neighbor_and_prefix",
        f"{PLAN}.test_version_3_begins_a_session_anew_to_take_routes_back",
    ),
    "5 a set that is replaced by itself reaches no policy that names it": (
        f"{DRIVER}.test_a_prefix_for_some_comes_and_goes_without_a_session",
    ),
    "6 an empty set means anybody, and a set of prefixes is of one family": (
        f"{PLAN}.test_no_empty_set_is_ever_written",
        f"{DRIVER}.test_an_empty_list_matches_nothing",
        f"{DRIVER}.test_the_first_verdict_wins_and_the_family_is_told_apart",
    ),
    "7 the identifiers of paths are told once: a later client takes back by prefix": (
        f"{ROLE}.test_a_restarted_agent_changes_nothing_but_what_changed_meanwhile",
    ),
    "8 a path that is added again as it is tells nobody anything": (
        f"{DRIVER}.test_a_restarted_client_leaves_sessions_alone",
    ),
    "9 a snapshot is one huge message with version 3, and ends with a short one with version 4": (
        f"{WATCH}.test_a_snapshot_of_any_size_ends",
        f"{HERE}.test_a_snapshot_of_more_than_grpc_would_take_in_one_message_is_read",
    ),
    "10 of equal paths version 3 tells all that are left, version 4 what came or went": (
        f"{DRIVER}.test_equal_paths_share_and_a_lost_one_leaves_the_rest",
    ),
    "11 what a slow reader has not read yet is kept in memory without limit": (
        f"{FAULTS}.test_a_flood_is_learned_to_the_last_route",
        f"{WATCH}.test_a_flood_of_single_events_is_read_to_its_end",
    ),
    "12 passwords are told to whoever reads the socket, which is open to all; it may be stale; and there is a port": (
        f"{SUPERVISOR}.test_only_its_user_may_speak_to_it",
        f"{SUPERVISOR}.test_a_stale_socket_is_no_obstacle",
        f"{SUPERVISOR}.test_it_opens_no_port",
        "tests.agent.bgp.test_bgp_peers.test_passwords_are_nowhere_to_be_read",
    ),
    "13 passwords that differ look like nobody; too many prefixes shut a session for good": (
        f"{DRIVER}.test_md5_passwords_must_agree",
        f"{DRIVER}.test_too_many_prefixes_end_the_session_and_are_named",
        "tests.agent.bgp.test_bgp_faults.test_too_many_prefixes_end_the_session_and_are_named",
    ),
    "14 next hops: which is told depends on the kind of session, and an action can set each": (
        f"{DRIVER}.test_export_can_set_the_next_hop",
        "tests.birdpy.test_filters.test_a_next_hop_is_kept_or_made_ours",
        "tests.agent.bgp.test_bgp_fields.test_what_another_router_taught_has_the_next_hop_that_the_peer_asks_for",
    ),
    "15 whatever is refused has the same code: what is there is read, not found out by asking for it": (
        f"{HERE}.test_what_is_there_already_is_refused_without_a_reason_and_so_read_first",
    ),
    "16 a neighbour on a link is taken only while its address is known there; IPv4 leads to fe80::": (
        "tests.birdpy.test_unnumbered.test_a_neighbour_on_a_link_has_a_password_and_a_policy_of_its_own",
        "tests.agent.bgp.test_bgp_unnumbered",
    ),
    "17 after a session has ended its neighbour is refused for seconds": (
        f"{HERE}.test_a_session_that_its_neighbour_ends_comes_back_by_itself_though_it_is_refused_at_first",
    ),
}


def test_every_trap_has_its_tests() -> None:
    missing = [name for names in TRAPS.values() for name in names if not exists(name)]
    assert not missing


def exists(name: str) -> bool:
    """Whether there is such a test, or such a module of them."""
    module, _, last = name.rpartition(".")
    return callable(getattr(import_module(module), last, None)) or find_spec(name) is not None


async def test_an_update_that_changes_nothing_is_never_sent_since_version_3_ends_a_session_for_it(star: Star) -> None:
    driver, second, _ = star.drivers
    intent = star.intent(star.a)
    assert plan(intent, driver.actual, generation(driver)) == []
    before = (await second.read_sessions())[star.a.address]
    (outcome,) = await driver.apply([UpdateNeighbor(intent.neighbors[star.b.address])])
    assert outcome.error is None
    if generation(driver) == 3:

        async def ended() -> bool:
            now = (await second.read_sessions())[star.a.address]
            return not now.established or now.up_since != before.up_since

        await eventually_async(ended)
        return
    await make_so(driver, star.intent(star.a, BLOCK))
    await sees(second, {BLOCK: (star.a.address,)})
    after = (await second.read_sessions())[star.a.address]
    assert (after.up_since, after.got.opens) == (before.up_since, before.got.opens)


async def test_a_tighter_export_takes_nothing_back_by_a_soft_reset_of_version_3(star: Star) -> None:
    """Which is why its session begins anew; what is announced after the reset shows that it is over."""
    driver, second, _ = star.drivers
    via = (star.a.address,)
    await make_so(driver, star.intent(star.a, BLOCK))
    await sees(second, {BLOCK: via})
    closed = Policy(exports=(Statement(Match((star.b.address,), prefixes=(PrefixRange(BLOCK, 26, 26),)), False),))
    reset = [SetPolicy(closed), Refresh(star.b.address, Direction.EXPORT), Announce((Advertisement(OTHER),))]
    assert not [one.error for one in await driver.apply(reset) if one.error]
    await sees(second, {OTHER: via} if generation(driver) == 4 else {BLOCK: via, OTHER: via})


async def test_a_snapshot_of_more_than_grpc_would_take_in_one_message_is_read(star: Star) -> None:
    """4 MiB is its limit where nobody sets another; version 3 tells all of it in one."""
    driver, many = star.drivers[0], hosts(25_000)
    lone = BgpIntent(star.a.speaker())
    await make_so(driver, lone)
    await driver.apply([Announce(many)])
    seen = 0
    async with asyncio.timeout(80), aclosing(watch(driver.client)) as batches:
        async for batch in batches:
            seen += len(batch.own)
            if batch.snapshot_end:
                break
    assert seen == len(many)


async def test_what_is_there_already_is_refused_without_a_reason_and_so_read_first(star: Star) -> None:
    driver, second, _ = star.drivers
    intent = star.intent(star.a)
    before = (await second.read_sessions())[star.a.address].up_since
    for one in (StartSpeaker(star.a.speaker()), AddNeighbor(intent.neighbors[star.b.address])):
        (outcome,) = await driver.apply([one])
        assert "UNKNOWN: " in (outcome.error or ""), one
    async with star.a.driver() as again:
        assert plan(intent, again.actual, generation(again)) == [], "who comes later reads, and asks for nothing"
    assert (await second.read_sessions())[star.a.address].up_since == before


async def test_a_session_that_its_neighbour_ends_comes_back_by_itself_though_it_is_refused_at_first(
    routers: list[Router],
) -> None:
    """Five seconds, which are a constant of its own (docs/bgp.md); whoever connects meanwhile tries again."""
    a, b = routers[:2]
    try:
        b.start_bird(bird_config(THEIRS))
        async with running(a, intent_of(a, b, BLOCK)) as (role, kernel):
            await settled(kernel, THEIRS)
            opens = (await role.read_status()).sessions[b.address].got.opens
            b.birdc("disable", "node1")
            await until(lambda: role.status().sessions[b.address].why_down is DownReason.ENDED_BY_NEIGHBOUR)
            b.birdc("enable", "node1")
            await until(lambda: role.status().sessions[b.address].established)
            await settled(kernel, THEIRS)
            assert (await role.read_status()).sessions[b.address].got.opens == opens + 1
    finally:
        end_gobgpd(a)
