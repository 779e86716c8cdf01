"""What is taken and kept, and not acted on yet: said when it is applied, so that nobody waits for it.

In, out a Manifest → warnings. One table; what an agent comes to read is taken out of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from felixpy.ctl.manifests import Manifest, Problem, Severity

KINDS = frozenset(
    {
        ("projectcalico.org", "BGPFilter"),
        ("projectcalico.org", "KubeControllersConfiguration"),
        ("metallb.io", "BGPPeer"),
        ("metallb.io", "BFDProfile"),
    }
)
"""Kinds that no agent reads."""

FIELDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("projectcalico.org", "BGPPeer"): (
        "keepOriginalNextHop",
        "nextHopMode",
        "reachableBy",
        "maxRestartTime",
        "reversePeering",
        "localWorkloadSelector",
    ),
    ("projectcalico.org", "BGPConfiguration"): (
        "serviceClusterIPs",
        "serviceLoadBalancerIPs",
        "serviceLoadBalancerAggregation",
        "prefixAdvertisements",
        "communities",
        "nodeMeshPassword",
        "nodeMeshMaxRestartTime",
        "bindMode",
        "ignoredInterfaces",
        "localWorkloadPeeringIPV4",
        "localWorkloadPeeringIPV6",
        "ipv4NormalRoutePriority",
        "ipv6NormalRoutePriority",
    ),
    ("core", "Service"): ("healthCheckNodePort",),
}
"""Fields of spec that no agent reads."""

CLOSED_FIELDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("projectcalico.org", "BGPPeer"): ("password", "filters"),
}
"""Fields that make an object safer: until they are acted on, the object is not."""


def find_unheeded(manifest: Manifest) -> Iterator[Problem]:
    """A warning for each thing that will have no effect."""
    kind = (manifest.info.group, manifest.info.kind)
    if kind in KINDS:
        yield Problem((), "is kept, and not acted on yet", Severity.WARNING)
    spec = manifest.body.get("spec")
    if not isinstance(spec, dict):
        return
    for field in FIELDS.get(kind, ()):
        if spec.get(field):
            yield Problem(("spec", field), "is kept, and not acted on yet", Severity.WARNING)
    for field in CLOSED_FIELDS.get(kind, ()):
        if spec.get(field):
            said = "is not acted on yet, so there is no session with this peer"
            yield Problem(("spec", field), said, Severity.WARNING)
    if kind == ("core", "Service") and spec.get("type") == "NodePort":
        yield Problem(("spec", "type"), "node ports are not forwarded yet", Severity.WARNING)
