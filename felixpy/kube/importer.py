"""The importer: what the Kubernetes API has, in the datastore, while this node leads; what became of Services, back.

In: an Access, a Store and the condition of our leadership; out: resources in etcd (mirror.py decides), labels of Nodes,
and in the API the status of Services and events about them. Ends when the datastore fails or somebody else leads; a
server that is away only delays it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import NoReturn

from felixpy.controllers.leader import check_fence
from felixpy.datastore.model import Expect, Store
from felixpy.kube.access import Access
from felixpy.kube.client import Api, Json
from felixpy.kube.convert import IMPORTED, addresses_of, api_path, convert, is_custom, key_of
from felixpy.kube.mirror import Mirror, as_objects
from felixpy.kube.node_labels import NodeLabels
from felixpy.kube.pool_counts import POOLS, PoolCounts
from felixpy.kube.reflector import Reader, reflect
from felixpy.kube.service_addresses import SERVICES, ServiceAddresses
from felixpy.kube.service_events import ServiceEvents
from felixpy.kube.service_reports import ServiceReports
from felixpy.kube.service_uids import ServiceUids
from felixpy.resources.kinds import BY_TYPE, CALICO, REPORTED_KINDS, KindInfo

LEADER_KEY = b"/felixpy/leaders/kubernetes"
GATHER_S = 0.01
"""Changes so close together are one transaction."""
NODES_PATH = "/api/v1/nodes"
_BEFORE_SERVICES = (POOLS, BY_TYPE["v1", "Namespace"], BY_TYPE[CALICO, "IPPool"])
"""What says which address a Service may have: asked for first, so that none gets another than it had."""
_PREFIXES = tuple(info.prefix.encode() for info in IMPORTED)

_log = logging.getLogger(__name__)


async def serve_importer(
    access: Access, store: Store, fence: Expect, read_again: Callable[[], Access] | None = None
) -> NoReturn:
    """Imports until cancelled; `read_again` tells how the server is reached by then.

    Raises  LeadershipLost; DatastoreError when the datastore cannot be read or written now.
    """
    copy = _Copy(store, fence)
    revision = await copy.read()
    labels = NodeLabels(store, fence)
    try:
        async with Api(access, read_again) as api, asyncio.TaskGroup() as group:
            services, addresses, counts = ServiceUids(), ServiceAddresses(api, store), PoolCounts(api, store)
            events = ServiceEvents(api, store, services)
            also: Mapping[KindInfo, tuple[Reader, ...]] = {SERVICES: (services, addresses), POOLS: (counts,)}
            asked = {info: asyncio.Event() for info in IMPORTED}
            for info in IMPORTED:
                readers = (_KindReader(info, copy), *also.get(info, ()))
                first = [asked[one] for one in _BEFORE_SERVICES] if info == SERVICES else []
                group.create_task(_reflect_after(first, api, info, readers, asked[info]))
            group.create_task(reflect(api, NODES_PATH, labels))
            for info in REPORTED_KINDS:
                reports = ServiceReports(api, store, info, services)
                group.create_task(reflect(api, api_path(info), reports, optional=True))
                group.create_task(reports.serve())
            group.create_task(copy.follow(revision))
            group.create_task(copy.write())
            for teller in (labels, addresses, counts, events):
                group.create_task(teller.serve())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    raise AssertionError("importing never ends")


async def _reflect_after(
    first: Sequence[asyncio.Event], api: Api, info: KindInfo, readers: Sequence[Reader], asked: asyncio.Event
) -> NoReturn:
    for one in first:
        await one.wait()
    await reflect(api, api_path(info), *readers, optional=is_custom(info), asked=asked)


class _Copy:
    """The mirror, and the writes that it asks for."""

    def __init__(self, store: Store, fence: Expect) -> None:
        self.mirror = Mirror()
        self.changed = asyncio.Event()
        self._store = store
        self._fence = fence

    async def read(self) -> int:
        """Takes in what the datastore holds; as of which revision."""
        revision = 0
        async with aclosing(self._store.pages(_PREFIXES)) as pages:
            async for page in pages:
                revision = page.revision
                for pair in page.items:
                    self.mirror.holds(pair.key, pair.value, pair.mod_revision)
        return revision

    async def follow(self, revision: int) -> NoReturn:
        """Takes in what anybody changes after `revision`.

        Raises  DatastoreError when that can no longer be told: the term ends, and the next one reads anew.
        """
        async with aclosing(self._store.watch(_PREFIXES, revision + 1)) as batches:
            async for events in batches:
                for event in events:
                    self.mirror.holds(event.key, event.value, event.mod_revision)
                self.changed.set()
        raise AssertionError("a watch ends with an error only")

    async def write(self) -> NoReturn:
        """Writes what is due, a batch after the other."""
        while True:
            await self.changed.wait()
            await asyncio.sleep(GATHER_S)
            self.changed.clear()
            while (batch := self.mirror.next_batch()) is not None:
                result = await self._store.transact([self._fence, *batch.expect], batch.writes)
                if result.succeeded:
                    self.mirror.settle(batch, result.revision)
                else:
                    fence, *current = result.current
                    check_fence(self._fence, fence)
                    self.mirror.refuse(batch, current)
            self._tell()

    def _tell(self) -> None:
        for key, why in self.mirror.take_refused().items():
            _log.warning("not imported: %s: %s", key.decode("utf-8", "replace"), why)


class _KindReader:
    """What the API says of one kind."""

    def __init__(self, info: KindInfo, copy: _Copy) -> None:
        self._info = info
        self._copy = copy

    def listed(self, objects: list[Json]) -> None:
        """All there is; Services that have addresses come first, so that nobody else gets these meanwhile."""
        objects = sorted(objects, key=lambda body: not addresses_of(body)) if self._info == SERVICES else objects
        kept = as_objects(convert(self._info, body) for body in objects)
        self._copy.mirror.listed(self._info.prefix.encode(), kept)
        self._copy.changed.set()

    def changed(self, body: Json) -> None:
        imported = convert(self._info, body)
        self._copy.mirror.changed(key_of(self._info, body), imported.value if imported is not None else None)
        self._copy.changed.set()

    def deleted(self, body: Json) -> None:
        self._copy.mirror.changed(key_of(self._info, body), None)
        self._copy.changed.set()
