"""`felixctl diff -f`: what apply would change, field by field, and whose addresses would move."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator

import click

from felixpy.controllers.allocation import WATCHED
from felixpy.ctl.collect import checked, collect, print_reports, reports_of
from felixpy.ctl.connect import EXIT_FAILED, EXIT_USAGE, with_store
from felixpy.ctl.manifests import Body, Json
from felixpy.ctl.moves import Move, derive_moves
from felixpy.ctl.output import render_yaml
from felixpy.ctl.plan import Change, Outcome
from felixpy.ctl.stored import encode_body, shown_body
from felixpy.ctl.writer import plan_all
from felixpy.datastore.model import Store

_COLORS = {"+": "green", "-": "red", "@": "cyan"}
_MADE_AT_CREATION = ("resourceVersion", "uid", "creationTimestamp")


@click.command()
@click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE", help="File, directory or -.")
@click.option("-R", "--recursive", is_flag=True, help="Directories with all below them.")
@click.option("-n", "--namespace", default="", help="For objects that name none.")
@click.pass_obj
def command(etcd: str | None, files: tuple[str, ...], recursive: bool, namespace: str) -> None:
    """Show what apply would change, and which Services would then get, move or lose addresses.

    Exit code 0: nothing; 1: something; 2: an object has an error.
    """
    intake = collect(files, recursive, namespace)
    good, findings = checked(intake.manifests)
    failed = print_reports((*intake.reports, *findings))

    async def work(store: Store) -> tuple[list[Change], tuple[Move, ...]]:
        changes = [change async for change in plan_all(store, good)]
        due = {one.key: encode_body(one.after) for one in changes if one.after is not None and _may_move(one)}
        return changes, derive_moves((await store.snapshot(WATCHED)).items, due) if due else ()

    changes, moves = with_store(etcd, work)
    differing = 0
    for change in changes:
        failed += print_reports(reports_of(change.manifest, change.problems))
        if change.outcome in (Outcome.CREATED, Outcome.CONFIGURED):
            differing += 1
            for line in unified_diff(change):
                click.echo(click.style(line, fg=_COLORS.get(line[0])))
    for move in moves:
        click.echo(str(move))
    if failed:
        sys.exit(EXIT_USAGE)
    if differing:
        sys.exit(EXIT_FAILED)


def _may_move(change: Change) -> bool:
    """Whether the load balancer controller looks at the object."""
    kinds = ("IPAddressPool", "Service", "Namespace")
    return change.outcome in (Outcome.CREATED, Outcome.CONFIGURED) and change.manifest.info.kind in kinds


def unified_diff(change: Change) -> Iterator[str]:
    """The lines of a unified diff between the object as it is shown now and as it would be."""
    before = [] if change.before is None else _lines(change, change.before, "before")
    after = [] if change.after is None else _lines(change, change.after, "after")
    names = ("/dev/null" if change.before is None else f"now: {change.manifest}", f"applied: {change.manifest}")
    yield from difflib.unified_diff(before, after, *names, lineterm="")


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
