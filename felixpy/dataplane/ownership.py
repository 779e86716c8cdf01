"""How a restarted agent knows what is its own: one line per kind of object. Pure.

Only what is owned may be removed when it is not desired; anything else is changed only where it is desired.
"""

from __future__ import annotations

from typing import assert_never

from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_LEARNED,
    ROUTE_PROTOCOL_WORKLOAD,
    Chain,
    ChainSeen,
    DeviceAddress,
    FdbEntry,
    IpipSettings,
    IpRule,
    Link,
    Neighbour,
    NextHop,
    Object,
    Route,
    Set,
    Sysctl,
)

OWN_DEVICES = frozenset({"vxlan.calico", "vxlan-v6.calico", "tunl0"})
"""Tunnel devices that we make, named as Calico names them, so that either can take over from the other.

The kernel's own `tunl0` cannot go, so it counts as gone when it is down.
"""
OWN_ROUTE_PROTOCOLS = frozenset({ROUTE_PROTOCOL_WORKLOAD, ROUTE_PROTOCOL_LEARNED})


def is_ours(one: Object) -> bool:
    """Whether an object that was read may be removed when nothing desires it."""
    match one:
        case Sysctl():
            return False
        case Link():
            return one.name in OWN_DEVICES and (one.up or not isinstance(one.settings, IpipSettings))
        case DeviceAddress():
            return one.device in OWN_DEVICES and one.prefix.is_host
        case Neighbour():
            return one.device in OWN_DEVICES
        case FdbEntry():
            return one.device in OWN_DEVICES
        case Set() | Chain() | ChainSeen():
            return True  # read from our own table only
        case NextHop() | Route():
            return one.protocol in OWN_ROUTE_PROTOCOLS
        case IpRule():
            return True  # read by our protocol number only
        case _:
            assert_never(one)
