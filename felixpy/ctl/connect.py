"""From flags and environment to a datastore; and from a datastore's refusal to an exit code.

Environment FELIXPY_ETCD, FELIXPY_ETCD_{CA_FILE,CERT_FILE,KEY_FILE,USERNAME,PASSWORD}; where those are not set,
        calicoctl's ETCD_{ENDPOINTS,CA_CERT_FILE,CERT_FILE,KEY_FILE,USERNAME,PASSWORD}. FELIXPY_RUN_DIR is where
        `--etcd local` has its socket.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from felixpy.datastore.model import Store
    from felixpy.datastore.settings import EtcdSettings

Result = TypeVar("Result")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
LOCAL = "local"
RUN_DIR = "/run/felixpy"
UNWRITABLE = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What the kernel says where what we print cannot be written: nobody reads, a full disk."""
DEADLINE_S = 5.0
"""How long one call may take before a person is told why."""


def etcd_settings(url: str | None, environment: Mapping[str, str]) -> EtcdSettings:
    """Settings from `--etcd` and the environment.

    Raises  ValueError when no etcd is named, or what names it makes no sense.
    """
    from felixpy.datastore.local import LocalEtcd
    from felixpy.datastore.settings import EtcdSettings, parse_endpoints

    named = url or environment.get("FELIXPY_ETCD") or environment.get("ETCD_ENDPOINTS")
    if not named:
        raise ValueError("no etcd is named: give --etcd URL, or set FELIXPY_ETCD")
    run_dir = Path(environment.get("FELIXPY_RUN_DIR") or RUN_DIR)
    endpoints = (LocalEtcd(run_dir).endpoint,) if named == LOCAL else parse_endpoints(named)

    def setting(ours: str, calico: str) -> str:
        return environment.get(f"FELIXPY_ETCD_{ours}") or environment.get(f"ETCD_{calico}") or ""

    def file(ours: str, calico: str) -> Path | None:
        return Path(name) if (name := setting(ours, calico)) else None

    return EtcdSettings(
        endpoints,
        file("CA_FILE", "CA_CERT_FILE"),
        file("CERT_FILE", "CERT_FILE"),
        file("KEY_FILE", "KEY_FILE"),
        setting("USERNAME", "USERNAME"),
        setting("PASSWORD", "PASSWORD"),
        DEADLINE_S,
    )


def with_store(url: str | None, work: Callable[[Store], Awaitable[Result]]) -> Result:
    """Runs `work` on the datastore; ends the process with words and code 3 when it cannot be reached."""
    try:
        settings = etcd_settings(url, os.environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    from felixpy.datastore.client import open_store
    from felixpy.datastore.model import DatastoreError

    async def run() -> Result:
        store = open_store(settings)
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except DatastoreError as error:
        _end(str(error))
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise
        _end(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))


def _end(why: str) -> NoReturn:
    print_error(f"etcd: {why}")
    sys.exit(EXIT_UNREACHABLE)


def print_error(text: str, color: str = "red") -> None:
    """One line to standard error, its first word coloured on a terminal."""
    head, colon, tail = text.partition(": ")
    click.echo(click.style(head + colon, fg=color) + tail, err=True)


def print_warning(text: str) -> None:
    print_error(f"warning: {text}", "yellow")
