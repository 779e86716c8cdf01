"""HTTP for what machines ask of a node: metrics, health. GET and HEAD, one answer a connection.

In: listeners that should be, each with what answers there; out: sockets that are so. A port that is taken is tried
again until it is free or unwanted, and said once. A peer gets REQUEST_TIMEOUT_S, and at most CONNECTIONS_MOST are
served at once, others closed. Never reads a body.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import NoReturn

import h11

from felixpy.agent.listener import Listener

_log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 10.0
REQUEST_MOST_BYTES = 16 * 1024
CONNECTIONS_MOST = 64
BIND_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Page:
    """One answer."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


NOT_FOUND = Page(b"there is no such page\n", HTTPStatus.NOT_FOUND)
_NOT_ALLOWED = Page(b"only GET and HEAD\n", HTTPStatus.METHOD_NOT_ALLOWED)
_BROKEN = Page(b"the answer could not be made; the log says why\n", HTTPStatus.INTERNAL_SERVER_ERROR)

Answerer = Callable[[str], Awaitable[Page]]
"""From the path of a request to its answer."""


class HttpServer:
    """Listens where it is wanted, with tasks in `group`."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._wanted: dict[Listener, Answerer] = {}
        self._tasks: dict[Listener, asyncio.Task[NoReturn]] = {}
        self._places = asyncio.Semaphore(CONNECTIONS_MOST)

    def want(self, listeners: Mapping[Listener, Answerer]) -> None:
        """Listens there, and nowhere else."""
        for gone in self._wanted.keys() - listeners.keys():
            self.drop(gone)
        for listener, answer in listeners.items():
            self.put(listener, answer)

    def put(self, listener: Listener, answer: Answerer) -> None:
        """Listens there too, with that answer from now on."""
        self._wanted[listener] = answer
        if listener not in self._tasks:
            self._tasks[listener] = self._group.create_task(self._listen(listener))

    def drop(self, listener: Listener) -> None:
        """Listens there no longer."""
        if self._wanted.pop(listener, None) is not None:
            self._tasks.pop(listener).cancel()

    async def _listen(self, listener: Listener) -> NoReturn:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._places.locked():
                writer.close()
                return
            async with self._places:
                await self._serve_one(listener, reader, writer)

        said = ""
        while True:
            try:
                server = await asyncio.start_server(serve, listener.host or None, listener.port)
            except OSError as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning("cannot listen at %s, which is tried again: %s", listener, error)
                await asyncio.sleep(BIND_AGAIN_S)
                continue
            async with server:
                await server.serve_forever()

    async def _serve_one(self, listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_MOST_BYTES)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                request = await _read_request(connection, reader)
                page = await self._answer(listener, request)
                writer.write(_render(connection, page, whole=request.method != b"HEAD"))
                await writer.drain()
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            writer.write(_render(connection, Page(f"{error}\n".encode(), status)))
        except (OSError, TimeoutError, EOFError):
            pass
        finally:
            writer.close()

    async def _answer(self, listener: Listener, request: h11.Request) -> Page:
        answer = self._wanted.get(listener)
        if request.method not in (b"GET", b"HEAD"):
            return _NOT_ALLOWED
        path = request.target.decode("ascii", "replace").partition("?")[0]
        try:
            return NOT_FOUND if answer is None else await answer(path)
        except Exception:  # a page that cannot be made ends neither the node nor its other pages
            _log.exception("the page %s of %s", path, listener)
            return _BROKEN


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request:
    """Raises  h11.RemoteProtocolError; EOFError when the peer goes away first."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            raise EOFError
        connection.receive_data(await reader.read(REQUEST_MOST_BYTES))


def _render(connection: h11.Connection, page: Page, whole: bool = True) -> bytes:
    """The answer; without its body where that is not `whole`."""
    headers = [
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(page.body))),
        ("Connection", "close"),
        *page.headers,
    ]
    head = h11.Response(status_code=page.status, headers=headers, reason=page.status.phrase.encode())
    body = (h11.Data(data=page.body),) if whole else ()
    sent = (connection.send(event) or b"" for event in (head, *body, h11.EndOfMessage()))
    return b"".join(sent)
