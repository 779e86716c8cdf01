"""What the status of some objects is to say in the API: told where it says something else, and again where that fails.

In: objects of the API, and what is to be there, by object; out: merge patches of the status subresource, one after the
other. Where we may not patch, that is said once and tried again after a while. Decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from felixpy.kube.client import Api, ApiError, Json
from felixpy.kube.convert import name_of, object_path
from felixpy.resources.kinds import KindInfo, Name

AGAIN_S = 5.0
DENIED_S = 60.0
DENIED = (401, 403)
GONE = 404

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class StatusPatches(ABC, Generic[_T]):
    """A Reader of the API's objects of a kind: `read` finds what one has, `render` makes the patch to what it should.

    `wants`, by object, is set with `note` of its name. An object that is not in it is left alone.
    """

    def __init__(self, api: Api, info: KindInfo, read: Callable[[Json], _T], render: Callable[[_T, _T], Json]) -> None:
        self.has: dict[Name, _T] = {}
        self.wants: dict[Name, _T] = {}
        self._api = api
        self._info = info
        self._read = read
        self._render = render
        self._due: set[Name] = set()
        self._changed = asyncio.Event()
        self._denied = False

    def note(self, *names: Name) -> None:
        """Of these something is otherwise."""
        self._due.update(names)
        self._changed.set()

    def listed(self, objects: list[Json]) -> None:
        self.has = {name_of(body): self._read(body) for body in objects}
        self.note(*self.has)

    def changed(self, body: Json) -> None:
        self.has[name_of(body)] = self._read(body)
        self.note(name_of(body))

    def deleted(self, body: Json) -> None:
        """What it should have stays known: one of the same name that comes at once is told it."""
        self.has.pop(name_of(body), None)

    @abstractmethod
    async def _follow(self) -> NoReturn:
        """Keeps `wants` as the datastore has it, until cancelled. Raises DatastoreError."""

    async def serve(self) -> NoReturn:
        """Follows and patches until cancelled.

        Raises  DatastoreError.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._patch_due())
        raise AssertionError("following never ends")

    async def _patch_due(self) -> NoReturn:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._due:
                name = self._due.pop()
                if name in self.has and name in self.wants and self.has[name] != self.wants[name]:
                    await self._patch(name, self.has[name], self.wants[name])

    async def _patch(self, name: Name, has: _T, wants: _T) -> None:
        try:
            await self._api.patch(f"{object_path(self._info, name)}/status", self._render(has, wants))
        except ApiError as error:
            if error.status == GONE:
                return
            if error.status in DENIED:
                _log.log(logging.DEBUG if self._denied else logging.WARNING, "not told to the API: %s", error)
                self._denied = True
                await asyncio.sleep(DENIED_S)
                self.note(name)
                return
            _log.warning("%s %s: told to the API later: %s", self._info.kind, name, error)
            asyncio.get_running_loop().call_later(AGAIN_S, self.note, name)
        else:
            self._denied = False
            self.has[name] = wants
            _log.info("%s %s: the API knows %s", self._info.kind, name, wants)
