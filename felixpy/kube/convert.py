"""An object of the Kubernetes API as it is kept in the datastore: the fields that agents read, and a mark. Pure.

In: a kind and an object; out: a key and a value, or nothing for what no agent needs. Equal objects give equal bytes, so
that a change of what nobody reads writes nothing. The mark tells what the importer may remove from what people wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.kinds import ADMIN_V1, ADMIN_V2, CALICO, KINDS, KindInfo, Name

Json = dict[str, Any]

MARK = "felixpy.io/imported-from"
MARKED = "kubernetes"
OF_POOL = "metallb.io/ip-allocated-from-pool"
"""An annotation of Services that is for people only: the pool that the address is of."""
GRANTED = "felixpy.io/granted"
"""An annotation of Services: the addresses that we have put into the status. Others are another controller's."""
_BUILT_IN = ("v1", "discovery.k8s.io/v1", "networking.k8s.io/v1")
_GROUPS = (*_BUILT_IN, ADMIN_V1, ADMIN_V2)
_NOT = frozenset({"Endpoints", "Secret", "Event"})
_NOT_CALICO = frozenset({"WorkloadEndpoint", "Node", "Profile", "ClusterInformation", "CalicoNodeStatus"})
"""What nodes write, or the tools of the datastore, and no person by kubectl."""

IMPORTED: tuple[KindInfo, ...] = tuple(
    info
    for info in KINDS
    if (info.api_version in _GROUPS and info.kind not in _NOT)
    or info.group == "metallb.io"
    or (info.api_version == CALICO and info.kind not in _NOT_CALICO)
)
"""What is read from the API, those of custom resources included, where the API has them."""


class Imported(NamedTuple):
    """What to write where."""

    key: bytes
    value: bytes


def is_custom(info: KindInfo) -> bool:
    """Whether an API may well be without this kind."""
    return info.api_version not in _BUILT_IN


def api_path(info: KindInfo) -> str:
    """Where the API lists a kind."""
    root = "/api/v1" if info.api_version == "v1" else f"/apis/{info.api_version}"
    return f"{root}/{info.plural}"


def object_path(info: KindInfo, name: Name) -> str:
    """Where the API has one object."""
    if not info.namespaced:
        return f"{api_path(info)}/{name.name}"
    return f"{collection_path(info, name.namespace)}/{name.name}"


def collection_path(info: KindInfo, namespace: str) -> str:
    """Where the API has the objects of a namespace."""
    root, _, plural = api_path(info).rpartition("/")
    return f"{root}/namespaces/{namespace}/{plural}"


def name_of(body: Mapping[str, Any]) -> Name:
    """An object's name."""
    metadata = body["metadata"]
    return Name(metadata.get("namespace", ""), metadata["name"])


def addresses_of(service: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses in a Service's status."""
    try:
        told = msgspec.convert(service.get("status") or {}, _ServiceStatus).load_balancer
    except msgspec.ValidationError:
        return ()
    return tuple(one.ip for one in told.ingress or () if one.ip)


def key_of(info: KindInfo, body: Mapping[str, Any]) -> bytes:
    """Where an object is kept."""
    return info.key(name_of(body)).encode()


def convert(info: KindInfo, body: Mapping[str, Any]) -> Imported | None:
    """The object as it is kept; None for one that no agent needs."""
    if info.kind == "Pod" and body.get("spec", {}).get("hostNetwork"):
        return None
    reduce = _REDUCED.get(info.kind, _spec_of)
    kept = {"apiVersion": info.api_version, "kind": info.kind, "metadata": _metadata(body), **reduce(body)}
    return Imported(key_of(info, body), _ENCODER.encode(kept))


def is_imported(value: bytes) -> bool:
    """Whether a value in the datastore is one that the importer wrote."""
    marked = decode_or_none(value, _Marked)
    return marked is not None and marked.metadata.annotations.get(MARK) == MARKED


_ENCODER = msgspec.json.Encoder(order="sorted")
_UNREAD = ("kubectl.kubernetes.io/last-applied-configuration", OF_POOL, GRANTED)
_KEPT = ("name", "namespace", "uid", "labels", "creationTimestamp", "deletionTimestamp")


class _Ingress(msgspec.Struct):
    ip: str = ""


class _LoadBalancer(msgspec.Struct):
    ingress: list[_Ingress] | None = None


class _ServiceStatus(msgspec.Struct, rename="camel"):
    load_balancer: _LoadBalancer = msgspec.field(default_factory=_LoadBalancer)


class _MarkedMeta(msgspec.Struct):
    annotations: dict[str, str] = {}


class _Marked(msgspec.Struct):
    metadata: _MarkedMeta


def _metadata(body: Mapping[str, Any]) -> Json:
    metadata = body["metadata"]
    annotations = {key: text for key, text in (metadata.get("annotations") or {}).items() if key not in _UNREAD}
    kept = {key: metadata[key] for key in _KEPT if key in metadata}
    return {**kept, "annotations": {**annotations, MARK: MARKED}}


def _spec_of(body: Mapping[str, Any]) -> Json:
    """All that is wished, nothing of what has become of it."""
    return {key: part for key, part in body.items() if key not in ("apiVersion", "kind", "metadata", "status")}


def _service(body: Mapping[str, Any]) -> Json:
    """With the addresses that another controller gave: all that its Services have, and what ours had before."""
    kept = _spec_of(body)
    given = addresses_of(body)
    if given and (body["metadata"].get("annotations") or {}).get(GRANTED) != ",".join(given):
        kept["status"] = {"loadBalancer": body["status"]["loadBalancer"]}
    return kept


def _pod(body: Mapping[str, Any]) -> Json:
    spec = body.get("spec", {})
    containers = [
        {"name": one.get("name", ""), "ports": one["ports"]} for one in spec.get("containers") or () if one.get("ports")
    ]
    kept = {key: spec[key] for key in ("nodeName", "serviceAccountName") if key in spec}
    return {"spec": {**kept, "containers": containers}}


def _nothing(_: Mapping[str, Any]) -> Json:
    return {}


_REDUCED: Mapping[str, Callable[[Mapping[str, Any]], Json]] = {
    "Pod": _pod,
    "Service": _service,
    "Namespace": _nothing,
    "ServiceAccount": _nothing,
}
