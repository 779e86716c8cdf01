"""Who uses what, both ways round. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Set
from typing import Generic, TypeVar

User = TypeVar("User", bound=Hashable)
Used = TypeVar("Used", bound=Hashable)


class Users(Generic[User, Used]):
    """Which users (endpoints) use which things (policies, profiles)."""

    def __init__(self) -> None:
        self._users: dict[Used, set[User]] = {}
        self._uses: dict[User, frozenset[Used]] = {}

    def __contains__(self, used: Used) -> bool:
        return used in self._users

    def __iter__(self) -> Iterator[Used]:
        return iter(self._users)

    def of(self, used: Used) -> Set[User]:
        """The users of one thing."""
        return self._users[used]

    def note(self, user: User, now: frozenset[Used]) -> set[Used]:
        """Records what a user uses now; returns what got its first user or lost its last."""
        before = self._uses.pop(user, frozenset())
        turned: set[Used] = set()
        for used in now - before:
            if used not in self._users:
                self._users[used] = set()
                turned.add(used)
            self._users[used].add(user)
        for used in before - now:
            self._users[used].discard(user)
            if not self._users[used]:
                del self._users[used]
                turned.add(used)
        if now:
            self._uses[user] = now
        return turned
