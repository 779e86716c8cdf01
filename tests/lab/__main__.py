"""`python -m tests.lab up|prove|status|exec|down`: the lab on this machine.

`down` and `status` need nothing but the standard library; the rest is imported when it is asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.lab.ground import Ground
from tests.lab.say import Teller

_DEFAULT = "containerlab/one-subnet.clab.yml"


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 when all is well, 1 when something does not hold, 2 for usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="A multi-node network on this machine.")
    parser.add_argument("--instance", default="", help="a lab of another name, beside the usual one")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="build it, prove it, leave it running")
    up.add_argument("topology", nargs="?", default=_DEFAULT, type=Path)
    commands.add_parser("prove", help="check every claim again")
    commands.add_parser("status", help="what is there")
    commands.add_parser("down", help="remove every trace of it")
    inside = commands.add_parser("exec", help="run a command in a node, with its environment")
    inside.add_argument("node")
    inside.add_argument("argv", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    ground, say = Ground(chosen.instance), Teller()
    if chosen.command == "down":
        return _down(ground, say)
    if chosen.command == "status":
        return _status(ground, say)
    from tests.lab import commands as whole

    if chosen.command == "exec":
        return whole.run_inside(ground, chosen.node, chosen.argv)
    if chosen.command == "prove":
        return whole.prove_again(ground, say)
    return whole.bring_up(ground, say, chosen.topology)


def _status(ground: Ground, say: Teller) -> int:
    record = ground.read_record()
    if record is None:
        say.line("no lab is up" + ("" if ground.is_clean else ", but there are remains: `make lab-down` removes them"))
        return 1
    say.line(f"{record.topology}: {'up' if record.complete else 'not complete'}\n")
    rows = [("✓ runs" if p.alive else "✗ ended", p.role, str(p.pid)) for p in record.processes]
    say.table(("", "process", "pid"), rows)
    say.line(f"\nnamespaces: {', '.join(ground.namespaces())}")
    return 0 if record.complete and all(process.alive for process in record.processes) else 1


def _down(ground: Ground, say: Teller) -> int:
    if ground.is_clean:
        say.line("no lab is up")
        return 0
    try:
        with say.step("everything of the lab is removed"):
            processes, namespaces = ground.clear()
    except RuntimeError as error:
        say.line(f"\n{error}")
        return 1
    say.note(f"{processes} processes ended, {namespaces} namespaces deleted, {ground.directory} removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
