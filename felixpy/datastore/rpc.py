"""etcd's wire format: the messages and methods that we use, as tables of field numbers.

Messages carry only the fields that are used; protobuf skips the rest. Enums are int32 on the wire.
Source: etcd 3.4, etcdserver/etcdserverpb/rpc.proto and mvcc/mvccpb/kv.proto.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from birdpy.messages import Table, build_messages

PUT, DELETE = 0, 1
TARGET_CREATE, TARGET_MOD = 1, 2

_TABLE: Table = {
    "Header": {"cluster_id": (1, "uint64"), "member_id": (2, "uint64"), "revision": (3, "int64")},
    "KeyValue": {
        "key": (1, "bytes"),
        "create_revision": (2, "int64"),
        "mod_revision": (3, "int64"),
        "version": (4, "int64"),
        "value": (5, "bytes"),
        "lease": (6, "int64"),
    },
    "Event": {"type": (1, "int32"), "kv": (2, "KeyValue")},
    "RangeRequest": {
        "key": (1, "bytes"),
        "range_end": (2, "bytes"),
        "limit": (3, "int64"),
        "revision": (4, "int64"),
    },
    "RangeResponse": {"header": (1, "Header"), "kvs": (2, "repeated KeyValue"), "more": (3, "bool")},
    "PutRequest": {"key": (1, "bytes"), "value": (2, "bytes"), "lease": (3, "int64")},
    "PutResponse": {"header": (1, "Header")},
    "DeleteRequest": {"key": (1, "bytes")},
    "DeleteResponse": {"header": (1, "Header"), "deleted": (2, "int64")},
    "Compare": {
        "result": (1, "int32"),
        "target": (2, "int32"),
        "key": (3, "bytes"),
        "create_revision": (5, "oneof expected int64"),
        "mod_revision": (6, "oneof expected int64"),
    },
    "RequestOp": {
        "range": (1, "oneof request RangeRequest"),
        "put": (2, "oneof request PutRequest"),
        "delete": (3, "oneof request DeleteRequest"),
    },
    "ResponseOp": {
        "range": (1, "oneof response RangeResponse"),
        "put": (2, "oneof response PutResponse"),
        "delete": (3, "oneof response DeleteResponse"),
    },
    "TxnRequest": {
        "compare": (1, "repeated Compare"),
        "success": (2, "repeated RequestOp"),
        "failure": (3, "repeated RequestOp"),
    },
    "TxnResponse": {"header": (1, "Header"), "succeeded": (2, "bool"), "responses": (3, "repeated ResponseOp")},
    "CompactRequest": {"revision": (1, "int64"), "physical": (2, "bool")},
    "CompactResponse": {"header": (1, "Header")},
    "WatchCreate": {"key": (1, "bytes"), "range_end": (2, "bytes"), "start_revision": (3, "int64")},
    "WatchRequest": {"create": (1, "oneof request WatchCreate")},
    "WatchResponse": {
        "header": (1, "Header"),
        "created": (3, "bool"),
        "canceled": (4, "bool"),
        "compact_revision": (5, "int64"),
        "cancel_reason": (6, "string"),
        "events": (11, "repeated Event"),
    },
    "GrantRequest": {"ttl": (1, "int64")},
    "GrantResponse": {"header": (1, "Header"), "id": (2, "int64"), "ttl": (3, "int64")},
    "RevokeRequest": {"id": (1, "int64")},
    "RevokeResponse": {"header": (1, "Header")},
    "KeepAliveRequest": {"id": (1, "int64")},
    "KeepAliveResponse": {"header": (1, "Header"), "id": (2, "int64"), "ttl": (3, "int64")},
    "AuthenticateRequest": {"name": (1, "string"), "password": (2, "string")},
    "AuthenticateResponse": {"header": (1, "Header"), "token": (2, "string")},
    "StatusRequest": {},
    "StatusResponse": {"header": (1, "Header"), "version": (2, "string"), "leader": (4, "uint64")},
}


class Method(NamedTuple):
    """A gRPC method; `request` and `response` are names of messages."""

    path: str
    request: str
    response: str


RANGE = Method("/etcdserverpb.KV/Range", "RangeRequest", "RangeResponse")
PUT_KEY = Method("/etcdserverpb.KV/Put", "PutRequest", "PutResponse")
DELETE_RANGE = Method("/etcdserverpb.KV/DeleteRange", "DeleteRequest", "DeleteResponse")
TXN = Method("/etcdserverpb.KV/Txn", "TxnRequest", "TxnResponse")
COMPACT = Method("/etcdserverpb.KV/Compact", "CompactRequest", "CompactResponse")
WATCH = Method("/etcdserverpb.Watch/Watch", "WatchRequest", "WatchResponse")
GRANT = Method("/etcdserverpb.Lease/LeaseGrant", "GrantRequest", "GrantResponse")
REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", "RevokeRequest", "RevokeResponse")
KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", "KeepAliveRequest", "KeepAliveResponse")
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", "AuthenticateRequest", "AuthenticateResponse")
STATUS = Method("/etcdserverpb.Maintenance/Status", "StatusRequest", "StatusResponse")


@cache
def messages() -> dict[str, Any]:
    """The message classes by name, built on first use (about a millisecond)."""
    return build_messages("felixpy.etcd", _TABLE)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`; b"\\0", etcd's word for no end, where there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"
