"""felixctl's entry: the options before the command, and the table of commands.

Each command is one module with a click command named `command`, imported when it is called for, so that `felixctl`
starts in the time that click needs. Exit codes: 0 done; 1 some object failed, the others are done, or what is said
cannot be written; 2 wrong usage, or `--strict` and something skipped; 3 etcd cannot be used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from felixpy.ctl.connect import EXIT_FAILED, UNWRITABLE, print_error

COMMANDS: Mapping[str, str] = {
    "accept-cluster": "felixpy.ctl.commands.accept_cluster",
    "apply": "felixpy.ctl.commands.apply",
    "bgp": "felixpy.ctl.commands.bgp",
    "delete": "felixpy.ctl.commands.delete",
    "diff": "felixpy.ctl.commands.diff",
    "doctor": "felixpy.ctl.commands.doctor",
    "explain": "felixpy.ctl.commands.explain",
    "flows": "felixpy.ctl.commands.flows",
    "get": "felixpy.ctl.commands.get",
    "ipam": "felixpy.ctl.commands.ipam",
    "leave": "felixpy.ctl.commands.leave",
    "lb": "felixpy.ctl.commands.lb",
    "status": "felixpy.ctl.commands.status",
    "svc": "felixpy.ctl.commands.svc",
    "version": "felixpy.ctl.commands.version",
}

ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("annotate", "create", "edit", "label", "patch", "replace"), "apply -f FILE"),
    "describe": "get KIND NAME -o yaml",
    "node": "status [NODE]",
    "trace": "explain SOURCE DESTINATION",
}
"""What people type who know calicoctl or kubectl, and what does it here: some of it is spelt like another command."""


class _LazyGroup(click.Group):
    def main(self, *args: Any, **kwargs: Any) -> Any:
        """What cannot be written ends the command in words; click does so where nobody reads."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            with suppress(OSError):
                print_error(f"error: what this command says cannot be written: {error.strerror}")
            silence = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):  # what is left in them would fail again when Python ends
                os.dup2(silence, stream.fileno())
            sys.exit(EXIT_FAILED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        _let_name_etcd(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(sorted(COMMANDS))}."
            if args[0] in ELSEWHERE:
                hint = f" That is: felixctl {ELSEWHERE[args[0]]}"
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


def _let_name_etcd(command: click.Command) -> None:
    """Has a command, and those below it, take `--etcd` behind its name as well: many type it there."""
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _let_name_etcd(inner)
    if all(parameter.name != "etcd" for parameter in command.params):
        command.params.append(click.Option(["--etcd"], expose_value=False, hidden=True, callback=_note_etcd))


def _note_etcd(ctx: click.Context, _: click.Parameter, etcd: str | None) -> None:
    if etcd is not None:
        ctx.obj = etcd


def _tell_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        command: click.Command = import_module(COMMANDS["version"]).command
        ctx.invoke(command)
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--etcd",
    metavar="URL[,URL]|local",
    help="Where etcd is (`local`: the one of this machine's agent); else FELIXPY_ETCD or ETCD_ENDPOINTS.",
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_tell_version, hidden=True)
@click.pass_context
def main(ctx: click.Context, etcd: str | None) -> None:
    """Read and write the resources of a felixpy cluster."""
    ctx.obj = etcd
