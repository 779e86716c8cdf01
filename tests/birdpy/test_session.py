"""When a restart is over, and why a session is down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from birdpy.addresses import parse_address
from birdpy.intent import Bfd, GracefulRestart, Neighbor
from birdpy.session import (
    EARLY_S,
    QUIET_S,
    BfdSession,
    DownReason,
    MessageCounts,
    Overruns,
    Passed,
    Session,
    SessionState,
    find_differences,
    follow,
    unsettled_neighbors,
)

N2 = parse_address("10.0.0.2")
NEIGHBORS = {N2: Neighbor(N2, 64512, graceful_restart=GracefulRestart(restart_time_s=120))}
UP = SessionState.ESTABLISHED


@pytest.mark.parametrize(
    ("session", "after_s", "waits"),
    [
        (None, 1, True),
        (Session(N2, state=UP, up_since=1000, graceful=True, end_of_rib=True), EARLY_S - 1, True),
        (Session(N2, state=UP, up_since=1000, graceful=True, end_of_rib=True), EARLY_S, False),
        (Session(N2, state=UP, up_since=900, graceful=True, end_of_rib=True), 0, False),
        (Session(N2, state=UP, up_since=1000, graceful=True), QUIET_S + 1, True),
        (Session(N2, state=UP, up_since=1000), QUIET_S - 1, True),
        (Session(N2, state=UP, up_since=1000), QUIET_S + 1, False),
        (Session(N2, down_since=1000), 1, True),
        (Session(N2, down_since=800), 1, False),
        (Session(N2), 119, True),
        (Session(N2), 121, False),
        (Session(N2, state=UP, up_since=1000, graceful=True), 121, False),
    ],
)
def test_a_neighbour_is_waited_for(session: Session | None, after_s: float, waits: bool) -> None:
    sessions = {} if session is None else {N2: session}
    passed = Passed(1000, 1000 + after_s, after_s)
    assert list(unsettled_neighbors(NEIGHBORS, sessions, passed)) == ([N2] if waits else [])


@pytest.mark.parametrize(
    ("session", "set_by_s", "after_s", "waits"),
    [
        (Session(N2, down_since=999), 3600, 1, True),
        (Session(N2), 3600, 119, True),
        (Session(N2), -3600, 119, True),
        (Session(N2), -3600, 121, False),
        (Session(N2, state=UP, up_since=1001), 3600, 2, True),
        (Session(N2, state=UP, up_since=4601), 3600, 6, False),
        (Session(N2, state=UP, up_since=-2599), -3600, 3, True),
        (Session(N2, state=UP, up_since=-2599), -3600, 7, False),
        (Session(N2, state=UP, up_since=800, graceful=True, end_of_rib=True), 3600, 1, False),
    ],
)
def test_a_clock_that_somebody_sets_ends_no_restart_early_and_keeps_none_from_its_end(
    session: Session, set_by_s: float, after_s: float, waits: bool
) -> None:
    passed = Passed(1000, 1000 + after_s + set_by_s, after_s)
    assert list(unsettled_neighbors(NEIGHBORS, {N2: session}, passed)) == ([N2] if waits else [])


@pytest.mark.parametrize(
    ("session", "reason"),
    [
        (Session(N2, state=UP, got=MessageCounts(notifications=3)), None),
        (Session(N2, over_prefix_limit=True), DownReason.OVER_PREFIX_LIMIT),
        (Session(N2, state=SessionState.OPEN_SENT), DownReason.NEGOTIATING),
        (Session(N2, got=MessageCounts(notifications=1)), DownReason.REFUSED_BY_NEIGHBOUR),
        (Session(N2, sent=MessageCounts(notifications=1)), DownReason.REFUSED_BY_US),
        (Session(N2, state=SessionState.ACTIVE), DownReason.NO_CONNECTION),
    ],
)
def test_a_session_that_is_down_says_why(session: Session, reason: DownReason | None) -> None:
    assert session.why_down is reason
    assert session.last_error == ("" if reason is None else reason.value)


LIMITED, WIDER = Neighbor(N2, 64512, prefix_limit=10), Neighbor(N2, 64512, prefix_limit=20)
SHUT, DOWN = Session(N2, over_prefix_limit=True), Session(N2, state=SessionState.ACTIVE)


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ([], True),
        ([(LIMITED, DOWN)], True),
        ([(None, None), (LIMITED, DOWN)], True),
        ([(LIMITED, Session(N2, state=UP))], False),
        ([(LIMITED, Session(N2, state=UP)), (LIMITED, DOWN)], False),
        ([(WIDER, DOWN)], False),
        ([(WIDER, DOWN), (LIMITED, DOWN)], False),
        ([(WIDER, SHUT), (WIDER, DOWN)], True),
    ],
    ids=["shut", "made anew", "gobgpd made anew", "up", "up and down", "wider", "wider and back", "wider, not enough"],
)
def test_too_many_prefixes_are_told_until_the_session_is_up_or_the_limit_another(
    then: list[tuple[Neighbor | None, Session | None]], told: bool
) -> None:
    overruns, session = Overruns(), SHUT
    for held, found in [(LIMITED, SHUT), *then]:
        session = found or session
        overruns.note({N2: found} if found else {}, {N2: held} if held else {}, {N2})
    marked = overruns.mark({N2: session})[N2]
    assert marked.over_prefix_limit is told
    assert (marked.why_down is DownReason.OVER_PREFIX_LIMIT) is told
    overruns.note({N2: DOWN}, {}, ())
    assert overruns.mark({N2: DOWN})[N2] == DOWN, "nobody wants the neighbour any more"


ONE = MessageCounts(notifications=1)
MET = Session(N2, state=UP, got=ONE, sent=ONE, bfd=BfdSession(True))


@pytest.mark.parametrize(
    ("got", "sent", "bfd", "reason"),
    [
        (1, 1, True, DownReason.NO_CONNECTION),
        (2, 1, True, DownReason.ENDED_BY_NEIGHBOUR),
        (1, 2, True, DownReason.ENDED_BY_US),
        (1, 2, False, DownReason.BFD_DOWN),
    ],
)
def test_why_a_session_ended_is_told_by_what_came_since_it_was_up(
    got: int, sent: int, bfd: bool, reason: DownReason
) -> None:
    up = follow(Session(N2, got=ONE), MET)
    down = Session(
        N2, got=MessageCounts(notifications=got), sent=MessageCounts(notifications=sent), bfd=BfdSession(bfd)
    )
    ended = follow(up, down)
    assert ended.why_down is reason
    assert ended.bfd == BfdSession(bfd, failures=not bfd)
    again = follow(ended, replace(down, bfd=BfdSession(True)))
    assert again.bfd == BfdSession(True, failures=not bfd), "what has happened stays counted"
    assert follow(again, MET).why_down is None


@pytest.mark.parametrize(
    ("session", "words"),
    [
        (None, ["configured"]),
        (Session(N2), []),
        (Session(N2, 64512, UP, hold_time_s=90, graceful=True, bfd=BfdSession(True)), []),
        (Session(N2, 64512, UP, hold_time_s=9, graceful=True, bfd=BfdSession(True)), ["9 s, not 90"]),
        (Session(N2, 64513, UP, hold_time_s=90, bfd=BfdSession(False)), ["AS 64513, not 64512", "graceful", "BFD"]),
    ],
)
def test_what_of_a_session_is_not_as_asked(session: Session | None, words: list[str]) -> None:
    found = find_differences(Neighbor(N2, 64512, bfd=Bfd()), session)
    assert [word in said for word, said in zip(words, found, strict=True)] == [True] * len(words)
