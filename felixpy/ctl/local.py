"""The control sockets of the processes on this machine: one JSON line there, one back. No datastore is needed."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from felixpy.ctl.connect import RUN_DIR
from felixpy.status.answers import CONTROL_SOCKETS, ControlAnswer, ControlRequest, parse, render

TIMEOUT_S = 6.0

run_dir_option = click.option(
    "--run-dir",
    envvar="FELIXPY_RUN_DIR",
    default=RUN_DIR,
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the node's sockets are.",
)


def ask_processes(run_dir: Path, request: ControlRequest) -> dict[str, ControlAnswer]:
    """The answer of every process of the node, by the name of its socket; an `error` where one could not give any.

    Missing a socket that does not exist, or at which nobody listens any more, is left out.
    """
    answers: dict[str, ControlAnswer] = {}
    for name in CONTROL_SOCKETS:
        try:
            answers[name] = _ask(run_dir / name, request)
        except (FileNotFoundError, ConnectionRefusedError):
            continue
        except (OSError, ValueError) as error:
            answers[name] = ControlAnswer(error=str(error))
    return answers


def _ask(path: Path, request: ControlRequest) -> ControlAnswer:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(render(request) + b"\n")
        with connection.makefile("rb") as lines:
            return parse(lines.readline(), ControlAnswer)
