"""A BGP session as it stands, and when sessions have said all that a restart must wait for.

In: what gobgpd reports. Out: status for people, and the answer to one question: may routes that nobody confirmed after
a restart be removed now? Reads no clock. Source: RFC 4271 §8.2.2 (states), RFC 4724 §4.1 (waiting for end-of-RIB).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from birdpy.addresses import range_of
from birdpy.intent import Neighbor
from birdpy.ranges import find_meant

QUIET_S = 5.0
"""How long a session without graceful restart, which sends no end-of-RIB, gets to send its table."""

EARLY_S = 2.0
"""FRR may send its end-of-RIB a second before its table, when it helps a neighbour that restarts."""


class SessionState(StrEnum):
    """RFC 4271's states."""

    IDLE = "Idle"
    CONNECT = "Connect"
    ACTIVE = "Active"
    OPEN_SENT = "OpenSent"
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"


class DownReason(StrEnum):
    """What keeps a session from being up, as far as it can be seen from here.

    Neither version of GoBGP tells by gRPC why a session ended (4.8 has fields for it, which it leaves empty).
    """

    OVER_PREFIX_LIMIT = "the neighbour announced more prefixes than its limit"
    BFD_DOWN = "BFD went down: the neighbour, or the way to it, is gone"
    ENDED_BY_NEIGHBOUR = "the neighbour ended the session with a notification: it is down there, or to be otherwise"
    ENDED_BY_US = (
        "we ended the session with a notification: the neighbour was silent for the hold time, or sent garbage"
    )
    REFUSED_BY_NEIGHBOUR = (
        "the neighbour sent a notification: it ended the session, or its settings (AS, families, limits) are not ours"
    )
    REFUSED_BY_US = "we sent a notification: AS, families or hold time are not as expected"
    NEGOTIATING = "the connection is there, and OPEN messages are being exchanged"
    NO_CONNECTION = "no connection: the neighbour is unreachable, does not listen, or has another password"


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """BGP messages that went one way, by kind, since gobgpd knows the neighbour."""

    opens: int = 0
    updates: int = 0
    notifications: int = 0
    keepalives: int = 0
    refreshes: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class BfdSession:
    """How BFD with a neighbour stands; control packets, and how often it went down."""

    up: bool
    sent: int = 0
    got: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class LastUp:
    """How a session stood when it was last seen up: notifications until then, and whether BFD was up."""

    sent: int
    got: int
    bfd: bool


@dataclass(frozen=True, slots=True)
class Session:
    """One neighbour's session. Times are Unix seconds, None when never; counts are of prefixes.

    `accepted`: prefixes for which its path passed the import policy, and none is better. `end_of_rib`: each family that
    negotiated graceful restart has sent it; `graceful`: at least one has. `last_up` None: it was not seen up.
    """

    address: bytes
    asn: int = 0
    state: SessionState = SessionState.IDLE
    up_since: float | None = None
    down_since: float | None = None
    over_prefix_limit: bool = False
    received: int = 0
    accepted: int = 0
    advertised: int = 0
    sent: MessageCounts = MessageCounts()
    got: MessageCounts = MessageCounts()
    hold_time_s: int = 0
    router_id: bytes | None = None
    graceful: bool = False
    end_of_rib: bool = False
    bfd: BfdSession | None = None
    last_up: LastUp | None = None

    @property
    def established(self) -> bool:
        return self.state is SessionState.ESTABLISHED

    @property
    def why_down(self) -> DownReason | None:
        """None when it is up."""
        if self.established:
            return None
        if self.over_prefix_limit:
            return DownReason.OVER_PREFIX_LIMIT
        if self.state in (SessionState.OPEN_SENT, SessionState.OPEN_CONFIRM):
            return DownReason.NEGOTIATING
        if self.last_up is not None:
            return self._why_ended(self.last_up)
        if self.got.notifications:
            return DownReason.REFUSED_BY_NEIGHBOUR
        return DownReason.REFUSED_BY_US if self.sent.notifications else DownReason.NO_CONNECTION

    def _why_ended(self, last: LastUp) -> DownReason:
        """By what came since: a notification of earlier attempts says nothing of this end."""
        if last.bfd and self.bfd is not None and not self.bfd.up:
            return DownReason.BFD_DOWN
        if self.got.notifications > last.got:
            return DownReason.ENDED_BY_NEIGHBOUR
        return DownReason.ENDED_BY_US if self.sent.notifications > last.sent else DownReason.NO_CONNECTION

    @property
    def last_error(self) -> str:
        """`why_down` in words; empty when it is up."""
        reason = self.why_down
        return "" if reason is None else str(reason)


class Overruns:
    """Whose session ended for too many prefixes: so it is told until it is up again, or the limit is another one.

    gobgpd knows it no longer once it has the neighbour anew, as it does for changes of other kinds, or is itself anew.
    """

    def __init__(self) -> None:
        self._limits: dict[bytes, int] = {}

    def note(
        self, sessions: Mapping[bytes, Session], held: Mapping[bytes, Neighbor], wanted: Collection[bytes]
    ) -> None:
        """Takes sessions and neighbours as gobgpd had them when it was asked, and which there are to be."""
        self._limits = {address: limit for address, limit in self._limits.items() if address in wanted}
        for address, session in sessions.items():
            limit = held[address].prefix_limit if address in held else 0
            if session.over_prefix_limit:
                self._limits[address] = limit
            elif session.established or self._limits.get(address) != limit:
                self._limits.pop(address, None)

    def mark(self, sessions: Mapping[bytes, Session]) -> Mapping[bytes, Session]:
        """The sessions, those that ended so as such."""
        return {
            address: replace(session, over_prefix_limit=True) if address in self._limits else session
            for address, session in sessions.items()
        }


def follow(before: Session | None, now: Session) -> Session:
    """The session as it is `now`, with what was seen of it before: how it stood when it was up, and BFD's failures.

    GoBGP 4.8 has a counter of the latter that it never counts.
    """
    if now.established:
        bfd_up = now.bfd is not None and now.bfd.up
        last: LastUp | None = LastUp(now.sent.notifications, now.got.notifications, bfd_up)
    else:
        last = before.last_up if before is not None else None
        if last is not None and (now.sent.notifications < last.sent or now.got.notifications < last.got):
            last = None  # counted anew: it is another session since
    bfd = now.bfd
    if bfd is not None and before is not None and before.bfd is not None:
        failures = before.bfd.failures + (before.bfd.up and not bfd.up)
        bfd = replace(bfd, failures=max(bfd.failures, failures))
    return replace(now, last_up=last, bfd=bfd)


def find_differences(wanted: Neighbor, session: Session | None) -> tuple[str, ...]:
    """What of an established session is not as was asked for, in words; or that gobgpd does not have the neighbour."""
    if session is None:
        return ("it is not configured in gobgpd yet",)
    if not session.established:
        return ()
    found: list[str] = []
    if wanted.asn and session.asn and session.asn != wanted.asn:
        found.append(f"the neighbour is of AS {session.asn}, not {wanted.asn}")
    if session.hold_time_s and session.hold_time_s != wanted.hold_time_s:
        found.append(f"the hold time is {session.hold_time_s} s, not {wanted.hold_time_s}")
    if wanted.graceful_restart.enabled and not session.graceful:
        found.append("there is no graceful restart: the neighbour does not offer it")
    if wanted.bfd is not None and session.bfd is not None and not session.bfd.up:
        found.append("BFD does not run: the neighbour does not answer it")
    return tuple(found)


def match_sessions(
    neighbors: Mapping[bytes, Neighbor], sessions: Mapping[bytes, Session]
) -> Iterator[tuple[bytes, Neighbor, Session | None]]:
    """Each neighbour with its session, and each session of whoever connected from a prefix with what is asked of it."""
    ranges = {address for address in neighbors if range_of(address) is not None}
    for address, neighbor in neighbors.items():
        if address not in ranges:
            yield address, neighbor, sessions.get(address)
    for address, session in sessions.items() if ranges else ():
        meant = find_meant(address, ranges) if address not in neighbors else None
        if meant is not None:
            yield address, neighbors[meant], session


@dataclass(frozen=True, slots=True)
class Passed:
    """The time of a restart: the clock then and now (Unix seconds), and what has passed, whoever sets the clock."""

    since: float
    now: float
    elapsed_s: float

    def since_s(self, event: float) -> float:
        """How long ago an event was; not longer because the clock was set forward after it."""
        unset = self.since + self.elapsed_s
        return (min(self.now, unset) if event <= unset else self.now) - event


def unsettled_neighbors(
    neighbors: Mapping[bytes, Neighbor],
    sessions: Mapping[bytes, Session],
    passed: Passed,
    restarting: bool = False,
) -> Collection[bytes]:
    """The neighbours that may still have routes to tell when so much has passed of a restart.

    Shape   a neighbour is settled when its end-of-RIB came, EARLY_S after it is up at the soonest; when it is up
            without graceful restart for QUIET_S; when it has been down for its restart time; and in any case when its
            restart time has passed since the restart. Whoever may connect from a prefix is waited for as long as that
            where gobgpd is `restarting`: nobody else knows who had.
    """
    waiting = []
    for address, neighbor in neighbors.items() if restarting else ():
        if range_of(address) is not None and passed.elapsed_s < neighbor.graceful_restart.restart_time_s:
            waiting.append(address)
    for address, neighbor, session in match_sessions(neighbors, sessions):
        limit_s = max(neighbor.graceful_restart.restart_time_s, QUIET_S)
        if passed.elapsed_s >= limit_s:
            continue
        if session is not None and session.established:
            up_s = QUIET_S if session.up_since is None else passed.since_s(session.up_since)
            if session.graceful and session.end_of_rib and up_s >= EARLY_S:
                continue
            if not session.graceful and session.up_since is not None and up_s >= QUIET_S:
                continue
        elif session is not None and session.down_since is not None and passed.since_s(session.down_since) >= limit_s:
            continue
        waiting.append(address)
    return waiting
