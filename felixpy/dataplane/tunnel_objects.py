"""Tunnels, next hops and block routes → kernel objects.

In: deltas of calc/tunnels.py; out: desired objects, each piece under its own owner in the ledger. A way to a node is
one nexthop object, so a node that moves costs one message, however many routes lead to it. Pure.
Source: felix/dataplane/linux/vxlan_mgr.go, ipip_mgr.go; linux/nexthop.h.
"""

from __future__ import annotations

from collections.abc import Iterable

from felixpy.addresses import Prefix, host_prefix
from felixpy.calc.tunnel_plan import Direct, Encapsulated, Hop, Tunnel, TunnelDevice, Way
from felixpy.calc.tunnels import BlockRoutes, NextHopIntent, Towards, TunnelDelta
from felixpy.dataplane.chains.tunnels import INPUT_CHAIN, render_input
from felixpy.dataplane.changes import Changes, Ledger
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_WORKLOAD,
    Chain,
    DeviceAddress,
    FdbEntry,
    IpipSettings,
    Link,
    Neighbour,
    NextHop,
    Object,
    Route,
    RouteType,
    Sysctl,
    VxlanSettings,
)

TUNNEL_METRIC = 512
"""Below 1024, the metric of learned routes: where both are, the tunnel is taken."""
BLACKHOLE_METRIC = 4096
"""Above every other: a pod's route to the same destination always wins."""


class TunnelTables:
    """Keeps the tunnels' part of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._devices: dict[Tunnel, TunnelDevice] = {}
        self._filtered = False

    def translate(self, delta: TunnelDelta, changes: Changes) -> None:
        """Adds to `changes` what the delta asks for."""
        for tunnel, device in delta.devices.items():
            self._devices.pop(tunnel, None)
            if device is not None:
                self._devices[tunnel] = device
            self._ledger.put(f"tunnel {tunnel}", render_device(device) if device is not None else (), changes)
        for way, intent in delta.hops.items():
            objects = render_hop(intent, way.tunnel.version) if intent is not None else ()
            self._ledger.put(_owner(way), objects, changes)
        for block, routes in delta.blocks.items():
            self._ledger.put(f"block {block}", render_block(routes or {}), changes)
        if delta.devices or not self._filtered:
            self._filtered = True
            chain = Chain(INPUT_CHAIN, render_input(self._devices.values()))
            self._ledger.put("tunnel input", (chain,), changes)


def _owner(way: Way) -> str:
    return f"way {way.node} {way.tunnel} {way.mode}"


def render_device(device: TunnelDevice) -> tuple[Object, ...]:
    """One end of a tunnel: the device, forwarding on it, and its own address."""
    name = str(device.tunnel)
    version = device.tunnel.version
    link = Link(name, IpipSettings(), mtu=device.mtu)
    if device.tunnel is not Tunnel.IPIP:
        settings = VxlanSettings(device.vni, device.port, device.parent, device.local)
        link = Link(name, settings, mtu=device.mtu, mac=device.mac)
    forwarding = Sysctl(f"net/ipv{version}/conf/{name}/forwarding", "1")
    if device.address is None:
        return link, forwarding
    return link, forwarding, DeviceAddress(name, host_prefix(device.address))


def render_hop(intent: NextHopIntent, version: int) -> tuple[Object, ...]:
    """The nexthop object, where the way has its number, and for VXLAN what leads from the gateway to the far host."""
    hop = intent.hop
    found: list[Object] = []
    if isinstance(hop, Encapsulated) and hop.mac:
        name = str(hop.tunnel)
        found += [Neighbour(name, hop.gateway, hop.mac), FdbEntry(name, hop.mac, hop.remote)]
    if intent.number is not None:
        found.append(
            NextHop(
                intent.number,
                gateway=hop.gateway,
                device=_device(hop),
                onlink=_on_link(hop),
                protocol=ROUTE_PROTOCOL_WORKLOAD,
                version=6 if version == 6 else 4,
            )
        )
    return tuple(found)


def _device(hop: Hop) -> str:
    return hop.device if isinstance(hop, Direct) else str(hop.tunnel)


def _on_link(hop: Hop) -> bool:
    """A gateway inside a tunnel lies in no subnet of the device; IPv6's is link-local, which is on any."""
    return isinstance(hop, Encapsulated) and len(hop.gateway) == 4


def render_block(routes: BlockRoutes) -> tuple[Route, ...]:
    """The routes of one block."""
    return tuple(_render_route(destination, towards) for destination, towards in routes.items())


def _render_route(destination: Prefix, towards: Towards) -> Route:
    if towards is None:
        return Route(destination, ROUTE_PROTOCOL_WORKLOAD, RouteType.BLACKHOLE, metric=BLACKHOLE_METRIC)
    if isinstance(towards, int):
        return Route(destination, ROUTE_PROTOCOL_WORKLOAD, nexthop_id=towards, metric=TUNNEL_METRIC)
    return Route(
        destination,
        ROUTE_PROTOCOL_WORKLOAD,
        device=_device(towards),
        gateway=towards.gateway,
        onlink=_on_link(towards),
        metric=TUNNEL_METRIC,
    )


def carriers(devices: Iterable[TunnelDevice]) -> frozenset[str]:
    """The names of the tunnels' devices and of those that they lie on."""
    return frozenset(name for one in devices for name in (str(one.tunnel), one.parent))
