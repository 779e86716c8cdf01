"""The connection to the cluster: one channel per member, our own picker, the token, a deadline on every call.

In: a method and a request; out: the response, from whichever member gives one. A call goes to the current member; when
that one fails, to the next, until the deadline. One channel per member, because TLS then checks each member's own
name. A channel whose transport failed is replaced, so that renewed certificate files are read. Errors leave as
DatastoreError.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio

from felixpy.datastore import rpc
from felixpy.datastore.model import ConnectReason, DatastoreError, Unavailable
from felixpy.datastore.probe import diagnose
from felixpy.datastore.settings import Endpoint, EtcdSettings

KEEPALIVE_MS = 10_000  # etcd refuses pings that are closer than 5 s (--grpc-keepalive-min-time)
KEEPALIVE_TIMEOUT_MS = 5_000
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 0.5
CLOSE_GRACE_S = 1.0
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
# what etcd answers when a token is missing, expired or of an older auth revision: its api/v3rpc/rpctypes/error.go
TOKEN_REFUSALS = (
    "invalid auth token",
    "user name is empty",
    "revision of auth store is old",
    "auth revision in header",
)
_TOO_LARGE = "it takes values of 1.5 MB at the most (--max-request-bytes): make several objects of this one"
_ADVICE = {
    "database space exceeded": "it is full, and takes no writes until it is compacted, defragmented and its alarm"
    " disarmed (etcdctl)",
    "request is too large": _TOO_LARGE,
    "received message larger than max": _TOO_LARGE,
}
"""What helps, by etcd's and grpc's words."""
_SYSTEM_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")


class Reply(NamedTuple):
    """A response. `repeated`: an earlier attempt of the call failed, and may nevertheless have been carried out."""

    message: Any
    repeated: bool


class Connection:
    """The members of one etcd cluster, as one thing to call."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._settings = settings
        self._members = [_Member(endpoint, settings) for endpoint in settings.endpoints]
        self._current = 0
        self._token: str | None = None
        self._token_lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def call(self, method: rpc.Method, request: Any) -> Reply:
        """Calls `method` within the deadline, at as many members as it takes.

        Raises  Unavailable when no member answers; DatastoreError when one refuses the request itself.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.deadline_s
        patience = max(1.0, self._settings.deadline_s / len(self._members))
        wait_s, broken, repeated, refused_token = FIRST_WAIT_S, 0, False, False
        while True:
            member, left = self._members[self._current], deadline - loop.time()
            try:
                metadata = await self._metadata(member, left)
                return Reply(await member.call(method, request, metadata, max(0.05, min(left, patience))), repeated)
            except grpc.aio.AioRpcError as error:
                if is_token_refusal(error.details()) and self._settings.username and not refused_token:
                    refused_token, self._token = True, None
                    continue
                if not may_retry(error):
                    raise refusal(member.endpoint, error) from None
                repeated = True
                broken = 0 if is_from_etcd(error) else broken + 1
                await self._leave(member, error)
                expired = loop.time() + wait_s >= deadline
                if expired or broken >= len(self._members):
                    await self._raise_unless_usable(member, error, expired)
                    broken = 0
            await asyncio.sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)

    @asynccontextmanager
    async def stream(self, method: rpc.Method, *metadata: tuple[str, str]) -> AsyncGenerator[Any, None]:
        """A bidirectional stream with the current member, ended on leaving.

        Raises  Unavailable when it breaks, from the body too; the next one then goes to the next member.
        """
        member = self._members[self._current]
        stream = None
        try:
            token = await self._metadata(member, self._settings.deadline_s)
            stream = member.open_stream(method, (*token, *metadata))
            yield stream
        except grpc.aio.AioRpcError as error:
            await self._leave(member, error)
            raise await self._explain(member, error) from None
        except asyncio.InvalidStateError:  # what grpc says of a write to a stream that ended while nobody read from it
            raise Unavailable(ConnectReason.UNREACHABLE, f"{member.endpoint}: the stream has ended") from None
        except asyncio.CancelledError:
            if is_cancelled_by_caller():
                raise
            raise Unavailable(ConnectReason.UNREACHABLE, f"{member.endpoint}: the stream was closed") from None
        finally:
            if stream is not None:
                stream.cancel()

    def forget_token(self) -> None:
        """The next call logs in anew."""
        self._token = None

    async def close(self) -> None:
        """Ends all channels and what runs over them."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, *(member.close(None) for member in self._members), return_exceptions=True)

    async def _metadata(self, member: _Member, left_s: float) -> tuple[tuple[str, str], ...]:
        if not self._settings.username:
            return ()
        async with self._token_lock:
            if self._token is None:
                self._token = await self._login(member, left_s)
        return (("token", self._token),) if self._token else ()

    async def _login(self, member: _Member, left_s: float) -> str:
        login = rpc.messages()["AuthenticateRequest"](name=self._settings.username, password=self._settings.password)
        try:
            answer = await member.call(rpc.AUTHENTICATE, login, (), max(0.05, left_s))
        except grpc.aio.AioRpcError as error:
            if "authentication is not enabled" in (error.details() or ""):
                return ""
            if may_retry(error):
                raise
            raise Unavailable(ConnectReason.AUTH, f"{member.endpoint}: {error.details()}") from None
        return str(answer.token)

    async def _leave(self, member: _Member, error: grpc.aio.AioRpcError) -> None:
        """Moves on from a member that failed, unless another call already did."""
        if self._members[self._current] is not member:
            return
        index = self._current
        self._current = (index + 1) % len(self._members)
        if not is_from_etcd(error):
            self._members[index] = _Member(member.endpoint, self._settings)
            task = asyncio.create_task(member.close(CLOSE_GRACE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _raise_unless_usable(self, member: _Member, error: grpc.aio.AioRpcError, expired: bool) -> None:
        if is_from_etcd(error):
            raise Unavailable(ConnectReason.NO_LEADER, f"{member.endpoint}: {error.details()}") from None
        finding = await diagnose(self._settings.endpoints, self._settings)
        if finding is not None:
            raise Unavailable(finding.reason, finding.detail) from None
        if expired:
            raise Unavailable(ConnectReason.UNREACHABLE, f"{member.endpoint}: {error.details()}") from None

    async def _explain(self, member: _Member, error: grpc.aio.AioRpcError) -> DatastoreError:
        if not may_retry(error):
            return refusal(member.endpoint, error)
        if is_from_etcd(error):
            return Unavailable(ConnectReason.NO_LEADER, f"{member.endpoint}: {error.details()}")
        finding = await diagnose([member.endpoint], self._settings)
        if finding is not None:
            return Unavailable(finding.reason, finding.detail)
        return Unavailable(ConnectReason.UNREACHABLE, f"{member.endpoint}: the stream ended: {error.details()}")


class _Member:
    """One member's channel, opened on first use."""

    def __init__(self, endpoint: Endpoint, settings: EtcdSettings) -> None:
        self.endpoint = endpoint
        self._settings = settings
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, Any] = {}

    async def call(
        self, method: rpc.Method, request: Any, metadata: tuple[tuple[str, str], ...], timeout: float
    ) -> Any:
        call = self._calls.get(method.path) or self._prepare(method, stream=False)
        try:
            return await call(request, metadata=metadata, timeout=timeout)
        except asyncio.CancelledError:
            if is_cancelled_by_caller():
                raise
            raise Unavailable(ConnectReason.UNREACHABLE, f"{self.endpoint}: the connection was closed") from None

    def open_stream(self, method: rpc.Method, metadata: tuple[tuple[str, str], ...]) -> Any:
        call = self._calls.get(method.path) or self._prepare(method, stream=True)
        return call(metadata=metadata)

    def _prepare(self, method: rpc.Method, stream: bool) -> Any:
        if self._channel is None:
            self._channel = open_channel(self.endpoint, self._settings)
        build = self._channel.stream_stream if stream else self._channel.unary_unary
        types = rpc.messages()
        call = build(
            method.path,
            request_serializer=types[method.request].SerializeToString,
            response_deserializer=types[method.response].FromString,
        )
        self._calls[method.path] = call
        return call

    async def close(self, grace_s: float | None) -> None:
        if self._channel is not None:
            await self._channel.close(grace_s)


def open_channel(endpoint: Endpoint, settings: EtcdSettings) -> grpc.aio.Channel:
    """A channel to one member; reads the certificate files.

    Raises  Unavailable when a certificate file cannot be read.
    """
    if not endpoint.tls:
        return grpc.aio.insecure_channel(endpoint.target, options=_OPTIONS)
    roots = settings.ca or (_SYSTEM_ROOTS if _SYSTEM_ROOTS.exists() else None)
    try:
        pem = [path.read_bytes() if path else None for path in (roots, settings.key, settings.cert)]
    except OSError as error:
        raise Unavailable(ConnectReason.TLS_CLIENT, f"{endpoint}: our certificates cannot be read: {error}") from None
    return grpc.aio.secure_channel(endpoint.target, grpc.ssl_channel_credentials(*pem), options=_OPTIONS)


def is_from_etcd(error: grpc.aio.AioRpcError) -> bool:
    """Whether a member answered, and said this itself."""
    return (error.details() or "").startswith("etcdserver:")


def is_token_refusal(text: str | None) -> bool:
    """Whether etcd refuses the token rather than the request."""
    return any(words in (text or "") for words in TOKEN_REFUSALS)


def may_retry(error: grpc.aio.AioRpcError) -> bool:
    """Whether another member, or the same one later, may carry out the call."""
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) or (
        # a member that is stopping ends its calls like this
        error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN) and not is_from_etcd(error)
    )


def refusal(endpoint: Endpoint, error: grpc.aio.AioRpcError) -> DatastoreError:
    """The error for a request that etcd refuses."""
    text = f"{endpoint}: {error.details()}"
    if error.code() == grpc.StatusCode.PERMISSION_DENIED:
        return Unavailable(ConnectReason.PERMISSION, text)
    if error.code() == grpc.StatusCode.UNAUTHENTICATED or is_token_refusal(error.details()):
        return Unavailable(ConnectReason.AUTH, text)
    advice = next((f"; {helps}" for words, helps in _ADVICE.items() if words in text), "")
    return Refused(text + advice, error.details() or "")


class Refused(DatastoreError):
    """etcd does not carry out this request; `words` are its own."""

    def __init__(self, text: str, words: str) -> None:
        super().__init__(text)
        self.words = words


def is_cancelled_by_caller() -> bool:
    """Whether the running task was asked to stop; grpc.aio raises CancelledError also when its channel is closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
