"""Which neighbours take their routes back because their session is gone, as soon as the first sign of it is there.

In: sessions as they are read, path events; out: addresses. A session that went down makes a suspect; the first path of
it that goes proves that the rest will follow, and that no graceful restart keeps them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from birdpy.addresses import format_address, parse_address
from birdpy.fib import PathEvent, PathGone
from birdpy.session import Session


class Losses:
    """`lost` is what they are now: until the session is up again. `down` are those whose session was up and is not."""

    def __init__(self) -> None:
        self.down: frozenset[bytes] = frozenset()
        self.lost: frozenset[bytes] = frozenset()
        self._up: frozenset[bytes] = frozenset()
        self._suspects: set[str] = set()

    def note_sessions(self, sessions: Mapping[bytes, Session]) -> None:
        """Takes how all sessions are."""
        up = frozenset(address for address, session in sessions.items() if session.established)
        self.down = (self.down | self._up) & sessions.keys() - up
        self._suspects |= {format_address(address) for address in self._up - up}
        self._suspects -= {format_address(address) for address in up}
        self._up = up
        self.lost -= up

    def note_events(self, events: Iterable[PathEvent]) -> None:
        """Takes what gobgpd told; costs nothing while all sessions are as they were."""
        if not self._suspects:
            return
        for event in events:
            if type(event) is PathGone and event.source.neighbor in self._suspects:
                self._suspects.discard(event.source.neighbor)
                self.lost |= {parse_address(event.source.neighbor)}
