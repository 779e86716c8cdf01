"""Gives back what pods of this node have left: endpoints without a device, addresses without an endpoint.

Imperative. In → out: what is recorded, the node's devices, a clock → DELs through the CNI server (so under the same
lock as the runtime's calls), and releases that name the allocation. Looks once the datastore has been read, then every
`interval_s`; each look costs one list of devices and no read of the datastore. Decides nothing (cni/leaks.py does).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from felixpy.agent.pods.cni_backend import AgentBackend
from felixpy.cni.errors import CniError
from felixpy.cni.leaks import GRACE_S, Recorded, find_orphans, judge_endpoints
from felixpy.cni.plan import INTERFACE_PREFIX, Attachment, parse_owner
from felixpy.cni.wirer import read_place
from felixpy.datastore.model import DatastoreError
from felixpy.drivers.netlink.pods.link import list_pod_links
from ipam.audit import Suspect, Suspicions
from ipam.engine import Allocator
from ipam.request import IpamError

_log = logging.getLogger(__name__)

READY_INTERVAL_S = 1.0
"""How soon it is asked again whether the datastore has been read."""


@dataclass(frozen=True, slots=True)
class SweepTimes:
    """Between two looks, and how long a device may be missing; in seconds."""

    interval_s: float = 60.0
    grace_s: float = GRACE_S


class Sweeper:
    """`collect` deletes one attachment unless it has a device by then; whether it did."""

    def __init__(
        self,
        node: str,
        backend: AgentBackend,
        allocator: Allocator,
        collect: Callable[[Attachment], Awaitable[bool]],
        times: SweepTimes = SweepTimes(),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._backend = backend
        self._allocator = allocator
        self._collect = collect
        self._times = times
        self._now = now
        self._here = read_place()
        self._missing: Suspicions[Attachment] = Suspicions()
        self._orphans: Suspicions[Suspect] = Suspicions()

    async def serve(self) -> None:
        """Looks again and again; never returns."""
        while True:
            if await self._backend.find_unready():
                await asyncio.sleep(READY_INTERVAL_S)
                continue
            try:
                await self.look()
            except (DatastoreError, IpamError, CniError, OSError) as error:
                _log.warning("what pods have left cannot be given back now: %s", error)
            await asyncio.sleep(self._times.interval_s)

    async def look(self) -> None:
        """One look, and what follows from it.

        Raises  DatastoreError, IpamError, CniError; OSError where the kernel does not answer or refuses.
        """
        devices = await asyncio.to_thread(list_pod_links, INTERFACE_PREFIX)
        recorded = self._backend.list_recorded()
        await self._sweep_endpoints(recorded, frozenset(devices.values()))
        await self._sweep_addresses(recorded, frozenset(devices.values()))

    async def _sweep_endpoints(self, recorded: Sequence[Recorded], owners: frozenset[str]) -> None:
        judgement = judge_endpoints(recorded, owners, self._here)
        ripe = self._missing.look(judgement.missing, self._now(), self._times.grace_s)
        for attachment in (*judgement.gone, *ripe):
            if await self._collect(attachment):
                why = "its device is missing" if attachment in ripe else "the machine was started anew"
                _log.warning("gave back what %s held: %s", attachment.endpoint, why)

    async def _sweep_addresses(self, recorded: Sequence[Recorded], owners: frozenset[str]) -> None:
        wired = (parse_owner(owner, self._node) for owner in owners)
        handles = {one.handle for one in (*wired, *(one.attachment for one in recorded)) if one is not None}
        orphans = find_orphans(self._allocator.own_blocks(), self._node, handles, self._backend.list_addresses())
        ripe = self._orphans.look(orphans, self._now(), self._times.grace_s)
        if ripe:
            receipt = await self._allocator.release_addresses([one.release() for one in ripe])
            _log.warning("gave back %d addresses that no endpoint has", len(receipt.released))
