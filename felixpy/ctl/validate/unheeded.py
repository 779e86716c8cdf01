"""What is taken and kept, and not acted on yet: said when it is applied, so that nobody waits for it.

In, out a Manifest → warnings. One table; what an agent comes to read is taken out of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from felixpy.ctl.manifests import Json, Manifest, Problem, Severity
from felixpy.resources.felix import FELIX_FIELDS

NOT_YET = "is kept, and not acted on yet"
FIELDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("projectcalico.org", "BGPConfiguration"): ("ignoredInterfaces",),
    ("projectcalico.org", "IPAMConfiguration"): ("kubeVirtVMAddressPersistence",),
}
"""Fields of spec that no agent reads."""

CLOSED_FIELDS: Mapping[tuple[str, str], tuple[str, ...]] = {
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

FELIX_USUAL: Mapping[str, Json] = {
    "ipv6Support": True,
    "logSeverityScreen": "Info",
    "reportingInterval": "0s",
    "useInternalDataplaneDriver": True,
    "xdpEnabled": True,
}
"""Those that no agent reads, whose usual value is what happens anyway; of others it is that they are not on."""
FELIX_ELSEWHERE = frozenset({"ipipEnabled", "vxlanEnabled"})
"""Those that say once more what the pools say, and pools count."""
FELIX_ENGINES = ("bpf", "wireguard")
FELIX_SWITCHES = ("Enabled", "EnabledV6")
"""Beginnings of names, and what turns such an engine on: while it is off, its other fields mean nothing."""


def find_unheeded(manifest: Manifest) -> Iterator[Problem]:
    """A warning for each thing that will have no effect."""
    kind = (manifest.info.group, manifest.info.kind)
    spec = manifest.body.get("spec")
    if not isinstance(spec, dict):
        return
    for field in FIELDS.get(kind, ()):
        if spec.get(field):
            yield Problem(("spec", field), NOT_YET, Severity.WARNING)
    if kind == ("projectcalico.org", "FelixConfiguration"):
        yield from (Problem(("spec", field), NOT_YET, Severity.WARNING) for field in _unread_settings(spec))
    if kind == ("projectcalico.org", "KubeControllersConfiguration"):
        yield from (Problem(("spec", *path), NOT_YET, Severity.WARNING) for path in _unread_controllers(spec))
    for field, usual in DEFAULTS.get(kind, {}).items():
        if spec.get(field) not in (None, "", usual):
            yield Problem(("spec", field), NOT_YET, Severity.WARNING)
    if kind == ("projectcalico.org", "BGPPeer") and spec.get("peerSelector") and spec.get("localASNumber"):
        said = "means nothing beside peerSelector: to one another nodes are of the AS that each has"
        yield Problem(("spec", "localASNumber"), said, Severity.WARNING)
    for field in CLOSED_FIELDS.get(kind, ()):
        if spec.get(field):
            said = "cannot be had, so that nobody gets a session by this object"
            yield Problem(("spec", field), said, Severity.WARNING)


def _unread_controllers(spec: Mapping[str, Json]) -> Iterator[tuple[str, ...]]:
    """All but who is given addresses of Calico's pools."""
    yield from ((field,) for field in spec if field != "controllers")
    controllers = spec.get("controllers")
    for name in controllers if isinstance(controllers, dict) else ():
        if name != "loadBalancer":
            yield "controllers", name


def _unread_settings(spec: Mapping[str, Json]) -> Iterator[str]:
    asked = tuple(one for one in FELIX_ENGINES if any(spec.get(f"{one}{switch}") for switch in FELIX_SWITCHES))
    for field, value in spec.items():
        if field in FELIX_FIELDS | FELIX_ELSEWHERE or value == FELIX_USUAL.get(field, False):
            continue
        if not field.startswith(FELIX_ENGINES) or field.startswith(asked):
            yield field
