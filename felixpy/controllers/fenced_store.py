"""The datastore as the ipam package wants it, every commit under conditions of ours as well.

In: a Store, conditions (first that we lead), leases for some keys; out: commits made only while all of them hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from felixpy.controllers.leader import check_fence
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.model import Expect, Store, Write
from ipam.store import CommitResult, Versioned


class Overtaken(Exception):
    """What a commit relied on, beside the leadership, has changed."""


class FencedStore:
    """`conditions` begin with the leadership; what is written to a key of `leased` goes with that lease."""

    def __init__(self, store: Store, fence: Expect) -> None:
        self._plain = IpamStore(store)
        self._store = store
        self.conditions: tuple[Expect, ...] = (fence,)
        self.leased: Mapping[bytes, int] = {}

    async def read(self, keys: Sequence[str]) -> Mapping[str, Versioned | None]:
        return await self._plain.read(keys)

    async def list(self, prefix: str) -> Mapping[str, Versioned]:
        return await self._plain.list(prefix)

    async def commit(self, expect: Mapping[str, int], writes: Mapping[str, bytes | None]) -> CommitResult:
        """Raises  LeadershipLost, Overtaken."""
        own = [Expect(key.encode(), revision) for key, revision in expect.items()]
        done = await self._store.transact(
            [*self.conditions, *own],
            [Write(key.encode(), value, self.leased.get(key.encode(), 0)) for key, value in writes.items()],
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
