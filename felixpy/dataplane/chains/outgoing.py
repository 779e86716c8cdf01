"""What becomes of packets that leave the cluster's addresses, and of those to a Service address of no Service.

Pure. In: Options; out: rules for the base chains. Source: felix/rules/nat.go, felix/dataplane/linux/masq_mgr.go,
felix/dataplane/linux/service_loop_mgr.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import assert_never

from felixpy.calc.options import LoopAction, Options
from felixpy.dataplane.chains.causes import LOOP_DROPPED, LOOP_REFUSED
from felixpy.dataplane.chains.host import NODES
from felixpy.dataplane.chains.report import end_in
from felixpy.dataplane.objects import Set, SetType
from felixpy.dataplane.rules import InterfaceIs, Masquerade, Match, NetIn, ProtocolIs, Rule, SetHas, SourceNat
from felixpy.dataplane.sets import VERSIONS, Version

MASQUERADED = {
    4: Set("masq-pools4", SetType.IPV4, interval=True),
    6: Set("masq-pools6", SetType.IPV6, interval=True),
}
_WITH_PORTS = (6, 17)
"""TCP and UDP."""
POOLS = {4: Set("pools4", SetType.IPV4, interval=True), 6: Set("pools6", SetType.IPV6, interval=True)}


def render_nat_outgoing(options: Options) -> tuple[Rule, ...]:
    """Packets of pools with natOutgoing that leave all pools: they take an address of the node, or the one that is set.

    A set address is of one family; the other's packets take the outgoing device's. Ports of a range that is set are
    those of TCP and UDP: nothing else has any that matter.
    """
    return tuple(rule for version in VERSIONS for rule in _nat(version, options))


def _nat(version: Version, options: Options) -> Iterator[Rule]:
    matches: list[Match] = [
        SetHas("source", MASQUERADED[version].name, version),
        SetHas("destination", POOLS[version].name, version, negate=True),
    ]
    if options.nat_spares_nodes:
        matches.append(SetHas("destination", NODES[version].name, version, negate=True))
    if options.nat_interface:
        matches.append(InterfaceIs("out", options.nat_interface))
    address = options.nat_address
    same = address is not None and len(address) == (4 if version == 4 else 16)
    to = SourceNat(address) if address is not None and same else Masquerade()
    for protocol in _WITH_PORTS if options.nat_ports is not None else ():
        yield Rule(replace(to, ports=options.nat_ports), (ProtocolIs(protocol), *matches), "natOutgoing")
    yield Rule(to, tuple(matches), "natOutgoing")


def render_loop_prevention(options: Options) -> tuple[Rule, ...]:
    """Ends what is still on its way to a Service range: no Service took it, so its route would lead it back here.

    Source: FelixConfiguration's serviceLoopPrevention, and the ranges of the default BGPConfiguration.
    """
    match options.service_loop:
        case LoopAction.DISABLED:
            return ()
        case LoopAction.DROP:
            cause = LOOP_DROPPED
        case LoopAction.REJECT:
            cause = LOOP_REFUSED
        case _:
            assert_never(options.service_loop)
    return tuple(
        end_in(cause, NetIn("destination", prefixes))
        for version in VERSIONS
        if (prefixes := tuple(one for one in options.service_cidrs if one.version == version))
    )
