"""What may come in through a tunnel: packets that another node sent, and no others. Pure.

Source: felix/rules/static.go (input filter).
"""

from __future__ import annotations

from collections.abc import Iterable

from felixpy.calc.tunnel_plan import Tunnel, TunnelDevice
from felixpy.dataplane.chains.causes import IPIP_OF_STRANGER, VXLAN_OF_STRANGER
from felixpy.dataplane.chains.host import NODES
from felixpy.dataplane.chains.report import end_in
from felixpy.dataplane.rules import PortIn, ProtocolIs, Rule, SetHas

INPUT_CHAIN = "tunnel-input"
_IPIP, _UDP = 4, 17


def render_input(devices: Iterable[TunnelDevice]) -> tuple[Rule, ...]:
    """Drops of tunnel packets that no node sent; without a tunnel the packets are other programs' business."""
    rules = []
    for device in sorted(devices, key=lambda one: one.tunnel):
        version = device.tunnel.version
        stranger = SetHas("source", NODES[version].name, version, negate=True)
        if device.tunnel is Tunnel.IPIP:
            rules.append(end_in(IPIP_OF_STRANGER, ProtocolIs(_IPIP), stranger))
        else:
            port = PortIn("destination", ((device.port, device.port),))
            rules.append(end_in(VXLAN_OF_STRANGER, ProtocolIs(_UDP), port, stranger))
    return tuple(rules)
