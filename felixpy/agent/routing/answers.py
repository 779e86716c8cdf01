"""How BGP on this node stands, for those who ask: sessions, what is announced or not and why, what was learned.

In: the bgp role; out: values of status. Reads, and never changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING

from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import range_of
from birdpy.ranges import find_meant
from felixpy.addresses import Address, Prefix, format_address
from felixpy.agent.clock import utc_now
from felixpy.agent.kernel.answers import list_failures
from felixpy.drivers.netlink.lookup import Outlet, find_outlets
from felixpy.status.answers import (
    DETAILS_SHOWN,
    FAILURES_SHOWN,
    NEIGHBOURS_SHOWN,
    AnnouncedPrefix,
    BfdStatus,
    BgpStatus,
    Failure,
    LearnedPrefix,
    MessagesStatus,
    SessionStatus,
    SilentPrefix,
    Want,
)

if TYPE_CHECKING:
    from birdpy.report import BgpStatus as RoleStatus
    from birdpy.session import BfdSession, MessageCounts, Session
    from felixpy.agent.routing.role import RoutingRole
    from felixpy.calc.announcing.announcements import Announcement
    from felixpy.calc.bgp.speaker import BgpPlan

COUNTERS_TIMEOUT_S = 1.0
"""How long gobgpd may take to tell its counters before the last known ones are given."""


async def read_bgp(routing: RoutingRole, want: Collection[str]) -> BgpStatus:
    """How the sessions and the learned routes stand, with the details asked for."""
    try:
        async with asyncio.timeout(COUNTERS_TIMEOUT_S):
            status = await routing.role.read_status()
    except TimeoutError:
        status = routing.role.status()
    now = utc_now().timestamp()
    announcements, silences = routing.announce.announcements, routing.announce.silences
    failed = routing.learned.reconciler.failed
    told = tuple(_failure_of_gobgpd(words) for words in islice(status.errors, FAILURES_SHOWN))
    shown = DETAILS_SHOWN if Want.ANNOUNCED in want else 0
    return BgpStatus(
        no_speaker=str(routing.silent or ""),
        generation=status.generation,
        ranges=_ranges(status, routing.plan),
        sessions=tuple(_session(one, now, status, routing.plan) for _, one in sorted(status.sessions.items())),
        announced=len(announcements if routing.plan is None else routing.plan.intent.advertisements),
        advertised=status.advertised,
        silent=len(silences),
        learned=status.routes,
        failed=len(status.errors) + len(failed),
        failures=(*told, *list_failures(failed.values()))[:FAILURES_SHOWN],
        refused=len(refusals := routing.refusals),
        refusals=tuple(Failure(one.what, one.why) for one in islice(refusals, FAILURES_SHOWN)),
        announcements=_announced(routing, shown),
        silences=tuple(
            SilentPrefix(str(prefix), str(silences[prefix].reason)) for prefix in nsmallest(shown, silences)
        ),
        routes=_learned(routing) if Want.LEARNED in want else (),
        installed=routing.learned.installed,
        router_id=_router_id(routing.plan),
        phase=str(status.phase),
        pending=status.pending[:FAILURES_SHOWN],
        plain=routing.learned.plain,
        contested=tuple(Failure(one.what, str(one)) for one in routing.learned.contests),
        tables_heard=status.tables_heard,
        paths_heard=status.paths_heard,
    )


def _failure_of_gobgpd(words: str) -> Failure:
    operation, _, error = words.partition(": ")
    return Failure(operation, error)


def _ranges(status: RoleStatus, plan: BgpPlan | None) -> tuple[str, ...]:
    """Prefixes from which whoever connects is a neighbour, and how many have."""
    neighbors = plan.intent.neighbors if plan is not None else {}
    ranges = sorted(one for one in neighbors if range_of(one) is not None)
    meant = [find_meant(address, neighbors) for address in (status.sessions if ranges else ())]
    return tuple(
        f"whoever connects from {range_of(one)} is a neighbour of AS {neighbors[one].asn}"
        f" ({', '.join(plan.asked_by.get(one, ()) if plan is not None else ())}): {meant.count(one) or 'nobody'} has"
        for one in ranges
    )


def _session(session: Session, now: float, status: RoleStatus, plan: BgpPlan | None) -> SessionStatus:
    meant = find_meant(session.address, plan.intent.neighbors) if plan is not None else None
    since = session.up_since if session.established else session.down_since
    untold = status.untold.get(session.address, 0)
    return SessionStatus(
        address=format_address(session.address),
        asn=session.asn,
        state=str(session.state),
        established=session.established,
        since_s=None if since is None else max(0, int(now - since)),
        last_error=session.last_error,
        received=session.received,
        accepted=session.accepted,
        advertised=session.advertised,
        asked_by=plan.asked_by.get(meant, ()) if plan is not None and meant is not None else (),
        differences=(*status.differences.get(session.address, ()), *_untold_words(session, untold)),
        untold=untold,
        visitor=plan is not None and meant in plan.visitors,
        sent=_messages(session.sent),
        got=_messages(session.got),
        bfd=_bfd(session.bfd) if session.bfd is not None else None,
    )


def _untold_words(session: Session, untold: int) -> Iterator[str]:
    """A session that is down says by itself that nothing is told."""
    if untold and session.established:
        yield f"{untold} of our own prefixes that the neighbour should be told are not told yet"


def _messages(counts: MessageCounts) -> MessagesStatus:
    return MessagesStatus(
        counts.opens, counts.updates, counts.notifications, counts.keepalives, counts.refreshes, counts.total
    )


def _bfd(session: BfdSession) -> BfdStatus:
    return BfdStatus(session.up, session.sent, session.got, session.failures)


def _router_id(plan: BgpPlan | None) -> str:
    return "" if plan is None or plan.intent.speaker is None else format_address(plan.intent.speaker.router_id)


def _announced(routing: RoutingRole, shown: int) -> tuple[AnnouncedPrefix, ...]:
    """The first so many announcements, in the order of their prefixes, with whom they have been told to."""
    announcements = routing.announce.announcements
    prefixes = nsmallest(shown, announcements)
    told = routing.role.find_told(BgpPrefix(*prefix) for prefix in prefixes)
    return tuple(_announced_prefix(announcements[one], told.get(BgpPrefix(*one), ())) for one in prefixes)


def _announced_prefix(one: Announcement, told: Sequence[bytes]) -> AnnouncedPrefix:
    return AnnouncedPrefix(
        prefix=str(one.prefix),
        why=str(one.why),
        communities=one.communities,
        local_pref=one.local_pref,
        peers=one.peers,
        prepend=one.prepend,
        told=tuple(map(format_address, told[:NEIGHBOURS_SHOWN])),
        told_to=len(told),
    )


def _learned(routing: RoutingRole) -> tuple[LearnedPrefix, ...]:
    """The routes that the kernel should have, in the order of their prefixes."""
    shown = nsmallest(DETAILS_SHOWN, routing.learned.reconciler.desired)
    try:
        outlets = find_outlets({hop for prefix in shown for hop in _next_hops(prefix, routing)})
    except OSError:
        outlets = {}
    return tuple(_learned_route(one, routing, outlets) for one in shown)


def _next_hops(prefix: Prefix, routing: RoutingRole) -> tuple[Address, ...]:
    """The neighbours' addresses, which the kernel's own form of the route need not name."""
    return tuple(map(Address, routing.role.find_next_hops(BgpPrefix(*prefix))))


def _learned_route(prefix: Prefix, routing: RoutingRole, outlets: Mapping[Address, Outlet]) -> LearnedPrefix:
    hops, reconciler = _next_hops(prefix, routing), routing.learned.reconciler
    return LearnedPrefix(
        prefix=str(prefix),
        next_hops=tuple(map(format_address, hops)),
        metric=reconciler.desired[prefix].metric,
        error=reconciler.why_failed(prefix),
        teachers=routing.role.find_teachers(BgpPrefix(*prefix)),
        devices=tuple(sorted({outlets[hop].device for hop in hops if hop in outlets})),
    )
