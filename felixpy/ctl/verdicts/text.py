"""Groups of differences for people, and for programs. In: Groups and their two worlds; out: lines, or a tree. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from felixpy.calc.policy.pods import workload_of
from felixpy.ctl.explain.text import Line, describe_statement, statement_tree, written_text
from felixpy.ctl.manifests import Json
from felixpy.ctl.verdicts.ends import WHOLE
from felixpy.ctl.verdicts.groups import Group, Who, count_pairs
from felixpy.ctl.verdicts.world import World
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table

MOST_NAMED = 3
MOST_GROUPS = 40
_UNTOLD_LABELS = ("projectcalico.org/", "pcns.", "pcsa.", "pod-template-hash", "controller-revision-hash")


def render_groups(before: World, after: World, groups: Sequence[Group]) -> Iterator[Line]:
    """A heading with the numbers, then each group."""
    for allowed, words in ((False, "denied"), (True, "allowed")):
        pairs = count_pairs([one for one in groups if one.allowed == allowed])
        if pairs:
            ends = f"{_plural('pair', pairs)} of endpoints, Services or networks"
            yield Line(f"{pairs} {ends} {words} what they were not before")
    for group in groups[:MOST_GROUPS]:
        yield from _render_group(before, after, group)
    if len(groups) > MOST_GROUPS:
        yield Line(f"and {len(groups) - MOST_GROUPS} more such groups: -o json has them all")


def _render_group(before: World, after: World, group: Group) -> Iterator[Line]:
    ends = f"{describe_ends(after, group.sources)} → {describe_ends(after, group.destinations)}"
    families = "" if len(group.versions) > 1 else f" (IPv{min(group.versions)})"
    where = ", on one node" if group.is_within else ", not on one node" if group.is_parted else ""
    yield Line(f"{'Allowed' if group.allowed else 'Denied'} now: {ends}{families}{where}", _color(group.allowed))
    for change in group.changes:
        yield Line(f"  {', '.join(change.packets)}")
        for when, world, reasons in (("before", before, change.before), ("after", after, change.after)):
            for reason in reasons:
                scope = f"{reason.scope}: " if reason.scope else ""
                yield Line(f"    {when:6}  {scope}{describe_statement(world.cluster, reason)}")
                if written := written_text(world.cluster, reason):
                    yield Line(f"                {written}")
            if not reasons:
                yield Line(f"    {when:6}  nothing decides about it")


def _color(allowed: bool) -> str:
    return "green" if allowed else "red"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


@lru_cache(maxsize=64)
def describe_ends(world: World, ends: frozenset[Who]) -> str:
    """Who: by name where they are few, else by what they have in common."""
    endpoints = [one for one in ends if one.endpoint is not None]
    networks = [one for one in ends if one.region is not None]
    words = []
    if endpoints:
        names = sorted({one.endpoint for one in endpoints if one.endpoint is not None})
        words.append(_some(sorted(map(_name_of, endpoints)), f"endpoints{_common(world, names)}"))
    if hosts := sorted(_host_name(one) for one in ends if one.is_host):
        words.append(_some([f"node {name}" for name in hosts], "nodes"))
    if services := sorted({_service_name(one) for one in ends if one.service is not None}):
        words.append(_some([f"Service {name}" for name in services], "Services"))
    if networks:
        words.append(_some([_region(network) for network in sorted(networks, key=_place)], "networks"))
    return " and ".join(words)


def _some(words: Sequence[str], kind: str) -> str:
    if len(words) <= MOST_NAMED:
        return ", ".join(words)
    return f"{len(words)} {kind}: {', '.join(words[:MOST_NAMED])}, …"


def _name_of(who: Who) -> str:
    assert who.endpoint is not None
    name = Name(who.endpoint.namespace, workload_of(who.endpoint) or who.endpoint.name)
    return f"{name} by {who.interface}" if who.interface else str(name)


def _host_name(who: Who) -> str:
    """A node, and the interface of it where host endpoints tell its interfaces apart."""
    return f"{who.node}/{who.interface}" if who.interface else who.node


def _place(who: Who) -> tuple[object, ...]:
    assert who.region is not None
    return len(who.region.address), who.region, _host_name(who)


def _region(who: Who) -> str:
    """A network, and the node (by its interface) that packets to and from it pass."""
    assert who.region is not None
    by = f" by node {_host_name(who)}" if who.node else ""
    return f"{f'elsewhere in IPv{who.region.version}' if who.region in WHOLE else who.region}{by}"


def _service_name(who: Who) -> str:
    """A Service, and the address of it that is none of the cluster's own."""
    return f"{who.service} at {who.interface}" if who.interface else str(who.service)


def _network_name(who: Who) -> str:
    return f"{who.region} by node {_host_name(who)}" if who.node else str(who.region)


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
            "where": "on one node" if group.is_within else "not on one node" if group.is_parted else "",
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
        "endpoints": [*sorted(_name_of(one) for one in ends if one.endpoint is not None)],
        "nodes": [*sorted(_host_name(one) for one in ends if one.is_host)],
        "services": [*sorted({_service_name(one) for one in ends if one.service is not None})],
        "networks": [*sorted(_network_name(one) for one in ends if one.region is not None)],
    }
