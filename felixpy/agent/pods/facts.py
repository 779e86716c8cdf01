"""Pods and namespaces as they are stored → what is known of a pod. Pure; what cannot be read counts as missing."""

from __future__ import annotations

import msgspec

from felixpy.cni.plan import NamedPort, PodFacts
from felixpy.datastore.model import KeyValue
from felixpy.resources.endpoints import uid_of_pod
from felixpy.resources.foreign_json import decode_or_none


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


def read_pod_facts(pod: KeyValue | None, namespace: KeyValue | None, *, uid: str = "", mtu: int = 0) -> PodFacts:
    """What is known of the pod; a Pod of another uid than `uid`, where both say one, is that of another pod."""
    there = decode_or_none(namespace.value, _Namespace) if namespace is not None else None
    meta = there.metadata if there is not None else _Meta()
    found = decode_or_none(pod.value, _Pod) if pod is not None else None
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
