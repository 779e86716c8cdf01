"""Desired objects, their owners, and what a change of desire asks of the kernel. Pure.

Two owners may want one key (two endpoints with the same interface, say): the owner whose name sorts first has it, so
the outcome depends on the state and not on who came when.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from felixpy.dataplane.objects import Key, Members, Object, Set


@dataclass(slots=True)
class MemberChange:
    """Members to add to, and take out of, one set."""

    added: dict[bytes, bytes] = field(default_factory=dict)
    removed: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Changes:
    """What the desired state became: objects by key (None: not wanted any more), and members by set."""

    objects: dict[Key, Object | None] = field(default_factory=dict)
    members: dict[Set, MemberChange] = field(default_factory=dict)

    def add_members(self, target: Set, members: Members) -> None:
        """Members that are wanted from now on."""
        change = self.members.setdefault(target, MemberChange())
        for key, data in members.items():
            change.removed.pop(key, None)
            change.added[key] = data

    def drop_members(self, target: Set, members: Members) -> None:
        """Members that are not wanted any more."""
        change = self.members.setdefault(target, MemberChange())
        for key, data in members.items():
            change.added.pop(key, None)
            change.removed[key] = data

    def merge(self, other: Changes) -> None:
        """Takes over what `other` says, which came later."""
        self.objects.update(other.objects)
        for target, change in other.members.items():
            self.drop_members(target, change.removed)
            self.add_members(target, change.added)

    def __bool__(self) -> bool:
        return bool(self.objects or self.members)


class Ledger:
    """Who wants which object; tells what to change when an owner's wishes change.

    Cost    that of the owner's objects, however many others want the same: of a key's claims the one that counts stands
            first, and is looked for only when it goes.
    """

    def __init__(self) -> None:
        self._claims: dict[Key, dict[str, Object]] = {}
        self._owned: dict[str, frozenset[Key]] = {}

    def desired(self) -> Mapping[Key, Object]:
        """Every object that should be."""
        return {key: claims[next(iter(claims))] for key, claims in self._claims.items()}

    def owners(self, key: Key) -> tuple[str, ...]:
        """Who wants an object; the first one has it."""
        return tuple(sorted(self._claims.get(key, ())))

    def keys_of(self, owner: str) -> frozenset[Key]:
        """The objects that an owner wants."""
        return self._owned.get(owner, frozenset())

    def put(self, owner: str, objects: Iterable[Object], changes: Changes) -> None:
        """Replaces all that `owner` wants; what follows from it is added to `changes`."""
        wanted = {one.key: one for one in objects}
        for key in self._owned.get(owner, frozenset()) - wanted.keys():
            _note(changes, key, *self._withdraw(key, owner))
        for key, one in wanted.items():
            _note(changes, key, *self._claim(key, owner, one))
        if wanted:
            self._owned[owner] = frozenset(wanted)
        else:
            self._owned.pop(owner, None)

    def _claim(self, key: Key, owner: str, one: Object) -> tuple[Object | None, Object]:
        """What was to be under a key, and what is now."""
        claims = self._claims.setdefault(key, {})
        first = next(iter(claims), owner)
        had = claims.get(first)
        if owner < first:
            self._claims[key] = {owner: one, **claims}
            return had, one
        claims[owner] = one
        return had, claims[first]

    def _withdraw(self, key: Key, owner: str) -> tuple[Object, Object | None]:
        """What was to be under a key, and what is now."""
        claims = self._claims[key]
        first = next(iter(claims))
        had = claims[first]
        del claims[owner]
        if not claims:
            del self._claims[key]
            return had, None
        if owner == first:
            first = min(claims)
            self._claims[key] = {first: claims.pop(first), **claims}
            return had, self._claims[key][first]
        return had, had


def _note(changes: Changes, key: Key, before: Object | None, now: Object | None) -> None:
    if now != before:
        changes.objects[key] = now
