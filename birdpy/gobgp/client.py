"""Calls to gobgpd over its UNIX socket: finds out which version it speaks to, and gives every failure one type.

No stubs: a call is a path and two message classes. Decides nothing. Source: gRPC over HTTP/2 (grpc.aio).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from birdpy.gobgp.h2 import StreamEnded, read_stream
from birdpy.gobgp.wire import Message, Wire, wire_of

CALL_DEADLINE_S = 10.0
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""A version 3 snapshot is one message, of 34 MB at 110,000 paths."""


class GobgpError(Exception):
    """gobgpd refused or failed a call. Its codes say nothing (all UNKNOWN), only the text does."""

    def __init__(self, call: str, detail: str) -> None:
        super().__init__(f"{call}: {detail}")
        self.call = call
        self.detail = detail


class GobgpUnavailable(GobgpError):
    """gobgpd does not answer: it is not there, or it went away during the call."""


class GobgpClient:
    """A connection to one gobgpd. Use `connect`; `wire` is how to write to it."""

    def __init__(self, channel: Any, wire: Wire, socket_path: Path) -> None:
        self._channel = channel
        self.socket_path = socket_path
        self.wire = wire

    @classmethod
    async def connect(cls, socket_path: Path, patience_s: float = CALL_DEADLINE_S) -> GobgpClient:
        """Connects and asks for the version, which has to be answered within `patience_s`.

        Raises  GobgpUnavailable when nobody answers; GobgpError when what answers is no GoBGP 3 or 4.
        """
        channel = grpc.aio.insecure_channel(f"unix:{socket_path}", options=_OPTIONS)
        try:
            for generation in (4, 3):
                client = cls(channel, wire_of(generation), socket_path)
                try:
                    await client.call("GetBgp", client.message("Empty"), "GlobalCall", patience_s)
                except GobgpUnavailable:
                    raise
                except GobgpError as error:
                    if error.detail.startswith("UNIMPLEMENTED"):
                        continue
                    raise
                return client
        except BaseException:
            await channel.close()
            raise
        await channel.close()
        raise GobgpError("GetBgp", f"what listens on {socket_path} is neither GoBGP 3 nor 4")

    async def close(self) -> None:
        """Ends every call and stream."""
        await self._channel.close()

    def message(self, kind: str, **fields: Any) -> Message:
        """A message of this version."""
        return self.wire.messages[kind](**fields)

    async def call(
        self, name: str, argument: Message, reply: str = "Empty", within_s: float = CALL_DEADLINE_S
    ) -> Message:
        """One call with one reply.

        Raises  GobgpUnavailable, GobgpError.
        """
        method = self._channel.unary_unary(
            self.wire.service + name,
            request_serializer=_serialize,
            response_deserializer=self.wire.messages[reply].FromString,
        )
        try:
            return await method(argument, timeout=within_s)
        except grpc.aio.AioRpcError as error:
            raise _error(name, error) from None

    async def send_stream(self, name: str, arguments: Iterable[Message]) -> None:
        """One call with many arguments and an empty reply.

        Raises  GobgpUnavailable, GobgpError.
        """
        method = self._channel.stream_unary(
            self.wire.service + name,
            request_serializer=_serialize,
            response_deserializer=self.wire.messages["Empty"].FromString,
        )

        async def requests() -> AsyncIterator[Message]:
            for argument in arguments:
                yield argument

        try:
            await method(requests())
        except grpc.aio.AioRpcError as error:
            raise _error(name, error) from None

    async def stream(self, name: str, argument: Message, reply: str) -> AsyncIterator[Message]:
        """One call with many replies, until the other side ends it or the iterator is closed.

        Raises  GobgpUnavailable, GobgpError.
        """
        method = self._channel.unary_stream(
            self.wire.service + name,
            request_serializer=_serialize,
            response_deserializer=self.wire.messages[reply].FromString,
        )
        running = method(argument)
        try:
            async for message in running:
                yield message
        except grpc.aio.AioRpcError as error:
            raise _error(name, error) from None
        finally:
            running.cancel()

    async def watch(self, name: str, argument: Message) -> AsyncGenerator[list[bytes], None]:
        """One call with replies without end, as many at a time as have come; each as it was sent.

        Raises  GobgpUnavailable when it ends even so.
        """
        method = self.wire.service + name
        async with aclosing(read_stream(self.socket_path, method, argument.SerializeToString())) as chunks:
            try:
                async for chunk in chunks:
                    yield chunk
            except StreamEnded as error:
                raise GobgpUnavailable(name, str(error)) from None


def _serialize(message: Message) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


def _error(name: str, error: Any) -> GobgpError:
    code, text = error.code(), error.details() or ""
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return GobgpUnavailable(name, f"{code.name}: {text}")
    return GobgpError(name, f"{code.name}: {text}")
