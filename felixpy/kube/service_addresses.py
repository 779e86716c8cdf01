"""The addresses that Services were given, told to the API: what `kubectl get service` shows as EXTERNAL-IP.

In: Services of the API, and our status of them in the datastore; out: patches of their status. Only a Service that we
have a status of is touched. A patch that fails is made again later.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import NoReturn

import msgspec

from felixpy.datastore.follow import follow
from felixpy.datastore.model import Store
from felixpy.kube.client import Api, ApiError, Json
from felixpy.kube.convert import api_path, name_of
from felixpy.resources.foreign_json import UNREADABLE
from felixpy.resources.kinds import BY_TYPE, Name

AGAIN_S = 5.0
_SERVICES = BY_TYPE["v1", "Service"]

_log = logging.getLogger(__name__)

Addresses = tuple[str, ...]


class _Ingress(msgspec.Struct):
    ip: str = ""


class _LoadBalancer(msgspec.Struct):
    ingress: list[_Ingress] | None = None


class _Status(msgspec.Struct, rename="camel"):
    load_balancer: _LoadBalancer = msgspec.field(default_factory=_LoadBalancer)


class ServiceAddresses:
    """A Reader of the API's Services; `serve` follows our status and patches."""

    def __init__(self, api: Api, store: Store) -> None:
        self._api = api
        self._store = store
        self._told: dict[Name, Addresses] = {}
        self._given: dict[Name, Addresses] = {}
        self._due: set[Name] = set()
        self._changed = asyncio.Event()

    def listed(self, objects: list[Json]) -> None:
        self._told = {name_of(body): _read(body.get("status") or {}) for body in objects}
        self._note(*self._told)

    def changed(self, body: Json) -> None:
        self._told[name_of(body)] = _read(body.get("status") or {})
        self._note(name_of(body))

    def deleted(self, body: Json) -> None:
        """What we have given stays known: one of the same name that comes at once has it without a new status."""
        self._told.pop(name_of(body), None)

    def _note(self, *names: Name) -> None:
        self._due.update(names)
        self._changed.set()

    async def serve(self) -> NoReturn:
        """Patches until cancelled.

        Raises  DatastoreError.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._patch())
        raise AssertionError("following never ends")

    async def _follow(self) -> NoReturn:
        async with aclosing(follow(self._store, [_SERVICES.status_prefix.encode()], "status of Services")) as turns:
            async for turn in turns:
                if turn.anew:
                    self._given.clear()
                for event in turn.events:
                    self._take(event.key, event.value)
        raise AssertionError("following never ends")

    def _take(self, key: bytes, value: bytes | None) -> None:
        service = _SERVICES.parse_status_name(key.decode("utf-8", "replace"))
        if service is None:
            return
        if value is not None:
            self._given[service] = _read(value)
        elif service in self._told and service in self._given:
            self._given[service] = ()
        else:
            self._given.pop(service, None)
        self._note(service)

    async def _patch(self) -> NoReturn:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._due:
                await self._tell(self._due.pop())

    async def _tell(self, service: Name) -> None:
        given = self._given.get(service)
        if given is None or service not in self._told or self._told[service] == given:
            return
        path = f"{api_path(_SERVICES).removesuffix('/services')}/namespaces/{service.namespace}/services/{service.name}"
        body = {"status": {"loadBalancer": {"ingress": [{"ip": one} for one in given] or None}}}
        try:
            await self._api.patch(f"{path}/status", body)
        except ApiError as error:
            _log.warning("the addresses of Service %s are told later: %s", service, error)
            asyncio.get_running_loop().call_later(AGAIN_S, self._note, service)
        else:
            self._told[service] = given
            _log.info("Service %s: the API knows %s", service, ", ".join(given) or "that it has no address")


def _read(status: Json | bytes) -> Addresses:
    try:
        if isinstance(status, bytes):
            read = msgspec.json.decode(status, type=_Status)
        else:
            read = msgspec.convert(status, _Status)
    except UNREADABLE:
        return ()
    return tuple(one.ip for one in read.load_balancer.ingress or () if one.ip)
