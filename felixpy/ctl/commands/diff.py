"""`felixctl diff -f`: what apply would change: fields, the addresses of Services, and whose packets get through."""

from __future__ import annotations

import difflib
import gc
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from felixpy.controllers.allocation import WATCHED
from felixpy.ctl.applying.moves import Move, derive_moves
from felixpy.ctl.applying.plan import Change, Outcome
from felixpy.ctl.applying.writer import plan_all, plan_deletions
from felixpy.ctl.collect import checked, collect, print_reports, reports_of
from felixpy.ctl.connect import EXIT_FAILED, EXIT_USAGE, print_warning, with_store
from felixpy.ctl.manifests import Body, Json
from felixpy.ctl.showing.output import render_json, render_yaml
from felixpy.ctl.stored import encode_body, shown_body
from felixpy.datastore.model import Snapshot, Store

if TYPE_CHECKING:
    from felixpy.ctl.verdicts.compare import Difference
    from felixpy.ctl.verdicts.world import World

_DIFFERENT = frozenset({Outcome.CREATED, Outcome.CONFIGURED, Outcome.DELETED})
_DECIDING = frozenset(
    {
        *("NetworkPolicy", "GlobalNetworkPolicy", "ClusterNetworkPolicy", "AdminNetworkPolicy"),
        *("BaselineAdminNetworkPolicy", "Tier", "Profile", "NetworkSet", "GlobalNetworkSet", "HostEndpoint"),
        *("WorkloadEndpoint", "Pod", "Namespace", "ServiceAccount", "Service", "EndpointSlice", "Endpoints"),
        *("FelixConfiguration", "Node", "BGPPeer", "BGPConfiguration"),
    }
)
"""Kinds that decide about packets."""
_GIVING = frozenset(
    {"IPAddressPool", "IPPool", "IPReservation", "KubeControllersConfiguration", "Service", "Namespace"}
)
"""Kinds that decide about addresses of Services."""
_COLORS = {"+": "green", "-": "red", "@": "cyan"}
_MADE_AT_CREATION = ("resourceVersion", "uid", "creationTimestamp")


@dataclass(frozen=True, slots=True)
class Compared:
    """Two worlds, and what fares otherwise in the second."""

    before: World
    after: World
    differences: tuple[Difference, ...]


@click.command()
@click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE", help="File, directory or -.")
@click.option("-R", "--recursive", is_flag=True, help="Directories with all below them.")
@click.option("-n", "--namespace", default="", help="For objects that name none.")
@click.option("--delete", "deleting", is_flag=True, help="As if the objects in FILE were deleted.")
@click.option("--verdicts/--no-verdicts", default=True, help="Whether to say which pairs may (not) talk any more.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="Instead of lines; all pairs by name.")
@click.pass_obj
def command(
    etcd: str | None,
    files: tuple[str, ...],
    recursive: bool,
    namespace: str,
    deleting: bool,
    verdicts: bool,
    output: str | None,
) -> None:
    """Show what apply would change: in objects, in Services' addresses, and in who may send what to whom.

    Exit code 0: nothing; 1: something; 2: an object has an error.
    """
    intake = collect(files, recursive, namespace)
    good, findings = checked(intake.manifests)
    failed = print_reports((*intake.reports, *findings))

    async def work(store: Store) -> tuple[list[Change], tuple[Move, ...], Snapshot | None]:
        planned = plan_deletions(store, good) if deleting else plan_all(store, good)
        changes = [change async for change in planned]
        due = {one.key: encode_body(one.after) if one.after is not None else None for one in changes if _may_move(one)}
        moves = derive_moves((await store.snapshot(WATCHED)).items, due) if due else ()
        return changes, moves, await _snapshot(store, changes) if verdicts else None

    changes, moves, snapshot = with_store(etcd, work)
    for change in changes:
        failed += print_reports(reports_of(change.manifest, change.problems))
    differing = [change for change in changes if change.outcome in _DIFFERENT]
    compared = _compare(snapshot, differing) if snapshot is not None else None
    if output:
        _print_tree(differing, moves, compared, output)
    else:
        _print_lines(differing, moves, compared)
    if failed:
        sys.exit(EXIT_USAGE)
    if differing:
        sys.exit(EXIT_FAILED)


def _may_move(change: Change) -> bool:
    """Whether the load balancer controller looks at the object."""
    return change.outcome in _DIFFERENT and change.manifest.info.kind in _GIVING


async def _snapshot(store: Store, changes: Sequence[Change]) -> Snapshot | None:
    """The cluster, where some of the changes may concern packets."""
    from felixpy.ctl.explain.cluster import PREFIXES

    if any(change.outcome in _DIFFERENT and change.manifest.info.kind in _DECIDING for change in changes):
        return await store.snapshot(PREFIXES)
    return None


def _compare(snapshot: Snapshot, changes: Sequence[Change]) -> Compared:
    from felixpy.ctl.explain.cluster import read_cluster
    from felixpy.ctl.verdicts.hosts import Hosts, unaddressed
    from felixpy.ctl.verdicts.whole import compare_all
    from felixpy.ctl.verdicts.world import World

    gc.disable()  # all of a large cluster is made, and kept until the end
    before = World(read_cluster(snapshot.items))
    values = {change.key: None if change.after is None else encode_body(change.after) for change in changes}
    changed = before.cluster.changed(values)
    for broken in changed.broken:
        print_warning(f"would count as missing: {broken}")
    after = World(changed, before)
    for node in unaddressed(Hosts(before), Hosts(after)):
        print_warning(f"no address of node {node} is known; what its host endpoints say of itself is not compared")
    found = compare_all(before, after)
    for node in found.left_out:
        print_warning(f"what passes through node {node} is not compared: its policies tell too many networks apart")
    return Compared(before, after, found.differences)


def _print_lines(changes: Sequence[Change], moves: Sequence[Move], compared: Compared | None) -> None:
    for change in changes:
        for line in unified_diff(change):
            click.echo(click.style(line, fg=_COLORS.get(line[0])))
    for move in moves:
        click.echo(str(move))
    if compared is None:
        return
    from felixpy.ctl.verdicts.groups import decisive_reasons, group_differences
    from felixpy.ctl.verdicts.text import render_groups

    groups = group_differences(compared.differences, decisive_reasons)
    click.echo("" if groups else "No pair of endpoints fares otherwise.")
    for told in render_groups(compared.before, compared.after, groups):
        click.echo(click.style(told.text, fg=told.color or None))


def _print_tree(changes: Sequence[Change], moves: Sequence[Move], compared: Compared | None, output: str) -> None:
    tree: dict[str, Json] = {
        "objects": [
            {"object": str(change.manifest), "outcome": change.outcome.value, "diff": [*unified_diff(change)]}
            for change in changes
        ],
        "moves": [str(move) for move in moves],
    }
    if compared is not None:
        from felixpy.ctl.verdicts.groups import count_pairs, full_reasons, group_differences
        from felixpy.ctl.verdicts.text import groups_tree

        groups = group_differences(compared.differences, full_reasons)
        tree["pairs"] = count_pairs(groups)
        tree["verdicts"] = groups_tree(compared.before, compared.after, groups)
    click.echo(render_json(tree) if output == "json" else render_yaml(tree).rstrip("\n"))


def unified_diff(change: Change) -> Iterator[str]:
    """The lines of a unified diff between the object as it is shown now and as it would be."""
    before = [] if change.before is None else _lines(change, change.before, "before")
    after = [] if change.after is None else _lines(change, change.after, "after")
    names = (
        "/dev/null" if change.before is None else f"now: {change.manifest}",
        "/dev/null" if change.after is None else f"applied: {change.manifest}",
    )
    lines = list(difflib.unified_diff(before, after, *names, lineterm=""))
    yield from lines or (f"{change.manifest}: what is not shown of it would be another",)


def _lines(change: Change, body: Body, side: str) -> list[str]:
    shown = dict(shown_body(change.manifest.info, body, {}, change.revision))
    metadata = shown["metadata"]
    if isinstance(metadata, dict):
        shown["metadata"] = {key: value for key, value in metadata.items() if key not in _MADE_AT_CREATION}
    if change.manifest.info.kind == "Secret":
        shown["data"] = _masked(change, side)
    return render_yaml(shown).splitlines()


def _masked(change: Change, side: str) -> dict[str, Json]:
    """A Secret's keys, with words that differ where the values do."""
    before, after = ((body or {}).get("data") for body in (change.before, change.after))
    old, new = (data if isinstance(data, dict) else {} for data in (before, after))
    return {
        key: "***" if old.get(key) == new.get(key) else f"*** ({side})" for key in (old if side == "before" else new)
    }
