"""A node of a cluster forwards: the host's own switches, for each family that has a pool. Pure.

What was there before is not put back when the pools go: others may have come to rely on it (sysctls are never dropped).
Source: felix/dataplane/linux/int_dataplane.go (IPForwarding).
"""

from __future__ import annotations

from collections.abc import Iterable

from felixpy.calc.pools import PoolsIntent
from felixpy.dataplane.objects import Sysctl

SWITCHES = {4: Sysctl("net/ipv4/ip_forward", "1"), 6: Sysctl("net/ipv6/conf/all/forwarding", "1")}


def render_forwarding(pools: PoolsIntent) -> Iterable[Sysctl]:
    """The switches to turn on."""
    return [SWITCHES[version] for version in sorted({prefix.version for prefix in pools.own})]
