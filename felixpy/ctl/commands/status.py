"""`felixctl status`: how the nodes stand, asked now; with `--wait`, until they have what is in the datastore."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from felixpy.ctl.asking import TIMEOUT_S, WAIT_TIMEOUT_S, Survey, survey, survey_programmed
from felixpy.ctl.cells import list_some
from felixpy.ctl.connect import EXIT_FAILED, print_error, print_warning, with_store
from felixpy.ctl.foreign import describe_unenforced, foreign_nodes, unread_policies
from felixpy.ctl.local import ask_processes, run_dir_option
from felixpy.ctl.neighbours import find_names
from felixpy.ctl.node_text import (
    all_well,
    node_tree,
    render_node,
    render_nodes,
    render_problems,
    survey_tree,
    why_silent,
)
from felixpy.datastore.model import Store
from felixpy.status.answers import ControlRequest, merge_answers


@click.command()
@click.argument("node", required=False)
@click.option("--wait", is_flag=True, help="Return when every node has in its kernel what is in etcd now.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), help=f"Seconds: about {TIMEOUT_S:g}, to wait {WAIT_TIMEOUT_S:g}."
)
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="All that the nodes say.")
@click.option("--local", is_flag=True, help="Ask the processes on this machine, without etcd.")
@run_dir_option
@click.pass_obj
def command(
    etcd: str | None,
    node: str | None,
    wait: bool,
    timeout: float | None,
    output: str | None,
    local: bool,
    run_dir: Path,
) -> None:
    """Show how the nodes stand, all or NODE in full.

    Exit code 0: all is well (with --wait: all of it is in the kernels); 1: something is wrong, or a node does not
    answer.
    """
    if local:
        if node or wait:
            raise click.UsageError("--local is about this machine: it goes with neither NODE nor --wait")
        _show_local(run_dir, output)
        return
    named = [node] if node else []
    foreign: list[str] = []
    unenforced: list[str] = []

    async def work(store: Store) -> tuple[Survey, bool, dict[str, str]]:
        foreign.extend(() if node else await foreign_nodes(store))
        if foreign:
            unenforced.extend(describe_unenforced(policy, foreign) for policy in await unread_policies(store))
        names = await find_names(store) if node else {}
        if wait:
            return *await survey_programmed(store, named, timeout or WAIT_TIMEOUT_S), names
        found = await survey(store, named, (), timeout)
        return found, bool(found.nodes) and all_well(found.nodes.values()), names

    found, well, names = with_store(etcd, work)
    if output:
        _dump(found, node, output)
    elif node:
        _show_one(found, node, names)
    else:
        _show_all(found)
    if foreign:
        print_warning(f"{list_some(foreign)}: Calico's Felix runs there, which is not asked")
    for line in unenforced:
        print_warning(line)
    if not well:
        sys.exit(EXIT_FAILED)


def _show_all(found: Survey) -> None:
    if not found.nodes:
        click.echo("There is no Node resource, and no node answers.", err=True)
        return
    head, rows = render_nodes(found.nodes, found.revision)
    click.echo(click.style(head, bold=True))
    for row in rows:
        click.echo(row.text if row.well else click.style(row.text, fg="red"))
    for line in render_problems(found.nodes):
        print_error(line)


def _show_one(found: Survey, node: str, names: dict[str, str]) -> None:
    status = found.nodes[node]
    if status is None:
        print_error(f"{node}: {why_silent(node, found.known)}")
        return
    for line in render_node(status, names):
        click.echo(line)


def _show_local(run_dir: Path, output: str | None) -> None:
    answers = ask_processes(run_dir, ControlRequest("status"))
    for name, answer in answers.items():
        if answer.error:
            print_error(f"{run_dir / name}: {answer.error}")
    statuses = [answer.status for answer in answers.values() if answer.status is not None]
    if not statuses:
        print_error(f"error: no process of felixpy answers in {run_dir}")
        sys.exit(EXIT_FAILED)
    status = merge_answers(statuses)
    if output:
        _dump(Survey(status.revision, {status.node: status}), status.node, output)
    else:
        for line in render_node(status, {}):
            click.echo(line)
    if not all_well([status]) or len(statuses) < len(answers):
        sys.exit(EXIT_FAILED)


def _dump(found: Survey, node: str | None, output: str) -> None:
    from felixpy.ctl.showing.output import render_body

    body = node_tree(node, found.nodes[node]) if node else survey_tree(found.nodes, found.revision)
    click.echo(render_body(body, output))
