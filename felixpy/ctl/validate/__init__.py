"""What each kind's fields must be, checked before anything is written.

In, out a Manifest → its problems, all at once: errors (the object is refused) and warnings (it is taken).
Never   changes what was written, nor looks at other objects. Heavy to import (pydantic): only `apply` and `diff` do.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from felixpy.ctl.manifests import Json, Manifest, Problem, Severity
from felixpy.ctl.validate.shape import Shape, check_shape
from felixpy.ctl.validate.unheeded import find_unheeded
from felixpy.resources.kinds import CALICO

SERVICE_NAME_LABEL = "kubernetes.io/service-name"

_CALICO = {
    "policy": (
        "NetworkPolicy",
        "GlobalNetworkPolicy",
        "StagedNetworkPolicy",
        "StagedGlobalNetworkPolicy",
        "Profile",
        "Tier",
    ),
    "pools": ("IPPool", "IPReservation", "IPAMConfiguration", "KubeControllersConfiguration", "NetworkSet"),
    "nodes": (
        "Node",
        "HostEndpoint",
        "WorkloadEndpoint",
        "FelixConfiguration",
        "ClusterInformation",
        "CalicoNodeStatus",
    ),
    "bgp": ("BGPConfiguration", "BGPPeer", "BGPFilter"),
    "kubernetes": ("StagedKubernetesNetworkPolicy",),
}
_KUBERNETES = ("NetworkPolicy", "Namespace", "Service", "EndpointSlice", "Endpoints")
_ADMIN = ("ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy")
_METALLB = ("IPAddressPool", "L2Advertisement", "BGPAdvertisement", "BGPPeer", "BFDProfile", "Community")
_CALICO_NAMES = {kind: (module, kind) for module, kinds in _CALICO.items() for kind in kinds}
_CALICO_NAMES["GlobalNetworkSet"] = ("pools", "NetworkSet")
_OTHER_NAMES = {
    **{kind: ("kubernetes", kind) for kind in _KUBERNETES},
    **{kind: ("admin", kind) for kind in _ADMIN},
}
_METALLB_NAMES = {kind: ("metallb", kind) for kind in _METALLB}


def check(manifest: Manifest) -> tuple[Problem, ...]:
    """Every problem of one object, errors and warnings."""
    problems = check_shape(_shape_of(manifest), dict(manifest.body))
    if not any(problem.severity is Severity.ERROR for problem in problems):
        problems += (
            *_unenforced(manifest),
            *_closed_peers(manifest),
            *_without_service(manifest),
            *_ports_nowhere(manifest),
            *find_unheeded(manifest),
        )
    return tuple(problems)


def _shape_of(manifest: Manifest) -> type[Shape]:
    info = manifest.info
    if info.api_version == CALICO:
        names = _CALICO_NAMES
    else:
        names = _METALLB_NAMES if info.group == "metallb.io" else _OTHER_NAMES
    module, shape = names.get(info.kind, ("nodes", "Opaque"))
    found: type[Shape] = getattr(import_module(f"{__name__}.{module}"), shape)
    return found


def _unenforced(manifest: Manifest) -> Iterator[Problem]:
    """Rules whose conditions the data plane does not know; it lets nothing pass through them."""
    spec = manifest.body.get("spec")
    if manifest.info.api_version != CALICO or not isinstance(spec, dict):
        return
    for direction in ("ingress", "egress"):
        rules = spec.get(direction)
        for index, rule in enumerate(rules if isinstance(rules, list) else []):
            if isinstance(rule, dict) and rule.get("action") == "Allow":
                for path in _conditions_unknown(rule):
                    said = "is not enforced here, so that this rule allows nothing"
                    yield Problem(("spec", direction, index, *path), said, Severity.WARNING)


def _closed_peers(manifest: Manifest) -> Iterator[Problem]:
    """Peers in rules for administrators that the data plane does not know, and what becomes of their rules."""
    spec = manifest.body.get("spec")
    if manifest.info.kind not in _ADMIN or not isinstance(spec, dict):
        return
    rules = spec.get("egress")
    for index, rule in enumerate(rules if isinstance(rules, list) else []):
        peers = rule.get("to") if isinstance(rule, dict) else None
        for place, peer in enumerate(peers if isinstance(peers, list) else []):
            if isinstance(rule, dict) and isinstance(peer, dict) and "domainNames" in peer:
                allows = rule.get("action") in ("Accept", "Allow")
                what = "is left out" if allows else "denies everything"
                said = f"is not enforced here, so that this rule {what}"
                yield Problem(("spec", "egress", index, "to", place, "domainNames"), said, Severity.WARNING)


def _without_service(manifest: Manifest) -> Iterator[Problem]:
    metadata = manifest.body.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    if manifest.info.kind == "EndpointSlice" and SERVICE_NAME_LABEL not in (labels if isinstance(labels, dict) else {}):
        said = f"has no {SERVICE_NAME_LABEL}: these endpoints are of no Service"
        yield Problem(("metadata", "labels"), said, Severity.WARNING)


def _ports_nowhere(manifest: Manifest) -> Iterator[Problem]:
    spec = manifest.body.get("spec")
    if manifest.info.kind != "HostEndpoint" or not isinstance(spec, dict):
        return
    if spec.get("ports") and not spec.get("expectedIPs"):
        said = "no rule finds them by name: expectedIPs has to say at which addresses they are"
        yield Problem(("spec", "ports"), said, Severity.WARNING)


def _conditions_unknown(rule: dict[str, Json]) -> Iterator[tuple[str, ...]]:
    if "http" in rule:
        yield ("http",)
