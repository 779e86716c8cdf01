"""Whose turn it is: Services to plan for, each once. First those who hold something, then by age and name. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Collection

from felixpy.resources.kinds import Name


class Turns:
    """Names that are due, in order; one that is withdrawn has no turn."""

    def __init__(self) -> None:
        self._due: set[Name] = set()
        self._queue: list[tuple[bool, str, Name]] = []

    def add(self, name: Name, created: str, holds: bool) -> None:
        """A Service is due, unless it is already."""
        if name not in self._due:
            self._due.add(name)
            heapq.heappush(self._queue, (not holds, created, name))

    def withdraw(self, names: Collection[Name]) -> None:
        """These are due no longer."""
        self._due.difference_update(names)

    def take(self) -> Name | None:
        """The next one, which then is due no longer; None when there is none."""
        while self._queue:
            name = heapq.heappop(self._queue)[2]
            if name in self._due:
                self._due.discard(name)
                return name
        return None
