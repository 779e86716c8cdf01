"""felixctl's entry: the options before the command, and the table of commands.

Each command is one module with a click command named `command`, imported when it is called for, so that `felixctl`
starts in the time that click needs. Exit codes: 0 done; 1 some object failed, the others are done; 2 wrong usage, or
`--strict` and something skipped; 3 etcd cannot be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click

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


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(sorted(COMMANDS))}."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--etcd",
    metavar="URL[,URL]|local",
    help="Where etcd is (`local`: the one of this machine's agent); else FELIXPY_ETCD or ETCD_ENDPOINTS.",
)
@click.pass_context
def main(ctx: click.Context, etcd: str | None) -> None:
    """Read and write the resources of a felixpy cluster."""
    ctx.obj = etcd
