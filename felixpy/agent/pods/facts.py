"""Pods and namespaces as they are stored → what is known of a pod. Pure; what cannot be read counts as missing."""

from __future__ import annotations

import msgspec

from felixpy.cni.plan import NamedPort, PodFacts
from felixpy.datastore.model import KeyValue
from felixpy.resources.endpoints import uid_of_pod


class _Meta(msgspec.Struct, rename="camel"):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    generate_name: str = ""
    uid: str = ""


class _ContainerPort(msgspec.Struct, rename="camel"):
    container_port: int
    name: str = ""
    protocol: str = "TCP"


class _Container(msgspec.Struct):
    ports: list[_ContainerPort] | None = None


class _PodSpec(msgspec.Struct, rename="camel"):
    service_account_name: str = ""
    containers: list[_Container] | None = None


class _Pod(msgspec.Struct):
    metadata: _Meta
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)


class _Namespace(msgspec.Struct):
    metadata: _Meta


_pods = msgspec.json.Decoder(_Pod)
_namespaces = msgspec.json.Decoder(_Namespace)


def read_pod_facts(pod: KeyValue | None, namespace: KeyValue | None, *, uid: str = "", mtu: int = 0) -> PodFacts:
    """What is known of the pod; a Pod of another uid than `uid`, where both say one, is that of another pod."""
    meta = _read_namespace(namespace)
    found = _read_pod(pod)
    own = uid_of_pod(found.metadata.uid, found.metadata.annotations or {}) if found is not None else ""
    if uid and own not in ("", uid):
        found = None
    ports = [port for container in (found.spec.containers if found else None) or () for port in container.ports or ()]
    return PodFacts(
        labels=(found.metadata.labels if found else None) or {},
        annotations=(found.metadata.annotations if found else None) or {},
        namespace_annotations=meta.annotations or {},
        namespace_labels=meta.labels or {},
        service_account=found.spec.service_account_name if found else "",
        generate_name=found.metadata.generate_name if found else "",
        ports=tuple(NamedPort(port.name, port.protocol, port.container_port) for port in ports if port.name),
        mtu=mtu,
        known=found is not None,
        uid=uid or own,
    )


def _read_pod(pair: KeyValue | None) -> _Pod | None:
    try:
        return _pods.decode(pair.value) if pair is not None else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _read_namespace(pair: KeyValue | None) -> _Meta:
    try:
        return _namespaces.decode(pair.value).metadata if pair is not None else _Meta()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Meta()
