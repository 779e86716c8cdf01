"""Who announces which Service, told to the API: MetalLB's ServiceL2Status and ServiceBGPStatus, which kubectl shows.

In: what our nodes say in the datastore, and the API's objects of the kind; out: the same objects there, marked as ours.
Each is owned by its Service, so that it goes with it. Objects without the mark stay. Where the API does not have the
kind, or we may not write it, it is tried again at the next list.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import NamedTuple, NoReturn

from felixpy.datastore.follow import follow
from felixpy.datastore.model import Store
from felixpy.kube.client import Api, ApiError, Json
from felixpy.kube.convert import collection_path, name_of, object_path
from felixpy.kube.service_uids import ServiceUids
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import KindInfo, Name

MARK = "felixpy.io/reported"
AGAIN_S = 5.0
_DENIED = (401, 403, 404)

_log = logging.getLogger(__name__)


class _Report(NamedTuple):
    """What an object says, and the uid of the Service that it is about."""

    uid: str
    status: Json


class ServiceReports:
    """A Reader of the API's objects of one kind; `serve` follows what nodes say and writes."""

    def __init__(self, api: Api, store: Store, info: KindInfo, services: ServiceUids) -> None:
        self._api = api
        self._store = store
        self._info = info
        self._services = services
        self._said: dict[Name, Json] = {}
        self._about: dict[Name, set[Name]] = {}
        self._whole = False
        self._has: dict[Name, _Report] | None = None
        self._due: set[Name] = set()
        self._changed = asyncio.Event()
        self._denied = False
        services.listeners.append(self._services_changed)

    def listed(self, objects: list[Json]) -> None:
        self._has = {name_of(body): _report_of(body) for body in objects if _is_ours(body)}
        self._note(*self._has, *self._said)

    def changed(self, body: Json) -> None:
        if self._has is not None and _is_ours(body):
            self._has[name_of(body)] = _report_of(body)
            self._note(name_of(body))

    def deleted(self, body: Json) -> None:
        if self._has is not None and self._has.pop(name_of(body), None) is not None:
            self._note(name_of(body))

    def _services_changed(self, services: set[Name]) -> None:
        self._note(*(one for service in services for one in self._about.get(service, ())))

    def _note(self, *names: Name) -> None:
        self._due.update(names)
        self._changed.set()

    async def serve(self) -> NoReturn:
        """Writes until cancelled.

        Raises  DatastoreError.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._write())
        raise AssertionError("following never ends")

    async def _follow(self) -> NoReturn:
        async with aclosing(follow(self._store, [self._info.status_prefix.encode()], self._info.plural)) as turns:
            async for turn in turns:
                if turn.anew:
                    self._said.clear()
                    self._about.clear()
                for event in turn.events:
                    self._take(event.key.decode("utf-8", "replace"), event.value)
                if turn.whole and not self._whole:
                    self._note(*(self._has or ()))
                self._whole = turn.whole
        raise AssertionError("following never ends")

    def _take(self, key: str, value: bytes | None) -> None:
        name = self._info.parse_status_name(key)
        if name is None:
            return
        before = self._said.pop(name, None)
        if before is not None:
            self._about[_service_of(before)].discard(name)
        body = _read(value) if value is not None else None
        if body is not None:
            self._said[name] = body
            self._about.setdefault(_service_of(body), set()).add(name)
        self._note(name)

    async def _write(self) -> NoReturn:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._due and self._has is not None and self._whole and self._services.known:
                name = self._due.pop()
                try:
                    await self._settle(name, self._has)
                except ApiError as error:
                    self._put_off(name, error)
                    break

    def _put_off(self, name: Name, error: ApiError) -> None:
        """The API does not take it now, nor any other, as it seems."""
        self._due.add(name)
        if error.status not in _DENIED:
            _log.info("%s: told to the API later: %s", self._info.plural, error)
            asyncio.get_running_loop().call_later(AGAIN_S, self._changed.set)
            return
        _log.log(logging.DEBUG if self._denied else logging.WARNING, "not told to the API: %s", error)
        self._denied = True

    async def _settle(self, name: Name, has: dict[Name, _Report]) -> None:
        """Raises  ApiError."""
        said, there = self._said.get(name), has.get(name)
        uid = self._services.get(_service_of(said)) if said is not None else None
        if there is not None and (said is None or uid != there.uid):
            await self._api.delete(object_path(self._info, name))
            has.pop(name, None)
            there = None
        if said is None or uid is None:
            return
        if there is None:
            if not await self._api.create(collection_path(self._info, name.namespace), self._body(said, uid)):
                return
            there = has[name] = _Report(uid, {})
        if there.status != said["status"]:
            await self._api.patch(f"{object_path(self._info, name)}/status", {"status": said["status"]})
            has[name] = _Report(uid, said["status"])

    def _body(self, said: Json, uid: str) -> Json:
        owner = {"apiVersion": "v1", "kind": "Service", "name": _service_of(said).name, "uid": uid}
        metadata = {**said["metadata"], "annotations": {MARK: "true"}, "ownerReferences": [owner]}
        return {"apiVersion": self._info.api_version, "kind": self._info.kind, "metadata": metadata}


def _service_of(body: Json) -> Name:
    return Name(body["status"].get("serviceNamespace", ""), body["status"].get("serviceName", ""))


def _is_ours(body: Json) -> bool:
    return MARK in (body["metadata"].get("annotations") or {})


def _report_of(body: Json) -> _Report:
    owners = body["metadata"].get("ownerReferences") or [{}]
    return _Report(str(owners[0].get("uid", "")), body.get("status") or {})


def _read(value: bytes) -> Json | None:
    """What a node says; None of what cannot be read."""
    body = decode_or_none(value, Json)
    whole = body is not None and isinstance(body.get("status"), dict) and isinstance(body.get("metadata"), dict)
    return body if whole else None
