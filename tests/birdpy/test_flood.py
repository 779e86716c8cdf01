"""What counts as a flood: many changes at once, a large share of the table, or the beginning of a neighbour's own.

And when that is waited for before the first of it comes: once a session, where little is known.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from birdpy.addresses import Prefix, parse_address
from birdpy.fib import Path, PathPut, Source
from birdpy.flood import FEW_PATHS, FLOOD_PATHS, FLOOD_S, FLOOD_SHARE, TABLE_PATHS, Beginnings, FloodGauge
from birdpy.gobgp.watch import WatchBatch
from birdpy.session import Session, SessionState

ADDRESS, OTHER = parse_address("10.0.0.2"), parse_address("10.0.0.3")
TELLS = Session(ADDRESS, state=SessionState.ESTABLISHED, graceful=True)
TOLD = replace(TELLS, end_of_rib=True)
NEVER_SAYS = replace(TELLS, graceful=False)
DOWN = replace(TELLS, state=SessionState.IDLE)
ANOTHER = replace(TELLS, address=OTHER)


def batch(paths: int) -> WatchBatch:
    """So many paths of one neighbour."""
    put = PathPut(
        [Prefix(bytes([10, 0, n >> 8, n & 255]), 32) for n in range(paths)], Source("10.0.0.2"), Path(ADDRESS)
    )
    return WatchBatch([put], paths)


@pytest.mark.parametrize(
    ("session", "known", "least"),
    [
        (TELLS, 0, TABLE_PATHS),
        (TOLD, 0, FLOOD_PATHS),
        (NEVER_SAYS, 0, FLOOD_PATHS),
        (DOWN, 0, FLOOD_PATHS),
        (ANOTHER, 0, FLOOD_PATHS),
        (TELLS, 100_000, 100_000 // FLOOD_SHARE),
        (TOLD, 100_000, 100_000 // FLOOD_SHARE),
    ],
    ids=["tells", "told", "never says", "down", "another's", "tells into a table", "told, into a table"],
)
def test_how_many_changes_at_once_are_a_flood(session: Session, known: int, least: int) -> None:
    sessions = {session.address: session}
    gauge = FloodGauge(0.0)
    assert not gauge.floods(batch(least - 1), known, sessions, 0.1)
    assert gauge.floods(batch(1), known, sessions, FLOOD_S)
    assert gauge.senders == {"10.0.0.2"}


def test_as_many_in_a_longer_time_are_none() -> None:
    gauge, sessions = FloodGauge(0.0), {TOLD.address: TOLD}
    few = batch(FLOOD_PATHS // 4)
    assert not any(gauge.floods(few, 0, sessions, number * FLOOD_S / 2) for number in range(50))


def test_a_table_begins_once_a_session() -> None:
    beginnings = Beginnings()
    first, second = replace(TELLS, up_since=1.0), replace(TELLS, up_since=9.0)
    assert beginnings.find_new({ADDRESS: first}, 0) == {"10.0.0.2"}
    assert beginnings.find_new({ADDRESS: first, OTHER: replace(ANOTHER, up_since=1.0)}, 0) == {"10.0.0.3"}
    assert not beginnings.find_new({ADDRESS: first}, 0)
    assert beginnings.find_new({ADDRESS: second}, 0) == {"10.0.0.2"}
    assert not beginnings.find_new({ADDRESS: replace(DOWN, up_since=None)}, 0)
    assert beginnings.find_new({ADDRESS: second}, 0) == {"10.0.0.2"}


@pytest.mark.parametrize("session", [TOLD, NEVER_SAYS, DOWN], ids=["told", "never says", "down"])
def test_nothing_begins_where_no_table_is_to_be_told(session: Session) -> None:
    assert not Beginnings().find_new({ADDRESS: session}, 0)


def test_a_beginning_is_not_waited_for_where_much_is_known() -> None:
    assert Beginnings().find_new({ADDRESS: TELLS}, FEW_PATHS)
    assert not Beginnings().find_new({ADDRESS: TELLS}, FEW_PATHS + 1)
