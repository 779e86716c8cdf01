"""The programs `felixpy` and `birdpy`: read the settings, set up logging, run the process until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import sys

from felixpy.agent.settings import ConfigError, Settings, parse_settings, unknown_variables
from felixpy.drivers.backend import BackendUnavailable

EXIT_FAILED = 1
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
    for words in unknown_variables(os.environ):
        logging.warning("%s", words)
    raise SystemExit(asyncio.run(_serve(settings)))


async def _serve(settings: Settings) -> int:
    from felixpy.agent.process import serve

    task = asyncio.ensure_future(serve(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return 0
    except Exception as error:
        words = _explain(error)
        if not words:
            raise
        logging.debug("where it failed", exc_info=error)
        print(f"felixpy: {'; '.join(words)}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _explain(error: Exception) -> list[str]:
    """What a person can act on, in words; nothing for what only a programmer can."""
    from felixpy.agent.exclusive import AlreadyRunning, RunDirGone
    from felixpy.agent.node.identity import NameChanged, NameTaken
    from felixpy.datastore.local import LocalEtcdError
    from felixpy.datastore.remembered import MemoryBroken
    from felixpy.kube.access import AccessError

    ours = (AccessError, AlreadyRunning, BackendUnavailable, ConfigError, LocalEtcdError, MemoryBroken, NameTaken)
    if isinstance(error, (*ours, NameChanged, RunDirGone)):
        return [str(error)]
    if isinstance(error, OSError):
        return _explain_refusal(error)
    if isinstance(error, ExceptionGroup):
        words = [_explain(one) for one in error.exceptions]
        return [one for some in words for one in some] if all(words) else []
    return []


def _explain_refusal(error: OSError) -> list[str]:
    """What the kernel refused: a file, or what is root's alone; nothing where that cannot be told."""
    if error.filename:
        return [f"{os.fsdecode(error.filename)}: {error.strerror}"]
    if error.errno == errno.ENOSPC:
        return [f"{error.strerror}: the run directory, or the state's, is on a disk that is full"]
    if error.errno in (errno.EPERM, errno.EACCES) and os.geteuid():
        return [f"{error.strerror}: this role has to run as root"]
    return []
