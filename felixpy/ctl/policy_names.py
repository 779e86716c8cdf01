"""The name that a Calico policy has in etcd, and the one that its writer typed.

Owns    both directions. A policy of the tier `default` is kept as `default.<name>`, and the typed name in the
        annotation `projectcalico.org/metadata`; policies of other tiers keep the name as typed.
Source  libcalico-go/lib/backend/model/keys.go (reading: the annotation, else a leading `default.` is cut),
        libcalico-go/lib/backend/etcdv3 (writing). Calico releases differ in whether they write the prefix, so a policy
        is looked for under both names before it is created.
"""

from __future__ import annotations

import json

from felixpy.ctl.manifests import Body, Json
from felixpy.resources.kinds import CALICO, KindInfo, Name

METADATA_ANNOTATION = "projectcalico.org/metadata"
TIER_LABEL = "projectcalico.org/tier"
DEFAULT_TIER = "default"
_TIERED = frozenset({"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"})


def is_tiered_policy(info: KindInfo) -> bool:
    """Whether a kind's objects belong to a tier."""
    return info.api_version == CALICO and info.kind in _TIERED


def tier_of(body: Body) -> str:
    """The tier that a policy's body names, or `default`."""
    spec = body.get("spec")
    tier = spec.get("tier") if isinstance(spec, dict) else None
    return tier if isinstance(tier, str) and tier else DEFAULT_TIER


def possible_names(info: KindInfo, typed: Name, tier: str) -> tuple[Name, ...]:
    """The names under which an object may be in etcd; the first is the one to create."""
    if not is_tiered_policy(info) or tier != DEFAULT_TIER or typed.name.startswith(f"{DEFAULT_TIER}."):
        return (typed,)
    return (Name(typed.namespace, f"{DEFAULT_TIER}.{typed.name}"), typed)


def typed_name(body: Body) -> str:
    """The name that the writer of a stored policy typed."""
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return ""
    name, annotations = metadata.get("name"), metadata.get("annotations")
    kept = annotations.get(METADATA_ANNOTATION) if isinstance(annotations, dict) else None
    if isinstance(kept, str) and (original := _name_in(kept)):
        return original
    stored = name if isinstance(name, str) else ""
    return stored.removeprefix(f"{DEFAULT_TIER}.") if tier_of(body) == DEFAULT_TIER else stored


def name_annotation(typed: str) -> Json:
    """The value of the annotation that keeps a typed name."""
    return json.dumps({"name": typed}, separators=(",", ":"))


def _name_in(annotation: str) -> str:
    try:
        kept = json.loads(annotation)
    except ValueError:
        return ""
    name = kept.get("name") if isinstance(kept, dict) else None
    return name if isinstance(name, str) else ""
