"""What was decided about Services, told to the API as Events: what `kubectl describe service` shows of a refusal.

In: our events in the datastore, which go there by themselves, and the Services of the API; out: Events of the same
names. One that the API has already is only given the time when it was last so. What cannot be told now is told later,
for as long as the datastore has it; what the API denies is not told. Of what was there before this process led, only
warnings are: the rest was told by who led before.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import NoReturn

from felixpy.datastore.follow import follow
from felixpy.datastore.model import Store
from felixpy.kube.client import Api, ApiError, Json
from felixpy.kube.service_uids import ServiceUids
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import BY_TYPE, Name

AGAIN_S = 5.0
_EVENTS = BY_TYPE["v1", "Event"]
_DENIED = (400, 403, 404, 422)
"""Asking again changes nothing: no right to, no such namespace, or one that goes."""

_log = logging.getLogger(__name__)


class ServiceEvents:
    """`serve` follows our events and tells them, of Services that the API has."""

    def __init__(self, api: Api, store: Store, services: ServiceUids) -> None:
        self._api = api
        self._store = store
        self._services = services
        self._due: dict[Name, Json] = {}
        self._changed = asyncio.Event()
        self._denied = False
        services.listeners.append(self._services_changed)

    def _services_changed(self, _: set[Name]) -> None:
        self._changed.set()

    async def serve(self) -> NoReturn:
        """Tells until cancelled.

        Raises  DatastoreError.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._tell_all())
        raise AssertionError("following never ends")

    async def _follow(self) -> NoReturn:
        async with aclosing(follow(self._store, [_EVENTS.prefix.encode()], "events")) as turns:
            async for turn in turns:
                if turn.anew:
                    self._due.clear()
                for event in turn.events:
                    self._take(event.key, event.value, news=turn.whole)
                self._changed.set()
        raise AssertionError("following never ends")

    def _take(self, key: bytes, value: bytes | None, *, news: bool) -> None:
        name = _EVENTS.parse_name(key.decode("utf-8", "replace"))
        if name is None:
            return
        self._due.pop(name, None)
        body = _read(value) if value is not None else None
        if body is not None and (news or body.get("type") == "Warning"):
            self._due[name] = body

    async def _tell_all(self) -> NoReturn:
        while True:
            await self._changed.wait()
            self._changed.clear()
            for name, body in list(self._due.items()):
                about = body["involvedObject"]
                uid = self._services.get(Name(name.namespace, about.get("name", "")))
                if uid is None:
                    continue
                if not await self._tell(name, {**body, "involvedObject": {**about, "uid": uid}}):
                    break
                if self._due.get(name) is body:
                    del self._due[name]

    async def _tell(self, name: Name, body: Json) -> bool:
        """Whether that is done with."""
        path = f"/api/v1/namespaces/{name.namespace}/events"
        try:
            if not await self._api.create(path, body):
                last = {"lastTimestamp": body.get("lastTimestamp"), "message": body.get("message", "")}
                await self._api.patch(f"{path}/{name.name}", last)
        except ApiError as error:
            if error.status in _DENIED:
                _log.log(logging.DEBUG if self._denied else logging.WARNING, "an event is not told: %s", error)
                self._denied = True
                return True
            _log.info("an event is told later: %s", error)
            asyncio.get_running_loop().call_later(AGAIN_S, self._changed.set)
            return False
        return True


def _read(value: bytes) -> Json | None:
    """An event about a Service; None of anything else."""
    body = decode_or_none(value, Json)
    about = body.get("involvedObject") if body is not None else None
    return body if isinstance(about, dict) and about.get("kind") == "Service" else None
