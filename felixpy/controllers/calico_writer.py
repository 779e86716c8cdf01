"""Writes a batch that takes or gives back addresses of Calico's IPAM: block, handle, affinity and grant at once.

In: a Batch with such changes; out: one transaction, made by ipam's engine, which carries all that the batch compares
and the leadership. Never decides which address.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from felixpy.controllers.batch import Batch
from felixpy.controllers.leader import check_fence
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.model import Expect, Store
from felixpy.datastore.model import Write as StoreWrite
from ipam.addresses import Address
from ipam.block import Release
from ipam.engine import Allocator
from ipam.model import LOAD_BALANCER, Use
from ipam.request import IpamError, Request, Write
from ipam.store import CommitResult, Versioned


class Overtaken(Exception):
    """What the batch relied on has changed."""


class _FencedStore:
    """The datastore, every commit under conditions of ours as well."""

    def __init__(self, store: Store) -> None:
        self._plain = IpamStore(store)
        self._store = store
        self.conditions: tuple[Expect, ...] = ()
        self.leased: Mapping[bytes, int] = {}

    async def read(self, keys: Sequence[str]) -> Mapping[str, Versioned | None]:
        return await self._plain.read(keys)

    async def list(self, prefix: str) -> Mapping[str, Versioned]:
        return await self._plain.list(prefix)

    async def commit(self, expect: Mapping[str, int], writes: Mapping[str, bytes | None]) -> CommitResult:
        own = [Expect(key.encode(), revision) for key, revision in expect.items()]
        done = await self._store.transact(
            [*self.conditions, *own],
            [StoreWrite(key.encode(), value, self.leased.get(key.encode(), 0)) for key, value in writes.items()],
        )
        if done.succeeded:
            return CommitResult(True, done.revision, {})
        check_fence(self.conditions[0], done.current[0])
        for condition, found in zip(self.conditions, done.current, strict=False):
            if condition.mod_revision != (found.mod_revision if found is not None else 0):
                raise Overtaken(condition.key.decode())
        mine = done.current[len(self.conditions) :]
        current = {
            key: None if pair is None else Versioned(pair.value, pair.mod_revision)
            for key, pair in zip(expect, mine, strict=True)
        }
        return CommitResult(False, done.revision, current)


class CalicoWriter:
    """Makes such batches, for as long as one leadership lasts."""

    def __init__(self, store: Store, fence: Expect) -> None:
        self._fence = fence
        self._store = _FencedStore(store)
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
