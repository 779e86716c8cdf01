"""Applies one reconciler's difference: says what happened in one line, and takes up later what failed.

Each object that failed has its own delay, so that a hopeless one holds up no other; what is said of it is said once,
until it fails otherwise. A kernel that does not answer is asked again later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from felixpy.agent.clock import TIMER_EARLY_S
from felixpy.dataplane.describe import describe_op
from felixpy.dataplane.objects import Key, Outcome
from felixpy.reconcile import Report, key_of

_log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
RETRY_MOST_S = 30.0
FAILURES_LOGGED = 5


@dataclass(frozen=True, slots=True)
class _Wait:
    """Until when (of time.monotonic) something is left alone, after how long a wait, and what was said of it."""

    error: str
    delay_s: float
    due: float


def awaits_nothing(_: Outcome) -> bool:
    """For those who hear of nothing by which a failure mends."""
    return False


class Reconciling(Protocol):
    """What an applier needs of a reconciler."""

    @property
    def failed(self) -> Mapping[Key, Outcome]:
        """What is desired and does not hold, with why."""

    def retry(self, keys: Collection[Key] | None = None) -> bool:
        """Takes up again what failed, or of it what has one of `keys`; whether there is anything."""

    def apply(self) -> Report:
        """Makes the kernel what is desired. Raises OSError when it does not answer."""


class Applier:
    """`after` is called whenever something may hold that did not hold before.

    `awaited` says of a failure that an event will tell when to try again: it is no reason to warn.
    """

    def __init__(
        self,
        what: str,
        reconciler: Reconciling,
        after: Callable[[], None],
        awaited: Callable[[Outcome], bool] = awaits_nothing,
    ) -> None:
        self._what = what
        self._reconciler = reconciler
        self._after = after
        self._awaited = awaited
        self._waits: dict[Key, _Wait] = {}
        self._silence: _Wait | None = None
        self._timer: asyncio.TimerHandle | None = None

    def apply(self, why: str) -> Report:
        """Makes the kernel what is desired, as far as it lets us."""
        begin = time.monotonic()
        try:
            report = self._reconciler.apply()
        except OSError as error:
            self._note_silence(why, str(error))
            report = Report()
        else:
            self._silence = None
            self._say(why, report, self._note_failures(report), time.monotonic() - begin)
        self._schedule()
        self._after()
        return report

    def note(self, late: Report) -> None:
        """Takes up later what the kernel refused after it had seemed to be done."""
        if late.failed:
            late.applied = len(late.failed)
            late.first, late.last = (describe_op(late.failed[at].op) for at in (0, -1))
            self._say("refused", late, self._note_failures(late), 0.0)
            self._schedule()

    def _note_silence(self, why: str, error: str) -> None:
        if self._silence is None or self._silence.error != error:
            _log.warning("%s, %s: no answer, so all is read and compared later: %s", self._what, why, error)
        self._silence = _next_wait(self._silence, error, RETRY_FIRST_S)

    def _note_failures(self, report: Report) -> list[Outcome]:
        """Sets the delays; returns the failures of which nothing has been said yet."""
        news = []
        for key, outcome in {key_of(outcome.op): outcome for outcome in report.failed}.items():
            known, error = self._waits.get(key), outcome.error or ""
            if known is None or known.error != error:
                news.append(outcome)
            self._waits[key] = _next_wait(known, error, RETRY_MOST_S if self._awaited(outcome) else RETRY_FIRST_S)
        for key in self._waits.keys() - self._reconciler.failed.keys():
            del self._waits[key]
        return news

    def _say(self, why: str, report: Report, news: Sequence[Outcome], took_s: float) -> None:
        if not report.applied:
            return
        bad = [outcome for outcome in news if not self._awaited(outcome)]
        repeated = len(report.failed) == report.applied and not news
        words = f"{report.first} ... {report.last}" if report.applied > 1 else report.first
        _log.log(
            logging.WARNING if bad else logging.DEBUG if repeated else logging.INFO,
            "%s, %s: %d ops in %.1f ms, %d failed: %s",
            self._what, why, report.applied, took_s * 1e3, len(report.failed), words,
        )  # fmt: skip
        for outcome in bad[:FAILURES_LOGGED]:
            _log.warning("not done: %s: %s", describe_op(outcome.op), outcome.error)
        for outcome in [outcome for outcome in news if outcome not in bad][:FAILURES_LOGGED]:
            _log.info("waits for its device: %s: %s", describe_op(outcome.op), outcome.error)

    def _schedule(self) -> None:
        """One timer, for what is due first; a kernel that does not answer is asked for nothing else."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waits = self._waits.values() if self._silence is None else [self._silence]
        if waits:
            left_s = min(wait.due for wait in waits) - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(left_s, 0), self._again)

    def _again(self) -> None:
        self._timer = None
        now = time.monotonic() + TIMER_EARLY_S
        due = {key for key, wait in self._waits.items() if wait.due <= now}
        self._reconciler.retry(due)
        self.apply("again")
        if due - self._waits.keys():
            self._hurry()

    def _hurry(self) -> None:
        """Something has come right: others may have failed for want of it."""
        soon = time.monotonic() + RETRY_FIRST_S
        for key, wait in self._waits.items():
            self._waits[key] = _Wait(wait.error, wait.delay_s, min(wait.due, soon))
        self._schedule()


def _next_wait(last: _Wait | None, error: str, first_s: float) -> _Wait:
    delay_s = first_s if last is None else min(max(last.delay_s * 2, first_s), RETRY_MOST_S)
    return _Wait(error, delay_s, time.monotonic() + delay_s)
