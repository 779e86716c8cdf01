"""When what others change in the kernel is put right: at once, and ever later where somebody keeps undoing it.

In: signs of a change, each of one thing (all packet rules, or one object); out: calls of `repair`, and for status what
is contested. Two programs that undo each other for good would take a processor, so a thing that was put right
`AT_ONCE` times, each within `QUIET_S` of the time before, waits twice as long every time; nothing else waits with it.
Knows nothing of what is put right, or how.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from felixpy.agent.clock import TIMER_EARLY_S

PAUSE_S = 0.05
"""From the first sign of someone else's change to its repair: a flush of many objects is one repair."""
AT_ONCE = 8
QUIET_S = 60.0
MOST_S = 10.0
"""As long as the rules may be another's: so often a back end without events is looked at, too."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contest:
    """What was put right so many times on end, and how long the next time waits."""

    what: str
    times: int
    for_s: float
    wait_s: float

    def __str__(self) -> str:
        return (
            f"somebody keeps undoing it: put right {self.times} times in {self.for_s:.0f} s, "
            f"now {self.wait_s:.1f} s after each change"
        )


@dataclass(slots=True)
class _Past:
    """Repairs of one thing on end."""

    since: float
    last: float
    times: int = 0


@dataclass(slots=True)
class _Sign:
    """A change that is to be put right: when, why, whether all is to be read for it, and whether it is certain."""

    due: float
    why: str
    everything: bool
    certain: bool


class Repairs:
    """`repair` gets a reason, and whether all is to be read; it says whether anything was otherwise than desired."""

    def __init__(self, repair: Callable[[str, bool], bool]) -> None:
        self._repair = repair
        self._past: dict[str, _Past] = {}
        self._signs: dict[str, _Sign] = {}
        self._timer: asyncio.TimerHandle | None = None

    def notice(self, what: str, why: str, everything: bool, certain: bool = True) -> None:
        """A sign that `what` is not as it was put; where it is not `certain`, only reading tells."""
        sign = self._signs.get(what)
        if sign is not None:
            sign.everything |= everything
            sign.certain |= certain
            return
        now = time.monotonic()
        self._signs[what] = _Sign(now + self._wait_s(what, now), why, everything, certain)
        self._schedule()

    @property
    def contests(self) -> tuple[Contest, ...]:
        """What somebody keeps undoing, in order."""
        now = time.monotonic()
        return tuple(
            Contest(what, past.times, now - past.since, self._wait_s(what, now))
            for what, past in sorted(self._past.items())
            if past.times >= AT_ONCE and now - past.last <= QUIET_S
        )

    def _wait_s(self, what: str, now: float) -> float:
        past = self._past.get(what)
        if past is None or past.times < AT_ONCE or now - past.last > QUIET_S:
            return PAUSE_S
        return min(PAUSE_S * 2.0 ** min(past.times - AT_ONCE + 1, 32), MOST_S)

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._signs:
            left_s = min(sign.due for sign in self._signs.values()) - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(left_s, 0), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = time.monotonic() + TIMER_EARLY_S
        due = {what: sign for what, sign in self._signs.items() if sign.due <= now}
        for what in due:
            del self._signs[what]
        self._schedule()
        if due:
            why = min(due.values(), key=lambda sign: not sign.everything).why
            changed = self._repair(why, any(sign.everything for sign in due.values()))
            self._note([what for what, sign in due.items() if sign.certain or changed])

    def _note(self, done: list[str]) -> None:
        now = time.monotonic()
        for what in [what for what, past in self._past.items() if now - past.last > QUIET_S]:
            del self._past[what]
        for what in done:
            past = self._past.setdefault(what, _Past(now, now))
            past.times, past.last = past.times + 1, now
            if past.times == AT_ONCE:
                _log.warning("%s: somebody keeps undoing it, so it is put right later each time", what)
