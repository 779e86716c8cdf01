"""The order of policies that have the same order: a Calico node and ours must decide alike."""

from __future__ import annotations

from felixpy.calc.intent import PolicyId
from felixpy.calc.policy.tiers import sort_policies
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import Policy
from felixpy.resources.tables import Table
from felixpy.selector import parse_selector

POLICY = Policy("default", 5.0, parse_selector("all()"), applies_ingress=True, applies_egress=False)


def test_a_name_counts_before_a_namespace_and_a_namespace_before_a_kind() -> None:
    everywhere, here = Table.GLOBAL_POLICY, Table.NAMESPACED_POLICY
    as_felix_sorts = [
        PolicyId(here, Name("shop", "alpha")),
        PolicyId(everywhere, Name("", "beta")),
        PolicyId(here, Name("a", "beta")),
        PolicyId(here, Name("b", "beta")),
        PolicyId(everywhere, Name("", "gamma-1")),
        PolicyId(everywhere, Name("", "gamma")),
        PolicyId(here, Name("a", "zeta")),
    ]

    (tier,) = sort_policies([(one, POLICY) for one in reversed(as_felix_sorts)], {})

    assert list(tier.ingress) == as_felix_sorts
