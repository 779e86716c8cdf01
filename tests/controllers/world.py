"""A cluster in a Store: Services and pools as people write them, and what the controller made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from felixpy.controllers.allocation import WATCHED, Allocation
from felixpy.controllers.loadbalancer import LEADER_KEY, settle_all
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY
from felixpy.datastore.model import Expect, Store

SERVICES = "/felixpy/resources/core/v1/services/"
POOLS = "/felixpy/resources/metallb.io/v1beta1/ipaddresspools/metallb-system/"
STATUS = "/felixpy/status/core/v1/services/"
GRANTS = "/felixpy/grants/addresses/"
RESTING = "/felixpy/grants/resting/"
POOL_STATUS = "/felixpy/status/metallb.io/v1beta1/ipaddresspools/metallb-system/"
EVENTS = "/felixpy/resources/core/v1/events/"


class Cluster:
    """Writes like people do; reads what was decided."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def put(self, key: str, body: object) -> None:
        value = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.store.put(key.encode(), value)

    async def delete(self, key: str) -> None:
        await self.store.delete(key.encode())

    async def initialise(self, ready: bool = True) -> None:
        await self.put(CLUSTER_INFORMATION_KEY.decode(), {"spec": {"clusterGUID": "c", "datastoreReady": ready}})

    async def put_pool(self, name: str, *addresses: str, **spec: object) -> None:
        await self.put(POOLS + name, {"metadata": {"name": name}, "spec": {"addresses": addresses, **spec}})

    async def put_service(
        self,
        name: str,
        *,
        created: str = "",
        annotations: Mapping[str, str] | None = None,
        calico: Mapping[str, str] | None = None,
        uid: str = "",
        labels: Mapping[str, str] | None = None,
        had: Sequence[str] = (),
        **spec: object,
    ) -> None:
        """A LoadBalancer Service with port 80; `name` is `namespace/name`. Another controller gave it what it `had`."""
        namespace, _, last = name.partition("/")
        metadata = {
            "name": last,
            "namespace": namespace,
            "annotations": {f"metallb.io/{key}": value for key, value in (annotations or {}).items()} | (calico or {}),
            "uid": uid,
            "labels": dict(labels or {}),
            "creationTimestamp": created or None,
        }
        body = {"type": "LoadBalancer", "ports": [{"port": 80, "protocol": "TCP"}], **spec}
        status = {"loadBalancer": {"ingress": [{"ip": one} for one in had]}}
        await self.put(SERVICES + name, {"metadata": metadata, "spec": body, **({"status": status} if had else {})})

    async def delete_service(self, name: str) -> None:
        await self.delete(SERVICES + name)

    async def read(self, prefix: str) -> dict[str, dict[str, object]]:
        snapshot = await self.store.snapshot([prefix.encode()])
        return {pair.key.decode().removeprefix(prefix): json.loads(pair.value) for pair in snapshot.items}

    async def grants(self) -> dict[str, list[str]]:
        """Services by granted address."""
        return {address: list(body["services"]) for address, body in (await self.read(GRANTS)).items()}  # type: ignore[call-overload]

    async def addresses(self) -> dict[str, list[str]]:
        """Addresses by Service, as its status has them."""
        return {
            name: [one["ip"] for one in body["loadBalancer"].get("ingress", [])]  # type: ignore[attr-defined]
            for name, body in (await self.read(STATUS)).items()
        }

    async def reason(self, name: str) -> str:
        """The reason in a Service's condition."""
        return str((await self.read(STATUS))[name]["conditions"][0]["reason"])  # type: ignore[index]


async def take_leadership(store: Store) -> Expect:
    """A leadership that nobody contests."""
    return Expect(LEADER_KEY, await store.put(LEADER_KEY, b"{}"))


async def observe_all(store: Store) -> Allocation:
    """A controller that has just started, before it writes."""
    allocation = Allocation()
    for pair in (await store.snapshot(WATCHED)).items:
        allocation.observe(pair.key, pair.value, pair.mod_revision)
    return allocation


async def run_once(store: Store, fence: Expect) -> Allocation:
    """A controller that starts, does all that is due, and stops."""
    allocation = await observe_all(store)
    await settle_all(store, fence, allocation)
    return allocation
