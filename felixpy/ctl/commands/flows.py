"""`felixctl flows`: what the nodes' rules denied (and allowed, where they tell of it), and which rule it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from felixpy.ctl.connect import EXIT_FAILED, print_error, print_warning, with_store
from felixpy.ctl.local import ask_processes, run_dir_option
from felixpy.flows.records import FlowsQuestion
from felixpy.status.answers import ControlRequest

if TYPE_CHECKING:
    from felixpy.ctl.explain.staged import Otherwise
    from felixpy.datastore.model import Store
    from felixpy.flows.records import FlowRecord

    Told = tuple[str, FlowRecord, Otherwise | None]
    """The node, the flow, and what staged policies would do where that is something else."""


@click.command()
@click.option("--denied", "verdicts", flag_value="denied", help="What was denied or refused.")
@click.option("--allowed", "verdicts", flag_value="allowed", help="What was allowed.")
@click.option("--logged", "verdicts", flag_value="logged", help="What a rule with the action Log met.")
@click.option("--staged", is_flag=True, help="Only what staged policies would treat otherwise.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is new, until interrupted.")
@click.option("--node", "nodes", multiple=True, help="Of this node; may be given again.")
@click.option("-n", "--namespace", default="", help="Of pods of this namespace, at either end.")
@click.option("--pod", default="", help="Of pods of this name, at either end.")
@click.option("--address", default="", help="Of this address, at either end.")
@click.option("--timeout", type=click.FloatRange(min=0.1), help="Seconds to wait for the nodes.")
@click.option("-o", "--output", type=click.Choice(["json"]), help="One JSON object a line.")
@click.option("--local", is_flag=True, help="Ask the agent on this machine, without etcd.")
@run_dir_option
@click.pass_obj
def command(
    etcd: str | None,
    verdicts: str | None,
    staged: bool,
    follow: bool,
    nodes: tuple[str, ...],
    namespace: str,
    pod: str,
    address: str,
    timeout: float | None,
    output: str | None,
    local: bool,
    run_dir: Path,
) -> None:
    """Show the latest flows that the nodes' rules told of, the oldest first: what was denied, and by which rule.

    FelixConfiguration says what is told of: denied flows (flowLogsFileEnabledForDenied, true unless said), allowed ones
    (flowLogsFileEnabledForAllowed, false unless said). Each rule tells of 50 packets a second at the most. Where
    there are staged policies, a flow that they would treat otherwise says so.
    """
    wanted = {None: (), "denied": ("denied", "refused")}.get(verdicts, (verdicts,) if verdicts else ())
    question = FlowsQuestion(wanted, namespace, pod, _canonical(address), follow)
    if local:
        if follow or nodes or staged:
            raise click.UsageError("--local is about this machine, now: no --follow, no --node and no --staged")
        _show_local(run_dir, question, output)
        return
    from felixpy.ctl.flows.asking import ask_flows
    from felixpy.ctl.flows.staging import StagedJudge
    from felixpy.ctl.flows.text import render_notes

    silent: list[str] = []

    async def work(store: Store) -> None:
        judge = StagedJudge(store)
        told: list[Told] = []
        notes: list[str] = []
        async with aclosing(ask_flows(store, nodes, question, timeout)) as answers:
            async for answer in answers:
                judged = zip(answer.flows, await judge.judge(answer), strict=True)
                told += [(answer.node, flow, other) for flow, other in judged if other is not None or not staged]
                notes += render_notes(answer)
                if answer.unread:
                    silent.append(answer.node)
                if follow:
                    _show(told, notes, output)
                    told, notes = [], []
        _show(sorted(told, key=lambda one: one[1].last_s), notes, output)
        if not told and not notes and not output and not follow:
            click.echo("The nodes tell of no such flow.", err=True)

    try:
        with_store(etcd, work)
    except KeyboardInterrupt:
        return
    if silent:
        sys.exit(EXIT_FAILED)


def _canonical(address: str) -> str:
    if not address:
        return ""
    from felixpy.addresses import format_address, parse_address

    try:
        return format_address(parse_address(address))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _show_local(run_dir: Path, question: FlowsQuestion, output: str | None) -> None:
    from felixpy.ctl.flows.text import render_notes

    answers = ask_processes(run_dir, ControlRequest("flows", flows=question))
    told = [answer.flows for answer in answers.values() if answer.flows is not None]
    if not told:
        why = "; ".join(sorted({answer.error for answer in answers.values() if answer.error}))
        print_error(f"error: no agent answers in {run_dir}{f': {why}' if why else ''}")
        sys.exit(EXIT_FAILED)
    for answer in told:
        _show([(answer.node, flow, None) for flow in answer.flows], list(render_notes(answer)), output)


def _show(told: Iterable[Told], notes: Iterable[str], output: str | None) -> None:
    from felixpy.ctl.flows.text import COLORS, flow_tree, render_flow_record

    for node, flow, other in told:
        if output:
            click.echo(json.dumps(flow_tree(node, flow, other)))
        else:
            click.echo(click.style(render_flow_record(node, flow), fg=COLORS.get(flow.verdict)))
            if other is not None:
                click.echo(f"    {other}")
    for note in notes:
        print_warning(note)
