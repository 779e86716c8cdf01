"""The agent's CNI socket: takes the shim's requests, and does the DELs that it kept.

Imperative. In → out: connections on DIR/cni.sock → one answer each. One broken peer costs nobody else anything.
Must never look into a request (verbs.py does). Source: wire.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

from birdpy.unix_socket import listen
from felixpy.cni import wire
from felixpy.cni.backend import Backend
from felixpy.cni.channel import NotAllowed, receive_request, send_answer
from felixpy.cni.errors import CniError, Code, render_error
from felixpy.cni.netconf import NEWEST_VERSION
from felixpy.cni.pending import PendingDeletes
from felixpy.cni.plan import Attachment
from felixpy.cni.verbs import Limits, Verbs
from felixpy.cni.wire import Answer, WireError
from felixpy.metrics import Family

log = logging.getLogger(__name__)

BACKLOG = 512
CONNECTIONS_MAX = 256
"""Calls under way at once; the next wait in the socket's backlog."""
REPLAY_INTERVAL_S = 10.0
"""A shim may keep a DEL just as the agent starts."""
REPLAY_AGAIN_S = 1.0
"""A kept DEL may find the datastore away; doubled up to the usual interval while it stays so."""
_ACCEPT_PAUSE_S = 0.1


class CniServer:
    """Serves CNI for one node; everything that it decides with is the backend's."""

    def __init__(self, run_dir: Path, node: str, backend: Backend, limits: Limits | None = None) -> None:
        self._path = run_dir / wire.SOCKET_NAME
        self._verbs = Verbs(node, backend, PendingDeletes(run_dir), limits)
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)

    async def serve(self) -> None:
        """Listens until cancelled.

        Raises  OSError when there can be no socket in the run directory.
        """
        listener = listen(self._path, BACKLOG)
        identity = self._path.stat().st_ino
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._replay())
                tasks.create_task(self._verbs.serve_retired())
                await self._accept(listener, tasks)
        finally:
            listener.close()
            self._verbs.close()
            if self._path.exists() and self._path.stat().st_ino == identity:
                self._path.unlink()

    def families(self) -> Iterator[Family]:
        """How many calls there were, and how long they took."""
        yield from self._verbs.timings.families()

    async def collect(self, attachment: Attachment) -> bool:
        """Deletes an attachment whose device is missing, between the runtime's calls for it; see Verbs.collect."""
        return await self._verbs.collect(attachment)

    async def _accept(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._slots.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._slots.release()
                log.error("cannot take a connection: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            tasks.create_task(self._serve_one(connection))

    async def _serve_one(self, connection: socket.socket) -> None:
        try:
            with connection:
                await send_answer(connection, await self._answer(connection))
        except (OSError, TimeoutError) as error:
            log.info("a peer went away before its answer: %s", error)
        except Exception:
            log.exception("a connection failed")
        finally:
            self._slots.release()

    async def _answer(self, connection: socket.socket) -> Answer:
        try:
            received = await receive_request(connection)
        except (WireError, NotAllowed) as error:
            log.warning("refused a request: %s", error)
            return _refuse(str(error))
        try:
            request = wire.parse_request(received.frame)
            return await self._verbs.answer(request, received.netns)
        except WireError as error:
            log.warning("refused a request: %s", error)
            return _refuse(str(error))
        finally:
            received.close()

    async def _replay(self) -> None:
        again_s = REPLAY_AGAIN_S
        while True:
            remaining = 0
            try:
                remaining = await self._verbs.replay_pending()
            except OSError as error:
                log.warning("kept DELs cannot be read: %s", error)
            await self._verbs.wait_kept(again_s if remaining else REPLAY_INTERVAL_S)
            again_s = min(again_s * 2, REPLAY_INTERVAL_S) if remaining else REPLAY_AGAIN_S


def _refuse(why: str) -> Answer:
    return Answer(1, render_error(CniError(Code.DECODE, "the request is malformed", why), NEWEST_VERSION))
