"""The form in which an object is kept in etcd, and the form in which it is shown.

In, out a Manifest and what is in etcd now → the body to store; a stored body and our status → the body to show.
        Calico's kinds get what Calico's own client would give them: policy types, a pool's defaults, the tier's label,
        the typed name. What others wrote beside (uid, owners, status) stays.
Never   reads a clock or draws a uid: both are arguments.
Source  libcalico-go/lib/clientv3 (defaults); kubernetes/pkg/registry/core (Namespace label, Secret stringData).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from felixpy.addresses import parse_prefix
from felixpy.ctl.manifests import Body, Json, Manifest, Problem
from felixpy.ctl.policy_names import (
    DEFAULT_TIER,
    METADATA_ANNOTATION,
    TIER_LABEL,
    is_tiered_policy,
    name_annotation,
    tier_of,
    typed_name,
)
from felixpy.resources.kinds import CALICO, KindInfo, Name

_NEVER_STORED = ("resourceVersion", "selfLink")
_AS_WRITTEN = frozenset({"labels", "annotations", *_NEVER_STORED})
_BLOCK_SIZES = {4: 26, 6: 122}
HIDDEN = "(hidden)"
"""Shown for a password that is written into an object that is no Secret; applied again, it leaves that as it is."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a new object gets: the time in RFC 3339, and a uid."""

    now: str
    uid: str


def stored_body(manifest: Manifest, name: Name, existing: Body | None, decided: Body, stamp: Stamp) -> Body:
    """What to write at the key of `name`; `decided` is our own status of the object, which is kept elsewhere."""
    info, old = manifest.info, existing or {}
    spec = _mapping(manifest.body.get("spec"))
    body: dict[str, Json] = {
        "kind": info.kind,
        "apiVersion": info.api_version,
        "metadata": _metadata(manifest, name, _mapping(old.get("metadata")), stamp),
    }
    if info.api_version == CALICO:
        body["spec"] = _with_defaults(info, spec)
    body |= {key: value for key, value in manifest.body.items() if key not in body and key != "status"}
    if info.kind == "Secret":
        _encode_secret(body)
    if _has_password(info, spec) and spec["password"] == HIDDEN and (kept := _mapping(old.get("spec")).get("password")):
        body["spec"] = {**spec, "password": kept}
    written, before = _mapping(manifest.body.get("status")), _mapping(old.get("status"))
    status = {key: value for key, value in written.items() if key not in decided} or before
    if status:
        body["status"] = status
    return body


def _metadata(manifest: Manifest, name: Name, old: Mapping[str, Json], stamp: Stamp) -> dict[str, Json]:
    info = manifest.info
    given = _mapping(manifest.body.get("metadata"))
    kept = {key: value for key, value in old.items() if key not in _AS_WRITTEN}
    metadata: dict[str, Json] = {"name": name.name}
    if info.namespaced:
        metadata["namespace"] = name.namespace
    metadata |= {
        "uid": kept.get("uid") or given.get("uid") or stamp.uid,
        "creationTimestamp": kept.get("creationTimestamp") or given.get("creationTimestamp") or stamp.now,
    }
    passing = {"namespace"} if not info.namespaced else set()
    for part in (given, kept):
        metadata |= {k: v for k, v in part.items() if k not in metadata and k not in _NEVER_STORED and k not in passing}
    if is_tiered_policy(info):
        annotations = _mapping(metadata.get("annotations"))
        metadata["annotations"] = {**annotations, METADATA_ANNOTATION: name_annotation(manifest.name.name)}
    if labels := dict(_labels_given(manifest)):
        metadata["labels"] = {**_mapping(metadata.get("labels")), **labels}
    return metadata


def _labels_given(manifest: Manifest) -> Iterator[tuple[str, Json]]:
    """Labels that an object has of itself; Felix selects by them, and finds no endpoint of a namespace otherwise."""
    info, spec = manifest.info, _mapping(manifest.body.get("spec"))
    if is_tiered_policy(info):
        yield TIER_LABEL, tier_of(manifest.body)
    elif info.kind == "Namespace":
        yield "kubernetes.io/metadata.name", manifest.name.name
    elif info.kind == "WorkloadEndpoint":
        yield "projectcalico.org/namespace", manifest.name.namespace
        yield "projectcalico.org/orchestrator", spec.get("orchestrator")


def _with_defaults(info: KindInfo, spec: dict[str, Json]) -> dict[str, Json]:
    match info.kind:
        case "IPPool":
            cidr = parse_prefix(str(spec.get("cidr")))
            return {
                **spec,
                "cidr": str(cidr),
                "blockSize": spec.get("blockSize") or _BLOCK_SIZES[cidr.version],
                "ipipMode": spec.get("ipipMode") or "Never",
                "vxlanMode": spec.get("vxlanMode") or "Never",
                "nodeSelector": spec.get("nodeSelector") or "all()",
                "allowedUses": spec.get("allowedUses") or ["Workload", "Tunnel"],
                "assignmentMode": spec.get("assignmentMode") or "Automatic",
            }
        case _ if is_tiered_policy(info):
            spec = {**spec, "tier": spec.get("tier") or DEFAULT_TIER}
            if spec.get("types") or spec.get("stagedAction") == "Delete":
                return spec
            ways = [way for way in ("Ingress", "Egress") if spec.get(way.lower())]
            return {**spec, "types": list(ways) or ["Ingress"]}
        case "Tier":
            return {**spec, "defaultAction": spec.get("defaultAction") or "Deny"}
    return spec


def _encode_secret(body: dict[str, Json]) -> None:
    plain = _mapping(body.pop("stringData", None))
    if plain:
        encoded = {key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()}
        body["data"] = {**_mapping(body.get("data")), **encoded}


def find_hidden(info: KindInfo, wanted: Body) -> Iterator[Problem]:
    """What stands for a password where there was none before."""
    spec = _mapping(wanted.get("spec"))
    if _has_password(info, spec) and spec["password"] == HIDDEN:
        yield Problem(("spec", "password"), f"{HIDDEN} is what is shown instead of a password; write the password")


def changes_refused(info: KindInfo, existing: Body, wanted: Body) -> Iterator[Problem]:
    """Fields that cannot change once the object is there."""
    fixed = {"IPPool": ("cidr", "blockSize")}.get(info.kind, ()) if info.api_version == CALICO else ()
    before, after = _mapping(existing.get("spec")), _mapping(wanted.get("spec"))
    try:
        before = _with_defaults(info, before)
    except ValueError:
        return
    for field in fixed:
        if before[field] != after.get(field):
            said = f"cannot change from {before[field]} to {after.get(field)}: addresses are given out by it"
            yield Problem(("spec", field), f"{said}; make another pool")


def shown_body(info: KindInfo, stored: Body, decided: Body, revision: int) -> Body:
    """An object as people see it: the name they typed, its revision, and what we decided merged into its status."""
    metadata = dict(_mapping(stored.get("metadata")))
    if is_tiered_policy(info):
        metadata["name"] = typed_name(stored)
        annotations = {k: v for k, v in _mapping(metadata.get("annotations")).items() if k != METADATA_ANNOTATION}
        metadata.pop("annotations", None)
        if annotations:
            metadata["annotations"] = annotations
    metadata["resourceVersion"] = str(revision)
    body: dict[str, Json] = {"apiVersion": info.api_version, "kind": info.kind, "metadata": metadata}
    body |= {key: value for key, value in stored.items() if key not in body and key != "status"}
    spec = _mapping(stored.get("spec"))
    if _has_password(info, spec):
        body["spec"] = {**spec, "password": HIDDEN}
    status = {**_mapping(stored.get("status")), **decided}
    if status:
        body["status"] = status
    return body


def _has_password(info: KindInfo, spec: Mapping[str, Json]) -> bool:
    return info.kind == "BGPPeer" and isinstance(spec.get("password"), str)


def encode_body(body: Body) -> bytes:
    """The bytes that go to etcd."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_body(value: bytes) -> dict[str, Json]:
    """An object from etcd.

    Raises  ValueError when it is no JSON object.
    """
    try:
        body = json.loads(value)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(body, dict):
        raise ValueError("is no JSON object")
    return body


def _mapping(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}
