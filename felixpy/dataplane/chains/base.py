"""The chains that hang on the kernel's hooks, and the fixed ones that they call. Pure.

An interface with our prefix and no endpoint drops, both ways. Traffic that concerns neither a workload nor a host
endpoint passes untouched.
Own table, documented priorities: nothing here is shared with other programs. Source: felix/rules/static.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from felixpy.addresses import Address, Prefix, host_prefix, parse_prefix
from felixpy.calc.intent import Stage
from felixpy.calc.options import HostAction, Options
from felixpy.calc.pools import PoolsIntent
from felixpy.dataplane.chains.causes import COMMON, NO_ENDPOINT, SPOOFED, TO_HOST
from felixpy.dataplane.chains.endpoint import ACCEPTED, FROM_ENDPOINTS, SPOOFERS, TO_ENDPOINTS
from felixpy.dataplane.chains.floating import FLOATING_SETS, floating_rules
from felixpy.dataplane.chains.host import NEIGHBOURS, NODES, Guards, Place, host_objects, workload_interfaces
from felixpy.dataplane.chains.outgoing import MASQUERADED, POOLS, render_loop_prevention, render_nat_outgoing
from felixpy.dataplane.chains.policy import ALLOW_CHAIN, PASS_CHAIN
from felixpy.dataplane.chains.report import after_policy, common_chains, end_in, marks_of_policy, refuse_chain
from felixpy.dataplane.chains.tunnels import INPUT_CHAIN
from felixpy.dataplane.objects import BaseHook, Chain, Object, Set
from felixpy.dataplane.rules import (
    MARK_ACCEPT,
    MARK_FROM_WORKLOAD,
    MARK_MASQUERADE,
    MARK_PASS,
    MARK_SENT_TRANSLATED,
    Accept,
    CtDestinationTranslated,
    CtState,
    CtStateIn,
    Dispatch,
    FamilyIs,
    Goto,
    IcmpIs,
    Jump,
    MarkIs,
    NetIn,
    PortIn,
    ProtocolIs,
    ReversePathFails,
    Rule,
    SetMark,
)
from felixpy.dataplane.sets import merge_prefixes

HOOKS: Mapping[str, BaseHook] = {
    "raw-prerouting": BaseHook("filter", "prerouting", -300),
    "mangle-prerouting": BaseHook("filter", "prerouting", -150),
    "nat-prerouting": BaseHook("nat", "prerouting", -100),
    "filter-prerouting": BaseHook("filter", "prerouting", -90),
    "filter-input": BaseHook("filter", "input", 0),
    "filter-forward": BaseHook("filter", "forward", 0),
    "raw-output": BaseHook("filter", "output", -300),
    "filter-output": BaseHook("filter", "output", 0),
    "nat-output": BaseHook("nat", "output", -100),
    "filter-postrouting": BaseHook("filter", "postrouting", 0),
    "nat-postrouting": BaseHook("nat", "postrouting", 100),
}

LAST_FORWARD = BaseHook("filter", "forward", 100)
"""After other programs' rules for what passes through, where these are in the same tables."""
_TCP = 6
_NEIGHBOUR_DISCOVERY = (130, 131, 132, 133, 135, 136)
"""ICMPv6 types that a pod may send its host: multicast listener, router and neighbour discovery (RFC 4861, 2710)."""

NO_HOSTS = Guards()
NOT_ACCEPTED = MarkIs(0, MARK_ACCEPT)
PEER_SETS = (*NODES.values(), *NEIGHBOURS.values())


def base_objects(extra: Mapping[str, tuple[Rule, ...]], guards: Guards = NO_HOSTS) -> tuple[Object, ...]:
    """The fixed sets and chains, and the dispatch to host endpoints.

    `extra` are rules that go first in the base chains of that name (those of Services).
    """
    own: dict[str, tuple[Rule, ...]] = {
        "raw-prerouting": (*_raw_prerouting(guards.options), *_untracked_in(guards)),
        "mangle-prerouting": _pre_dnat(guards),
        "raw-output": _untracked_out(guards),
        "filter-input": (Rule(Jump(INPUT_CHAIN)), *_input(guards)),
        "filter-forward": _forward(guards),
        "filter-output": _output(guards),
        "filter-postrouting": _postrouting(guards),
        "nat-postrouting": render_nat_outgoing(guards.options),
    }
    if guards.options.floating:
        own = {name: (*floating_rules().get(name, ()), *own.get(name, ())) for name in HOOKS}
    bases = [Chain(name, (*extra.get(name, ()), *own.get(name, ())), hook) for name, hook in HOOKS.items()]
    if guards.options.shared is not None and guards.options.shared.ends_filter:
        bases.append(Chain("filter-forward-last", _last_forward(guards.options), LAST_FORWARD))
    sets = (FROM_ENDPOINTS, TO_ENDPOINTS, SPOOFERS, *MASQUERADED.values(), *POOLS.values(), *FLOATING_SETS, *PEER_SETS)
    fixed = (*common_chains(COMMON, guards.options), *_fixed_chains(guards.options))
    return (*sets, *fixed, *bases, *host_objects(guards))


def own_host_rules(options: Options) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """What a workload may always send to its own host, and what becomes of the rest that its policy allows."""
    discovery = tuple(Rule(Accept(), (FamilyIs(6), IcmpIs(6, kind))) for kind in _NEIGHBOUR_DISCOVERY)
    peering = tuple(_speaks_bgp(address, port) for address, port in options.workload_peering)
    match options.endpoint_to_host:
        case HostAction.DROP:
            return discovery, (*peering, end_in(TO_HOST))
        case HostAction.ACCEPT:
            return discovery, (*peering, Rule(Accept()))
        case HostAction.RETURN:
            return discovery, peering
        case _:
            assert_never(options.endpoint_to_host)


def _fixed_chains(options: Options) -> tuple[Chain, ...]:
    discovery, action = own_host_rules(options)
    return (
        Chain(ALLOW_CHAIN, (Rule(SetMark(MARK_ACCEPT, MARK_ACCEPT)),)),
        Chain(PASS_CHAIN, (Rule(SetMark(MARK_PASS, MARK_PASS)),)),
        Chain(
            "from-workload",
            (Rule(Dispatch("in_interface", FROM_ENDPOINTS.name)), end_in(NO_ENDPOINT["out"])),
        ),
        Chain(
            "to-workload",
            (Rule(Dispatch("out_interface", TO_ENDPOINTS.name)), end_in(NO_ENDPOINT["in"])),
        ),
        Chain(
            "workload-to-host",
            (*discovery, Rule(Jump("from-workload")), *after_policy(options), *action),
        ),
        *refuse_chain(options),
    )


def _speaks_bgp(address: Address, port: int) -> Rule:
    """What a workload's policy lets it send to where its node speaks BGP; the speaker answers those that it knows."""
    matches = (ProtocolIs(_TCP), NetIn("destination", (host_prefix(address),)), PortIn("destination", ((port, port),)))
    return Rule(Accept(), matches, "BGP of workloads")


def _raw_prerouting(options: Options) -> tuple[Rule, ...]:
    from_workload = MarkIs(MARK_FROM_WORKLOAD, MARK_FROM_WORKLOAD)
    return (
        Rule(SetMark(0, MARK_FROM_WORKLOAD | marks_of_policy(options) | MARK_SENT_TRANSLATED)),
        *(
            Rule(SetMark(MARK_FROM_WORKLOAD, MARK_FROM_WORKLOAD), (match,))
            for match in workload_interfaces("in", options)
        ),
        Rule(Accept(), (from_workload, NetIn("source", (parse_prefix("::/128"),))), "duplicate address detection"),
        *((Rule(Dispatch("in_interface", SPOOFERS.name)),) if options.spoofing else ()),
        end_in(SPOOFED, from_workload, ReversePathFails()),
    )


def _untracked_in(guards: Guards) -> tuple[Rule, ...]:
    place = Place(Stage.UNTRACKED, "in")
    if not guards.has(place):
        return ()
    drop = after_policy(guards.options, can_refuse=False)
    return (Rule(Jump(place.chain), (MarkIs(0, MARK_FROM_WORKLOAD),)), *drop)


def _pre_dnat(guards: Guards) -> tuple[Rule, ...]:
    place, shared = Place(Stage.PRE_DNAT, "in"), guards.options.shared
    if not guards.has(place):
        return ()
    drop = after_policy(guards.options, can_refuse=False)
    passes = (Rule(Accept(), (ACCEPTED,)),) if shared is not None and shared.ends_mangle else ()
    return (Rule(Jump(place.chain), (NOT_ACCEPTED,)), *drop, *passes)


def _untracked_out(guards: Guards) -> tuple[Rule, ...]:
    place = Place(Stage.UNTRACKED, "out")
    if not guards.has(place):
        return ()
    clear = Rule(SetMark(0, marks_of_policy(guards.options)))
    return (clear, Rule(Jump(place.chain)), *after_policy(guards.options, can_refuse=False))


def _input(guards: Guards) -> tuple[Rule, ...]:
    place = Place(Stage.NORMAL, "in")
    workloads = tuple(Rule(Goto("workload-to-host"), (match,)) for match in workload_interfaces("in", guards.options))
    if not guards.has(place):
        return workloads
    jump = Rule(Jump(place.chain), (NOT_ACCEPTED,))
    return (*workloads, jump, *after_policy(guards.options), *_passes_others(guards.options))


def _passes_others(options: Options) -> tuple[Rule, ...]:
    """Where others have rules in the same table, what a host endpoint's policies allow does not come to them."""
    ends = options.shared is not None and options.shared.ends_filter
    return (Rule(Accept(), (ACCEPTED,)),) if ends else ()


def _forward(guards: Guards) -> tuple[Rule, ...]:
    """What an earlier stage accepted skips the incoming host endpoint; workloads and the outgoing one still judge."""
    before, after = Place(Stage.FORWARD, "in"), Place(Stage.FORWARD, "out")
    refuse = after_policy(guards.options)
    return (
        *render_loop_prevention(guards.options),
        *((Rule(Jump(before.chain), (NOT_ACCEPTED,)), *refuse) if guards.has(before) else ()),
        *(Rule(Jump("from-workload"), (match,)) for match in workload_interfaces("in", guards.options)),
        *refuse,
        *(Rule(Jump("to-workload"), (match,)) for match in workload_interfaces("out", guards.options)),
        *refuse,
        *((Rule(Jump(after.chain)), *refuse) if guards.has(after) else ()),
    )


def _last_forward(options: Options) -> tuple[Rule, ...]:
    """What came so far of ours is allowed, whatever the kernel's own chain does at its end: what has to do with
    workloads, what host endpoints let through, and what this node sends on to a Service's endpoints elsewhere.
    """
    answers = CtStateIn(frozenset({CtState.ESTABLISHED, CtState.RELATED}))
    return (
        *(Rule(Accept(), (match,)) for match in workload_interfaces("in", options)),
        *(Rule(Accept(), (match,)) for match in workload_interfaces("out", options)),
        Rule(Accept(), (ACCEPTED,)),
        Rule(Accept(), (MarkIs(MARK_MASQUERADE, MARK_MASQUERADE),)),
        Rule(Accept(), (answers, CtDestinationTranslated())),
    )


def _output(guards: Guards) -> tuple[Rule, ...]:
    """The host reaches its workloads; what was translated has no device yet, and is judged in filter-postrouting."""
    place = Place(Stage.NORMAL, "out")
    if not guards.has(place):
        return ()
    untracked = (Rule(Accept(), (ACCEPTED,)),) if guards.has(Place(Stage.UNTRACKED, "out")) else ()
    return (
        *untracked,
        *(Rule(Accept(), (match,)) for match in workload_interfaces("out", guards.options)),
        Rule(SetMark(0, marks_of_policy(guards.options) | MARK_SENT_TRANSLATED)),
        Rule(SetMark(MARK_SENT_TRANSLATED, MARK_SENT_TRANSLATED), (CtDestinationTranslated(),)),
        Rule(Jump(place.chain), (MarkIs(0, MARK_SENT_TRANSLATED),)),
        *after_policy(guards.options),
        *_passes_others(guards.options),
    )


def _postrouting(guards: Guards) -> tuple[Rule, ...]:
    place = Place(Stage.NORMAL, "out")
    if not guards.has(place):
        return ()
    return (
        *(Rule(Accept(), (match,)) for match in workload_interfaces("out", guards.options)),
        Rule(Jump(place.chain), (MarkIs(MARK_SENT_TRANSLATED, MARK_SENT_TRANSLATED),)),
        *after_policy(guards.options, can_refuse=False),
    )


def pool_sets(pools: PoolsIntent) -> Mapping[Set, frozenset[Prefix]]:
    """What the sets of pools hold."""
    return {
        target: merge_prefixes(prefix for prefix in prefixes if prefix.version == version)
        for prefixes, targets in ((pools.own, POOLS), (pools.masqueraded, MASQUERADED))
        for version, target in targets.items()
    }
