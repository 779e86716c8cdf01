"""The staged kinds, and the kinds that they stand for. Pure."""

from __future__ import annotations

from felixpy.resources.kinds import BY_TYPE, CALICO

STANDS_FOR = {
    BY_TYPE[CALICO, "StagedNetworkPolicy"]: BY_TYPE[CALICO, "NetworkPolicy"],
    BY_TYPE[CALICO, "StagedGlobalNetworkPolicy"]: BY_TYPE[CALICO, "GlobalNetworkPolicy"],
    BY_TYPE[CALICO, "StagedKubernetesNetworkPolicy"]: BY_TYPE["networking.k8s.io/v1", "NetworkPolicy"],
}
STAGED_PREFIXES = tuple(info.prefix.encode() for info in STANDS_FOR)
