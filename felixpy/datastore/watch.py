"""One etcd watch over several prefixes: WatchResponses in, batches of our events out.

All prefixes share one watch, over the smallest range that covers them; what lies between is dropped here. One watch is
one order: revisions never go back, and a transaction's events come together even when it writes below two prefixes.
(Two etcd watches, even on one stream, can be any number of revisions apart.) So the user needs read permission for
that whole range. `fragment` and progress requests stay off: the first costs etcd 3.4 ten times the CPU, and `etcd
grpc-proxy` never answers the second. Never resumes: the caller knows the last event that it handled; a response's
header does not.
Source: etcd 3.4 mvcc/watchable_store.go, etcdserver/api/v3rpc/watch.go.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc.aio

from felixpy.datastore import rpc
from felixpy.datastore.connection import Connection, is_token_refusal
from felixpy.datastore.model import Compacted, ConnectReason, Event, Unavailable

# etcd ends the stream when its member loses the leader, instead of leaving it silent
_NEEDS_LEADER = ("hasleader", "true")


def covering_range(prefixes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """First key and end of the smallest range with all keys below `prefixes`."""
    ends = [rpc.prefix_end(prefix) for prefix in prefixes]
    return min(prefixes) or b"\0", b"\0" if b"\0" in ends else max(ends)


async def watch(
    connection: Connection, prefixes: Sequence[bytes], start_revision: int
) -> AsyncGenerator[tuple[Event, ...], None]:
    """See model.Store.watch."""
    first, end = covering_range(prefixes)
    types = rpc.messages()
    request = types["WatchRequest"](
        create=types["WatchCreate"](key=first, range_end=end, start_revision=start_revision)
    )
    wanted = tuple(prefixes)
    for attempt in (1, 2):
        async with connection.stream(rpc.WATCH, _NEEDS_LEADER) as stream:
            await stream.write(request)
            while (response := await stream.read()) is not grpc.aio.EOF:
                if response.canceled:
                    if attempt == 1 and is_token_refusal(response.cancel_reason):
                        connection.forget_token()
                        break
                    raise _why_canceled(response, first, end)
                events = tuple(_event(event) for event in response.events if event.kv.key.startswith(wanted))
                if events:
                    yield events
            else:
                raise Unavailable(ConnectReason.UNREACHABLE, "etcd ended the watch")


def _event(event: Any) -> Event:
    pair = event.kv
    return Event(pair.key, None if event.type == rpc.DELETE else pair.value, pair.mod_revision)


def _why_canceled(response: Any, first: bytes, end: bytes) -> Compacted | Unavailable:
    if response.compact_revision:
        return Compacted(response.compact_revision)
    reason: str = response.cancel_reason
    if "permission denied" in reason:
        return Unavailable(ConnectReason.PERMISSION, f"reading keys from {first.decode()} to {end.decode()}: {reason}")
    if is_token_refusal(reason):
        return Unavailable(ConnectReason.AUTH, reason)
    return Unavailable(ConnectReason.UNREACHABLE, f"etcd ended the watch: {reason}")
