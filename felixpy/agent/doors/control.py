"""The control socket of a process: what a person on the node asks when the datastore cannot carry the question.

In: one JSON line per connection, from root or the process's own user; out: one JSON line. Serves a frozen process as
well: that is when it is needed. Never waits for a peer longer than REQUEST_TIMEOUT_S.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from birdpy.unix_socket import listen, peer_of
from felixpy.agent.doors.status import StatusReader
from felixpy.agent.settings import Settings
from felixpy.datastore.syncer import Syncer
from felixpy.flows.records import FlowsQuestion
from felixpy.status.answers import ControlAnswer, ControlRequest, control_socket, parse, render

_log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 5.0
REQUEST_MOST_BYTES = 64 * 1024


class ControlServer:
    """Serves one process's control socket in its run directory."""

    def __init__(self, settings: Settings, reader: StatusReader, syncer: Syncer) -> None:
        self._path = settings.run_dir / control_socket(settings.roles)
        self._reader = reader
        self._syncer = syncer

    async def serve(self) -> None:
        """Listens until cancelled.

        Raises  OSError when there can be no socket in the run directory.
        """
        server = await asyncio.start_unix_server(self._serve_one, sock=listen(self._path), limit=REQUEST_MOST_BYTES)
        async with server:
            await server.serve_forever()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                answer = await self._answer(reader, writer.get_extra_info("socket"))
                writer.write(render(answer) + b"\n")
                await writer.drain()
        except (OSError, TimeoutError) as error:
            _log.info("a peer of the control socket went away before its answer: %s", error)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, peer: socket.socket) -> ControlAnswer:
        asker = peer_of(peer)
        if not asker.is_allowed:
            return ControlAnswer(error=f"user {asker.uid} may not use this socket")
        try:
            request = parse(await reader.readline(), ControlRequest)
        except ValueError as error:
            return ControlAnswer(error=f"the request cannot be read: {error}")
        match request.op:
            case "status":
                return ControlAnswer(status=await self._reader.read(request.want))
            case "accept-cluster":
                accepted = self._syncer.accept()
                _log.warning("told to accept the cluster: %s", "done" if accepted else "there is none to accept")
                return ControlAnswer(status=await self._reader.read(), accepted=accepted)
            case "flows" if self._reader.agent is not None:
                return ControlAnswer(flows=await self._reader.agent.flows.answer(request.flows or FlowsQuestion()))
            case _:
                return ControlAnswer(error=f"there is no operation {request.op!r}")
