"""Which failures are news: a runtime that asks again and again is told each time, the log once a minute.

In: what was asked, how it failed, when; out: whether to say so. Must never read a clock.
"""

from __future__ import annotations

PAUSE_S = 60.0
MOST = 256
"""How many failures are remembered; the one said longest ago is forgotten first."""


class Repeats:
    """The failures that were said within the last PAUSE_S."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], float] = {}

    def is_news(self, subject: str, failure: str, now: float) -> bool:
        """Whether this was not said of the subject lately; it counts as said then. `now` is in seconds."""
        key = subject, failure
        said = self._said.get(key)
        if said is not None and now - said < PAUSE_S:
            return False
        self._said.pop(key, None)
        self._said[key] = now
        if len(self._said) > MOST:
            del self._said[next(iter(self._said))]
        return True
