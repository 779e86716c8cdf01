"""`felixctl bgp`: every BGP session, and what the nodes announce, hold silent and have learned."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

import click

from felixpy.ctl.asking import TIMEOUT_S, Survey, survey
from felixpy.ctl.cells import align_rows
from felixpy.ctl.connect import EXIT_FAILED, print_error, with_store
from felixpy.ctl.neighbours import find_names
from felixpy.ctl.node_text import NOTHING, render_sessions, survey_tree, why_silent
from felixpy.datastore.model import Store
from felixpy.status.answers import AnnouncedPrefix, BgpStatus, KernelStatus, LearnedPrefix, Want
from felixpy.status.problems import why_unheard

_ROUTES = (Want.ANNOUNCED, Want.LEARNED, Want.TUNNELLED)


@click.command()
@click.argument("what", type=click.Choice(["status", "routes"]), default="status")
@click.argument("node", required=False)
@click.option("--timeout", type=click.FloatRange(min=0.1), help=f"Seconds; about {TIMEOUT_S:g}.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="All that the nodes say.")
@click.pass_obj
def command(etcd: str | None, what: str, node: str | None, timeout: float | None, output: str | None) -> None:
    """Show BGP sessions (`status`), or routes with why and through what (`routes`); of all nodes or NODE.

    Exit code 1: a session is down, a route cannot be put into the kernel, or a node does not answer.
    """
    want = _ROUTES if what == "routes" else ()

    async def work(store: Store) -> tuple[Survey, dict[str, str]]:
        return await survey(store, [node] if node else [], want, timeout), await find_names(store)

    found, names = with_store(etcd, work)
    if output:
        from felixpy.ctl.showing.output import render_body

        body = survey_tree(found.nodes, found.revision)
        click.echo(render_body(body, output))
    elif what == "routes":
        for line in render_routes(found, names):
            click.echo(line)
    else:
        for line in (*render_sessions(found.nodes, names), *find_differences(found)):
            click.echo(line)
    troubles = list(find_troubles(found))
    for trouble in troubles if not output else ():
        print_error(trouble)
    if troubles:
        sys.exit(EXIT_FAILED)


def find_troubles(found: Survey) -> Iterator[str]:
    """What is wrong with BGP on any node."""
    for name, status in found.nodes.items():
        if status is None:
            yield f"{name}: {why_silent(name, found.known)}"
            continue
        bgp = status.bgp
        if bgp is None:
            continue
        if bgp.no_speaker:
            yield f"{name}: speaks no BGP: {bgp.no_speaker}"
            continue
        if not bgp.generation:
            yield f"{name}: {why_unheard(status)}"
        for session in bgp.sessions:
            if not session.established and not session.visitor:
                why = f": {session.last_error}" if session.last_error else ""
                yield f"{name}: the session with {session.address} is {session.state}{why}"
        for refusal in bgp.refusals:
            yield f"{name}: {refusal.operation}: {refusal.error}"
        for failure in bgp.failures:
            yield f"{name}: not done: {failure.operation}: {failure.error}"


def find_differences(found: Survey) -> Iterator[str]:
    """What of BGP is not as was asked for, and need not be wrong: a neighbour may want less than we do, or not come."""
    for name, status in found.nodes.items():
        bgp = status.bgp if status is not None else None
        if bgp is None:
            continue
        for session in bgp.sessions:
            yield from (f"{name}: the session with {session.address}: {words}" for words in session.differences)
        yield from (f"{name}: {words}" for words in bgp.ranges)
        yield from (f"{name}: still to be done: {operation}" for operation in bgp.pending)
        if bgp.phase and bgp.phase != "live" and not bgp.no_speaker:
            yield f"{name}: learned routes are those of before, until the neighbours have told theirs"


def render_routes(found: Survey, names: Mapping[str, str]) -> Iterator[str]:
    """Each node's prefixes in up to four tables."""
    for name, status in found.nodes.items():
        if status is None:
            continue
        yield click.style(name, bold=True)
        tables = (
            (*_tables(status.bgp, names), _tunnelled(status.kernel)) if status.bgp else (_tunnelled(status.kernel),)
        )
        for rows, more in tables:
            if len(rows) > 1:
                yield from (f"  {line}" for line in align_rows(rows))
            if more > 0:
                yield f"  ... and {more} more"


def _tables(bgp: BgpStatus, names: Mapping[str, str]) -> Iterator[tuple[Sequence[Sequence[str]], int]]:
    """Rows of cells, the headings first, and how many rows were left out."""
    announced = [_announced_cells(one, names) for one in bgp.announcements]
    headings = ("ANNOUNCED", "WHAT FOR", "COMMUNITIES", "LOCAL PREF", "PREPENDED", "TOLD TO")
    yield [headings, *announced], bgp.announced - len(announced)
    silent = [(one.prefix, one.reason) for one in bgp.silences]
    yield [("NOT ANNOUNCED", "WHY NOT"), *silent], bgp.silent - len(silent)
    learned = [_learned_cells(one, names) for one in bgp.routes]
    yield [("LEARNED", "FROM", "NEXT HOPS", "DEVICE", "METRIC", "KERNEL"), *learned], bgp.learned - len(learned)


def _tunnelled(kernel: KernelStatus | None) -> tuple[Sequence[Sequence[str]], int]:
    """What other nodes hold of tunnelled pools: these routes come from the datastore, with BGP or without."""
    rows = [
        (one.prefix, one.holder, one.mode, one.device or NOTHING, one.gateway or NOTHING, one.error or NOTHING)
        for one in (kernel.tunnels if kernel is not None else ())
    ]
    more = kernel.tunnelled - len(rows) if kernel is not None else 0
    return [("TUNNELLED", "HELD BY", "POOL SAYS", "THROUGH", "GATEWAY", "WHY DROPPED"), *rows], more


def _announced_cells(one: AnnouncedPrefix, names: Mapping[str, str]) -> Sequence[str]:
    told = [_named(address, names) for address in one.told]
    more = f" and {one.told_to - len(told)} more" if one.told_to > len(told) else ""
    return (
        one.prefix,
        one.why,
        ",".join(one.communities) or NOTHING,
        str(one.local_pref or NOTHING),
        str(one.prepend or NOTHING),
        f"{','.join(told)}{more}" or "nobody",
    )


def _learned_cells(route: LearnedPrefix, names: Mapping[str, str]) -> Sequence[str]:
    hops = ",".join(_named(hop, names) for hop in route.next_hops)
    teachers = ",".join(_named(teacher, names) for teacher in route.teachers) or "an earlier run"
    return route.prefix, teachers, hops, ",".join(route.devices) or NOTHING, str(route.metric), route.error or "has it"


def _named(address: str, names: Mapping[str, str]) -> str:
    return f"{address} ({names[address]})" if address in names else address
