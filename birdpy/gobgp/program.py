"""How gobgpd is run: reached by its UNIX socket alone, with no port of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from birdpy.process import bare_environment
from birdpy.supervisor import Program

HELP_WITHIN_S = 10.0
"""How long a program may take to say which options it has."""
ENVIRONMENT: Mapping[str, str] = {"GOGC": "200"}
"""What gobgpd gets where nobody has said otherwise.

Its memory is looked through half as often: a table costs a quarter less of processor time, and a sixth more of memory.
"""


@dataclass(frozen=True, slots=True)
class GobgpdSettings:
    """Which gobgpd, and where its socket and log are."""

    binary: str
    socket_path: Path
    log_path: Path
    log_level: str = "warn"


def gobgpd_program(settings: GobgpdSettings) -> Program:
    """What a supervisor needs to know to run it."""

    async def find_command() -> list[str]:
        command = [
            settings.binary,
            f"--api-hosts=unix://{settings.socket_path}",
            "--pprof-disable",
            "--log-plain",
            f"--log-level={settings.log_level}",
        ]
        return [*command, "--metrics-path="] if await _serves_metrics(settings.binary) else command

    return Program(
        "gobgpd", settings.socket_path, settings.log_path, find_command, {**ENVIRONMENT, **bare_environment()}
    )


async def _serves_metrics(binary: str) -> bool:
    """Whether it has the option that closes its port 6060 (version 3 opens none, and refuses the option).

    Raises  OSError when the binary cannot be run.
    """
    process = await asyncio.create_subprocess_exec(binary, "--help", stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(HELP_WITHIN_S):
            output, _ = await process.communicate()
    except TimeoutError:
        raise OSError(f"{binary} --help does not end within {HELP_WITHIN_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return b"--metrics-path" in output
