"""What the datastore should hold of the API's objects, and what it does: the writes in between. Pure.

In: lists and changes of the API, what the datastore holds, and how writes ended; out: batches of writes, each with the
conditions that it rests on. The last word on an object counts, however many came before it. What people wrote is never
overwritten: an object of theirs at an imported one's key is named instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from felixpy.datastore.model import Expect, KeyValue, Write
from felixpy.kube.convert import Imported, is_imported

BATCH_MOST = 60
"""Writes of a transaction: etcd takes 128 operations and as many conditions, and 1.5 MiB."""
BATCH_MOST_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class MirrorBatch:
    """One transaction; it is refused as a whole when a condition does not hold."""

    expect: tuple[Expect, ...]
    writes: tuple[Write, ...]


class Mirror:
    """One state of both sides. `listed` and `changed` by the API, `holds` by the datastore, `next_batch` to write."""

    def __init__(self) -> None:
        self._held: dict[bytes, tuple[bytes, int]] = {}
        self._foreign: set[bytes] = set()
        self._told: set[bytes] = set()
        self._due: dict[bytes, bytes | None] = {}
        self._refused: dict[bytes, None] = {}

    def take_refused(self) -> tuple[bytes, ...]:
        """Objects of the API that are not kept since somebody else wrote theirs there; each is told once."""
        refused = tuple(self._refused.keys() - self._told)
        self._told.update(refused)
        self._refused.clear()
        return refused

    def holds(self, key: bytes, pair: KeyValue | None) -> None:
        """The datastore holds this."""
        self._held.pop(key, None)
        self._foreign.discard(key)
        self._told.discard(key)
        if pair is None:
            return
        if is_imported(pair.value):
            self._held[key] = (pair.value, pair.mod_revision)
        else:
            self._foreign.add(key)

    def listed(self, prefix: bytes, objects: Mapping[bytes, bytes]) -> None:
        """All that the API has of the kind whose keys begin with `prefix`."""
        known = self._held.keys() | self._due.keys()
        for key in [key for key in known if key.startswith(prefix)]:
            if key not in objects:
                self.changed(key, None)
        for key, value in objects.items():
            self.changed(key, value)

    def changed(self, key: bytes, value: bytes | None) -> None:
        """The API has this object now, or has it no longer."""
        held = self._held.get(key)
        if key in self._foreign:
            self._due.pop(key, None)
            if value is not None:
                self._refused.setdefault(key)
        elif (held[0] if held is not None else None) == value:
            self._due.pop(key, None)
        else:
            self._due[key] = value

    def next_batch(self) -> MirrorBatch | None:
        """Writes that are due, the oldest first; None when there is none."""
        expect: list[Expect] = []
        writes: list[Write] = []
        size = 0
        for key, value in self._due.items():
            size += len(key) + len(value or b"")
            if writes and (len(writes) >= BATCH_MOST or size > BATCH_MOST_BYTES):
                break
            held = self._held.get(key)
            expect.append(Expect(key, held[1] if held is not None else 0))
            writes.append(Write(key, value))
        return MirrorBatch(tuple(expect), tuple(writes)) if writes else None

    def settle(self, batch: MirrorBatch, revision: int) -> None:
        """The batch was written; what the API said of it meanwhile is due again."""
        for write in batch.writes:
            if write.value is None:
                self._held.pop(write.key, None)
            else:
                self._held[write.key] = (write.value, revision)
            if self._due.get(write.key) == write.value:
                self._due.pop(write.key, None)

    def refuse(self, batch: MirrorBatch, current: Sequence[KeyValue | None]) -> None:
        """The batch was not written, for the datastore holds `current`, in the order of the batch's conditions."""
        for condition, pair in zip(batch.expect, current, strict=True):
            wanted = self._due.pop(condition.key, None)
            self.holds(condition.key, pair)
            self.changed(condition.key, wanted)


def as_objects(imported: Iterable[Imported | None]) -> dict[bytes, bytes]:
    """Keys and values of what is to be kept."""
    return {one.key: one.value for one in imported if one is not None}
