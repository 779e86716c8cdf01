"""`felixctl ipam`: who holds which address, what is wrong with that, and giving back what nobody uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import click
import msgspec

from felixpy.ctl.cells import align_rows, list_some, render_bar
from felixpy.ctl.commands.ipam_release import AddressType, Values, read_all, release
from felixpy.ctl.commands.ipam_settings import configure, load_settings, print_settings, split
from felixpy.ctl.connect import EXIT_FAILED, print_error, with_store
from felixpy.ctl.ipam.audit import (
    AuditReport,
    derive_alive,
    make_report,
    run_audit,
)
from felixpy.ctl.ipam.settings import Refused
from felixpy.ctl.ipam.view import PoolView, count_used, derive_pools, find_address, find_borrowed, owner_name
from felixpy.ctl.manifests import Json
from ipam.addresses import Address, format_address
from ipam.audit import GRACE

Rows = Sequence[Sequence[str]]


@click.group()
def command() -> None:
    """Show, check, release and configure addresses."""


command.add_command(configure)
command.add_command(split)
command.add_command(release)


@command.command()
@click.option("--ip", "address", type=AddressType(), metavar="IP", help="Who holds one address.")
@click.option("--blocks", is_flag=True, help="The blocks of each node as well.")
@click.option("--borrowed", is_flag=True, help="Addresses used on another node than their block's.")
@click.option("--configuration", is_flag=True, help="The settings of address management.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="Instead of text.")
@click.pass_obj
def show(
    etcd: str | None, address: Address | None, blocks: bool, borrowed: bool, configuration: bool, output: str | None
) -> None:
    """Show how full pools, nodes and blocks are."""
    if configuration:
        _show_settings(etcd, output)
        return
    values, _ = with_store(etcd, read_all)
    if address is not None:
        facts = _address_facts(values, address)
        rows: Rows = tuple(zip(*facts, strict=True))
        lines = align_rows([(f"{key}:", value) for key, value in facts])
    elif borrowed:
        rows = _borrowed_rows(values)
        lines = align_rows(rows)
    else:
        views = derive_pools(values)
        rows, lines = _pool_rows(views), _tree_lines(views, blocks)
    if output:
        _dump(rows, output)
    elif len(rows) == 1:
        click.echo("No address is borrowed." if borrowed else "There is neither a pool nor a block.", err=True)
    else:
        click.echo("\n".join(lines))


def _show_settings(etcd: str | None, output: str | None) -> None:
    try:
        settings, _ = with_store(etcd, load_settings)
    except Refused as error:
        print_error(f"error: {error}")
        sys.exit(EXIT_FAILED)
    print_settings(settings.values, output)


def _tree_lines(views: Sequence[PoolView], blocks: bool) -> list[str]:
    rows: list[tuple[str, str]] = []
    for view in views:
        name = f"{view.pool.name} {view.pool.cidr}" if view.pool is not None else "outside every pool"
        rows.append((name, render_bar(view.used, view.size)))
        for owner, owned in view.by_owner().items():
            size = sum(block.cidr.size for block in owned)
            rows.append((f"  {owner}", render_bar(sum(map(count_used, owned)), size)))
            rows += ((f"    {one.cidr}", render_bar(count_used(one), one.cidr.size)) for one in owned if blocks)
    return align_rows([("POOL, NODE" + (", BLOCK" if blocks else ""), "USED"), *rows])


def _pool_rows(views: Sequence[PoolView]) -> Rows:
    rows = [("POOL", "CIDR", "OWNER", "BLOCK", "USED", "SIZE")]
    for view in views:
        name, cidr = (view.pool.name, str(view.pool.cidr)) if view.pool is not None else ("", "")
        for one in view.blocks:
            used = str(count_used(one))
            rows.append((name, cidr, owner_name(one), str(one.cidr), used, str(one.cidr.size)))
        if not view.blocks:
            rows.append((name, cidr, "", "", "0", str(view.size)))
    return rows


def _borrowed_rows(values: Values) -> Rows:
    rows = [("ADDRESS", "BLOCK", "BLOCK OF", "USED BY")]
    for held in find_borrowed(values):
        rows.append((format_address(held.address), str(held.block.cidr), owner_name(held.block), held.describe()))
    return rows


def _address_facts(values: Values, address: Address) -> list[tuple[str, str]]:
    pool, block, held = find_address(values, address)
    users = derive_alive(values).users.get(address, ())
    facts = [("address", format_address(address))]
    facts.append(("pool", f"{pool.name} {pool.cidr}" if pool is not None else "none"))
    facts.append(("block", f"{block.cidr} of {owner_name(block)}" if block is not None else "none"))
    if held is None:
        facts.append(("held by", "nobody: it is free" if block is not None else "nobody"))
    elif held.cooling:
        facts.append(("held by", f"nobody: released at {held.attribute.released_at}, not given out again for a while"))
    else:
        facts.append(("held by", held.describe()))
        facts.append(("handle", held.attribute.holder or "none"))
        facts += ((key, value) for key, value in sorted(held.attribute.owner.items()))
    facts.append(("in use by", ", ".join(users) or "nothing that the datastore knows"))
    return facts


@command.command()
@click.option("-o", "--output", type=click.Choice(["json"]), help="A report, for `release --from-report`.")
@click.pass_obj
def check(etcd: str | None, output: str | None) -> None:
    """Compare what is allocated with what is in use, and the records with one another.

    Exit code 1: something is wrong.
    """
    values, revision = with_store(etcd, read_all)
    alive = derive_alive(values)
    report = make_report(values, alive, run_audit(values, alive), revision, datetime.now(UTC))
    if output:
        click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        click.echo("\n".join(_report_lines(report)))
    if report.findings:
        sys.exit(EXIT_FAILED)


def _report_lines(report: AuditReport) -> Iterator[str]:
    if not report.findings:
        yield "Nothing is wrong."
    what = ""
    for finding in sorted(report.findings, key=lambda one: one.what):
        if finding.what != what:
            what = finding.what
            yield click.style(f"{what}:", bold=True) + f"  ({finding.cause})"
        words = ", ".join(dict.fromkeys(filter(None, (finding.detail, finding.blame))))
        yield f"  {finding.subject}" + (f" ({words})" if words else "")
    if report.outside_pools:
        yield f"In use and of no pool, which is no fault by itself: {list_some(report.outside_pools)}"
    if report.suspects:
        minutes = int(GRACE.total_seconds() // 60)
        yield f"{len(report.suspects)} addresses seem leaked. To release those that still do in {minutes} minutes:"
        yield "  felixctl ipam check -o json > report.json; felixctl ipam release --from-report report.json"


def _dump(rows: Rows, output: str) -> None:
    from felixpy.ctl.showing.output import render_body

    heads = [_camel(head) for head in rows[0]]
    items: list[Json] = [dict(zip(heads, row, strict=True)) for row in rows[1:]]
    body: dict[str, Json] = {"items": items}
    click.echo(render_body(body, output))


def _camel(words: str) -> str:
    first, *rest = words.lower().split()
    return first + "".join(word.capitalize() for word in rest)
