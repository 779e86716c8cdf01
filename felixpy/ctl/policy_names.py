"""The name that a Calico policy has in etcd, and the one that its writer typed.

Owns    both directions. The typed name is in the annotation `projectcalico.org/metadata`, and since Calico 3.32 in the
        key too. Earlier Calico keeps a policy of the tier `default` as `default.<name>`, and looks nowhere else for
        it: where ClusterInformation names such a version, so do we.
Source  libcalico-go/lib/backend/model/keys.go (reading: the annotation, else a leading `default.` is cut),
        libcalico-go/lib/backend/etcdv3 (writing).
"""

from __future__ import annotations

import json
import re

from felixpy.ctl.manifests import Body, Json
from felixpy.resources.kinds import CALICO, KindInfo, Name

METADATA_ANNOTATION = "projectcalico.org/metadata"
TIER_LABEL = "projectcalico.org/tier"
DEFAULT_TIER = "default"
PREFIXED_UNTIL = (3, 31)
"""The last version of Calico that keeps policies of the tier `default` under another name than the typed one."""
_VERSION = re.compile(r"v?(\d+)\.(\d+)")
_TIERED = frozenset({"NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"})


def is_tiered_policy(info: KindInfo) -> bool:
    """Whether a kind's objects belong to a tier."""
    return info.api_version == CALICO and info.kind in _TIERED


def tier_of(body: Body) -> str:
    """The tier that a policy's body names, or `default`."""
    spec = body.get("spec")
    tier = spec.get("tier") if isinstance(spec, dict) else None
    return tier if isinstance(tier, str) and tier else DEFAULT_TIER


def is_prefixing(cluster: Body) -> bool:
    """Whether the Calico that ClusterInformation speaks of would look for `default.<name>`."""
    spec = cluster.get("spec")
    version = spec.get("calicoVersion") if isinstance(spec, dict) else None
    found = _VERSION.match(version) if isinstance(version, str) else None
    return found is not None and (int(found[1]), int(found[2])) <= PREFIXED_UNTIL


def possible_names(info: KindInfo, typed: Name, tier: str) -> tuple[Name, ...]:
    """The names under which an object may be in etcd: as typed, and as Calico before 3.32 has it."""
    if not is_tiered_policy(info) or tier != DEFAULT_TIER or typed.name.startswith(f"{DEFAULT_TIER}."):
        return (typed,)
    return (typed, Name(typed.namespace, f"{DEFAULT_TIER}.{typed.name}"))


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
    except (ValueError, RecursionError):
        return ""
    name = kept.get("name") if isinstance(kept, dict) else None
    return name if isinstance(name, str) else ""
