"""What a process measures: families of figures, and those that follow from its status. Pure.

In: a NodeStatus; out: Families, in the names that Felix and MetalLB gave them where the meaning is the same. Never
text: whoever serves them renders them. Source: felix/docs, and MetalLB's internal/bgp and internal/allocator (names).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from felixpy.status.answers import BfdStatus, BgpStatus, KernelStatus, NodeStatus, SessionStatus


class FamilyKind(StrEnum):
    """How Prometheus reads a figure: a counter only grows, until its process starts again.

    UNTYPED is a counter that goes by a name of others, without the `_total` that Prometheus wants of one.
    """

    COUNTER = "counter"
    GAUGE = "gauge"
    UNTYPED = "unknown"


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
    yield _one("felixpy_broken_resources", "Objects and fields in the datastore that count as missing", status.broken)
    yield _one("metallb_k8s_client_config_loaded_bool", "Whether a configuration was read", status.revision > 0)
    words = "Whether some of the configuration is not heeded, as it cannot be read"
    yield _one("metallb_k8s_client_config_stale_bool", words, not status.in_sync or status.broken > 0)
    yield _one("felixpy_leader", "Whether this process is the cluster's elected controller", status.leader)
    if status.kernel is not None:
        yield from _of_kernel(status.kernel)
        yield _one("felixpy_cni_ready", "Whether pods can be added here", status.cni_unready is None)
        words = "Nodes that look dead from here, and what they were suspected for"
        rows: dict[tuple[str, ...], float] = {(one.node, one.why): 1.0 for one in status.dead}
        yield Family("felixpy_dead_node", words, labels=("node", "reason"), rows=rows)
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
    words = "Paths that gobgpd told of, one by one or with its table"
    yield Family("felixpy_bgp_paths_heard", words, FamilyKind.COUNTER, rows={(): float(bgp.paths_heard)})
    words = "How many times gobgpd told its whole table"
    yield Family("felixpy_bgp_tables_heard", words, FamilyKind.COUNTER, rows={(): float(bgp.tables_heard)})
    yield _one("felixpy_bgp_failed_operations", "Operations on gobgpd or learned routes that failed", bgp.failed)
    yield from _in_metallb_names(bgp)
    yield _by_peer("felixpy_bgp_session_state_seconds", "Since it is up, or down", bgp, lambda one: one.since_s or 0)
    down: dict[tuple[str, ...], float] = {
        (session.address, session.last_error): 1.0 for session in bgp.sessions if not session.established
    }
    yield Family("felixpy_bgp_session_down", "Why a session is down", labels=("peer", "reason"), rows=down)
    yield _by_peer("felixpy_bgp_prefixes_received", "Prefixes that a peer sent", bgp, lambda one: one.received)
    yield _by_peer("felixpy_bgp_prefixes_accepted", "Those that were accepted", bgp, lambda one: one.accepted)
    yield _by_peer("felixpy_bgp_prefixes_sent", "Prefixes sent to a peer", bgp, lambda one: one.advertised)


_MESSAGES: tuple[tuple[str, str, Callable[[SessionStatus], float]], ...] = (
    ("opens_sent", "OPEN messages sent", lambda one: one.sent.opens),
    ("opens_received", "OPEN messages received", lambda one: one.got.opens),
    ("notifications_sent", "NOTIFICATION messages sent", lambda one: one.sent.notifications),
    ("updates_total_received", "UPDATE messages received", lambda one: one.got.updates),
    ("keepalives_sent", "KEEPALIVE messages sent", lambda one: one.sent.keepalives),
    ("keepalives_received", "KEEPALIVE messages received", lambda one: one.got.keepalives),
    ("route_refresh_sent", "ROUTE-REFRESH messages sent", lambda one: one.sent.refreshes),
    ("total_sent", "Messages sent", lambda one: one.sent.total),
    ("total_received", "Messages received", lambda one: one.got.total),
)
_BFD: tuple[tuple[str, str, FamilyKind, Callable[[BfdStatus], float]], ...] = (
    ("session_up", "Whether BFD with the neighbour is up", FamilyKind.GAUGE, lambda one: one.up),
    ("control_packet_input", "BFD packets received", FamilyKind.UNTYPED, lambda one: one.got),
    ("control_packet_output", "BFD packets sent", FamilyKind.UNTYPED, lambda one: one.sent),
    ("session_down_events", "How often BFD with it went down", FamilyKind.UNTYPED, lambda one: one.failures),
)


def _in_metallb_names(bgp: BgpStatus) -> Iterator[Family]:
    yield _by_peer("metallb_bgp_session_up", "Whether the session is established", bgp, lambda one: one.established)
    words = "Prefixes that are advertised to the neighbour"
    yield _by_peer("metallb_bgp_announced_prefixes_total", words, bgp, lambda one: one.advertised)
    words = "Prefixes that are still to be advertised to it"
    yield _by_peer("metallb_bgp_pending_prefixes_total", words, bgp, lambda one: one.untold)
    yield _by_peer("metallb_bgp_updates", "UPDATE messages sent", bgp, lambda one: one.sent.updates, FamilyKind.COUNTER)
    for name, words, figure in _MESSAGES:
        yield _by_peer(f"metallb_bgp_{name}", words, bgp, figure, FamilyKind.UNTYPED)
    for name, words, kind, of_bfd in _BFD:
        rows: dict[tuple[str, ...], float] = {
            (one.address,): float(of_bfd(one.bfd)) for one in bgp.sessions if one.bfd is not None
        }
        yield Family(f"metallb_bfd_{name}", words, kind, ("peer",), rows)


def _by_peer(
    name: str,
    words: str,
    bgp: BgpStatus,
    figure: Callable[[SessionStatus], float],
    kind: FamilyKind = FamilyKind.GAUGE,
) -> Family:
    rows: dict[tuple[str, ...], float] = {(session.address,): float(figure(session)) for session in bgp.sessions}
    return Family(name, words, kind, ("peer",), rows)
