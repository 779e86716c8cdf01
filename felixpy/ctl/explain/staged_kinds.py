"""The staged kinds, and the kinds that they stand for. Pure."""

from __future__ import annotations

from felixpy.resources.kinds import CALICO, KINDS, KindInfo


def _kind(kind: str, version: str) -> KindInfo:
    return next(info for info in KINDS if (info.kind, info.api_version) == (kind, version))


STANDS_FOR = {
    _kind("StagedNetworkPolicy", CALICO): _kind("NetworkPolicy", CALICO),
    _kind("StagedGlobalNetworkPolicy", CALICO): _kind("GlobalNetworkPolicy", CALICO),
    _kind("StagedKubernetesNetworkPolicy", CALICO): _kind("NetworkPolicy", "networking.k8s.io/v1"),
}
STAGED_PREFIXES = tuple(info.prefix.encode() for info in STANDS_FOR)
