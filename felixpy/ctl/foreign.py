"""Nodes that run Calico's Felix beside ours, and the policies that these do not enforce.

Felix keeps a key of its own alive while it runs, under a lease; we write none there. It reads Calico's keys alone, and
so none of Kubernetes' policies, which are under ours.
Source: felix/statusrep/status_reporter.go (the key and its lease), libcalico-go/lib/backend/model (its form).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from felixpy.ctl.manifests import Manifest
from felixpy.datastore.model import Store
from felixpy.resources.kinds import KINDS, KindInfo, Name

FELIX_PREFIX = "/calico/felix/v2/"
UNREAD = tuple(
    info for info in KINDS if info.group in ("networking.k8s.io", "policy.networking.k8s.io") and "Policy" in info.kind
)
"""The policies that Felix does not read."""


async def foreign_nodes(store: Store) -> tuple[str, ...]:
    """The nodes on which Felix runs now."""
    found = await store.snapshot([FELIX_PREFIX.encode()])
    return tuple(sorted({node for item in found.items if (node := _node_of(item.key.decode("utf-8", "replace")))}))


def _node_of(key: str) -> str:
    """The node whose Felix lives, in `<region>/host/<node>/status`; "" for other keys."""
    parts = key.removeprefix(FELIX_PREFIX).split("/")
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
