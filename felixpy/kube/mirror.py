"""What the datastore should hold of the API's objects, and what it does: the writes in between. Pure.

In: lists and changes of the API, keys of the datastore as they change, and how writes ended; out: batches of writes,
each with the conditions that it rests on. What is due follows from the two states alone, so that an object that
somebody deletes from the datastore comes back. What people wrote is never overwritten, and what etcd does not take is
left out: both are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from felixpy.datastore.model import Expect, KeyValue, Write
from felixpy.kube.convert import Imported, is_imported

BATCH_MOST = 60
"""Writes of a transaction: etcd takes 128 operations and as many conditions, and 1.5 MiB."""
BATCH_MOST_BYTES = 512 * 1024
OBJECT_MOST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MirrorBatch:
    """One transaction; it is refused as a whole when a condition does not hold."""

    expect: tuple[Expect, ...]
    writes: tuple[Write, ...]


class Refusal(StrEnum):
    """Why an object of the API is not kept."""

    FOREIGN = "somebody else wrote what is there, which stays"
    TOO_LARGE = f"it is larger than {OBJECT_MOST_BYTES >> 10} KiB"


class Mirror:
    """One state of both sides: `listed` and `changed` by the API, `holds` by the datastore; `next_batch` to write."""

    def __init__(self) -> None:
        self._listed: tuple[bytes, ...] = ()
        self._wanted: dict[bytes, bytes] = {}
        self._held: dict[bytes, tuple[bytes, int]] = {}
        self._foreign: set[bytes] = set()
        self._due: dict[bytes, bytes | None] = {}
        self._refused: dict[bytes, Refusal] = {}
        self._told: dict[bytes, Refusal] = {}

    def take_refused(self) -> Mapping[bytes, Refusal]:
        """Objects of the API that are not kept; each is told once."""
        news = {key: why for key, why in self._refused.items() if self._told.get(key) != why}
        self._told = dict(self._refused)
        return news

    def holds(self, key: bytes, value: bytes | None, revision: int) -> None:
        """The datastore holds this since `revision`; None: nothing."""
        if key in self._held and revision < self._held[key][1]:
            return
        self._held.pop(key, None)
        self._foreign.discard(key)
        if value is not None and is_imported(value):
            self._held[key] = (value, revision)
        elif value is not None:
            self._foreign.add(key)
        self._look(key)

    def listed(self, prefix: bytes, objects: Mapping[bytes, bytes]) -> None:
        """All that the API has of the kind whose keys begin with `prefix`."""
        if prefix not in self._listed:
            self._listed = (*self._listed, prefix)
        known = self._held.keys() | self._wanted.keys()
        gone = [key for key in known if key.startswith(prefix) and key not in objects]
        for key in gone:
            self.changed(key, None)
        for key, value in objects.items():
            self.changed(key, value)

    def changed(self, key: bytes, value: bytes | None) -> None:
        """The API has this object now, or has it no longer."""
        if value is None:
            self._wanted.pop(key, None)
        else:
            self._wanted[key] = value
        self._look(key)

    def _look(self, key: bytes) -> None:
        """Whether a write of the key is due; never of a kind that the API has not told of yet."""
        wanted, held = self._wanted.get(key), self._held.get(key)
        self._refused.pop(key, None)
        if wanted is not None and key in self._foreign:
            self._refused[key] = Refusal.FOREIGN
        elif wanted is not None and len(wanted) > OBJECT_MOST_BYTES:
            self._refused[key] = Refusal.TOO_LARGE
        elif (held[0] if held is not None else None) != wanted and key.startswith(self._listed):
            self._due[key] = wanted
            return
        self._due.pop(key, None)

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
            self.holds(write.key, write.value, revision)

    def refuse(self, batch: MirrorBatch, current: Sequence[KeyValue | None]) -> None:
        """The batch was not written, for the datastore holds `current`, in the order of the batch's conditions."""
        for condition, pair in zip(batch.expect, current, strict=True):
            self._held.pop(condition.key, None)
            if pair is None:
                self.holds(condition.key, None, 0)
            else:
                self.holds(condition.key, pair.value, pair.mod_revision)


def as_objects(imported: Iterable[Imported | None]) -> dict[bytes, bytes]:
    """Keys and values of what is to be kept."""
    return {one.key: one.value for one in imported if one is not None}
