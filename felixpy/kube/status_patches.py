"""What the status of some objects is to say in the API: told where it says something else, and again where that fails.

In: what the API has and what is to be there, by object; out: merge patches of the status subresource, one after the
other. Where we may not patch, that is said once and tried again after a while. Decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from felixpy.kube.client import Api, ApiError, Json
from felixpy.kube.convert import object_path
from felixpy.resources.kinds import KindInfo, Name

AGAIN_S = 5.0
DENIED_S = 60.0
DENIED = (401, 403)
GONE = 404

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class StatusPatches(Generic[_T]):
    """`has` and `wants` by object, to be set with `note` of its name; `render` makes the patch from one to the other.

    An object that is not in `wants` is left alone, and so is one that is not in `has`.
    """

    def __init__(self, api: Api, info: KindInfo, render: Callable[[_T, _T], Json]) -> None:
        self.has: dict[Name, _T] = {}
        self.wants: dict[Name, _T] = {}
        self._api = api
        self._info = info
        self._render = render
        self._due: set[Name] = set()
        self._changed = asyncio.Event()
        self._denied = False

    def note(self, *names: Name) -> None:
        """Of these something is otherwise."""
        self._due.update(names)
        self._changed.set()

    async def serve(self) -> NoReturn:
        """Patches until cancelled."""
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
