"""Leases that are kept alive: one keep-alive stream per client, a lease granted anew where etcd has let it expire.

In: a time to live; out: a lease whose `id` is valid as far as etcd can be reached. A keep-alive is sent every third of
the shortest time to live. Never puts keys: whoever put some under the old id waits for `replaced` and puts them again.
Source: etcd 3.4 rpc.proto, LeaseKeepAlive (TTL 0 in the answer: there is no such lease).
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from felixpy.datastore import rpc
from felixpy.datastore.connection import Connection, Refused
from felixpy.datastore.model import ConnectReason, DatastoreError, Unavailable

RETRY_S = 0.5


class EtcdLease:
    """See model.Lease."""

    def __init__(self, keeper: LeaseKeeper, lease_id: int, ttl_s: int) -> None:
        self._keeper = keeper
        self._id = lease_id
        self._replaced = asyncio.Condition()
        self.ttl_s = ttl_s

    @property
    def id(self) -> int:
        return self._id

    async def replaced(self, known: int) -> int:
        async with self._replaced:
            await self._replaced.wait_for(lambda: self._id != known)
            return self._id

    async def close(self) -> None:
        await self._keeper.revoke(self)

    async def replace(self, lease_id: int) -> None:
        """Takes the id of the lease granted instead."""
        async with self._replaced:
            self._id = lease_id
            self._replaced.notify_all()


class LeaseKeeper:
    """All leases of one client, and the task that keeps them."""

    def __init__(self, connection: Connection, answer_s: float) -> None:
        self._connection = connection
        self._answer_s = answer_s
        self._leases: set[EtcdLease] = set()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def grant(self, ttl_s: int) -> EtcdLease:
        """A new lease, kept until it is closed."""
        lease = EtcdLease(self, await self._grant(ttl_s), ttl_s)
        self._leases.add(lease)
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._keep())
        return lease

    async def grant_passing(self, ttl_s: int) -> int:
        """A lease that is left to expire."""
        return await self._grant(ttl_s)

    async def revoke(self, lease: EtcdLease) -> None:
        """Stops keeping `lease` and deletes what is under it; one that has already expired is no error."""
        self._leases.discard(lease)
        try:
            await self._connection.call(rpc.REVOKE, rpc.messages()["RevokeRequest"](id=lease.id))
        except Refused as error:
            if "lease not found" not in error.words:
                raise

    async def close(self) -> None:
        """Stops; the leases then expire."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _grant(self, ttl_s: int) -> int:
        reply = await self._connection.call(rpc.GRANT, rpc.messages()["GrantRequest"](ttl=ttl_s))
        return int(reply.message.id)

    async def _keep(self) -> None:
        while True:
            await self._wake.wait()
            if not self._leases:
                self._wake.clear()
                continue
            try:
                async with self._connection.stream(rpc.KEEP_ALIVE) as stream:
                    await self._keep_over(stream)
            except DatastoreError:
                await asyncio.sleep(RETRY_S)

    async def _keep_over(self, stream: Any) -> None:
        """Asks for each lease in turn, so that an answer needs no look-up; a node has few."""
        while self._leases:
            for lease in tuple(self._leases):
                try:
                    async with asyncio.timeout(self._answer_s):
                        await stream.write(rpc.messages()["KeepAliveRequest"](id=lease.id))
                        answer = await stream.read()
                except TimeoutError:
                    raise Unavailable(ConnectReason.UNREACHABLE, "no answer to a keep-alive") from None
                if answer is grpc.aio.EOF:
                    raise Unavailable(ConnectReason.UNREACHABLE, "etcd ended the keep-alive stream")
                if answer.ttl <= 0 and lease in self._leases:
                    await lease.replace(await self._grant(lease.ttl_s))
            self._wake.clear()
            await self._until_due()

    async def _until_due(self) -> None:
        shortest = min((lease.ttl_s for lease in self._leases), default=1)
        try:
            async with asyncio.timeout(shortest / 3):
                await self._wake.wait()
        except TimeoutError:
            self._wake.set()
