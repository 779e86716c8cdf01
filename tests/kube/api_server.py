"""A Kubernetes API server as far as the importer can tell: lists in pages, watches with bookmarks, versions that go.

It keeps objects and a bounded history; every write has a version of its own. It runs on a thread of its own, so that a
test may stop and start it. with_kubernetes.py does the same with a real one.
Source: kubernetes.io/docs/reference/using-api/api-concepts.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

Json = dict[str, Any]
BOOKMARK_S = 0.2


@dataclass(frozen=True)
class Happened:
    """One entry of the history."""

    version: int
    path: str
    change: str
    body: Json


class ApiServer:
    """Listens on loopback while started. `absent` paths are not served, as those of custom resources may not be.

    Nothing may be created at `denied` ones.
    """

    def __init__(self, port: int, history: int = 1000) -> None:
        self.port = port
        self.absent: set[str] = set()
        self.denied: set[str] = set()
        self.token = "secret"
        self.lists: Counter[str] = Counter()
        self._history_most = history
        self._version = 100
        self._objects: dict[str, dict[str, Json]] = {}
        self._history: list[Happened] = []
        self._forgotten = 100
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running: list[web.AppRunner] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, path: str, name: str, body: Mapping[str, Any], namespace: str = "") -> None:
        """Creates or replaces an object of the collection at `path` (/api/v1/pods)."""
        key = f"{namespace}/{name}" if namespace else name
        with self._lock:
            self._version += 1
            there = self._objects.setdefault(path, {})
            meta = {
                "name": name,
                "uid": f"uid-{key}",
                **body.get("metadata", {}),
                "resourceVersion": str(self._version),
            }
            if namespace:
                meta["namespace"] = namespace
            change = "MODIFIED" if key in there else "ADDED"
            there[key] = {**body, "metadata": meta}
            self._happen(path, change, there[key])

    def delete(self, path: str, name: str, namespace: str = "") -> None:
        """Deletes an object."""
        key = f"{namespace}/{name}" if namespace else name
        with self._lock:
            self._version += 1
            self._happen(path, "DELETED", self._objects[path].pop(key))

    def get(self, path: str, name: str, namespace: str = "") -> Json:
        """An object as it is."""
        return self._objects[path][f"{namespace}/{name}" if namespace else name]

    def all(self, path: str) -> list[Json]:
        """Every object of a collection."""
        with self._lock:
            return list(self._objects.get(path, {}).values())

    def forget(self) -> None:
        """As after a compaction: who asks for the past is told that it is gone."""
        with self._lock:
            self._version += 1
            self._forgotten = self._version
            self._history.clear()

    def start(self) -> ApiServer:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def stop(self) -> None:
        """Breaks every connection."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._thread = None

    def _happen(self, path: str, change: str, body: Json) -> None:
        self._history.append(Happened(self._version, path, change, body))
        if len(self._history) > self._history_most:
            self._forgotten = self._history.pop(0).version

    def _run(self, started: threading.Event) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_get("/{path:.*}", self._read)
        app.router.add_patch("/{path:.*}", self._patch)
        app.router.add_post("/{path:.*}", self._create)
        app.router.add_delete("/{path:.*}", self._delete)
        runner = web.AppRunner(app, shutdown_timeout=0)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True).start())
        started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(_end(runner))
        self._loop.close()

    async def _read(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        path = request.path
        if path in self.absent:
            return _status(404, "the server could not find the requested resource")
        if request.query.get("watch") == "1":
            return await self._watch(request, path)
        return self._list(request, path)

    def _list(self, request: web.Request, path: str) -> web.Response:
        self.lists[path] += 1
        with self._lock:
            start = int(request.query.get("continue") or 0)
            limit = min(int(request.query.get("limit") or 500), 3)
            items = sorted(self._objects.get(path, {}).items())
            page = [body for _, body in items[start : start + limit]]
            more = str(start + limit) if start + limit < len(items) else ""
            meta = {"resourceVersion": str(self._version), "continue": more}
        return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": meta, "items": page})

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        if version < self._forgotten:
            return _status(410, "too old resource version")
        answer = web.StreamResponse()
        answer.content_type = "application/json"
        await answer.prepare(request)
        loop = asyncio.get_running_loop()
        marked = loop.time()
        while True:
            with self._lock:
                if version < self._forgotten:
                    gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
                    lines = [{"type": "ERROR", "object": gone}]
                else:
                    news = [one for one in self._history if one.version > version and one.path == path]
                    lines = [{"type": one.change, "object": one.body} for one in news]
                    version = self._version
            if not lines and loop.time() - marked > BOOKMARK_S:
                marked = loop.time()
                lines = [{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}]
            try:
                for line in lines:
                    await answer.write(json.dumps(line).encode() + b"\n")
            except ConnectionError:
                return answer
            if any(line["type"] == "ERROR" for line in lines):
                return answer
            await asyncio.sleep(0.02)

    async def _create(self, request: web.Request) -> web.Response:
        collection, namespace, *_ = _parts(request.path)
        if request.path in self.denied:
            return _status(403, "denied")
        body = json.loads(await request.read())
        name = body["metadata"]["name"]
        if f"{namespace}/{name}" in self._objects.get(collection, {}):
            return _status(409, "already exists")
        self.put(collection, name, body, namespace)
        return web.json_response(body, status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        collection, namespace, name, *_ = _parts(request.path)
        self.delete(collection, name, namespace)
        return web.json_response({})

    async def _patch(self, request: web.Request) -> web.Response:
        """A merge patch, two levels deep."""
        collection, namespace, name, *_ = _parts(request.path)
        body = dict(self.get(collection, name, namespace))
        for key, part in json.loads(await request.read()).items():
            body[key] = {**body.get(key, {}), **part} if isinstance(part, dict) else part
        self.put(collection, name, body, namespace)
        return web.json_response({})


def _parts(path: str) -> tuple[str, ...]:
    """The collection of all namespaces, the namespace, and what comes after it: a name, and what of the object."""
    root, _, rest = path.partition("/namespaces/")
    namespace, plural, *more = rest.split("/")
    return f"{root}/{plural}", namespace, *more


async def _end(runner: web.AppRunner) -> None:
    """Nothing is left: neither a call, nor the socket of a connection that came in the last moment."""
    await _cancel_others()
    await runner.cleanup()
    await _cancel_others()
    for _ in range(3):  # a transport that is closed gives its socket back in one of the loop's next turns
        await asyncio.sleep(0)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)
