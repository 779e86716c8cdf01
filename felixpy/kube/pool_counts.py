"""How full each pool of Service addresses is, told to the API: the status of MetalLB's IPAddressPools.

In: pools of the API, and our status of them in the datastore; out: patches of their status.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import NoReturn

from felixpy.datastore.follow import follow
from felixpy.datastore.model import Store
from felixpy.kube.client import Api, Json
from felixpy.kube.status_patches import StatusPatches
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import BY_TYPE

POOLS = BY_TYPE["metallb.io/v1beta1", "IPAddressPool"]


class PoolCounts(StatusPatches[Json]):
    """A Reader of the API's pools; `serve` follows our status and patches."""

    def __init__(self, api: Api, store: Store) -> None:
        super().__init__(api, POOLS, lambda body: body.get("status") or {}, lambda _, wants: {"status": wants})
        self._store = store

    async def _follow(self) -> NoReturn:
        async with aclosing(follow(self._store, [POOLS.status_prefix.encode()], "status of pools")) as turns:
            async for turn in turns:
                if turn.anew:
                    self.wants.clear()
                for event in turn.events:
                    name = POOLS.parse_status_name(event.key.decode("utf-8", "replace"))
                    if name is None:
                        continue
                    self.wants.pop(name, None)
                    if event.value is not None:
                        self.wants[name] = decode_or_none(event.value, Json) or {}
                    self.note(name)
        raise AssertionError("following never ends")
