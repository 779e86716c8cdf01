"""Floating addresses: what reaches a pod under another address than its own. Pure.

    floating4       external → internal, where a connection begins
    floating-back4  internal . internal → external: a pod that calls itself so hears from the address that it called

The policies of a pod see its own address, on both ways. Nothing is there unless FelixConfiguration says so
(floatingIPs: Enabled). Source: felix/dataplane/linux/floating_ip_mgr.go.
"""

from __future__ import annotations

from collections.abc import Mapping

from felixpy.calc.intent import EndpointIntent
from felixpy.dataplane.objects import DataType, Set, SetType
from felixpy.dataplane.rules import CtDestinationTranslated, MapDestination, MapSource, Rule
from felixpy.dataplane.sets import VERSIONS, Version
from felixpy.resources.types import FloatingAddress

FLOATING: Mapping[Version, Set] = {
    4: Set("floating4", SetType.IPV4, DataType.IPV4),
    6: Set("floating6", SetType.IPV6, DataType.IPV6),
}
FLOATING_BACK: Mapping[Version, Set] = {
    4: Set("floating-back4", SetType.IPV4_IPV4, DataType.IPV4),
    6: Set("floating-back6", SetType.IPV6_IPV6, DataType.IPV6),
}
FLOATING_SETS = (*FLOATING.values(), *FLOATING_BACK.values())


def floating_of(endpoint: EndpointIntent) -> tuple[FloatingAddress, ...]:
    """Those that lead to an address which the endpoint has."""
    return tuple(one for one in endpoint.floating if one.internal in endpoint.addresses)


def floating_members(endpoint: EndpointIntent) -> Mapping[Set, Mapping[bytes, bytes]]:
    """What an endpoint adds to the maps; of several external addresses, the lowest is the one on the way back."""
    members: dict[Set, dict[bytes, bytes]] = {}
    for external, internal in sorted(floating_of(endpoint), reverse=True):
        version: Version = 4 if len(external) == 4 else 6
        members.setdefault(FLOATING[version], {})[external] = internal
        members.setdefault(FLOATING_BACK[version], {})[internal + internal] = external
    return members


def floating_rules() -> Mapping[str, tuple[Rule, ...]]:
    """Rules for the base chains of that name."""
    to = tuple(Rule(MapDestination(FLOATING[version].name, version), (), "floating address") for version in VERSIONS)
    back = tuple(
        Rule(MapSource(FLOATING_BACK[version].name, version), (CtDestinationTranslated(),), "floating address")
        for version in VERSIONS
    )
    return {"nat-prerouting": to, "nat-output": to, "nat-postrouting": back}
