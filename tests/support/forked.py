"""A Python program run many times over: each run is a process of its own that finds what it imports loaded.

The server that multiprocessing keeps for this imports felixctl and what it needs once, and forks for each run: nine
tenths of what a short command takes is that. How it starts by itself is seen where tests start it as people do.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from felixpy.ctl.main import COMMANDS
from tests.support.netns import Namespace

LOADED = ("asyncio", "click", "google.protobuf.descriptor_pb2", "grpc.aio", "msgspec", "pydantic", "yaml")
OURS = ("felixpy.ctl.main", *COMMANDS.values(), "felixpy.ctl.explain.flow", "felixpy.datastore.client")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([*LOADED, *OURS, __name__])
_STREAMS = {"in": os.O_RDONLY, "out": os.O_WRONLY, "err": os.O_WRONLY}


@dataclass(frozen=True, slots=True)
class Run:
    """How a program ended, and what it printed."""

    code: int
    out: str
    err: str


def run_forked(
    entry: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: str = "",
    namespace: Namespace | None = None,
    timeout_s: float = 90.0,
) -> Run:
    """Runs `entry` ("module:function") as a console script would, in a network namespace where one is given.

    Raises  AssertionError when it does not end in time.
    """
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for stream in _STREAMS:
            (place / stream).write_text(stdin if stream == "in" else "")
        whole = (entry, list(argv), dict(environment), name, namespace)
        process = _CONTEXT.Process(target=_become, args=whole)
        process.start()
        process.join(timeout_s)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
            raise AssertionError(f"{' '.join(argv)}: not done after {timeout_s} s")
        process.close()
        return Run(code, (place / "out").read_text(), (place / "err").read_text())


def _become(entry: str, argv: list[str], environment: dict[str, str], place: str, namespace: Namespace | None) -> None:
    for number, (stream, flags) in enumerate(_STREAMS.items()):
        os.dup2(os.open(f"{place}/{stream}", flags), number)
    sys.stdin = os.fdopen(0)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    module, _, function = entry.partition(":")
    with namespace.entered() if namespace else nullcontext():
        sys.exit(getattr(import_module(module), function)())
