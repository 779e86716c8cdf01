"""Which judges may decide otherwise in the second of two worlds: other policies, other rules, or other members of sets.

In: two Worlds; out: whether a way, or a set, is not the same. Pure.
"""

from __future__ import annotations

from felixpy.addresses import Prefix
from felixpy.calc.intent import PolicyId, SetSpec
from felixpy.ctl.verdicts.clauses import Track
from felixpy.ctl.verdicts.hosts import Path
from felixpy.ctl.verdicts.ways import Ways
from felixpy.ctl.verdicts.world import Condition, World
from felixpy.dataplane.objects import Set
from felixpy.dataplane.rules import Side
from felixpy.selector import compile_selector, parse_selector

SIDES: tuple[Side, Side] = ("source", "destination")


class Shifts:
    """What is otherwise; the tracks of ways and what they ask of addresses, each made once."""

    def __init__(self, before: World, after: World) -> None:
        self._worlds = (before, after)
        self._labels = _changed_labels(before, after)
        self._other_slices = not before.has_slices_of(after)
        self._other_nodes = not before.has_nodes_of(after)
        self._moved: dict[SetSpec | Set, bool] = {}
        self._rewritten: dict[PolicyId | str, bool] = {}
        self._touched: dict[Ways, bool] = {}
        self._tracks: dict[tuple[bool, Path], Track] = {}
        self._conditions: dict[tuple[Ways, Side], frozenset[Condition]] = {}

    def touch(self, ways: Ways) -> bool:
        """Whether the two paths of a way may decide otherwise about some packet."""
        found = self._touched.get(ways)
        if found is None:
            found = self._touched[ways] = self._may_touch(ways)
        return found

    def _may_touch(self, ways: Ways) -> bool:
        one, other = ways
        if [judge.content for judge in one] != [judge.content for judge in other]:
            return True
        if any(self._is_rewritten(writer) for judge in one for writer in judge.writers()):
            return True
        may_move = self._labels or self._other_slices or self._other_nodes
        if not may_move and all(judge.stage is None for judge in one):
            return False
        return any(
            not isinstance(condition, Prefix) and self._is_moved(condition)
            for side in SIDES
            for condition in self.conditions(ways, side)
        )

    def _is_rewritten(self, writer: PolicyId | str) -> bool:
        found = self._rewritten.get(writer)
        if found is None:
            one, other = (world.written(writer) for world in self._worlds)
            found = self._rewritten[writer] = one is not other and one != other
        return found

    def _is_moved(self, target: SetSpec | Set) -> bool:
        """Whether a set has other members in the second world; where it cannot have, both worlds share them."""
        found = self._moved.get(target)
        if found is None:
            before, after = self._worlds
            if self._may_move(target):
                found = before.held(target) != after.held(target)
            else:
                after.share(target, before)
                found = False
            self._moved[target] = found
        return found

    def _may_move(self, target: SetSpec | Set) -> bool:
        if isinstance(target, Set):
            return True
        if target.service is not None:
            return self._other_slices
        if target.nodes:
            return self._other_nodes
        if not self._labels:
            return False
        matches = compile_selector(parse_selector(target.text))
        return any(matches(labels) for labels in self._labels)

    def tracks(self, ways: Ways) -> tuple[Track, Track]:
        """What the judges ask in turn, before and after."""
        return self.track(False, ways.before), self.track(True, ways.after)

    def track(self, is_after: bool, path: Path) -> Track:
        """What a path's judges ask in turn in one of the worlds."""
        found = self._tracks.get((is_after, path))
        if found is None:
            found = self._tracks[is_after, path] = Track(self._worlds[is_after], path)
        return found

    def conditions(self, ways: Ways, side: Side) -> frozenset[Condition]:
        """What the rules ask of the addresses of one side, in both worlds."""
        found = self._conditions.get((ways, side))
        if found is None:
            found = frozenset(condition for track in self.tracks(ways) for condition in track.conditions(side))
            self._conditions[ways, side] = found
            for condition in found:
                if not isinstance(condition, Prefix):
                    self._is_moved(condition)
        return found


def _changed_labels(before: World, after: World) -> list[dict[str, str]]:
    """The labels, in either world, of what sets are made of and is not the same in both; each once."""
    found: dict[frozenset[tuple[str, str]], dict[str, str]] = {}
    for ref in before.changed_holders(after):
        for world in (before, after):
            labels = world.labels_of(ref)
            if labels is not None:
                found[frozenset(labels.items())] = labels
    return list(found.values())
