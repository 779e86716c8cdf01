"""Nodes that run Calico's Felix beside ours, and the policies that these do not enforce.

Felix keeps a key of its own alive while it runs, under a lease; we write none there. But where Calico's node starts it,
that is turned off (reportingInterval: 0s); then the FelixConfiguration of its name tells, which Calico's node writes,
where no agent of ours ever ran. Felix reads Calico's keys alone, and so none of Kubernetes' policies, which are under
ours.
Source: felix/statusrep/status_reporter.go (the key and its lease), libcalico-go/lib/backend/model (its form);
node/pkg/lifecycle/startup/startup.go (ensureDefaultConfig).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from felixpy.ctl.manifests import Manifest
from felixpy.datastore.model import Store
from felixpy.resources.kinds import BY_TYPE, CALICO, HOLDERS_PREFIX, KINDS, NODES_PREFIX, KindInfo, Name

FELIX_PREFIX = "/calico/felix/v2/"
NODES = BY_TYPE[CALICO, "Node"]
_OF_A_NODE = f"{BY_TYPE[CALICO, 'FelixConfiguration'].prefix}node."
UNREAD = tuple(
    info for info in KINDS if info.group in ("networking.k8s.io", "policy.networking.k8s.io") and "Policy" in info.kind
)
"""The policies that Felix does not read."""


async def foreign_nodes(store: Store) -> tuple[str, ...]:
    """The nodes on which Felix runs now, or which Calico's node has registered and no agent of ours."""
    prefixes = (FELIX_PREFIX, NODES.prefix, _OF_A_NODE, NODES_PREFIX, HOLDERS_PREFIX)
    found = await store.snapshot([prefix.encode() for prefix in prefixes])
    keys = [item.key.decode("utf-8", "replace") for item in found.items]

    def named(prefix: str) -> set[str]:
        return {key.removeprefix(prefix).partition("/")[0] for key in keys if key.startswith(prefix)}

    registered = (named(NODES.prefix) & named(_OF_A_NODE)) - named(NODES_PREFIX) - named(HOLDERS_PREFIX)
    return tuple(sorted(registered.union(filter(None, map(_node_of, keys)))))


def _node_of(key: str) -> str:
    """The node whose Felix lives, in `<region>/host/<node>/status`; "" for other keys."""
    parts = key.removeprefix(FELIX_PREFIX).split("/") if key.startswith(FELIX_PREFIX) else []
    return parts[2] if len(parts) == 4 and (parts[1], parts[3]) == ("host", "status") else ""


def unread_manifests(manifests: Iterable[Manifest]) -> list[str]:
    """Those of the objects that Felix does not read, in words."""
    return [str(manifest) for manifest in manifests if manifest.info in UNREAD]


async def unread_policies(store: Store) -> list[str]:
    """The stored policies that Felix does not read, in words."""
    found = await store.snapshot([info.prefix.encode() for info in UNREAD])
    named: list[tuple[KindInfo, Name]] = []
    for item in found.items:
        key = item.key.decode("utf-8", "replace")
        for info in UNREAD:
            if key.startswith(info.prefix) and (name := info.parse_name(key)) is not None:
                named.append((info, name))
    return [f"{info.kind} {name}" for info, name in named]


def describe_unenforced(policy: str, nodes: Sequence[str]) -> str:
    """A policy that some nodes do not enforce."""
    return f"{policy}: not enforced on {', '.join(nodes)}: Calico's Felix runs there, and reads Calico's own keys alone"
