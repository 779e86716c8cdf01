"""Says in the datastore which Services this node answers for and tells neighbours of, as MetalLB's users watch it.

In: word that something may be otherwise; then what the responder has, and whom the speaker tells of what gobgpd has.
Out: MetalLB's objects, each written when it has changed, under one lease: they count for as long as the process lives.
Who begins to be announced from here has an event. Never decides anything, and holds nothing up: a round waits until the
last one has cost no more than a small part of the time, and what cannot be written now is written later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from birdpy.addresses import Prefix as BgpPrefix
from birdpy.ranges import find_meant
from felixpy.addresses import Address, Prefix, format_address
from felixpy.agent.clock import utc_now
from felixpy.calc.announcing.announcements import Why
from felixpy.calc.announcing.service_statuses import (
    L2_STATUS,
    STATUSES_MOST,
    derive_bgp_statuses,
    derive_l2_statuses,
)
from felixpy.controllers.events import EVENT_TTL_S, EventReason, make_event
from felixpy.datastore.first import first_of
from felixpy.datastore.model import DatastoreError, Expect, Lease, Store, Write
from felixpy.resources.kinds import REPORTED_KINDS, Name
from felixpy.resources.resource import Resource
from felixpy.resources.service_types import Grant
from felixpy.resources.tables import Ref, Table

if TYPE_CHECKING:
    from felixpy.agent.routing.role import RoutingRole
    from felixpy.agent.services.layer2 import Layer2Role

_log = logging.getLogger(__name__)

LEASE_TTL_S = 8
"""How long what a dead node said still counts."""
GATHER_S = 0.3
"""Changes so close together are one round: a node that takes over has many."""
SHARE = 20
"""A round waits for so many times as long as the last one took."""
PAUSE_MOST_S = 30.0
RETRY_S = 2.0
AT_ONCE = 60
"""Objects in one transaction, each with its event (etcd's --max-txn-ops is 128)."""
COMPONENT = "felixpy"


class ServiceStatuses:
    """`look` when something may be otherwise; `serve` writes."""

    def __init__(
        self, store: Store, node: str, grants: Callable[[], Collection[Grant]], may_write: Callable[[], bool]
    ) -> None:
        self.layer2: Layer2Role | None = None
        self.routing: RoutingRole | None = None
        self._store = store
        self._node = node
        self._grants = grants
        self._may_write = may_write
        self._nodes: set[Name] = set()
        self._written: dict[str, bytes] = {}
        self._under = 0
        self._told: set[str] = set()
        self._changed = asyncio.Event()

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View: who has which address, and how many nodes share what the datastore holds."""
        if ref.table is Table.GRANT:
            self.look()
        elif ref.table is Table.NODE:
            (self._nodes.discard if value is None else self._nodes.add)(ref.name)

    def look(self) -> None:
        """Something may be otherwise."""
        self._changed.set()

    async def serve(self) -> NoReturn:
        """Writes until cancelled."""
        lease: Lease | None = None
        while True:
            await self._until_due(lease)
            await asyncio.sleep(GATHER_S)
            self._changed.clear()
            if not self._may_write():
                await asyncio.sleep(RETRY_S)
                self._changed.set()
                continue
            began = time.monotonic()
            try:
                wanted = self._derive()
                if wanted or self._written:
                    if lease is None:
                        lease = await self._store.lease(LEASE_TTL_S)
                    await self._write(wanted, lease)
            except DatastoreError as error:
                _log.debug("statuses of Services cannot be written now: %s", error)
                await asyncio.sleep(RETRY_S)
                self._changed.set()
                continue
            await asyncio.sleep(min(SHARE * (time.monotonic() - began), PAUSE_MOST_S))

    async def _until_due(self, lease: Lease | None) -> None:
        """Returns when something may have changed, or all is to be written again under another lease."""
        renewed = (lease.replaced(self._under),) if lease is not None else ()
        await first_of(self._changed.wait(), *renewed)

    def _derive(self) -> Mapping[str, bytes]:
        grants, most = self._grants(), max(1, STATUSES_MOST // max(1, len(self._nodes)))
        found: dict[str, bytes] = {}
        if self.layer2 is not None:
            found |= derive_l2_statuses(self._node, grants, self.layer2.answered_on, most)
        if self.routing is not None:
            found |= derive_bgp_statuses(self._node, grants, _find_told(self.routing), most)
        return found

    async def _write(self, wanted: Mapping[str, bytes], lease: Lease) -> None:
        if lease.id != self._under:
            self._written.clear()
            self._under = lease.id
        self._told &= wanted.keys()
        due: list[tuple[str, bytes | None]] = [(key, None) for key in self._written if key not in wanted]
        due += [(key, value) for key, value in wanted.items() if self._written.get(key) != value]
        fresh = await self._find_unsaid([key for key in wanted if key not in self._told])
        events = await self._store.passing_lease(EVENT_TTL_S) if fresh else 0
        for start in range(0, len(due), AT_ONCE):
            some = due[start : start + AT_ONCE]
            writes = [Write(key.encode(), value, self._under if value is not None else 0) for key, value in some]
            writes += [self._event(key, events) for key, _ in some if key in fresh]
            await self._store.transact([], writes)
            for key, value in some:
                if value is None:
                    self._written.pop(key, None)
                else:
                    self._written[key] = value
        self._told |= wanted.keys()

    async def _find_unsaid(self, keys: Sequence[str]) -> set[str]:
        """Those that the datastore does not have: others this node said before its process ended."""
        found: set[str] = set()
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            result = await self._store.transact([Expect(key.encode(), 0) for key in some], [])
            there = [False] * len(some) if result.succeeded else [pair is not None for pair in result.current]
            found |= {key for key, is_there in zip(some, there, strict=True) if not is_there}
        return found

    def _event(self, key: str, lease: int) -> Write:
        """A Service is announced from here from now on."""
        info = next(one for one in REPORTED_KINDS if key.startswith(one.status_prefix))
        name = info.parse_status_name(key)
        assert name is not None
        service = Name(name.namespace, name.name.partition(".")[0])
        words = f'announcing from node "{self._node}" with protocol "{"layer2" if info == L2_STATUS else "bgp"}"'
        event = make_event(service, EventReason.ASSIGNED, words, utc_now().strftime("%Y-%m-%dT%H:%M:%SZ"), COMPONENT)
        return Write(event.key, event.value, lease)


def _find_told(routing: RoutingRole) -> Mapping[str, Collection[Prefix]]:
    """What each peer is told of Services, by the names of the objects that ask for its session."""
    plan, told = routing.plan, dict[str, set[Prefix]]()
    peers: dict[bytes, list[str]] = {}
    made = (one.prefix for one in routing.announce.announcements.values() if one.why is Why.SERVICE)
    for prefix, addresses in routing.role.find_told(BgpPrefix(*one) for one in made).items():
        for address in addresses:
            if address not in peers:
                meant = find_meant(address, plan.intent.neighbors) if plan is not None else None
                askers = plan.asked_by.get(meant, ()) if plan is not None and meant is not None else ()
                peers[address] = [word.rpartition(" ")[2] for word in askers] or [format_address(address)]
            for peer in peers[address]:
                told.setdefault(peer, set()).add(Prefix(Address(prefix.address), prefix.length))
    return told
