"""What a process writes for itself where nobody has: the cluster, the default pools, this node's own Node.

In: the state that the datastore is in, and word that the host or our Node has changed; out: writes, tried until they
are there.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from felixpy.agent.bootstrap import ensure_pools, initialise_cluster
from felixpy.agent.clock import utc_now
from felixpy.agent.node.resource import ensure_node
from felixpy.agent.settings import Role, Settings
from felixpy.datastore.cluster import FreezeReason
from felixpy.datastore.model import DatastoreError, Store
from felixpy.datastore.syncer import Phase, Syncer
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table

_log = logging.getLogger(__name__)

FIRST_S, MOST_S = 1.0, 30.0
"""Between two attempts."""
HOST_SETTLES_S = 1.0
"""From a change of the host's addresses to a look at them: a renewed lease takes one away and puts it back."""


class Chores:
    """`look` when there may be something to make; `named` once this host alone runs the node: it writes only then."""

    def __init__(self, settings: Settings, store: Store, syncer: Syncer) -> None:
        self.named = False
        self._settings = settings
        self._store = store
        self._syncer = syncer
        self._due = asyncio.Event()
        self._host_settles: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """The datastore is in another state than before, or the node has its name."""
        self._due.set()

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View: our Node is there while we are, whoever deletes it."""
        if value is None and ref == Ref(Table.NODE, Name("", self._settings.node)):
            self._due.set()

    def host_changed(self) -> None:
        """An address of the host came or went: once it settles, the node's own may be another."""
        if self._host_settles is None:
            self._host_settles = asyncio.get_running_loop().call_later(HOST_SETTLES_S, self._host_settled)

    def _host_settled(self) -> None:
        self._host_settles = None
        self._due.set()

    async def serve(self) -> NoReturn:
        """Works until cancelled."""
        wait_s = FIRST_S
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                done = await self._ensure_all(quiet=wait_s > FIRST_S)
            except (DatastoreError, OSError) as error:  # OSError: the host's addresses cannot be read now
                _log.warning("what this node needs cannot be made now: %s", error)
                done = False
            if done:
                wait_s = FIRST_S
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, MOST_S)
                self._due.set()

    async def _ensure_all(self, quiet: bool) -> bool:
        """Whether nothing is left to make in the state that the datastore is in."""
        settings, state = self._settings, self._syncer.state
        if state.phase is Phase.FROZEN and state.reason is FreezeReason.UNINITIALISED:
            if await initialise_cluster(self._store, utc_now()):
                _log.info("the datastore was empty: it is a cluster now")
            return True
        if state.phase is not Phase.IN_SYNC:
            return True
        if await ensure_pools(self._store, settings.default_pools, utc_now()):
            _log.info("made the default pools: %s", ", ".join(map(str, settings.default_pools)))
        if self.named and settings.roles & {Role.AGENT, Role.BGP}:
            return await ensure_node(self._store, settings.node, settings.node_address, quiet)
        return True
