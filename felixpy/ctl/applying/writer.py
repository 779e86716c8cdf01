"""Writes planned changes to etcd, many in one transaction, each only if its key is still what the plan saw.

In, out Manifests → Changes in the same order, with what became of each. A conflict re-reads and plans anew, a bounded
        number of times; one object's failure never holds up the others.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain

from felixpy.ctl.applying.aggregates import ADVERTISEMENTS, too_wide
from felixpy.ctl.applying.overlaps import CLAIMING_KINDS, REFUSED_KINDS, overlaps
from felixpy.ctl.applying.plan import Change, Outcome, keys_to_read, plan_change
from felixpy.ctl.applying.preferences import disagreeing
from felixpy.ctl.manifests import Body, Manifest, Problem
from felixpy.ctl.policy_names import is_prefixing
from felixpy.ctl.reading.metallb import CONFIG_LABEL
from felixpy.ctl.showing.selection import Found, select
from felixpy.ctl.stored import Stamp, encode_body, parse_body
from felixpy.datastore.model import DatastoreError, Expect, KeyValue, Store, Unavailable, Write
from felixpy.resources.kinds import BY_TYPE, CALICO, KINDS, Name

BATCH = 50
"""Objects read and written together; etcd takes 128 operations in a transaction (--max-txn-ops)."""
BATCH_BYTES = 512 * 1024
"""Values written together; etcd takes 1.5 MB in a request (--max-request-bytes)."""
ATTEMPTS = 10
METALLB_KINDS = tuple(info for info in KINDS if info.group == "metallb.io")
_CLUSTER = BY_TYPE[CALICO, "ClusterInformation"].key(Name("", "default")).encode()
_TO_WRITE = frozenset({Outcome.CREATED, Outcome.CONFIGURED})


async def plan_all(store: Store, manifests: Sequence[Manifest], leaving: Sequence[Found] = ()) -> AsyncIterator[Change]:
    """What applying would do, and nothing done; `leaving` are objects that go at the same time."""
    clashes = await _clashes(store, manifests, leaving)
    for clash in clashes:
        yield clash
    clear = _without(manifests, clashes)
    for start in range(0, len(clear), BATCH):
        for change in await _plan(store, clear[start : start + BATCH]):
            yield change


async def plan_deletions(store: Store, manifests: Sequence[Manifest]) -> AsyncIterator[Change]:
    """What deleting would do, and nothing done; objects that are not there are left out."""
    for start in range(0, len(manifests), BATCH):
        for change in await _plan(store, manifests[start : start + BATCH]):
            if change.before is not None:
                yield replace(change, outcome=Outcome.DELETED, after=None)


async def apply_all(
    store: Store, manifests: Sequence[Manifest], leaving: Sequence[Found] = ()
) -> AsyncIterator[Change]:
    """Writes every object; says what was done to each as it is done.

    Raises  Unavailable when etcd cannot be reached; what was written before stays written.
    """
    clashes = await _clashes(store, manifests, leaving)
    for clash in clashes:
        yield clash
    clear = _without(manifests, clashes)
    for start in range(0, len(clear), BATCH):
        for batch in _by_size(await _plan(store, clear[start : start + BATCH])):
            together = await _write(store, batch)
            for change in batch:
                yield change if together else await _apply_alone(store, change)


async def left_over(store: Store, config_maps: Sequence[Name], manifests: Sequence[Manifest]) -> list[Found]:
    """What earlier versions of MetalLB ConfigMaps said and `manifests`, which these say now, do not."""
    kept = {manifest.info.key(manifest.name) for manifest in manifests}
    found: list[Found] = []
    for name in config_maps:
        objects = (await select(store, METALLB_KINDS, name.namespace)).objects
        found += [one for one in objects if _config_label(one.body) == name.name and one.key not in kept]
    return found


def _config_label(body: Body) -> str:
    metadata = body.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    value = labels.get(CONFIG_LABEL) if isinstance(labels, dict) else None
    return value if isinstance(value, str) else ""


_CHECKS = (overlaps, too_wide, disagreeing)
"""What no object says by itself, and several together."""


async def _clashes(store: Store, manifests: Sequence[Manifest], leaving: Sequence[Found]) -> list[Change]:
    """The objects that would have addresses, or draw traffic to such, that are not theirs, or contradict another."""
    if not any(manifest.info in (*REFUSED_KINDS, ADVERTISEMENTS) for manifest in manifests):
        return []
    gone = {one.key for one in leaving}
    objects = (await select(store, (*CLAIMING_KINDS, ADVERTISEMENTS), None)).objects
    existing = {one.key: (one.info, one.body) for one in objects if one.key not in gone}
    refused: dict[str, Change] = {}
    for manifest, problem in chain(*(check(manifests, existing) for check in _CHECKS)):
        key = manifest.info.key(manifest.name)
        before = refused.get(key, Change(manifest, Outcome.REFUSED, manifest.name))
        refused[key] = replace(before, problems=(*before.problems, problem))
    return list(refused.values())


def _without(manifests: Sequence[Manifest], refused: Sequence[Change]) -> list[Manifest]:
    keys = {change.key for change in refused}
    return [manifest for manifest in manifests if manifest.info.key(manifest.name) not in keys]


async def _plan(store: Store, manifests: Sequence[Manifest]) -> list[Change]:
    keys = [keys_to_read(manifest) for manifest in manifests]
    cluster, *values = await store.get_many([_CLUSTER, *(key.encode() for group in keys for key in group)])
    found, prefixing = iter(values), is_prefixing(_body_of(cluster))
    stamp = Stamp(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "")
    return [
        plan_change(manifest, [next(found) for _ in group], Stamp(stamp.now, str(uuid.uuid4())), prefixing=prefixing)
        for manifest, group in zip(manifests, keys, strict=True)
    ]


def _body_of(stored: KeyValue | None) -> Body:
    try:
        return parse_body(stored.value) if stored is not None else {}
    except ValueError:
        return {}


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
    due = [change for change in changes if change.outcome in _TO_WRITE and change.after is not None]
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
        if change.outcome not in _TO_WRITE or change.after is None:
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
