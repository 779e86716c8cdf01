"""What the watch has told of this node's endpoints and pods, and of the namespaces: values as they are stored.

In: events; out: the last value of a key, or None when it has to be asked for. Saves an ADD and a DEL a read each. It
may be old by as much as the watch is: whoever writes on the strength of it compares the revision.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from felixpy.datastore.model import Event, KeyValue
from felixpy.resources.kinds import CALICO, KINDS, KindInfo


def _kind(kind: str, api_version: str = CALICO) -> KindInfo:
    return next(info for info in KINDS if (info.kind, info.api_version) == (kind, api_version))


ENDPOINTS = _kind("WorkloadEndpoint")
PROFILES = _kind("Profile")
PODS = _kind("Pod", "v1")
NAMESPACES = _kind("Namespace", "v1")
_ENDPOINT_PREFIX, _POD_PREFIX, _NAMESPACE_PREFIX = (kind.prefix.encode() for kind in (ENDPOINTS, PODS, NAMESPACES))


class _Placed(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _PlacedPod(msgspec.Struct):
    spec: _Placed


class OwnObjects:
    """Those of one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._endpoint_start = f"{node.replace('-', '--')}-".encode()
        self._endpoints: dict[bytes, KeyValue] = {}
        self._others: dict[bytes, KeyValue] = {}

    def observe(self, event: Event) -> None:
        """Takes an event of any key."""
        key, value = event.key, event.value
        if key.startswith(_ENDPOINT_PREFIX):
            if key.rpartition(b"/")[2].startswith(self._endpoint_start):
                _note(self._endpoints, event)
        elif (
            key.startswith(_NAMESPACE_PREFIX)
            or key in self._others
            or (key.startswith(_POD_PREFIX) and value is not None and self._is_here(value))
        ):
            _note(self._others, event)

    @property
    def endpoints(self) -> Mapping[bytes, KeyValue]:
        """Endpoints by key: this node's, and perhaps some of nodes whose names begin like its own."""
        return self._endpoints

    def get(self, key: bytes) -> KeyValue | None:
        """A pod of this node, or a namespace; None when it is not known."""
        return self._others.get(key)

    def _is_here(self, pod: bytes) -> bool:
        if self._node.encode() not in pod:
            return False
        try:
            return msgspec.json.decode(pod, type=_PlacedPod).spec.node_name == self._node
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False


def _note(known: dict[bytes, KeyValue], event: Event) -> None:
    if event.value is None:
        known.pop(event.key, None)
    else:
        known[event.key] = KeyValue(event.key, event.value, event.mod_revision)
