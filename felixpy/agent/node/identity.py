"""Whose name a node's is: one host's, for as long as that host keeps it. The second host of one name is refused.

In: the datastore, the roles of a process, and what tells this host from any other (a number in its run directory, and
the boot of its machine); out: a key per role under a lease, or NameTaken; and one without a lease, which says that the
node is ours even where nobody holds its name (calc/services/liveness.py). A restart on the same host takes over at
once, whatever its forerunner left; another host waits until the lease of a dead one has run out. A datastore that takes
no writes stops nobody: what cannot be claimed now is claimed later. Never touches the kernel.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

import msgspec

from felixpy.datastore.model import DatastoreError, Expect, KeyValue, Lease, Store, Write
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import HOLDERS_PREFIX, NODES_PREFIX

LEASE_TTL_S = 8
PATIENCE_S = LEASE_TTL_S + 2.0
"""How long a name that another host holds may still turn out to be a dead one's."""
LOOK_S = 0.5
RETRY_S = 5.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_log = logging.getLogger(__name__)


class NameTaken(Exception):
    """Another host runs a node of this name."""


class NameChanged(Exception):
    """This host was a node of another name, and has that node's pods."""


class Holder(msgspec.Struct, frozen=True):
    """What a key holds: who, and for people the name that the machine gives itself."""

    host: str
    hostname: str = ""


def read_host(run_dir: Path) -> str:
    """What tells this host from any other: a number made once for the run directory, and the machine's boot.

    Raises  OSError when the run directory cannot be written.
    """
    with (run_dir / "host-id").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of processes that start together one makes the number
        file.seek(0)
        number = file.read().strip()
        if not number:
            number = str(uuid.uuid4())
            file.write(number + "\n")
            file.flush()
            os.fsync(file.fileno())
    return f"{number}/{_BOOT_ID.read_text().strip()}"


def keep_name(file: Path, node: str, list_pods: Callable[[], Collection[str]]) -> None:
    """Keeps in a file, also over boots, as which node this host runs.

    Raises  NameChanged where it was another one whose pods are here: under the new name nobody knows them, so their
            rules and routes would go.
    """
    try:
        known = file.read_text(errors="replace").strip()
    except FileNotFoundError:
        known = ""
    if known == node:
        return
    if known and (pods := sorted(list_pods())):
        raise NameChanged(
            f"this host was the node {known}, and {len(pods)} of its pods are here ({', '.join(pods[:3])}), which lose"
            f" their network as pods of {node}: start it as --node {known}, or end them first"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{node}\n")
    except OSError as error:
        _log.warning("the name %s is not kept for the next start: %s", node, error)


class Identity:
    """Holds one node's name for the roles of one process: `claim` before anything is done, then `keep`."""

    def __init__(self, store: Store, node: str, roles: Collection[str], holder: Holder) -> None:
        self._store = store
        self._prefix = f"{HOLDERS_PREFIX}{node}/".encode()
        self._keys = tuple(self._prefix + role.encode() for role in sorted(roles))
        self._holder = holder
        self._value = msgspec.json.encode(holder)
        self._lease: Lease | None = None
        self._under = 0
        self._node = node

    async def claim(self) -> None:
        """Returns when the name is ours, or nothing can be said of it for now.

        Raises  NameTaken.
        """
        until = time.monotonic() + PATIENCE_S
        waiting = False
        while True:
            try:
                rival = await self._try()
            except DatastoreError as error:
                _log.warning("the name %s cannot be claimed now: %s", self._node, error)
                return
            if rival is None:
                return
            if time.monotonic() >= until:
                raise NameTaken(
                    f"the node {self._node} is run by another host, {rival.hostname or 'of no name'} ({rival.host}):"
                    " each node needs a name of its own (--node)"
                )
            if not waiting:
                waiting = True
                _log.warning("the node %s was run by the host %s: waits whether it lives", self._node, rival.hostname)
            await asyncio.sleep(LOOK_S)

    async def keep(self) -> NoReturn:
        """Holds the name for ever.

        Raises  NameTaken when another host took it while the datastore could not be reached.
        """
        while True:
            if self._lease is None or self._lease.id != self._under:
                await self.claim()
            if self._lease is None or self._lease.id != self._under:
                await asyncio.sleep(RETRY_S)
            else:
                await self._lease.replaced(self._under)

    async def _try(self) -> Holder | None:
        """One attempt: None when all keys are ours, else whose name it is."""
        while True:
            known = {pair.key: pair for pair in (await self._store.snapshot([self._prefix])).items}
            for pair in known.values():
                rival = _read(pair)
                if rival is not None and rival.host != self._holder.host and pair.lease:
                    return rival
            if self._lease is None:
                self._lease = await self._store.lease(LEASE_TTL_S)
            lease_id = self._lease.id
            expected = [Expect(key, known[key].mod_revision if key in known else 0) for key in self._keys]
            writes = [Write(f"{NODES_PREFIX}{self._node}".encode(), b"{}")]
            writes += [Write(key, self._value, lease_id) for key in self._keys]
            if (await self._store.transact(expected, writes)).succeeded:
                self._under = lease_id
                return None


def _read(pair: KeyValue) -> Holder | None:
    return decode_or_none(pair.value, Holder)
