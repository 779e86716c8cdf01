"""How the kernel of this node stands, for those who ask: what it holds, refuses, and cannot be reached through.

In: the agent role; out: values of status. Reads, and never changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from felixpy.addresses import format_address
from felixpy.calc.tunnel_plan import Direct, Tunnel, Unreached, Way
from felixpy.dataplane.describe import describe_op
from felixpy.dataplane.objects import Outcome
from felixpy.status.answers import (
    DETAILS_SHOWN,
    FAILURES_SHOWN,
    Failure,
    KernelStatus,
    TunnelledPrefix,
    Want,
)

if TYPE_CHECKING:
    from felixpy.agent.agent import AgentRole
    from felixpy.calc.tunnels import TunnelRoute


def read_kernel(agent: AgentRole, want: Collection[str]) -> KernelStatus:
    """How the node's kernel stands, with the details asked for."""
    dataplane, tunnels = agent.dataplane, agent.dataplane.graph.tunnels
    shown = DETAILS_SHOWN if Want.TUNNELLED in want else 0
    failed, unreached = dataplane.reconciler.failed, dataplane.graph.tunnels.intent.unreached
    return KernelStatus(
        started=dataplane.started,
        endpoints=len(dataplane.graph.policy.endpoint_names()),
        objects=len(dataplane.reconciler.desired),
        failed=len(failed),
        failures=list_failures(failed.values()),
        unreached=len(unreached),
        unreached_ways=tuple(
            Failure(*one) for one in islice(sorted(map(_unreached, unreached.items())), FAILURES_SHOWN)
        ),
        tunnelled=tunnels.count_routes(),
        pod_mtu=_pod_mtu(agent),
        contested=tuple(Failure(one.what, str(one)) for one in dataplane.contests[:FAILURES_SHOWN]),
        tunnels=tuple(map(_tunnelled, islice(tunnels.list_routes(), shown))),
    )


def list_failures(outcomes: Iterable[Outcome]) -> tuple[Failure, ...]:
    """The first of what was refused, in words."""
    shown = islice(outcomes, FAILURES_SHOWN)
    return tuple(Failure(describe_op(outcome.op), outcome.error or "") for outcome in shown)


def _unreached(item: tuple[Way | Tunnel, Unreached]) -> tuple[str, str]:
    """What does not work, and why."""
    way, why = item
    what = f"the tunnel {way}" if isinstance(way, Tunnel) else f"reach {way.node} through {way.tunnel} ({way.mode})"
    return what, str(why)


def _pod_mtu(agent: AgentRole) -> int:
    try:
        return agent.backend.pod_mtu()
    except OSError:
        return 0


def _tunnelled(route: TunnelRoute) -> TunnelledPrefix:
    way, hop = route.way, route.hop
    device = "" if hop is None else hop.device if isinstance(hop, Direct) else str(hop.tunnel)
    return TunnelledPrefix(
        prefix=str(route.destination),
        holder=way.node,
        mode=f"{way.tunnel} {way.mode}",
        device=device,
        gateway="" if hop is None else format_address(hop.gateway),
        error=str(route.why_dropped or "") if hop is None else "",
    )
