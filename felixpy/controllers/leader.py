"""One leader of the cluster per task, elected by an etcd key under a lease.

In: a Store, the key, who we are; out: `work` runs while we lead, with the condition that each of its transactions must
carry: it holds only for as long as this leadership does, so that one that has lost it writes nothing more, however
late it notices. Those who wait hold no lease and write nothing; they watch the key.
Source: etcd's concurrency package (election by lowest create_revision; one key is enough here).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import NoReturn

import msgspec

from felixpy.datastore.first import first_of
from felixpy.datastore.model import DatastoreError, Expect, KeyValue, Lease, Store, Write

LEASE_TTL_S = 15
RETRY_FIRST_S = 0.2
RETRY_MOST_S = 10.0
SPREAD_S = 0.5
"""Waiters try to succeed a leader at random times within this, so that they do not all write at once."""

_log = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """Another leads now, or nobody: what we were about to write was not written."""


class Leader(msgspec.Struct):
    """What the key holds."""

    node: str


Work = Callable[[Expect], Coroutine[None, None, None]]


async def lead(store: Store, key: bytes, node: str, work: Work, ttl_s: int = LEASE_TTL_S) -> NoReturn:
    """Runs `work` whenever this node leads, for ever; it is cancelled when the leadership ends."""
    failures = 0
    while True:
        try:
            await _until_vacant(store, key)
            if await _lead_once(store, key, node, work, ttl_s):
                failures = 0
            await asyncio.sleep(random.uniform(0, SPREAD_S))
        except DatastoreError as error:
            longest = min(RETRY_MOST_S, RETRY_FIRST_S * 2**failures)
            _log.log(logging.DEBUG if failures else logging.WARNING, "election of %s: %s", key.decode(), error)
            failures = min(failures + 1, 16)
            await asyncio.sleep(random.uniform(0, longest))
        except Exception:
            _log.exception("the work of %s failed unforeseen; it is left to others for a while", key.decode())
            failures = min(failures + 1, 16)
            await asyncio.sleep(RETRY_MOST_S)


async def _until_vacant(store: Store, key: bytes) -> None:
    """Waits until nobody leads. A key without a lease is nobody's: a copied datastore has keys and no leases."""
    snapshot = await store.snapshot([key])
    for pair in snapshot.items:
        if pair.key == key and not pair.lease:
            _log.warning("%s has no lease, so nobody leads: it is removed", key.decode())
            await store.transact([Expect(key, pair.mod_revision)], [Write(key, None)])
        elif pair.key == key:
            await _until_changed(store, key, snapshot.revision + 1)


async def _until_changed(store: Store, key: bytes, start_revision: int) -> None:
    """Waits until the key is written or deleted.

    Raises  DatastoreError when that can no longer be told.
    """
    async with aclosing(store.watch([key], start_revision)) as batches:
        async for events in batches:
            if any(event.key == key for event in events):
                return


async def _lead_once(store: Store, key: bytes, node: str, work: Work, ttl_s: int) -> bool:
    """One term, if we win it; whether we did."""
    lease = await store.lease(ttl_s)
    try:
        value = msgspec.json.encode(Leader(node))
        lease_id = lease.id
        won = await store.transact([Expect(key, 0)], [Write(key, value, lease_id)])
        if not won.succeeded:
            return False
        _log.info("leads %s", key.decode())
        await _serve_term(store, Expect(key, won.revision), lease, lease_id, work)
        _log.info("leads %s no longer", key.decode())
        return True
    finally:
        await _give_up(lease)


async def _serve_term(store: Store, fence: Expect, lease: Lease, lease_id: int, work: Work) -> None:
    """Runs `work` until it ends, the key changes, or the lease is another one."""

    try:
        await first_of(work(fence), _until_changed(store, fence.key, fence.mod_revision + 1), lease.replaced(lease_id))
    except LeadershipLost:
        pass


async def _give_up(lease: Lease) -> None:
    try:
        await lease.close()
    except DatastoreError as error:
        _log.debug("a lease is left to expire: %s", error)


def check_fence(fence: Expect, current: KeyValue | None) -> None:
    """Tells a lost leadership from any other conflict of a transaction that did not succeed.

    Raises  LeadershipLost.
    """
    if current is None or current.mod_revision != fence.mod_revision:
        raise LeadershipLost
