"""Whether a packet satisfies a match, as the kernel's own expressions decide it. Pure.

Source: what drivers/netlink/nft/rules.py encodes; net/netfilter/nft_{meta,payload,cmp,lookup,ct,fib}.c.
"""

from __future__ import annotations

from typing import assert_never

from felixpy.dataplane.judging.packet import KernelState, Packet
from felixpy.dataplane.rules import (
    CtDestinationTranslated,
    CtStateIn,
    DestinationIsLocal,
    FamilyIs,
    Hairpin,
    IcmpIs,
    InterfaceIs,
    MarkIs,
    Match,
    NetIn,
    PortIn,
    ProtocolIs,
    ReversePathFails,
    ServiceKnown,
    SetHas,
    SourceSlotIn,
)
from felixpy.resources.scalars import PORTED

_ICMP = {4: 1, 6: 58}


def satisfies(match: Match, packet: Packet, kernel: KernelState) -> bool:
    """Whether the match holds; a packet of another family satisfies no match on addresses, negated or not.

    Raises  KeyError where there is no such set.
    """
    match match:
        case InterfaceIs(direction, name, negate):
            device = packet.in_interface if direction == "in" else packet.out_interface
            return (device.startswith(name[:-1]) if name.endswith("*") else device == name) != negate
        case FamilyIs(version):
            return packet.version == version
        case ProtocolIs(number, negate):
            return (packet.protocol == number) != negate
        case NetIn(side, nets, negate):
            address = packet.address(side)
            return nets[0].version == packet.version and any(net.contains(address) for net in nets) != negate
        case SetHas(side, set_name, version, negate, ports):
            key = packet.port_key(side) if ports else packet.address(side)
            return packet.version == version and kernel.has(set_name, key) != negate
        case PortIn(side, ranges, negate):
            return packet.protocol in PORTED and _in_ranges(packet.port(side), ranges) != negate
        case IcmpIs():
            return _icmp(match, packet)
        case CtStateIn(states, negate):
            return (packet.state in states) != negate
        case CtDestinationTranslated(negate):
            return packet.translated != negate
        case MarkIs(value, mask, negate):
            return (packet.mark & mask == value) != negate
        case ReversePathFails():
            return not kernel.leads_back(packet.source, packet.in_interface)
        case DestinationIsLocal(negate):
            return (packet.destination in kernel.local) != negate
        case ServiceKnown(set_name, version, negate):
            return packet.version == version and kernel.has(set_name, packet.port_key("destination")) != negate
        case SourceSlotIn(version, count, slots):
            return packet.version == version and packet.slot % count in slots
        case Hairpin(set_name, version):
            return packet.version == version and kernel.has(set_name, packet.source + packet.destination)
        case _:
            assert_never(match)


def _in_ranges(port: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= port <= high for low, high in ranges)


def _icmp(match: IcmpIs, packet: Packet) -> bool:
    if packet.icmp is None or (packet.version, packet.protocol) != (match.version, _ICMP[match.version]):
        return False
    kind, code = packet.icmp
    return (kind == match.type and match.code in (None, code)) != match.negate
