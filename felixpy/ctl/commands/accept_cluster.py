"""`felixctl accept-cluster`: tells the frozen processes of this machine to obey the datastore as it is now."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from felixpy.ctl.connect import EXIT_FAILED, print_error
from felixpy.ctl.local import ask_processes, run_dir_option
from felixpy.status.answers import ControlRequest


@click.command()
@run_dir_option
def command(run_dir: Path) -> None:
    """Obey the cluster that this node is frozen before.

    The node then makes its kernel what that datastore says, and remembers the cluster as its own.
    """
    answers = ask_processes(run_dir, ControlRequest("accept-cluster"))
    if not answers:
        print_error(f"error: no process of felixpy answers in {run_dir}")
    accepted = 0
    for name, answer in answers.items():
        if answer.error or answer.status is None:
            print_error(f"{run_dir / name}: {answer.error}")
        elif answer.accepted:
            accepted += 1
            click.echo(f"{answer.status.node} ({', '.join(answer.status.roles)}): accepted")
        else:
            print_error(f"{answer.status.node}: there is nothing to accept; datastore: {answer.status.datastore}")
    if not accepted:
        sys.exit(EXIT_FAILED)
