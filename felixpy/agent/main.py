"""The programs `felixpy` and `birdpy`: read the settings, set up logging, run the process until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from felixpy.agent.settings import ConfigError, Settings, parse_settings
from felixpy.drivers.backend import BackendUnavailable

EXIT_USAGE = 2


def main() -> None:
    """The node agent."""
    _run("felixpy")


def main_bgp() -> None:
    """The BGP role alone."""
    _run("birdpy")


def _run(program: str) -> None:
    try:
        settings = parse_settings(sys.argv[1:], os.environ, program)
    except ConfigError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", stream=sys.stderr
    )
    raise SystemExit(asyncio.run(_serve(settings)))


async def _serve(settings: Settings) -> int:
    from felixpy.agent.process import AlreadyRunning, serve

    task = asyncio.ensure_future(serve(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return 0
    except AlreadyRunning as error:
        print(f"felixpy: {error}", file=sys.stderr)
        return 1
    except ExceptionGroup as group:
        refused = group.subgroup(BackendUnavailable)
        if refused is None:
            raise
        print(f"felixpy: no back end for packet rules: {refused.exceptions[0]}", file=sys.stderr)
        return 1
    return 0
