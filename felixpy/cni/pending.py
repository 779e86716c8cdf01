"""DELs that are to be finished later: kept by the shim while the agent is away, and by the agent while etcd is.

Imperative. In → out: Requests → files below DIR/cni-pending, each one request frame → Requests, and their removal when
done. A file is whole or not there; names that begin with a dot are being written.
Source: wire.py, shim/felixpy-cni.c.
"""

from __future__ import annotations

import os
from pathlib import Path

from felixpy.cni import wire
from felixpy.cni.wire import Request

_FRAME_MAX_BYTES = wire.HEADER_BYTES + wire.ENVIRONMENT_MAX_BYTES + wire.CONFIG_MAX_BYTES


class PendingDeletes:
    """The kept DELs of one agent."""

    def __init__(self, run_dir: Path) -> None:
        self._directory = run_dir / wire.PENDING_NAME

    def list_names(self) -> tuple[str, ...]:
        """Names of the kept DELs; none where no shim ever kept one."""
        try:
            with os.scandir(self._directory) as entries:
                files = (entry.name for entry in entries if entry.is_file(follow_symlinks=False))
                return tuple(sorted(name for name in files if not name.startswith(".")))
        except FileNotFoundError:
            return ()

    def read(self, name: str) -> Request | None:
        """The request kept under `name`; None when there is none (any more).

        Raises  WireError when the file is no request, which it will never be; OSError when it cannot be read now.
        """
        try:
            with (self._directory / name).open("rb") as file:
                return wire.parse_request(file.read(_FRAME_MAX_BYTES + 1))
        except FileNotFoundError:
            return None

    def has(self, name: str) -> bool:
        """Whether a DEL is kept under `name`."""
        return (self._directory / name).is_file()

    def keep(self, name: str, request: Request) -> None:
        """Keeps the request under `name`, also over a power cut.

        Raises  OSError.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._directory / f".{name}"
        try:
            with temporary.open("wb") as file:
                file.write(wire.render_request(request))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._directory / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        """Forgets it; nothing when it is gone already."""
        (self._directory / name).unlink(missing_ok=True)
