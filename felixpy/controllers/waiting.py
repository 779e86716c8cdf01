"""Services that were refused an address, in classes that fare alike: what one cannot have none of its class can.

In: who was refused, in what class and in what words; out: the first of each class, whose turn it is when an address
comes free, and who is to be told otherwise. So a release costs a look a class, not one a Service. Pure.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field, replace

from felixpy.resources.kinds import Name
from ipam.ledger import Sharer
from ipam.loadbalancer import VipPool, VipService


@dataclass(slots=True)
class _Class:
    """`words` are what its members were told; `queue` may name some who have left."""

    words: str = ""
    members: dict[Name, str] = field(default_factory=dict)
    queue: list[tuple[str, Name]] = field(default_factory=list)


class Waiting:
    """Who waits; by age and name inside a class."""

    def __init__(self) -> None:
        self._classes: dict[Hashable, _Class] = {}
        self._class_of: dict[Name, Hashable] = {}

    def __iter__(self) -> Iterator[Name]:
        return iter(self._class_of)

    def class_of(self, name: Name) -> Hashable | None:
        """The class that a Service waits in; None where it does not wait."""
        return self._class_of.get(name)

    def join(self, name: Name, created: str, kind: Hashable, words: str) -> Collection[Name]:
        """A Service was refused in these words; those of its class who were told others before."""
        self.leave(name)
        waits = self._classes.setdefault(kind, _Class(words))
        others = tuple(waits.members) if waits.words != words else ()
        waits.words = words
        waits.members[name] = created
        heapq.heappush(waits.queue, (created, name))
        self._class_of[name] = kind
        return others

    def leave(self, name: Name) -> Hashable | None:
        """A Service does not wait any more; the class that it waited in."""
        kind = self._class_of.pop(name, None)
        if kind is not None:
            del self._classes[kind].members[name]
            if not self._classes[kind].members:
                del self._classes[kind]
        return kind

    def first_of(self, kind: Hashable) -> Name | None:
        """Whose turn it is in a class; None where nobody waits."""
        waits = self._classes.get(kind)
        while waits is not None:
            created, name = waits.queue[0]
            if waits.members.get(name) == created:
                return name
            heapq.heappop(waits.queue)
        return None

    def firsts(self) -> list[Name]:
        """Whose turn it is in each class."""
        found = (self.first_of(kind) for kind in tuple(self._classes))
        return [name for name in found if name is not None]


def classify(asking: VipService, pools: Collection[VipPool], holds: bool) -> Hashable:
    """The class of a Service: all that the choice of an address goes by, but for its name. Who holds one is its own."""
    if holds:
        return asking.sharer.name
    mine = asking.sharer
    sharer = replace(mine, name="", rank=0) if mine.sharing_key else Sharer("")
    by_namespace = any(pool.namespaces is not None for pool in pools)
    return replace(asking, sharer=sharer, namespace=asking.namespace if by_namespace else "")
