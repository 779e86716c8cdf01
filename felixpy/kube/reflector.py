"""One kind of the API, followed for ever: listed, then watched, and listed anew only when a watch cannot go on.

In: an Api and a path; out: calls of a Reader, in the order of the API's versions. A server that is away is asked again
after a while; so is a kind that the API does not have yet (a custom resource). Decides nothing.
Source: client-go/tools/cache (Reflector).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import NoReturn, Protocol

from felixpy.kube.client import SILENT, Api, ApiError, Change, Gone, Json

RETRY_FIRST_S, RETRY_MOST_S = 0.5, 30.0
RESUMED_MOST = 5
"""How often in a row a watch that breaks is taken up where it was, before all is listed anew."""
PASSING = (SILENT, 429, 500, 502, 503, 504)
"""What says nothing of the version that a watch has come to: nobody answers, or nobody can just now."""
ABSENT_S = 60.0
WATCH_LEAST_S = 1.0
"""A watch that ends earlier is one that something in between cuts off: it is not begun again at once."""

ALWAYS_THERE = "/api/v1/namespaces"

_log = logging.getLogger(__name__)


class Reader(Protocol):
    """Is told what the API has."""

    def listed(self, objects: list[Json]) -> None:
        """All there is."""

    def changed(self, body: Json) -> None:
        """An object is so now."""

    def deleted(self, body: Json) -> None:
        """An object is no more."""


async def reflect(
    api: Api, path: str, *readers: Reader, optional: bool = False, asked: asyncio.Event | None = None
) -> NoReturn:
    """Tells the readers, until cancelled; `asked` is set once they were told, or could not be for the first time.

    A kind that is not `optional` is always there: who denies it is no API server, or none yet, and says nothing of it.
    Nor is one that denies an optional kind and what is always there as well.
    """
    said, wait_s = "", RETRY_FIRST_S
    while True:
        try:
            try:
                version = await _list(api, path, readers)
            finally:
                if asked is not None:
                    asked.set()
            said, wait_s = "", RETRY_FIRST_S
            await _watch(api, path, version, readers)
        except Gone as error:
            _log.debug("listed anew: %s", error)
            await asyncio.sleep(random.uniform(0, RETRY_FIRST_S))
        except ApiError as error:
            if error.status == 404 and optional and await _is_api(api):
                _log.log(logging.DEBUG if said else logging.INFO, "the API has no %s: looked for again", path)
                for reader in readers:
                    reader.listed([])
                wait_s = ABSENT_S
            elif str(error) != said and error.status != SILENT:
                _log.warning("asked again later: %s", error)
            said = str(error)
            await asyncio.sleep(random.uniform(wait_s / 2, wait_s))
            wait_s = min(wait_s * 2, RETRY_MOST_S)


async def _is_api(api: Api) -> bool:
    """Whether the one who answers has what every API server has: others deny whatever they are asked for."""
    try:
        await api.list_page(ALWAYS_THERE)
    except ApiError:
        return False
    return True


async def _list(api: Api, path: str, readers: tuple[Reader, ...]) -> str:
    """The version of the list that the readers were told."""
    objects, version, more = await api.list_page(path)
    while more:
        page, version, more = await api.list_page(path, more)
        objects += page
    for reader in readers:
        reader.listed(objects)
    return version


@dataclass(slots=True)
class _Place:
    """How far a watch has come; whether it has `moved` since it broke."""

    version: str
    moved: bool = False


async def _watch(api: Api, path: str, version: str, readers: tuple[Reader, ...]) -> NoReturn:
    """One watch after the other, each from where the last one ended or broke.

    Raises  ApiError when all is to be listed anew.
    """
    place, broken = _Place(version), 0
    while True:
        began = time.monotonic()
        try:
            await _watch_once(api, path, place, readers)
        except ApiError as error:
            broken = 1 if place.moved else broken + 1
            if error.status not in PASSING or broken > RESUMED_MOST:
                raise
            _log.debug("taken up at version %s: %s", place.version, error)
            place.moved = False
            await asyncio.sleep(random.uniform(RETRY_FIRST_S / 2, RETRY_FIRST_S) * broken)
        else:
            broken = 0
            if time.monotonic() - began < WATCH_LEAST_S:
                await asyncio.sleep(random.uniform(RETRY_FIRST_S, 2 * RETRY_FIRST_S))


async def _watch_once(api: Api, path: str, place: _Place, readers: tuple[Reader, ...]) -> None:
    """Until the server ends the watch."""
    async with aclosing(api.watch(path, place.version)) as events:
        async for event in events:
            place.version, place.moved = event.version or place.version, True
            if event.change is Change.BOOKMARK:
                continue
            for reader in readers:
                (reader.deleted if event.change is Change.DELETED else reader.changed)(event.body)
