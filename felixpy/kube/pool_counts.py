"""How full each pool of Service addresses is, told to the API: the status of MetalLB's IPAddressPools.

In: pools of the API, and our status of them in the datastore; out: patches of their status.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import NoReturn

from felixpy.datastore.follow import follow
from felixpy.datastore.model import Store
from felixpy.kube.client import Api, Json
from felixpy.kube.convert import name_of
from felixpy.kube.status_patches import StatusPatches
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import BY_TYPE

POOLS = BY_TYPE["metallb.io/v1beta1", "IPAddressPool"]


class PoolCounts:
    """A Reader of the API's pools; `serve` follows our status and patches."""

    def __init__(self, api: Api, store: Store) -> None:
        self._store = store
        self._patches: StatusPatches[Json] = StatusPatches(api, POOLS, lambda _, wants: {"status": wants})

    def listed(self, objects: list[Json]) -> None:
        self._patches.has = {name_of(body): body.get("status") or {} for body in objects}
        self._patches.note(*self._patches.has)

    def changed(self, body: Json) -> None:
        self._patches.has[name_of(body)] = body.get("status") or {}
        self._patches.note(name_of(body))

    def deleted(self, body: Json) -> None:
        self._patches.has.pop(name_of(body), None)

    async def serve(self) -> NoReturn:
        """Patches until cancelled.

        Raises  DatastoreError.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._patches.serve())
        raise AssertionError("following never ends")

    async def _follow(self) -> NoReturn:
        async with aclosing(follow(self._store, [POOLS.status_prefix.encode()], "status of pools")) as turns:
            async for turn in turns:
                if turn.anew:
                    self._patches.wants.clear()
                for event in turn.events:
                    name = POOLS.parse_status_name(event.key.decode("utf-8", "replace"))
                    if name is None:
                        continue
                    self._patches.wants.pop(name, None)
                    if event.value is not None:
                        self._patches.wants[name] = decode_or_none(event.value, Json) or {}
                    self._patches.note(name)
        raise AssertionError("following never ends")
