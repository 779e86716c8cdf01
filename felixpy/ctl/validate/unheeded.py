"""What is taken and kept, and not acted on yet: said when it is applied, so that nobody waits for it.

In, out a Manifest → warnings. One table; what an agent comes to read is taken out of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from felixpy.ctl.manifests import Manifest, Problem, Severity

KINDS = frozenset(
    {
        ("projectcalico.org", "KubeControllersConfiguration"),
    }
)
"""Kinds that no agent reads."""

FIELDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("projectcalico.org", "NetworkPolicy"): ("performanceHints",),
    ("projectcalico.org", "GlobalNetworkPolicy"): ("performanceHints",),
    ("projectcalico.org", "BGPConfiguration"): (
        "ignoredInterfaces",
        "localWorkloadPeeringIPV4",
        "localWorkloadPeeringIPV6",
    ),
    ("projectcalico.org", "IPAMConfiguration"): ("kubeVirtVMAddressPersistence",),
}
"""Fields of spec that no agent reads."""

CLOSED_FIELDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("projectcalico.org", "BGPPeer"): ("localWorkloadSelector",),
    ("metallb.io", "BFDProfile"): ("echoMode", "passiveMode", "minimumTtl"),
}
"""Fields without which a session would be another than was asked for: with them there is none."""


DEFAULTS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("projectcalico.org", "BGPConfiguration"): {
        "logSeverityScreen": "Info",
        "programClusterRoutes": "EnabledNoEncapOnly",
    },
}
"""Fields that no agent reads, whose usual value is what happens anyway."""


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
    for field, usual in DEFAULTS.get(kind, {}).items():
        if spec.get(field) not in (None, "", usual):
            yield Problem(("spec", field), "is kept, and not acted on yet", Severity.WARNING)
    for field in CLOSED_FIELDS.get(kind, ()):
        if spec.get(field):
            said = "cannot be had, so that nobody gets a session by this object"
            yield Problem(("spec", field), said, Severity.WARNING)
