"""Which items match which selectors, kept current in time proportional to what changes.

Items with equal labels and equal parents form a class: a selector matches classes, and a class knows its members, so
ten thousand pods of one deployment cost one evaluation. Two indexes keep evaluations few: a new class looks up only
selectors that need one of its labels (each selector filed under its rarest necessary label), a new selector only
classes that have that label. Parents (profiles, and so namespaces) give labels; an item's own win.

Pure. Source: Calico's label inheritance (felix/labelindex); DESIGN's measured choice of the rarest restriction.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from felixpy.resources.types import LabelPairs
from felixpy.selector import Predicate, Restriction, Selector, compile_selector, necessary_restrictions

Item = TypeVar("Item", bound=Hashable)
Key = TypeVar("Key", bound=Hashable)

ClassId = tuple[LabelPairs, tuple[str, ...]]


class Shift(NamedTuple, Generic[Item, Key]):
    """An item's selectors before and after a change."""

    item: Item
    before: frozenset[Key]
    after: frozenset[Key]


@dataclass(slots=True, eq=False)
class _Class(Generic[Item, Key]):
    id: ClassId
    labels: Mapping[str, str]
    members: set[Item] = field(default_factory=set)
    selectors: frozenset[Key] = frozenset()


@dataclass(slots=True)
class _Registered(Generic[Item, Key]):
    predicate: Predicate
    restriction: Restriction | None
    classes: set[_Class[Item, Key]] = field(default_factory=set)


class LabelIndex(Generic[Item, Key]):
    """Items, parents and selectors; every change returns what it shifted."""

    def __init__(self) -> None:
        self._classes: dict[ClassId, _Class[Item, Key]] = {}
        self._class_of: dict[Item, _Class[Item, Key]] = {}
        self._parents: dict[str, LabelPairs] = {}
        self._children: dict[str, set[_Class[Item, Key]]] = {}
        self._selectors: dict[Key, _Registered[Item, Key]] = {}
        self._by_label: dict[tuple[str, str | None], set[_Class[Item, Key]]] = {}
        self._by_restriction: dict[tuple[str, str | None], set[Key]] = {}
        self._unrestricted: set[Key] = set()

    def selectors_of(self, item: Item) -> frozenset[Key]:
        """The selectors that match an item; empty when the item is unknown."""
        found = self._class_of.get(item)
        return found.selectors if found is not None else frozenset()

    def members(self, key: Key) -> Iterable[Item]:
        """The items that a registered selector matches."""
        for matched in self._selectors[key].classes:
            yield from matched.members

    def put_item(self, item: Item, labels: LabelPairs, parents: tuple[str, ...]) -> Shift[Item, Key]:
        """Adds an item or changes its labels."""
        old = self._class_of.get(item)
        before = old.selectors if old is not None else frozenset[Key]()
        if old is not None and old.id == (labels, parents):
            return Shift(item, before, before)
        new = self._classes.get((labels, parents)) or self._make_class((labels, parents))
        new.members.add(item)
        self._class_of[item] = new
        if old is not None:
            self._leave(old, item)
        return Shift(item, before, new.selectors)

    def drop_item(self, item: Item) -> Shift[Item, Key]:
        """Removes an item, if it is there."""
        old = self._class_of.pop(item, None)
        if old is None:
            return Shift(item, frozenset(), frozenset())
        self._leave(old, item)
        return Shift(item, old.selectors, frozenset())

    def put_parent(self, name: str, labels: LabelPairs) -> list[Shift[Item, Key]]:
        """Sets the labels that children of `name` inherit (empty for a parent that is gone)."""
        if self._parents.get(name, ()) == labels:
            return []
        if labels:
            self._parents[name] = labels
        else:
            del self._parents[name]
        shifts: list[Shift[Item, Key]] = []
        for child in list(self._children.get(name, ())):
            before = child.selectors
            self._unfile(child)
            child.labels = self._effective(child.id)
            self._file(child)
            if child.selectors != before:
                shifts.extend(Shift(item, before, child.selectors) for item in child.members)
        return shifts

    def put_selector(self, key: Key, selector: Selector) -> list[Item]:
        """Registers a selector under a new key; returns the items that it matches."""
        predicate = compile_selector(selector)
        restriction = self._rarest(selector)
        entry = _Registered[Item, Key](predicate, restriction)
        self._selectors[key] = entry
        if restriction is None:
            self._unrestricted.add(key)
            candidates: Iterable[_Class[Item, Key]] = self._classes.values()
        else:
            for pair in restriction:
                self._by_restriction.setdefault(pair, set()).add(key)
            candidates = {found for pair in restriction for found in self._by_label.get(pair, ())}
        items: list[Item] = []
        for candidate in candidates:
            if predicate(candidate.labels):
                entry.classes.add(candidate)
                candidate.selectors |= {key}
                items.extend(candidate.members)
        return items

    def drop_selector(self, key: Key) -> None:
        """Forgets a selector."""
        entry = self._selectors.pop(key)
        for matched in entry.classes:
            matched.selectors -= {key}
        if entry.restriction is None:
            self._unrestricted.discard(key)
            return
        for pair in entry.restriction:
            keys = self._by_restriction[pair]
            keys.discard(key)
            if not keys:
                del self._by_restriction[pair]

    def _rarest(self, selector: Selector) -> Restriction | None:
        options = necessary_restrictions(selector)
        if not options:
            return None
        return min(options, key=lambda pairs: (sum(len(self._by_label.get(pair, ())) for pair in pairs), len(pairs)))

    def _effective(self, identity: ClassId) -> Mapping[str, str]:
        own, parents = identity
        labels: dict[str, str] = {}
        for parent in reversed(parents):
            labels.update(self._parents.get(parent, ()))
        labels.update(own)
        return labels

    def _make_class(self, identity: ClassId) -> _Class[Item, Key]:
        made = _Class[Item, Key](identity, self._effective(identity))
        self._classes[identity] = made
        for parent in identity[1]:
            self._children.setdefault(parent, set()).add(made)
        self._file(made)
        return made

    def _leave(self, old: _Class[Item, Key], item: Item) -> None:
        old.members.discard(item)
        if old.members:
            return
        del self._classes[old.id]
        for parent in frozenset(old.id[1]):
            children = self._children[parent]
            children.discard(old)
            if not children:
                del self._children[parent]
        selectors = old.selectors
        self._unfile(old)
        old.selectors = selectors

    def _file(self, made: _Class[Item, Key]) -> None:
        """Indexes a class by its labels and evaluates the selectors that may match it."""
        candidates = set(self._unrestricted)
        for label, value in made.labels.items():
            for pair in ((label, value), (label, None)):
                self._by_label.setdefault(pair, set()).add(made)
                candidates |= self._by_restriction.get(pair, set())
        matched = [key for key in candidates if self._selectors[key].predicate(made.labels)]
        for key in matched:
            self._selectors[key].classes.add(made)
        made.selectors = frozenset(matched)

    def _unfile(self, old: _Class[Item, Key]) -> None:
        for label, value in old.labels.items():
            for pair in ((label, value), (label, None)):
                classes = self._by_label[pair]
                classes.discard(old)
                if not classes:
                    del self._by_label[pair]
        for key in old.selectors:
            self._selectors[key].classes.discard(old)
        old.selectors = frozenset()
