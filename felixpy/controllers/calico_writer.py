"""Writes a batch that takes or gives back addresses of Calico's IPAM: block, handle, affinity and grant at once.

In: a Batch with such changes; out: one transaction, made by ipam's engine, which carries all that the batch compares
and the leadership. Never decides which address.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime

from felixpy.controllers.batch import Batch
from felixpy.controllers.fenced_store import FencedStore, Overtaken
from felixpy.datastore.model import Expect, Store
from felixpy.datastore.model import Write as StoreWrite
from ipam.addresses import Address
from ipam.block import Release
from ipam.engine import Allocator
from ipam.model import LOAD_BALANCER, Use
from ipam.request import IpamError, Request, Write


class CalicoWriter:
    """Makes such batches, for as long as one leadership lasts."""

    def __init__(self, store: Store, fence: Expect) -> None:
        self._fence = fence
        self._store = FencedStore(store, fence)
        self._allocator = Allocator(self._store, LOAD_BALANCER, now=lambda: datetime.now(UTC), rng=random.Random())

    async def make(self, batch: Batch, writes: Sequence[StoreWrite]) -> int:
        """Makes the batch, with these writes; the revision.

        Raises  Overtaken, LeadershipLost; IpamError when an address cannot be had; the store's own errors.
        """
        change = batch.ipam
        assert change is not None
        written = {write.key for write in writes}
        relied = tuple(one for one in batch.expect if one.key not in written)
        self._store.conditions = (self._fence, *relied)
        self._store.leased = {write.key: write.lease for write in writes if write.lease}
        expected = {one.key: one.mod_revision for one in batch.expect}
        also = [Write(one.key.decode(), one.value, expected.get(one.key)) for one in writes]
        releases = [Release(Address(address), None, None) for address in change.released]
        request = None
        if change.taken:
            addresses = tuple(Address(address) for address in change.taken)
            request = Request(change.handle, change.attributes, addresses=addresses, use=Use.LOAD_BALANCER)
        return await self._allocator.exchange(releases, request, also)


__all__ = ["CalicoWriter", "IpamError", "Overtaken"]
