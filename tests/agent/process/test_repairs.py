"""What somebody keeps undoing is put right ever later, named in status, and holds up nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from felixpy.agent.kernel import repairs
from felixpy.agent.kernel.repairs import AT_ONCE, Repairs
from tests.support.wait import until


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairs, "PAUSE_S", 0.001)


class Quarrel:
    """Somebody who undoes `rules` as soon as they are put right, `times` times; `done` says when that was."""

    def __init__(self, times: int = 1_000_000, repaired: bool = True) -> None:
        self.repairs = Repairs(self._repair)
        self.done: list[tuple[str, float]] = []
        self._times, self._repaired = times, repaired

    def undo(self, certain: bool = True) -> None:
        self.repairs.notice("rules", "rules", everything=True, certain=certain)

    def _repair(self, why: str, everything: bool) -> bool:
        self.done.append((why, time.monotonic()))
        if why == "rules" and len(self.done) < self._times:
            self.undo(certain=self._repaired)
        return self._repaired

    def waits(self) -> Iterator[float]:
        times = [at for why, at in self.done if why == "rules"]
        return (then - at for at, then in pairwise(times))


async def test_each_time_waits_twice_as_long_and_status_says_so() -> None:
    quarrel = Quarrel(AT_ONCE + 6)
    quarrel.undo()
    await until(lambda: len(quarrel.done) == AT_ONCE + 6)
    waits = list(quarrel.waits())
    assert all(waits[AT_ONCE + more - 1] >= 0.001 * 2**more for more in range(1, 6))
    (contest,) = quarrel.repairs.contests
    assert (contest.what, contest.times) == ("rules", AT_ONCE + 6)
    assert "somebody keeps undoing it: put right 14 times" in str(contest)


async def test_nothing_else_waits_with_what_is_contested(monkeypatch: pytest.MonkeyPatch) -> None:
    quarrel = Quarrel()
    quarrel.undo()
    await until(lambda: len(quarrel.done) > AT_ONCE)
    monkeypatch.setattr(repairs, "PAUSE_S", 5.0)
    so_far = len(quarrel.done)
    await until(lambda: len(quarrel.done) > so_far)
    monkeypatch.setattr(repairs, "PAUSE_S", 0.001)
    quarrel.repairs.notice("a route", "a route", everything=False)
    await until(lambda: quarrel.done[-1][0] == "a route")
    assert [contest.what for contest in quarrel.repairs.contests] == ["rules"]


async def test_a_quarrel_that_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    quarrel = Quarrel(AT_ONCE)
    quarrel.undo()
    await until(lambda: len(quarrel.done) == AT_ONCE)
    assert quarrel.repairs.contests
    monkeypatch.setattr(repairs, "QUIET_S", 0.0)
    assert not quarrel.repairs.contests


async def test_looks_that_find_nothing_are_no_quarrel() -> None:
    quarrel = Quarrel(AT_ONCE + 3, repaired=False)
    quarrel.undo(certain=False)
    await until(lambda: len(quarrel.done) == AT_ONCE + 3)
    assert not quarrel.repairs.contests
