"""`felixctl get`: objects as tables, YAML, JSON or names; as they are now, or were at a revision."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import click

from felixpy.ctl.connect import EXIT_FAILED, print_error, print_warning, with_store
from felixpy.ctl.manifests import DEFAULT_NAMESPACE, Body, Json
from felixpy.ctl.showing.columns import columns_of, render_table
from felixpy.ctl.showing.selection import (
    EVERYTHING,
    USUAL,
    Asked,
    Found,
    Selected,
    complete_kinds,
    name_of,
    parse_asked,
    select,
    usual_namespace,
)
from felixpy.datastore.model import Store
from felixpy.resources.kinds import CALICO, KindInfo


@click.command()
@click.argument("kind", shell_complete=complete_kinds)
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
    """Show objects. KIND is a kind, its plural or short name, several with commas, or `all`.

    Names may be NAMESPACE/NAME, and KIND/NAME stands for both, as -o name prints it.
    """
    try:
        asked = parse_asked((kind, *names), None if all_namespaces else namespace or USUAL)
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    async def work(store: Store) -> list[Selected]:
        return [await select(store, one.kinds, one.namespace, one.names, revision or 0) for one in asked]

    selected = with_store(etcd, work)
    for key in (key for one in selected for key in one.unreadable):
        print_warning(f"what is in etcd at {key} is no JSON object")
    found = [it for one in selected for it in one.objects]
    named = sum(len(one.names) for one in asked)
    _print(found, output, single=named == 1, with_namespace=len(asked) > 1 or asked[0].namespace is None)
    missing = [words for one, what in zip(asked, selected, strict=True) for words in _missing(one, what.objects)]
    for words in missing:
        print_error(f"error: {words} is not found")
    if not found and not missing and output not in ("yaml", "json", "name"):
        looked = {_space(asked[0], info) for info in asked[0].kinds if info.namespaced}
        where = f" in namespace {', '.join(filter(None, looked))}" if looked and None not in looked else ""
        click.echo(f"There is no {kind}{where}." if kind != EVERYTHING else f"There is nothing{where}.", err=True)
    if missing:
        sys.exit(EXIT_FAILED)


def _missing(asked: Asked, found: Sequence[Found]) -> Iterator[str]:
    """What was asked for by name and is not there, in words."""
    held = {name for one in found for name in (one.shown_name.name, one.name.name)}
    info = asked.kinds[0]
    where = _space(asked, info)
    prefix = f"{where}/" if where and info.namespaced else ""
    yield from (f"{info.kind} {prefix}{name}" for name in asked.names if name not in held)


def _space(asked: Asked, info: KindInfo) -> str | None:
    """The namespace in which objects of a kind were looked for; None for all."""
    return usual_namespace(info) if asked.namespace == USUAL else asked.namespace


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
                click.echo(name_of(one))
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
