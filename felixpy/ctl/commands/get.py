"""`felixctl get`: objects as tables, YAML, JSON or names; as they are now, or were at a revision."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from felixpy.ctl.connect import EXIT_FAILED, print_error, print_warning, with_store
from felixpy.ctl.manifests import DEFAULT_NAMESPACE, Body, Json
from felixpy.ctl.showing.columns import columns_of, render_table
from felixpy.ctl.showing.reported import reported_named, select_reported
from felixpy.ctl.showing.selection import EVERYTHING, USUAL, Found, kinds_named, select, usual_namespace
from felixpy.resources.kinds import CALICO


@click.command()
@click.argument("kind")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-n", "--namespace", help=f"Namespace; else {DEFAULT_NAMESPACE}.")
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@click.option("-o", "--output", type=click.Choice(["wide", "yaml", "json", "name"]), help="Instead of the short table.")
@click.option("--revision", type=click.IntRange(min=1), default=None, help="As it was at this revision of etcd.")
@click.pass_obj
def command(
    etcd: str | None,
    kind: str,
    names: tuple[str, ...],
    namespace: str | None,
    all_namespaces: bool,
    output: str | None,
    revision: int | None,
) -> None:
    """Show objects. KIND is a kind, its plural or short name, several with commas, or `all`."""
    kind, slash, name = kind.partition("/")
    names = (name, *names) if slash else names
    if reported := reported_named(kind):
        made = with_store(etcd, lambda store: select_reported(store, reported, namespace, revision or 0))
        shown = [one for one in made if not names or one.name.name in names]
        _print(shown, output, single=len(names) == 1, with_namespace=True)
        return
    try:
        kinds = kinds_named(kind)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    space = None if all_namespaces else namespace or USUAL
    selected = with_store(etcd, lambda store: select(store, kinds, space, names, revision or 0))
    for key in selected.unreadable:
        print_warning(f"what is in etcd at {key} is no JSON object")
    found = selected.objects
    _print(found, output, single=len(names) == 1, with_namespace=all_namespaces)
    missing = [name for name in names if not any(name in (one.shown_name.name, one.name.name) for one in found)]
    for name in missing:
        where = usual_namespace(kinds[0]) if space == USUAL else space
        where = f"{where}/" if where and kinds[0].namespaced else ""
        print_error(f"error: {kinds[0].kind} {where}{name} is not found")
    if not found and not missing and output not in ("yaml", "json", "name"):
        looked = {usual_namespace(info) if space == USUAL else space for info in kinds if info.namespaced}
        where = f" in namespace {', '.join(filter(None, looked))}" if looked and None not in looked else ""
        click.echo(f"There is no {kind}{where}." if kind != EVERYTHING else f"There is nothing{where}.", err=True)
    if missing:
        sys.exit(EXIT_FAILED)


def _print(found: Sequence[Found], output: str | None, *, single: bool, with_namespace: bool) -> None:
    match output:
        case "yaml":
            from felixpy.ctl.showing.output import render_yaml

            click.echo(render_yaml(_whole(found, single=single)), nl=False)
        case "json":
            from felixpy.ctl.showing.output import render_json

            click.echo(render_json(_whole(found, single=single)))
        case "name":
            for one in found:
                click.echo(f"{one.info.kind.lower()}.{one.info.group}/{one.shown_name}")
        case _:
            _print_tables(found, wide=output == "wide", with_namespace=with_namespace)


def _whole(found: Sequence[Found], *, single: bool) -> Body:
    """One object by itself, others in a List."""
    if single and len(found) == 1:
        return found[0].body
    infos = {one.info for one in found}
    items: list[Json] = [dict(one.body) for one in found]
    if len(infos) == 1 and (info := next(iter(infos))).api_version == CALICO:
        return {"apiVersion": CALICO, "kind": f"{info.kind}List", "metadata": {}, "items": items}
    return {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}


def _print_tables(found: Sequence[Found], *, wide: bool, with_namespace: bool) -> None:
    infos = tuple(dict.fromkeys(one.info for one in found))
    for index, info in enumerate(infos):
        if len(infos) > 1:
            click.echo(("\n" if index else "") + click.style(f"{info.kind} ({info.api_version})", fg="cyan"))
        several = with_namespace or info.group == "metallb.io"
        columns = columns_of(info, wide=wide, with_namespace=several)
        head, *rows = render_table(columns, [one.body for one in found if one.info == info])
        click.echo(click.style(head, bold=True))
        for row in rows:
            click.echo(row)
