"""Differences for people, and for programs. In: Differences and their two worlds; out: lines, or a tree. Pure.

Pairs that fare alike are told together: the same packets, with the same decider before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from felixpy.addresses import Prefix
from felixpy.calc.policy.pods import workload_of
from felixpy.ctl.explain.reading import Statement
from felixpy.ctl.explain.text import Line, describe_statement, statement_tree, written_text
from felixpy.ctl.manifests import Json
from felixpy.ctl.verdicts.cells import describe_cells
from felixpy.ctl.verdicts.compare import Difference, Turn
from felixpy.ctl.verdicts.ends import WHOLE, End
from felixpy.ctl.verdicts.world import World
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table

MOST_NAMED = 3
MOST_GROUPS = 40
_UNTOLD_LABELS = ("projectcalico.org/", "pcns.", "pcsa.", "pod-template-hash", "controller-revision-hash")

Who = Name | Prefix
Reasons = tuple[Statement, ...]


class Change(NamedTuple):
    """Packets in words, and what decides about them before and after."""

    packets: tuple[str, ...]
    before: Reasons
    after: Reasons


@dataclass(frozen=True, slots=True)
class Group:
    """From each of `sources` to each of `destinations`, in these families, the same changes; `allowed` after them."""

    allowed: bool
    changes: tuple[Change, ...]
    versions: frozenset[int]
    sources: frozenset[Who]
    destinations: frozenset[Who]

    @property
    def pairs(self) -> int:
        """How many pairs these are."""
        return len(self.sources) * len(self.destinations) - len(self.sources & self.destinations)


def group_differences(
    differences: Iterable[Difference], reasons: Callable[[Turn], tuple[Reasons, Reasons]]
) -> list[Group]:
    """Pairs that fare alike together; `reasons` are those for which packets are told apart. Most pairs first."""
    found: dict[tuple[bool, tuple[Change, ...]], list[Group]] = {}
    for one in differences:
        for group in _split(one, reasons):
            found.setdefault((group.allowed, group.changes), []).append(group)
    groups = [group for alike in found.values() for group in _in_every_family(alike)]
    groups = _joined(groups, lambda one: (one.sources, one.versions), _with_destinations)
    groups = _joined(groups, lambda one: (one.destinations, one.versions), _with_sources)
    return sorted((one for one in groups if one.pairs), key=_rank)


def _rank(group: Group) -> tuple[object, ...]:
    named = (min(map(str, group.sources)), min(map(str, group.destinations)))
    return (group.allowed, -group.pairs, -len(group.versions), group.changes[0].packets, *named)


def count_pairs(groups: Sequence[Group]) -> int:
    """How many pairs are in some of the groups."""
    sources, destinations = (
        _by_places(groups, lambda one: one.sources),
        _by_places(groups, lambda one: one.destinations),
    )
    return sum(
        len(some) * len(others) - len(some & others)
        for here, some in sources.items()
        for there, others in destinations.items()
        if here & there
    )


def _in_every_family(groups: Sequence[Group]) -> Iterator[Group]:
    """Groups of equal changes, so that each pair is in one of them, with all families in which it fares so."""
    sources, destinations = (
        _by_places(groups, lambda one: one.sources),
        _by_places(groups, lambda one: one.destinations),
    )
    for here, some in sources.items():
        for there, others in destinations.items():
            versions = frozenset(version for place in here & there for version in groups[place].versions)
            if versions:
                yield Group(groups[0].allowed, groups[0].changes, versions, some, others)


def _by_places(
    groups: Sequence[Group], part: Callable[[Group], frozenset[Who]]
) -> dict[frozenset[int], frozenset[Who]]:
    """Ends by the groups that they are in."""
    places: dict[Who, list[int]] = {}
    for place, group in enumerate(groups):
        for who in part(group):
            places.setdefault(who, []).append(place)
    found: dict[frozenset[int], set[Who]] = {}
    for who, here in places.items():
        found.setdefault(frozenset(here), set()).add(who)
    return {here: frozenset(some) for here, some in found.items()}


def _split(one: Difference, reasons: Callable[[Turn], tuple[Reasons, Reasons]]) -> Iterator[Group]:
    sources, destinations = (frozenset(map(_who, ends)) for ends in (one.sources, one.destinations))
    for allowed in (False, True):
        found: dict[tuple[Reasons, Reasons], list[Turn]] = {}
        for turn in one.turns:
            if turn.after.allowed == allowed:
                found.setdefault(reasons(turn), []).append(turn)
        changes = (Change(describe_cells([turn.cell for turn in turns]), *key) for key, turns in found.items())
        if found:
            versions = frozenset({one.sources[0].version})
            yield Group(allowed, tuple(sorted(changes, key=lambda one: one.packets)), versions, sources, destinations)


def _joined(
    groups: Iterable[Group], key: Callable[[Group], object], join: Callable[[Sequence[Group]], Group]
) -> list[Group]:
    """Groups of equal key and changes as one."""
    found: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        found.setdefault((group.allowed, group.changes, key(group)), []).append(group)
    return [join(alike) for alike in found.values()]


def _with_sources(groups: Sequence[Group]) -> Group:
    return replace(groups[0], sources=frozenset(who for group in groups for who in group.sources))


def _with_destinations(groups: Sequence[Group]) -> Group:
    return replace(groups[0], destinations=frozenset(who for group in groups for who in group.destinations))


def _who(end: End) -> Who:
    if end.endpoint is not None:
        return end.endpoint
    assert end.region is not None
    return end.region


def full_reasons(turn: Turn) -> tuple[Reasons, Reasons]:
    """All that was said on both sides."""
    return turn.before.statements, turn.after.statements


def decisive_reasons(turn: Turn) -> tuple[Reasons, Reasons]:
    """What was said, in both worlds, on the side that denies in one of them."""
    denying, allowing = (turn.before, turn.after) if turn.after.allowed else (turn.after, turn.before)
    last = denying.statements[-1]
    other = next((one for one in allowing.statements if one.direction == last.direction), allowing.statements[-1])
    return ((last,), (other,)) if turn.after.allowed else ((other,), (last,))


def render_groups(before: World, after: World, groups: Sequence[Group]) -> Iterator[Line]:
    """A heading with the numbers, then each group."""
    for allowed, words in ((False, "denied"), (True, "allowed")):
        pairs = count_pairs([one for one in groups if one.allowed == allowed])
        if pairs:
            yield Line(f"{pairs} {_plural('pair', pairs)} of endpoints or networks {words} what they were not before")
    for group in groups[:MOST_GROUPS]:
        yield from _render_group(before, after, group)
    if len(groups) > MOST_GROUPS:
        yield Line(f"and {len(groups) - MOST_GROUPS} more such groups: -o json has them all")


def _render_group(before: World, after: World, group: Group) -> Iterator[Line]:
    ends = f"{describe_ends(after, group.sources)} → {describe_ends(after, group.destinations)}"
    families = "" if len(group.versions) > 1 else f" (IPv{min(group.versions)})"
    yield Line(f"{'Allowed' if group.allowed else 'Denied'} now: {ends}{families}", _color(group.allowed))
    for change in group.changes:
        yield Line(f"  {', '.join(change.packets)}")
        for when, world, reasons in (("before", before, change.before), ("after", after, change.after)):
            for reason in reasons:
                yield Line(f"    {when:6}  {describe_statement(world.cluster, reason)}")
                if written := written_text(world.cluster, reason):
                    yield Line(f"                {written}")


def _color(allowed: bool) -> str:
    return "green" if allowed else "red"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def describe_ends(world: World, ends: frozenset[Who]) -> str:
    """Who: by name where they are few, else by what they have in common."""
    names = sorted(one for one in ends if isinstance(one, Name))
    networks = sorted((one for one in ends if isinstance(one, Prefix)), key=lambda one: (len(one.address), one))
    words = []
    if names:
        words.append(_some(sorted(map(_name_of, names)), f"endpoints{_common(world, names)}"))
    if networks:
        words.append(_some([_region(network) for network in networks], "networks"))
    return " and ".join(words)


def _some(words: Sequence[str], kind: str) -> str:
    if len(words) <= MOST_NAMED:
        return ", ".join(words)
    return f"{len(words)} {kind}: {', '.join(words[:MOST_NAMED])}, …"


def _name_of(name: Name) -> str:
    return str(Name(name.namespace, workload_of(name) or name.name))


def _region(network: Prefix) -> str:
    return f"elsewhere in IPv{network.version}" if network in WHOLE else str(network)


def _common(world: World, names: Sequence[Name]) -> str:
    """What endpoints have in common: their namespace and labels."""
    labels = [world.labels_of(Ref(Table.WORKLOAD, name)) or {} for name in names]
    common = set(labels[0].items()).intersection(*(one.items() for one in labels[1:]))
    told = sorted(f"{name}={value}" for name, value in common if not name.startswith(_UNTOLD_LABELS))
    spaces = {name.namespace for name in names}
    where = f" of {next(iter(spaces))}" if len(spaces) == 1 else f" of {len(spaces)} namespaces"
    return f"{where}{' with ' if told else ''}{', '.join(told)}"


def groups_tree(before: World, after: World, groups: Sequence[Group]) -> list[Json]:
    """All of it as JSON."""
    return [
        {
            "verdict": "allowed" if group.allowed else "denied",
            "families": [*sorted(group.versions)],
            "pairs": group.pairs,
            "sources": _ends_tree(group.sources),
            "destinations": _ends_tree(group.destinations),
            "changes": [
                {
                    "packets": [*change.packets],
                    "before": [statement_tree(before.cluster, one) for one in change.before],
                    "after": [statement_tree(after.cluster, one) for one in change.after],
                }
                for change in group.changes
            ],
        }
        for group in groups
    ]


def _ends_tree(ends: frozenset[Who]) -> Json:
    return {
        "endpoints": [*sorted(_name_of(one) for one in ends if isinstance(one, Name))],
        "networks": [str(one) for one in ends if isinstance(one, Prefix)],
    }
