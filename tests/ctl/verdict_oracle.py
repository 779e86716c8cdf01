"""What becomes of a packet in a cluster of verdict_world: the compiled rules of each node on its way, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from felixpy.addresses import parse_address
from felixpy.ctl.verdicts.cells import Cell
from felixpy.ctl.verdicts.ends import End
from felixpy.dataplane.judging.compiled import CompiledNode, compile_node
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import verdict
from felixpy.resources.codec import Decoder
from felixpy.resources.scalars import PORTED
from felixpy.resources.tables import Decoded
from tests.ctl.verdict_world import CALICO, NODE_OF, NODES, PODS, SECOND, Keys, addresses, device, items

OUTSIDE = (("192.0.2.7", "2001:db8::7"), ("192.0.2.1", "2001:db8::8"), ("198.51.100.1", "2001:db8::9"))
INTERFACES = ("eth0", "eth1")
TUNNEL = "vxlan.calico"
TRAFFIC: tuple[tuple[int, int, tuple[int, int] | None], ...] = (
    *((protocol, port, None) for protocol in (6, 17) for port in (53, 80, 179, 443, 4789, 4790, 8080)),
    (132, 80, None),
    (4, 0, None),
    (253, 0, None),
    (1, 0, (8, 0)),
    (1, 0, (3, 1)),
    (58, 0, (128, 0)),
    (58, 0, (128, 1)),
    (58, 0, (135, 0)),
    (58, 0, (3, 0)),
)


class Who(NamedTuple):
    """A pod, a node itself, or somebody outside; and the interface of the node by which the packet goes."""

    name: str
    node: str
    interface: str
    addresses: tuple[str, str]

    @property
    def is_pod(self) -> bool:
        return self.name in PODS


@dataclass(frozen=True)
class Oracle:
    """One cluster, each of its nodes compiled when a packet first comes by."""

    cluster: Keys

    def allows(self, source: Who, target: Who, packet: Packet) -> bool:
        """Whether a packet gets from end to end."""
        if source.node and source.node == target.node:
            device_of = device(source.name) if source.is_pod else ""
            return verdict(self._node(source.node, "eth0").kernel, replace(packet, in_interface=device_of)).accepted
        if source.node:
            device_of = device(source.name) if source.is_pod else ""
            sent = replace(packet, in_interface=device_of)
            if not verdict(self._node(source.node, source.interface).kernel, sent).accepted:
                return False
        if target.node:
            arrived = replace(packet, in_interface=target.interface)
            return verdict(self._node(target.node, target.interface).kernel, arrived).accepted
        return True

    def carried(self, source: Who, target: Who, packet: Packet) -> tuple[Who, Who]:
        """Both, by the tunnel where they are parted by one."""
        if source.node and target.is_pod and source.node != target.node and packet.version == 4 and self.is_tunnelled:
            return source._replace(interface=TUNNEL), target._replace(interface=TUNNEL)
        return source, target

    @property
    def is_tunnelled(self) -> bool:
        """Whether pods of other nodes are reached through a tunnel; the nodes are in one subnet."""
        return bool(self.cluster[f"{CALICO}/ippools/pool"]["spec"]["vxlanMode"] == "Always")

    def name_of(self, node: str, interface: str) -> str:
        """What guards an interface: its name, the first address of it, `*`, or "" for nothing."""
        hosts = [
            body["spec"] for key, body in self.cluster.items() if key.startswith(f"{CALICO}/hostendpoints/{node}-")
        ]
        if any(one.get("interfaceName") == interface for one in hosts):
            return interface
        if interface == "eth0" and any("interfaceName" not in one for one in hosts):
            return NODES[node][0]
        return "*" if any(one.get("interfaceName") == "*" for one in hosts) else ""

    def node(self, name: str, interface: str = "eth0") -> CompiledNode:
        """A node that sends by an interface."""
        return self._node(name, interface)

    def _node(self, node: str, uplink: str) -> CompiledNode:
        return _compiled(id(self), self, node, uplink)

    def __hash__(self) -> int:
        return id(self)


@lru_cache(maxsize=16)
def _compiled(_: int, oracle: Oracle, node: str, uplink: str) -> CompiledNode:
    decoder = Decoder(node)
    found = (decoder.decode(item.key, item.value) for item in items(oracle.cluster))
    interfaces = {
        interface: frozenset(map(parse_address, every.get(node, ())))
        for interface, every in zip(INTERFACES, (NODES, SECOND), strict=True)
    }
    local = frozenset(address for every in interfaces.values() for address in every)
    return compile_node(
        node,
        [(one.ref, one.value) for one in found if isinstance(one, Decoded) and one.value],
        local,
        uplink,
        interfaces,
    )


def everyone() -> Iterator[Who]:
    for pod, interface in product(PODS, INTERFACES):
        yield Who(pod, NODE_OF[pod], interface, addresses(pod))
    for node, own in NODES.items():
        yield Who(node, node, "eth0", own)
    for node, own in SECOND.items():
        yield Who(node, node, "eth1", own)
    for both in OUTSIDE:
        yield Who("", "", "", both)


def packets() -> Iterator[tuple[Who, Who, Packet]]:
    """Who sends, who receives, and what."""
    for source, target in product(everyone(), everyone()):
        if source.name == target.name or not (source.node or target.node):
            continue
        if not source.is_pod and source.node == target.node:
            continue
        for family, (protocol, port, icmp) in product((0, 1), TRAFFIC):
            if protocol in (1, 58) and (protocol == 58) != bool(family):
                continue
            ports = (40000, port) if protocol in PORTED else (0, 0)
            ends = parse_address(source.addresses[family]), parse_address(target.addresses[family])
            yield source, target, Packet(*ends, protocol, "", *ports, icmp)


def covers(cell: Cell, packet: Packet) -> bool:
    """Whether the packet is one of the cell's."""
    if cell.protocol is None:
        return packet.protocol not in cell.besides
    if cell.protocol != packet.protocol:
        return False
    if cell.icmp is not None:
        assert packet.icmp is not None
        kind, code = cell.icmp
        if kind is None:
            return packet.icmp[0] not in cell.besides
        return kind == packet.icmp[0] and (
            packet.icmp[1] not in cell.besides if code is None else code == packet.icmp[1]
        )
    inside = cell.ports[0] <= packet.destination_port <= cell.ports[1]
    return inside and cell.source_ports[0] <= packet.source_port <= cell.source_ports[1]


def is_end(end: End, who: Who, address: bytes, guards: str) -> bool:
    """Whether somebody, by an interface that is guarded so, is an end."""
    if not who.is_pod and not guards and end.region is not None:
        return end.region.contains(address)
    if end.address != address or end.region is not None or end.is_host == who.is_pod:
        return False
    return not end.interface or not {guards, who.interface}.isdisjoint(end.interfaces)
