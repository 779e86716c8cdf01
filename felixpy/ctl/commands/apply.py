"""`felixctl apply -f`: write what files say, object by object."""

from __future__ import annotations

import sys

import click

from felixpy.ctl.applying.plan import Outcome
from felixpy.ctl.applying.references import find_missing
from felixpy.ctl.applying.writer import apply_all, left_over, plan_all
from felixpy.ctl.collect import checked, collect, print_reports, reports_of
from felixpy.ctl.connect import EXIT_FAILED, EXIT_USAGE, print_warning, with_store
from felixpy.ctl.foreign import describe_unenforced, foreign_nodes, unread_manifests
from felixpy.datastore.model import Store

_COLORS = {Outcome.CREATED: "green", Outcome.CONFIGURED: "yellow", Outcome.REFUSED: "red", Outcome.DELETED: "yellow"}


@click.command()
@click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE", help="File, directory or -.")
@click.option("-R", "--recursive", is_flag=True, help="Directories with all below them.")
@click.option("-n", "--namespace", default="", help="For objects that name none.")
@click.option("--strict", is_flag=True, help="Exit with 2 when a document was skipped.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.pass_obj
def command(
    etcd: str | None, files: tuple[str, ...], recursive: bool, namespace: str, strict: bool, dry_run: bool
) -> None:
    """Create or change the objects in files.

    Takes Calico's, Kubernetes' and MetalLB's YAML or JSON, and MetalLB's old ConfigMap. An object with an error is
    left as it is; the others are written.
    """
    intake = collect(files, recursive, namespace)
    good, findings = checked(intake.manifests)
    failed = print_reports((*intake.reports, *findings))

    async def work(store: Store) -> int:
        errors = 0
        leaving = await left_over(store, intake.config_maps, intake.manifests)
        async for change in (plan_all if dry_run else apply_all)(store, good, leaving):
            errors += print_reports(reports_of(change.manifest, change.problems))
            _say(change.manifest, change.outcome, dry_run)
        for one in leaving:
            if dry_run or await store.delete(one.key.encode()):
                _say(one, Outcome.DELETED, dry_run)
        for manifest, problem in await find_missing(store, good):
            print_reports(reports_of(manifest, [problem]))
        if unread := unread_manifests(good):
            nodes = await foreign_nodes(store)
            for policy in unread if nodes else ():
                print_warning(describe_unenforced(policy, nodes))
        return errors

    failed += with_store(etcd, work)
    for skipped in intake.skipped:
        click.echo(f"{skipped} skipped: {skipped.source}: not a kind that felixpy holds")
    if failed:
        sys.exit(EXIT_FAILED)
    if strict and intake.skipped:
        sys.exit(EXIT_USAGE)


def _say(what: object, outcome: Outcome, dry_run: bool) -> None:
    styled = click.style(outcome.value, fg=_COLORS.get(outcome))
    click.echo(f"{what} {styled}{' (dry run)' if dry_run else ''}")
