"""The chains that hang on the kernel's hooks, and the fixed ones that they call. Pure.

An interface with our prefix and no endpoint drops, both ways. Traffic that concerns no workload passes untouched.
Own table, documented priorities: nothing here is shared with other programs. Source: felix/rules/static.go.
"""

from __future__ import annotations

from collections.abc import Mapping

from felixpy.addresses import Prefix, parse_prefix
from felixpy.calc.pools import PoolsIntent
from felixpy.dataplane.endpoint_chains import FROM_ENDPOINTS, TO_ENDPOINTS
from felixpy.dataplane.objects import BaseHook, Chain, Object, Set, SetType
from felixpy.dataplane.policy_chains import ALLOW_CHAIN, PASS_CHAIN
from felixpy.dataplane.rules import (
    MARK_ACCEPT,
    MARK_FROM_WORKLOAD,
    MARK_PASS,
    Accept,
    Dispatch,
    Drop,
    FamilyIs,
    IcmpIs,
    InterfaceIs,
    Jump,
    MarkIs,
    Masquerade,
    NetIn,
    ReversePathFails,
    Rule,
    SetHas,
    SetMark,
)
from felixpy.dataplane.sets import merge_prefixes

ANY_ENDPOINT = "cali*"
"""Interfaces that are ours to guard, by name: Calico's prefix."""

HOOKS: Mapping[str, BaseHook] = {
    "raw-prerouting": BaseHook("filter", "prerouting", -300),
    "nat-prerouting": BaseHook("nat", "prerouting", -100),
    "filter-prerouting": BaseHook("filter", "prerouting", -90),
    "filter-input": BaseHook("filter", "input", 0),
    "filter-forward": BaseHook("filter", "forward", 0),
    "filter-output": BaseHook("filter", "output", 0),
    "nat-output": BaseHook("nat", "output", -100),
    "nat-postrouting": BaseHook("nat", "postrouting", 100),
}

MASQUERADED4 = Set("masq-pools4", SetType.IPV4, interval=True)
MASQUERADED6 = Set("masq-pools6", SetType.IPV6, interval=True)
POOLS4 = Set("pools4", SetType.IPV4, interval=True)
POOLS6 = Set("pools6", SetType.IPV6, interval=True)

_NEIGHBOUR_DISCOVERY = (130, 131, 132, 133, 135, 136)
"""ICMPv6 types that a pod may send its host: multicast listener, router and neighbour discovery (RFC 4861, 2710)."""

_FROM_ENDPOINT = InterfaceIs("in", ANY_ENDPOINT)
_TO_ENDPOINT = InterfaceIs("out", ANY_ENDPOINT)


def base_objects(extra: Mapping[str, tuple[Rule, ...]], host_action: str = "Drop") -> tuple[Object, ...]:
    """The fixed sets and chains. `extra` are rules that go first in the base chains of that name (those of Services).

    `host_action`: what happens to what a workload may send and sends to its own host: Drop, Accept or Return.
    """
    own: dict[str, tuple[Rule, ...]] = {
        "raw-prerouting": (
            Rule(SetMark(0, MARK_FROM_WORKLOAD)),
            Rule(SetMark(MARK_FROM_WORKLOAD, MARK_FROM_WORKLOAD), (_FROM_ENDPOINT,)),
            Rule(
                Accept(),
                (MarkIs(MARK_FROM_WORKLOAD, MARK_FROM_WORKLOAD), NetIn("source", (parse_prefix("::/128"),))),
                "duplicate address detection",
            ),
            Rule(
                Drop(),
                (MarkIs(MARK_FROM_WORKLOAD, MARK_FROM_WORKLOAD), ReversePathFails()),
                "source address of another",
            ),
        ),
        "filter-input": (Rule(Jump("workload-to-host"), (_FROM_ENDPOINT,)),),
        "filter-forward": (
            Rule(Jump("from-workload"), (_FROM_ENDPOINT,)),
            Rule(Jump("to-workload"), (_TO_ENDPOINT,)),
        ),
        "nat-postrouting": (
            Rule(
                Masquerade(),
                (SetHas("source", MASQUERADED4.name, 4), SetHas("destination", POOLS4.name, 4, negate=True)),
                "natOutgoing",
            ),
            Rule(
                Masquerade(),
                (SetHas("source", MASQUERADED6.name, 6), SetHas("destination", POOLS6.name, 6, negate=True)),
                "natOutgoing",
            ),
        ),
    }
    host = {"Accept": (Rule(Accept()),), "Return": ()}.get(host_action, (Rule(Drop(), (), "workload to its host"),))
    fixed = (
        Chain(ALLOW_CHAIN, (Rule(SetMark(MARK_ACCEPT, MARK_ACCEPT)),)),
        Chain(PASS_CHAIN, (Rule(SetMark(MARK_PASS, MARK_PASS)),)),
        Chain(
            "from-workload",
            (Rule(Dispatch("in_interface", FROM_ENDPOINTS.name)), Rule(Drop(), (), "interface without endpoint")),
        ),
        Chain(
            "to-workload",
            (Rule(Dispatch("out_interface", TO_ENDPOINTS.name)), Rule(Drop(), (), "interface without endpoint")),
        ),
        Chain(
            "workload-to-host",
            (
                *(Rule(Accept(), (FamilyIs(6), IcmpIs(6, kind))) for kind in _NEIGHBOUR_DISCOVERY),
                Rule(Jump("from-workload")),
                *host,
            ),
        ),
    )
    bases = tuple(Chain(name, (*extra.get(name, ()), *own.get(name, ())), hook) for name, hook in HOOKS.items())
    sets = (FROM_ENDPOINTS, TO_ENDPOINTS, MASQUERADED4, MASQUERADED6, POOLS4, POOLS6)
    return (*sets, *fixed, *bases)


def pool_sets(pools: PoolsIntent) -> Mapping[Set, frozenset[Prefix]]:
    """What the sets of pools hold."""
    return {
        target: merge_prefixes(prefix for prefix in prefixes if prefix.version == version)
        for prefixes, targets in ((pools.own, (POOLS4, POOLS6)), (pools.masqueraded, (MASQUERADED4, MASQUERADED6)))
        for version, target in zip((4, 6), targets, strict=True)
    }
