"""The few calls of the Kubernetes API that the importer makes: lists in pages, watches with bookmarks, small writes.

In: an Access; out: objects as JSON. Each call has a deadline; a watch ends by itself after WATCH_S and is then silent,
not broken. Decides nothing. Source: kubernetes.io/docs/reference/using-api/api-concepts.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from felixpy.kube.access import Access, AccessError
from felixpy.resources.foreign_json import UNREADABLE, decode_or_none

Json = dict[str, Any]

PAGE = 500
SILENT = 0
CALL_S = 30.0
CONFLICT, UNAUTHORIZED = 409, 401
NOT_FOUND = 404
WATCH_S = 300
_log = logging.getLogger(__name__)
LINE_MOST_BYTES = 4 * 1024 * 1024
"""An object is at most etcd's 1.5 MiB; JSON of an event around it, with some room."""


class ApiError(Exception):
    """A call did not succeed; the text says which, and why. `status` SILENT: nobody answered."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Gone(ApiError):
    """The version to go on from is no longer known: list anew."""


class Change(StrEnum):
    """What a watch tells."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch; of a bookmark only the version counts."""

    change: Change
    body: Json

    @property
    def version(self) -> str:
        return str(self.body["metadata"]["resourceVersion"])


class _Line(msgspec.Struct):
    type: str
    object: Json


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _Metadata
    items: list[Json] | None = None


class Api:
    """One connection pool to an API server; use it as a context.

    `read_again` is asked for the access as it is by then whenever nobody answers or the server does not know us:
    certificates, tokens and servers are changed while we run.
    """

    def __init__(self, access: Access, read_again: Callable[[], Access] | None = None) -> None:
        self._access = access
        self._read_again = read_again
        self._session: aiohttp.ClientSession | None = None
        self._away = False

    async def __aenter__(self) -> Api:
        timeout = aiohttp.ClientTimeout(total=CALL_S, sock_connect=5.0)
        self._session = aiohttp.ClientSession(timeout=timeout, read_bufsize=LINE_MOST_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def list_page(self, path: str, continued: str = "") -> tuple[list[Json], str, str]:
        """Some objects, the version of the list, and what to continue with ("" at its end).

        Raises  ApiError; Gone when what was to be continued is no longer known.
        """
        body = await self._call("GET", path, {"limit": str(PAGE), **({"continue": continued} if continued else {})})
        try:
            page = msgspec.json.decode(body, type=_List)
        except UNREADABLE as error:
            raise ApiError(0, f"GET {path}: {error}") from None
        return page.items or [], page.metadata.resource_version, page.metadata.continue_

    async def watch(self, path: str, version: str) -> AsyncGenerator[WatchEvent, None]:
        """What changes after `version`, until the server ends the watch.

        Raises  ApiError; Gone.
        """
        query = {
            "watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S),
        }  # fmt: skip
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=WATCH_S + CALL_S)
        try:
            async with self._request("GET", path, query, timeout=timeout) as answer:
                self._answered()
                await _check(answer, f"watch {path}")
                async for line in answer.content:
                    event = _read_line(line, path)
                    if event is not None:
                        yield event
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise self._silent(f"watch {path}: {error or type(error).__name__}") from None
        except ApiError as error:
            if error.status == UNAUTHORIZED:
                self._renew()
            raise

    async def patch(self, path: str, body: Mapping[str, object]) -> None:
        """A merge patch (RFC 7386).

        Raises  ApiError.
        """
        await self._call("PATCH", path, {}, msgspec.json.encode(body))

    async def create(self, path: str, body: Mapping[str, object]) -> bool:
        """Creates an object in a collection; False where there is one of that name.

        Raises  ApiError.
        """
        try:
            await self._call("POST", path, {}, msgspec.json.encode(body))
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            return False
        return True

    async def delete(self, path: str) -> None:
        """One object; that it is gone already is as good.

        Raises  ApiError.
        """
        try:
            await self._call("DELETE", path, {})
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise

    def _silent(self, words: str) -> ApiError:
        """Nobody answers, which is said once, whoever asks."""
        if not self._away:
            _log.warning("the API server is away, and asked again: %s", words)
        self._away = True
        self._renew()
        return ApiError(SILENT, words)

    def _answered(self) -> None:
        if self._away:
            _log.info("the API server answers again")
        self._away = False

    async def _call(self, method: str, path: str, query: Mapping[str, str], body: bytes | None = None) -> bytes:
        try:
            async with self._request(method, path, query, body) as answer:
                self._answered()
                await _check(answer, f"{method} {path}")
                return await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._silent(f"{method} {path}: {error or type(error).__name__}") from None
        except ApiError as error:
            if error.status == UNAUTHORIZED:
                self._renew()
            raise

    def _renew(self) -> None:
        """Files that are being written, or wrong, leave what there was."""
        if self._read_again is not None:
            try:
                self._access = self._read_again()
            except AccessError as error:
                _log.warning("the access to the API stays as it was: %s", error)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> aiohttp.client._RequestContextManager:
        assert self._session is not None, "used outside its context"
        token = self._access.read_token()
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        return self._session.request(
            method,
            self._access.url + path,
            params=query,
            data=body,
            headers=headers,
            ssl=self._access.tls or True,
            timeout=timeout or self._session.timeout,
        )


async def _check(answer: aiohttp.ClientResponse, what: str) -> None:
    if answer.status < 400:
        return
    words = f"{what}: {answer.status}: {_message(await answer.read())}"
    raise (Gone if answer.status == 410 else ApiError)(answer.status, words)


def _read_line(line: bytes, path: str) -> WatchEvent | None:
    """An event of a watch; None for one of a kind that is not known.

    Raises  ApiError; Gone.
    """
    try:
        read = msgspec.json.decode(line, type=_Line)
    except UNREADABLE as error:
        raise ApiError(0, f"watch {path}: {error}") from None
    if read.type == "ERROR":
        status = int(read.object.get("code") or 0)
        words = f"watch {path}: {status}: {read.object.get('message', '')}"
        raise (Gone if status == 410 else ApiError)(status, words)
    return WatchEvent(Change(read.type), read.object) if read.type in tuple(Change) else None


def _message(body: bytes) -> str:
    """What a Status says; the body's beginning where it is something else."""
    status = decode_or_none(body, dict[str, Any])
    return str(status.get("message", "")) if status is not None else body[:200].decode("utf-8", "replace")
