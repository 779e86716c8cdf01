"""Leases over a real etcd: kept alive, granted anew after an outage."""

from __future__ import annotations

import asyncio

from felixpy.datastore.client import EtcdStore
from felixpy.datastore.memory import MemoryStore
from tests.datastore.world import opened, proxied
from tests.support.etcd import Etcd
from tests.support.wait import eventually_async


async def test_a_lease_outlives_its_time_to_live(etcd_store: EtcdStore) -> None:
    lease = await etcd_store.lease(3)
    await etcd_store.put(b"/t/a", b"1", lease.id)
    await asyncio.sleep(8)
    assert await etcd_store.get(b"/t/a") is not None


async def test_a_lease_that_expired_during_an_outage_is_granted_anew(etcd: Etcd, etcd_store: EtcdStore) -> None:
    async with proxied(etcd.port) as proxy, opened(f"http://127.0.0.1:{proxy.port}", deadline_s=1.0) as store:
        lease = await store.lease(1)
        old = lease.id
        await store.put(b"/t/a", b"1", old)
        replaced = asyncio.create_task(lease.replaced(old))
        proxy.swallow()
        await eventually_async(lambda: is_gone(etcd_store, b"/t/a"))
        proxy.resume()
        new = await asyncio.wait_for(replaced, 60)
        assert new == lease.id != old
        await store.put(b"/t/a", b"1", new)


async def test_a_lease_is_kept_over_a_restart_of_etcd_between_two_of_its_calls() -> None:
    """The stream ends while nobody reads from it; a lease of 3 s is asked for every second."""
    with Etcd() as own:
        async with opened(own.url, deadline_s=1.0) as store:
            lease = await store.lease(3)
            await store.put(b"/t/a", b"1", lease.id)
            await asyncio.sleep(0.5)
            own.kill()
            own.start()
            await asyncio.sleep(8)
            assert await store.get(b"/t/a") is not None


async def test_several_leases_share_a_client(etcd_store: EtcdStore) -> None:
    first, second = await etcd_store.lease(5), await etcd_store.lease(5)
    await etcd_store.put(b"/t/1", b"", first.id)
    await etcd_store.put(b"/t/2", b"", second.id)
    await first.close()
    assert await etcd_store.get(b"/t/1") is None
    assert await etcd_store.get(b"/t/2") is not None


async def test_an_expired_lease_in_memory_is_replaced_too() -> None:
    store = MemoryStore()
    lease = await store.lease(5)
    await store.put(b"/t/a", b"", lease.id)
    replaced = asyncio.create_task(lease.replaced(lease.id))
    await store.expire(lease)
    assert await replaced == lease.id
    assert await store.get(b"/t/a") is None


async def is_gone(store: EtcdStore, key: bytes) -> bool:
    return await store.get(key) is None


async def test_after_the_last_lease_the_client_is_idle(etcd_store: EtcdStore) -> None:
    lease = await etcd_store.lease(5)
    await lease.close()
    async with asyncio.timeout(30):  # a keeper that spins lets no other task run
        assert await etcd_store.get(b"/t/a") is None
