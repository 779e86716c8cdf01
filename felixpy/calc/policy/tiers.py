"""Policies of one endpoint in the order in which they decide, and which of them count at which stage. Pure.

Source: felix/calc/policy_sorter.go: tiers by order then name, policies by order, then name, then namespace; no order
last. Where a Calico node shares the cluster, policies of one order must decide alike on both.
Staged policies are never among them, so a tier whose policies are all staged has none and does not deny at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import assert_never

from felixpy.calc.intent import PolicyId, Stage, TierIntent
from felixpy.resources.admin_policies import ADMIN_TIER, BASELINE_TIER
from felixpy.resources.policy_types import Policy, Tier, TierDefault

BUILT_IN = {
    ADMIN_TIER: Tier(1_000, TierDefault.PASS),
    BASELINE_TIER: Tier(10_000_000, TierDefault.PASS),
}
"""Tiers that hold Kubernetes' policies for administrators, in a datastore that was made before there were any."""
_MISSING = Tier(None)

Matched = tuple[PolicyId, Policy]


def sort_policies(policies: Iterable[Matched], tiers: Mapping[str, Tier]) -> tuple[TierIntent, ...]:
    """Policies of one endpoint, by tier and order; a tier that does not exist comes last and denies."""
    by_tier: dict[str, list[Matched]] = {}
    for identity, policy in policies:
        by_tier.setdefault(policy.tier, []).append((identity, policy))
    known = {**BUILT_IN, **tiers}
    names = sorted(by_tier, key=lambda name: (name not in known, _position(known.get(name, _MISSING).order), name))
    found = []
    for name in names:
        ranked = sorted(by_tier[name], key=_rank)
        ingress = tuple(identity for identity, policy in ranked if policy.applies_ingress)
        egress = tuple(identity for identity, policy in ranked if policy.applies_egress)
        found.append(TierIntent(name, known.get(name, _MISSING).default_action, ingress, egress))
    return tuple(found)


def _rank(matched: Matched) -> tuple[float, str]:
    """Felix compares name, namespace and kind as one text."""
    identity, policy = matched
    return _position(policy.order), f"{identity.name.name}/{identity.name.namespace}/{identity.table}"


def _position(order: float | None) -> float:
    return inf if order is None else order


def for_workloads(policy: Policy) -> bool:
    """Whether a policy concerns workload endpoints (doNotTrack and preDNAT are for host endpoints)."""
    return not (policy.do_not_track or policy.pre_dnat)


def counts_at(policy: Policy, stage: Stage) -> bool:
    """Whether a policy that selects a host endpoint decides at a stage."""
    match stage:
        case Stage.NORMAL:
            return for_workloads(policy)
        case Stage.FORWARD:
            return for_workloads(policy) and policy.apply_on_forward
        case Stage.PRE_DNAT:
            return policy.pre_dnat and not policy.do_not_track
        case Stage.UNTRACKED:
            return policy.do_not_track
        case _:
            assert_never(stage)


def sort_stages(policies: Iterable[Matched], tiers: Mapping[str, Tier]) -> Mapping[Stage, tuple[TierIntent, ...]]:
    """Policies of one host endpoint, by stage; a stage without policies is left out."""
    matched = tuple(policies)
    sorted_at = {stage: sort_policies((one for one in matched if counts_at(one[1], stage)), tiers) for stage in Stage}
    return {stage: found for stage, found in sorted_at.items() if found}
