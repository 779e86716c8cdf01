"""The addresses that Services were given, told to the API: what `kubectl get service` shows as EXTERNAL-IP.

In: Services of the API; our status of them and who holds which address, in the datastore; out: patches of their status,
with MetalLB's annotation of the pool. Only a Service that we have a status of is touched.
Source: metallb controller/service.go (the annotation); a Service's annotations may be written with its status
(k8s.io/kubernetes/pkg/registry/core/service: strategy.go keeps the spec alone).
"""

from __future__ import annotations

from contextlib import aclosing
from typing import NamedTuple, NoReturn

import msgspec

from felixpy.controllers.grants import GRANTED_ADDRESSES
from felixpy.controllers.vips import CALICO_POOL
from felixpy.datastore.follow import follow
from felixpy.datastore.model import Store
from felixpy.kube.client import Api, Json
from felixpy.kube.convert import GRANTED, OF_POOL, addresses_of
from felixpy.kube.status_patches import StatusPatches
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import BY_TYPE, Name

SERVICES = BY_TYPE["v1", "Service"]


class Given(NamedTuple):
    """A Service's addresses, the MetalLB pool that they are of, and those that are marked as given by us."""

    addresses: tuple[str, ...] = ()
    pool: str = ""
    marked: str = ""

    def __str__(self) -> str:
        return ", ".join(self.addresses) or "that it has no address"


class _Grant(msgspec.Struct):
    services: list[str] = []
    pool: str = ""


class ServiceAddresses(StatusPatches[Given]):
    """A Reader of the API's Services; `serve` follows our status and patches."""

    def __init__(self, api: Api, store: Store) -> None:
        super().__init__(api, SERVICES, _read_service, _render)
        self._store = store
        self._given: dict[Name, tuple[str, ...]] = {}
        self._pools: dict[str, str] = {}

    async def _follow(self) -> NoReturn:
        touched: set[Name] = set()
        prefixes = [SERVICES.status_prefix.encode(), GRANTED_ADDRESSES.encode()]
        async with aclosing(follow(self._store, prefixes, "status of Services")) as turns:
            async for turn in turns:
                if turn.anew:
                    for known in (self._given, self._pools, self.wants):
                        known.clear()
                for event in turn.events:
                    touched |= self._take(event.key.decode("utf-8", "replace"), event.value)
                if turn.whole:
                    self._want(touched)
                    touched = set()
        raise AssertionError("following never ends")

    def _take(self, key: str, value: bytes | None) -> set[Name]:
        """One change of the datastore; the Services that it is about."""
        if key.startswith(GRANTED_ADDRESSES):
            address = key.removeprefix(GRANTED_ADDRESSES)
            grant = _read_grant(value) if value is not None else _Grant()
            self._pools.pop(address, None)
            if grant.pool and not grant.pool.startswith(CALICO_POOL):
                self._pools[address] = grant.pool
            return {Name(*one.split("/")) for one in grant.services if one.count("/") == 1}
        service = SERVICES.parse_status_name(key)
        if service is None:
            return set()
        if value is not None:
            self._given[service] = _read_addresses(value)
        elif service in self.has and service in self._given:
            self._given[service] = ()
        else:
            self._given.pop(service, None)
        return {service}

    def _want(self, services: set[Name]) -> None:
        for name in services:
            given = self._given.get(name)
            if given is None:
                self.wants.pop(name, None)
                continue
            pools = dict.fromkeys(self._pools[one] for one in given if one in self._pools)
            self.wants[name] = Given(given, ",".join(pools), ",".join(given))
        self.note(*services)


def _render(_: Given, wants: Given) -> Json:
    annotations = {OF_POOL: wants.pool or None, GRANTED: wants.marked or None}
    ingress = [{"ip": one} for one in wants.addresses] or None
    return {"metadata": {"annotations": annotations}, "status": {"loadBalancer": {"ingress": ingress}}}


def _read_service(body: Json) -> Given:
    annotations = body["metadata"].get("annotations") or {}
    return Given(addresses_of(body), annotations.get(OF_POOL, ""), annotations.get(GRANTED, ""))


def _read_addresses(value: bytes) -> tuple[str, ...]:
    return addresses_of({"status": decode_or_none(value, Json) or {}})


def _read_grant(value: bytes) -> _Grant:
    return decode_or_none(value, _Grant) or _Grant()
