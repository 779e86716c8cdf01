"""How the responder is run: with this interpreter, and with what it needs of ours alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import birdpy
from birdpy.process import bare_environment
from birdpy.supervisor import Program


def responder_program(socket_path: Path, log_path: Path) -> Program:
    """What a supervisor needs to know to run one."""

    async def find_command() -> list[str]:
        return responder_argv(socket_path)

    return Program("the responder", socket_path, log_path, find_command, responder_environment())


def responder_argv(socket_path: Path) -> list[str]:
    """The command that runs a responder: this interpreter, without what it would look up and not need."""
    return [sys.executable, "-P", "-S", "-m", "birdpy.l2", str(socket_path)]


def responder_environment() -> Mapping[str, str]:
    """The environment that it needs to find itself."""
    return {**bare_environment(), "PYTHONPATH": str(Path(birdpy.__file__).parents[1])}
