"""Writes planned changes to etcd, many in one transaction, each only if its key is still what the plan saw.

In, out Manifests → Changes in the same order, with what became of each. A conflict re-reads and plans anew, a bounded
        number of times; one object's failure never holds up the others.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime

from felixpy.ctl.manifests import Manifest, Problem
from felixpy.ctl.plan import Change, Outcome, keys_to_read, plan_change
from felixpy.ctl.stored import Stamp, encode_body
from felixpy.datastore.model import DatastoreError, Expect, Store, Unavailable, Write

BATCH = 50
"""Objects read and written together; etcd takes 128 operations in a transaction (--max-txn-ops)."""
BATCH_BYTES = 512 * 1024
"""Values written together; etcd takes 1.5 MB in a request (--max-request-bytes)."""
ATTEMPTS = 10
_UNDONE = frozenset({Outcome.CREATED, Outcome.CONFIGURED})


async def plan_all(store: Store, manifests: Sequence[Manifest]) -> AsyncIterator[Change]:
    """What applying would do, and nothing done."""
    for start in range(0, len(manifests), BATCH):
        for change in await _plan(store, manifests[start : start + BATCH]):
            yield change


async def apply_all(store: Store, manifests: Sequence[Manifest]) -> AsyncIterator[Change]:
    """Writes every object; says what was done to each as it is done.

    Raises  Unavailable when etcd cannot be reached; what was written before stays written.
    """
    for start in range(0, len(manifests), BATCH):
        for batch in _by_size(await _plan(store, manifests[start : start + BATCH])):
            together = await _write(store, batch)
            for change in batch:
                yield change if together else await _apply_alone(store, change)


async def _plan(store: Store, manifests: Sequence[Manifest]) -> list[Change]:
    keys = [keys_to_read(manifest) for manifest in manifests]
    found = iter(await store.get_many([key.encode() for group in keys for key in group]))
    stamp = Stamp(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "")
    return [
        plan_change(manifest, [next(found) for _ in group], Stamp(stamp.now, str(uuid.uuid4())))
        for manifest, group in zip(manifests, keys, strict=True)
    ]


def _by_size(changes: Sequence[Change]) -> Iterator[list[Change]]:
    batch: list[Change] = []
    size = 0
    for change in changes:
        weight = len(encode_body(change.after)) if change.after is not None else 0
        if batch and size + weight > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(change)
        size += weight
    yield batch


async def _write(store: Store, changes: Sequence[Change]) -> bool:
    """Whether all of them are written; none is when any key has moved."""
    due = [change for change in changes if change.outcome in _UNDONE and change.after is not None]
    if not due:
        return True
    try:
        result = await store.transact(
            [Expect(change.key.encode(), change.revision) for change in due],
            [Write(change.key.encode(), encode_body(change.after)) for change in due if change.after is not None],
        )
    except Unavailable:
        raise
    except DatastoreError:
        return False
    return result.succeeded


async def _apply_alone(store: Store, change: Change) -> Change:
    for _ in range(ATTEMPTS):
        change = (await _plan(store, [change.manifest]))[0]
        if change.outcome not in _UNDONE or change.after is None:
            return change
        try:
            result = await store.transact(
                [Expect(change.key.encode(), change.revision)], [Write(change.key.encode(), encode_body(change.after))]
            )
        except Unavailable:
            raise
        except DatastoreError as error:
            return _refused(change, str(error))
        if result.succeeded:
            return change
    return _refused(change, f"others kept changing it; given up after {ATTEMPTS} attempts")


def _refused(change: Change, why: str) -> Change:
    problems = (*change.problems, Problem((), why))
    return Change(change.manifest, Outcome.REFUSED, change.name, change.revision, change.before, None, problems)
