"""What counts as a flood: many changes at once, a large share of the table, or the beginning of a neighbour's own."""

from __future__ import annotations

import pytest

from birdpy.flood import FLOOD_PATHS, FLOOD_S, FLOOD_SHARE, TABLE_PATHS, FloodGauge
from birdpy.session import Session, SessionState

TELLS = Session(bytes(4), state=SessionState.ESTABLISHED, graceful=True)
TOLD = Session(bytes(4), state=SessionState.ESTABLISHED, graceful=True, end_of_rib=True)
NEVER_SAYS = Session(bytes(4), state=SessionState.ESTABLISHED)
DOWN = Session(bytes(4), graceful=True)


@pytest.mark.parametrize(
    ("session", "known", "least"),
    [
        (TELLS, 0, TABLE_PATHS),
        (TOLD, 0, FLOOD_PATHS),
        (NEVER_SAYS, 0, FLOOD_PATHS),
        (DOWN, 0, FLOOD_PATHS),
        (TELLS, 100_000, 100_000 // FLOOD_SHARE),
        (TOLD, 100_000, 100_000 // FLOOD_SHARE),
    ],
)
def test_how_many_changes_at_once_are_a_flood(session: Session, known: int, least: int) -> None:
    sessions = {session.address: session}
    gauge = FloodGauge(0.0)
    assert not gauge.floods(least - 1, known, sessions, 0.1)
    assert gauge.floods(1, known, sessions, FLOOD_S)


def test_as_many_in_a_longer_time_are_none() -> None:
    gauge, sessions = FloodGauge(0.0), {TOLD.address: TOLD}
    assert not any(gauge.floods(FLOOD_PATHS // 4, 0, sessions, number * FLOOD_S / 2) for number in range(50))
