"""What the watch has told of this node's endpoints and pods, and of the namespaces: values as they are stored.

In: events; out: the last value of a key, or None when it has to be asked for. Saves an ADD and a DEL a read each. It
may be old by as much as the watch is: whoever writes on the strength of it compares the revision.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from felixpy.datastore.model import Event, KeyValue
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import BY_TYPE, CALICO, Name

ENDPOINTS = BY_TYPE[CALICO, "WorkloadEndpoint"]
PROFILES = BY_TYPE[CALICO, "Profile"]
PODS = BY_TYPE["v1", "Pod"]
NAMESPACES = BY_TYPE["v1", "Namespace"]
_ENDPOINT_PREFIX, _POD_PREFIX, _NAMESPACE_PREFIX = (kind.prefix.encode() for kind in (ENDPOINTS, PODS, NAMESPACES))


class _Placed(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _PlacedPod(msgspec.Struct):
    spec: _Placed


class _Spec(msgspec.Struct):
    pod: str = ""


class _Endpoint(msgspec.Struct):
    spec: _Spec


def pod_key_of(endpoint: KeyValue) -> bytes | None:
    """The key of the Pod that an endpoint is of; None where it says none."""
    read = decode_or_none(endpoint.value, _Endpoint)
    pod = read.spec.pod if read is not None else ""
    name = ENDPOINTS.parse_name(endpoint.key.decode("utf-8", "replace"))
    return PODS.key(Name(name.namespace, pod)).encode() if pod and name is not None else None


class OwnObjects:
    """Those of one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._endpoint_start = f"{node.replace('-', '--')}-".encode()
        self._endpoints: dict[bytes, KeyValue] = {}
        self._others: dict[bytes, KeyValue] = {}
        self._of_pod: dict[bytes, set[bytes]] = {}
        self.has_pods = False
        """Whether the datastore holds, or held, a Pod of any node: somebody puts them there."""

    def observe(self, event: Event) -> None:
        """Takes an event of any key."""
        key, value = event.key, event.value
        self.has_pods = self.has_pods or key.startswith(_POD_PREFIX)
        if key.startswith(_ENDPOINT_PREFIX):
            if key.rpartition(b"/")[2].startswith(self._endpoint_start):
                self._note_endpoint(event)
        elif (
            key.startswith(_NAMESPACE_PREFIX)
            or key in self._others
            or (key.startswith(_POD_PREFIX) and value is not None and self._is_here(value))
        ):
            _note(self._others, event)

    def _note_endpoint(self, event: Event) -> None:
        """One that changes hands leaves the Pod that it was of."""
        before, now = self._endpoints.get(event.key), _note(self._endpoints, event)
        was, pod = (pod_key_of(pair) if pair is not None else None for pair in (before, now))
        if was is not None and was != pod:
            self._of_pod[was].discard(event.key)
            if not self._of_pod[was]:
                del self._of_pod[was]
        if pod is not None:
            self._of_pod.setdefault(pod, set()).add(event.key)

    def endpoints_of(self, key: bytes) -> frozenset[bytes]:
        """The keys of the endpoints that a key concerns: itself, or those of the Pod that it is."""
        return frozenset((key,)) if key in self._endpoints else frozenset(self._of_pod.get(key, ()))

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
        placed = decode_or_none(pod, _PlacedPod)
        return placed is not None and placed.spec.node_name == self._node


def _note(known: dict[bytes, KeyValue], event: Event) -> KeyValue | None:
    """What is known now."""
    if event.value is None:
        known.pop(event.key, None)
        return None
    known[event.key] = KeyValue(event.key, event.value, event.mod_revision)
    return known[event.key]
