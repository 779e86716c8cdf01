"""Prefixes of one family, and those of them that lie in no other: an interval set of the kernel holds only these.

Kept current in time proportional to what changes there: a prefix inside another one changes nothing, and one that goes
uncovers what lay inside it. Pure; `merge_prefixes` is the oracle.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from felixpy.addresses import Address, Prefix, host_prefix, mask_address
from felixpy.dataplane.sets import merge_prefixes

AT_ONCE = 16
"""Of more changes than one in so many members, all is made anew."""

Member = Address | Prefix


def _as_prefix(member: Member) -> Prefix:
    return member if isinstance(member, Prefix) else host_prefix(member)


class Cover:
    """The members, sorted so that what lies in a prefix follows it, and the outermost ones."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._all = sorted(map(_as_prefix, members))
        self._lengths = Counter(prefix.length for prefix in self._all)
        self._outer = set(merge_prefixes(self._all))

    @property
    def outer(self) -> Collection[Prefix]:
        """The members that lie in no other."""
        return self._outer

    def change(self, added: Collection[Member], removed: Collection[Member]) -> tuple[set[Prefix], set[Prefix]]:
        """Takes members in and out; the outer ones that are new, and those that are none any more."""
        if (len(added) + len(removed)) * AT_ONCE > len(self._all):
            return self._anew(added, removed)
        new: set[Prefix] = set()
        gone: set[Prefix] = set()
        for prefix in map(_as_prefix, removed):
            del self._all[bisect_left(self._all, prefix)]
            self._lengths[prefix.length] -= 1
            if prefix in self._outer:
                _move(prefix, gone, new)
                self._outer.discard(prefix)
                for inner in self._uncovered(prefix):
                    _move(inner, new, gone)
                    self._outer.add(inner)
        for prefix in map(_as_prefix, added):
            if not self._is_inside(prefix):
                for inner in self._outer.intersection(self._within(prefix)):
                    _move(inner, gone, new)
                    self._outer.discard(inner)
                _move(prefix, new, gone)
                self._outer.add(prefix)
            insort(self._all, prefix)
            self._lengths[prefix.length] += 1
        return new, gone

    def _anew(self, added: Collection[Member], removed: Collection[Member]) -> tuple[set[Prefix], set[Prefix]]:
        before = self._outer
        members = set(self._all).difference(map(_as_prefix, removed)).union(map(_as_prefix, added))
        self._all = sorted(members)
        self._lengths = Counter(prefix.length for prefix in members)
        self._outer = set(merge_prefixes(members))
        return self._outer - before, before - self._outer

    def _is_inside(self, prefix: Prefix) -> bool:
        """Whether some outer member holds all of `prefix`."""
        return any(
            count and length < prefix.length and Prefix(mask_address(prefix.address, length), length) in self._outer
            for length, count in self._lengths.items()
        )

    def _within(self, prefix: Prefix) -> Iterator[Prefix]:
        """The members inside `prefix`, wider ones before those in them."""
        for index in range(bisect_left(self._all, prefix), len(self._all)):
            if not prefix.contains(self._all[index].address):
                return
            yield self._all[index]

    def _uncovered(self, prefix: Prefix) -> Iterator[Prefix]:
        """The outermost members inside `prefix`."""
        last: Prefix | None = None
        for inner in self._within(prefix):
            if last is None or not last.contains(inner.address):
                last = inner
                yield inner


def _move(prefix: Prefix, there: set[Prefix], from_here: set[Prefix]) -> None:
    """Notes a change, which may undo one that was noted before."""
    if prefix in from_here:
        from_here.discard(prefix)
    else:
        there.add(prefix)
