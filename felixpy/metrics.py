"""What a process measures: families of figures, and those that follow from its status. Pure.

In: a NodeStatus; out: Families, in the names that Felix and MetalLB gave them where the meaning is the same. Never
text: whoever serves them renders them. Source: felix/docs, and MetalLB's internal/bgp and internal/allocator (names).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from felixpy.status import BgpStatus, KernelStatus, NodeStatus, SessionStatus


class FamilyKind(StrEnum):
    """How Prometheus reads a figure: a counter only grows, until its process starts again."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: a figure for each row of label values, in the order of `labels`.

    Units   in the name, as Prometheus wants it; a counter's name has no `_total`, which is added.
    """

    name: str
    words: str
    kind: FamilyKind = FamilyKind.GAUGE
    labels: tuple[str, ...] = ()
    rows: Mapping[tuple[str, ...], float] = field(default_factory=dict)


def derive_families(status: NodeStatus) -> Iterator[Family]:
    """The figures that a process's status holds."""
    yield _one("felixpy_datastore_in_sync", "Whether the datastore is read and obeyed", status.in_sync)
    yield _one("felixpy_applied_revision", "The datastore's revision that this node has applied", status.revision)
    yield _one("felixpy_broken_resources", "Objects in the datastore that count as missing", status.broken)
    yield _one("felixpy_leader", "Whether this process is the cluster's elected controller", status.leader)
    if status.kernel is not None:
        yield from _of_kernel(status.kernel)
        yield _one("felixpy_cni_ready", "Whether pods can be added here", status.cni_unready is None)
    if status.bgp is not None:
        yield from _of_bgp(status.bgp)


def _one(name: str, words: str, figure: float) -> Family:
    return Family(name, words, rows={(): float(figure)})


def _of_kernel(kernel: KernelStatus) -> Iterator[Family]:
    yield _one("felix_active_local_endpoints", "Endpoints of this node", kernel.endpoints)
    yield _one("felixpy_kernel_objects", "Objects that should be in the kernel", kernel.objects)
    yield _one("felixpy_kernel_failed_objects", "Those that are not, for an error", kernel.failed)
    yield _one("felixpy_tunnels_unreached", "Tunnels, and nodes behind them, that cannot be reached", kernel.unreached)


def _of_bgp(bgp: BgpStatus) -> Iterator[Family]:
    yield _one("felixpy_bgp_daemon_up", "Whether gobgpd answers", bgp.generation > 0)
    yield _one("felixpy_bgp_prefixes_to_announce", "Prefixes that this node should announce", bgp.announced)
    yield _one("felixpy_bgp_prefixes_announced", "Those that gobgpd has", bgp.advertised)
    yield _one("felixpy_bgp_prefixes_silent", "Prefixes that this node holds and does not announce", bgp.silent)
    yield _one("felixpy_bgp_routes_learned", "Routes that neighbours taught", bgp.learned)
    yield _one("felixpy_bgp_routes_installed", "Those that the kernel has", bgp.installed)
    frozen = bgp.phase == "frozen" and not bgp.no_speaker
    yield _one("felixpy_bgp_routes_frozen", "Whether learned routes are those of before, for want of gobgpd", frozen)
    yield _one("felixpy_bgp_failed_operations", "Operations on gobgpd or learned routes that failed", bgp.failed)
    yield _by_peer("metallb_bgp_session_up", "Whether the session is established", bgp, lambda one: one.established)
    yield _by_peer("felixpy_bgp_session_state_seconds", "Since it is up, or down", bgp, lambda one: one.since_s or 0)
    down: dict[tuple[str, ...], float] = {
        (session.address, session.last_error): 1.0 for session in bgp.sessions if not session.established
    }
    yield Family("felixpy_bgp_session_down", "Why a session is down", labels=("peer", "reason"), rows=down)
    yield _by_peer("felixpy_bgp_prefixes_received", "Prefixes that a peer sent", bgp, lambda one: one.received)
    yield _by_peer("felixpy_bgp_prefixes_accepted", "Those that were accepted", bgp, lambda one: one.accepted)
    yield _by_peer("felixpy_bgp_prefixes_sent", "Prefixes sent to a peer", bgp, lambda one: one.advertised)


def _by_peer(name: str, words: str, bgp: BgpStatus, figure: Callable[[SessionStatus], float]) -> Family:
    rows: dict[tuple[str, ...], float] = {(session.address,): float(figure(session)) for session in bgp.sessions}
    return Family(name, words, labels=("peer",), rows=rows)
