"""The datastore as the ipam package wants it: text keys, and a commit with the values it lost to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from felixpy.datastore.model import Expect, KeyValue, Store, Write
from ipam.store import CommitResult, Versioned


class IpamStore:
    """Adapts one Store; every error is the Store's own."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, keys: Sequence[str]) -> Mapping[str, Versioned | None]:
        """Several keys, all at one revision; None for those that do not exist."""
        found = await self._store.get_many([key.encode() for key in keys])
        return {key: _versioned(pair) for key, pair in zip(keys, found, strict=True)}

    async def list(self, prefix: str) -> Mapping[str, Versioned]:
        """All keys that begin with `prefix`."""
        snapshot = await self._store.snapshot([prefix.encode()])
        return {
            pair.key.decode("utf-8", "replace"): Versioned(pair.value, pair.mod_revision) for pair in snapshot.items
        }

    async def commit(self, expect: Mapping[str, int], writes: Mapping[str, bytes | None]) -> CommitResult:
        """All writes when each key of `expect` has that mod_revision (0: it is absent), else none."""
        result = await self._store.transact(
            [Expect(key.encode(), revision) for key, revision in expect.items()],
            [Write(key.encode(), value) for key, value in writes.items()],
        )
        current = dict(zip(expect, map(_versioned, result.current), strict=True)) if result.current else {}
        return CommitResult(result.succeeded, result.revision, current)


def _versioned(pair: KeyValue | None) -> Versioned | None:
    return None if pair is None else Versioned(pair.value, pair.mod_revision)
