"""Applies one reconciler's difference: says what happened in one line, and takes up later what failed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from felixpy.dataplane.describe import describe_op
from felixpy.reconcile import Reconciler, Report

_log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
RETRY_MOST_S = 30.0
FAILURES_LOGGED = 5


class Applier:
    """`after` is called whenever something may hold that did not hold before."""

    def __init__(self, what: str, reconciler: Reconciler, after: Callable[[], None]) -> None:
        self._what = what
        self._reconciler = reconciler
        self._after = after
        self._retry_s = RETRY_FIRST_S
        self._retry: asyncio.TimerHandle | None = None

    def apply(self, why: str) -> Report:
        """Makes the kernel what is desired, as far as it lets us."""
        begin = time.monotonic()
        report = self._reconciler.apply()
        if report.applied:
            took_ms = (time.monotonic() - begin) * 1e3
            level = logging.WARNING if report.failed else logging.INFO
            words = f"{report.first} ... {report.last}" if report.applied > 1 else report.first
            _log.log(
                level,
                "%s, %s: %d ops in %.1f ms, %d failed: %s",
                self._what, why, report.applied, took_ms, len(report.failed), words,
            )  # fmt: skip
        for outcome in report.failed[:FAILURES_LOGGED]:
            _log.warning("not done: %s: %s", describe_op(outcome.op), outcome.error)
        if report.failed:
            self._later()
        elif not self._reconciler.failed:
            self._retry_s = RETRY_FIRST_S
        self._after()
        return report

    def _later(self) -> None:
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(self._retry_s, self._again)
            self._retry_s = min(self._retry_s * 2, RETRY_MOST_S)

    def _again(self) -> None:
        self._retry = None
        if self._reconciler.retry():
            self.apply("again")
