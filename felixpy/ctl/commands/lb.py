"""`felixctl lb`: Service addresses: how full the pools are, who has which, who announces it, and who not and why."""

from __future__ import annotations

import click

from felixpy.addresses import format_address
from felixpy.ctl.asking import TIMEOUT_S, Survey, survey
from felixpy.ctl.cells import align_rows, list_some, render_bar
from felixpy.ctl.connect import print_error, with_store
from felixpy.ctl.manifests import Body, Json
from felixpy.ctl.node_text import NO_ANSWER, NOTHING
from felixpy.ctl.services.reach import Reach
from felixpy.ctl.services.vips import PREFIXES, Balance, ServiceAddress, derive_balance
from felixpy.datastore.model import Snapshot, Store
from felixpy.status.answers import Want


@click.command()
@click.option("--timeout", type=click.FloatRange(min=0.1), help=f"Seconds; about {TIMEOUT_S:g}.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="Instead of tables.")
@click.pass_obj
def command(etcd: str | None, timeout: float | None, output: str | None) -> None:
    """Show pools of Service addresses, who has which address, and who announces it."""

    async def work(store: Store) -> tuple[Survey, Snapshot]:
        return await survey(store, (), (Want.ANNOUNCED,), timeout), await store.snapshot(PREFIXES)

    found, snapshot = with_store(etcd, work)
    balance = derive_balance(snapshot.items, found.nodes)
    if output:
        from felixpy.ctl.showing.output import render_body

        body = _tree(balance, found)
        click.echo(render_body(body, output))
        return
    for line in _render(balance):
        click.echo(line)
    for one in balance.addresses:
        if one.reach.rivals and one.address is not None:
            rivals = list_some(one.reach.rivals)
            print_error(f"{format_address(one.address)}: {rivals}, of no node, answers for it too")
    unheard = [name for name, status in found.nodes.items() if status is None]
    if unheard:
        print_error(f"{list_some(unheard)}: {NO_ANSWER}")
    for name, status in found.nodes.items():
        if status is not None and status.bgp is not None and status.bgp.announced > len(status.bgp.announcements):
            print_error(f"{name}: announces {status.bgp.announced} prefixes, more than it could tell")


def _render(balance: Balance) -> list[str]:
    lines = align_rows([("POOL", "USED"), *((one.name, render_bar(one.used, one.size)) for one in balance.pools)])
    heads = ("SERVICE", "ADDRESS", "POOL", "ANNOUNCED BY", "ANSWERED BY", "NOT BY")
    return [*lines, "", *align_rows([heads, *map(_cells, balance.addresses)])]


def _cells(one: ServiceAddress) -> tuple[str, ...]:
    address = NOTHING if one.address is None else format_address(one.address)
    why = f"refused: {one.refusal}" if one.refusal else ""
    silent = "; ".join(filter(None, (why or one.waiting, _silent_words(one.reach))))
    announced = list_some(one.reach.announced_by) or NOTHING
    layer2 = list_some(one.reach.layer2) or NOTHING
    return str(one.service), address, one.pool or NOTHING, announced, layer2, silent or NOTHING


def _silent_words(reach: Reach) -> str:
    return "; ".join(f"{list_some(names)}: {reason}" for reason, names in reach.silent.items())


def _tree(balance: Balance, found: Survey) -> Body:
    pools: list[Json] = [{"name": one.name, "used": one.used, "size": one.size} for one in balance.pools]
    services: list[Json] = [
        {
            "service": str(one.service),
            "address": None if one.address is None else format_address(one.address),
            "pool": one.pool,
            "refusal": one.refusal,
            "waiting": one.waiting,
            "announcedBy": list(one.reach.announced_by),
            "answeredBy": list(one.reach.layer2),
            "rivals": list(one.reach.rivals),
            "silent": [{"reason": reason, "nodes": list(names)} for reason, names in one.reach.silent.items()],
        }
        for one in balance.addresses
    ]
    silent: list[Json] = [name for name, status in found.nodes.items() if status is None]
    return {"pools": pools, "services": services, "noAnswer": silent}
