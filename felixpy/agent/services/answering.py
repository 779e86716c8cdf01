"""Says in the datastore what this node answers for at layer 2, under a lease: it counts for as long as the agent lives.

In: scores by segment and address. Out: one key, written when something has changed, and again under a new lease where
the old one ran out. What cannot be written now is written later. Never decides anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NoReturn

import msgspec

from felixpy.addresses import Prefix, mask_address
from felixpy.datastore.first import first_of
from felixpy.datastore.model import DatastoreError, Lease, Store
from felixpy.resources.documents import AnsweringDoc
from felixpy.resources.kinds import answering_key

_log = logging.getLogger(__name__)

LEASE_TTL_S = 8
"""How long what a dead node said still counts."""
GATHER_S = 0.1
"""Turns so close together are one write: a node that takes over has many."""
RETRY_S = 2.0
_LINK_LOCAL = b"\xfe\x80"

Segments = Mapping[str, frozenset[str]]
"""Interfaces by name, and the segments that they lead to."""


def find_segments(subnets: Mapping[str, frozenset[Prefix]]) -> Segments:
    """The subnets of each interface that other hosts may be in; link-local ones are everywhere the same."""
    return {
        device: frozenset(
            str(Prefix(mask_address(one.address, one.length), one.length))
            for one in prefixes
            if not one.address.startswith(_LINK_LOCAL)
        )
        for device, prefixes in subnets.items()
    }


class Answering:
    """`say` what is so now, any number of times; `serve` writes."""

    def __init__(self, store: Store, node: str) -> None:
        self._store = store
        self._key = answering_key(node).encode()
        self._value = b""
        self._changed = asyncio.Event()

    def say(self, doc: AnsweringDoc) -> None:
        """What this node answers for from now on."""
        self._value = msgspec.json.encode(doc, order="deterministic")
        self._changed.set()

    async def serve(self) -> NoReturn:
        """Writes until cancelled."""
        lease: Lease | None = None
        while True:
            await self._changed.wait()
            await asyncio.sleep(GATHER_S)
            self._changed.clear()
            try:
                if lease is None:
                    lease = await self._store.lease(LEASE_TTL_S)
                await self._store.put(self._key, self._value, lease.id)
            except DatastoreError as error:
                _log.debug("what is answered for cannot be written now: %s", error)
                await asyncio.sleep(RETRY_S)
                self._changed.set()
                continue
            await self._until_due(lease)

    async def _until_due(self, lease: Lease) -> None:
        """Returns when something has changed, or all must be written again under another lease."""
        await first_of(self._changed.wait(), lease.replaced(lease.id))
        self._changed.set()
