"""A packet through the nodes on its way: each node's compiled rules in turn, until it is lost or there. Pure.

In: the cluster, two parties, what the packet is; out: Flows, one for each family that both have and each backend that
a Service may choose. Where a node sends what is not its own is the other end's node: policy does not depend on the
path between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from felixpy.addresses import Address
from felixpy.calc.services.frontends import ANY_OWN, Frontend
from felixpy.calc.tunnel_plan import Tunnel
from felixpy.ctl.explain.cluster import Cluster
from felixpy.ctl.explain.nobody import Vacancy, find_vacancy
from felixpy.ctl.explain.parties import Party, party_at
from felixpy.dataplane.judging.compiled import CompiledNode, compile_node
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import Fate, Verdict, verdict
from felixpy.dataplane.rules import Balance, CtState, SourceSlotIn
from felixpy.resources.kinds import Name
from felixpy.resources.scalars import PORTED
from felixpy.resources.service_types import EndpointSlice
from felixpy.resources.tables import Table
from felixpy.resources.types import Node, WorkloadEndpoint

MOST_NODES = 4
"""A packet passes its source's node, that of a Service's address, and its backend's."""
SOURCE_PORT = 40000
ICMP, ICMP6, ECHO, ECHO6 = 1, 58, 8, 128


_TUNNELS = frozenset(map(str, Tunnel))


class Unexplained(ValueError):
    """The question has no answer: the parties have no family in common, or no node of ours is between them."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is asked about; `icmp` None asks for echo requests where the protocol is ICMP."""

    protocol: int
    port: int = 0
    icmp: tuple[int, int] | None = None
    source_port: int = SOURCE_PORT


@dataclass(frozen=True, slots=True)
class Passage:
    """A packet through one node."""

    compiled: CompiledNode
    entered: Packet
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Flow:
    """One packet from end to end; no passages where it never leaves the pod or node that sends it.

    `service` is the one that chose the backend, where some did. `vacancy`: nobody has the address that it is for.
    """

    source: Party
    destination: Party
    packet: Packet
    passages: tuple[Passage, ...]
    service: Name | None = None
    vacancy: Vacancy | None = None

    @property
    def fate(self) -> Fate:
        """What became of it in the end; what nothing denies gets to nobody all the same where there is a vacancy."""
        fate = self.passages[-1].verdict.fate if self.passages else Fate.ACCEPTED
        return Fate.UNROUTED if fate is Fate.ACCEPTED and self.vacancy is not None else fate

    @property
    def allowed(self) -> bool:
        return self.fate is Fate.ACCEPTED

    @property
    def end(self) -> Packet:
        """The packet as it arrived, or was lost."""
        return self.passages[-1].verdict.packet if self.passages else self.packet


def explain_flows(
    cluster: Cluster, source: Party, destination: Party, traffic: Traffic, via: str = ""
) -> tuple[Flow, ...]:
    """What becomes of a first packet; `via` is the node by which it comes in from outside: NODE or NODE/DEVICE.

    A packet that a node or a workload of it sends leaves by that device where `via` names its node.

    Raises  Unexplained.
    """
    pairs = [(here, there) for here in source.addresses for there in destination.addresses if len(here) == len(there)]
    if not pairs:
        raise Unexplained(f"{source} and {destination} have no addresses of one family")
    flows: list[Flow] = []
    for here, there in pairs:
        packet = _packet(here, there, traffic)
        walker = _Walker(cluster, source, destination, packet)
        stays = source.node and (source.node, source.endpoint) == (destination.node, destination.endpoint)
        if stays and not walker.services:
            flows.append(Flow(source, destination, packet, ()))
        else:
            flows += walker.flows(via)
    return tuple(flows)


def _packet(source: Address, destination: Address, traffic: Traffic) -> Packet:
    protocol, icmp = traffic.protocol, traffic.icmp
    if protocol in (ICMP, ICMP6):
        protocol = ICMP if len(source) == 4 else ICMP6
        icmp = icmp or (ECHO if protocol == ICMP else ECHO6, 0)
    ports = (traffic.source_port, traffic.port) if protocol in PORTED else (0, 0)
    return Packet(source, destination, protocol, "", *ports, icmp)


class _Walker:
    """One pair of addresses; nodes are compiled when the packet first meets them."""

    def __init__(self, cluster: Cluster, source: Party, destination: Party, packet: Packet) -> None:
        self.cluster = cluster
        self.source = source
        self.destination = destination
        self.packet = packet
        there = packet.destination
        ported = cluster.services_on(there, packet.protocol, packet.destination_port)
        self.services = (*cluster.services_at((there,)), *ported)
        self.backends = _backends(cluster, self.services)
        floating = cluster.floating.get(there)
        self.addresses = frozenset({packet.source, there, *self.backends, *((floating.internal,) if floating else ())})
        self._compiled: dict[str, CompiledNode] = {}
        self._doors = {one.node: one.door for one in (source, destination) if one.door}

    def flows(self, via: str) -> Iterator[Flow]:
        """One flow, or one for each backend."""
        packet = self.packet
        via, _, by = via.partition("/")
        if via and Name("", via) not in self.cluster.tables[Table.NODE]:
            raise Unexplained(f"there is no node {via!r}")
        node = self.source.node or via or self._entrance(packet)
        if by:
            self._doors[via] = by
        device = self.source.interface if self.source.node else self._uplink(node)
        entering = replace(packet, in_interface=device)
        first = self._flow(node, entering)
        yield first
        seen = {_end(first)}
        for slot in range(1, _slots(first)):
            other = self._flow(node, replace(entering, slot=slot))
            if _end(other) not in seen:
                seen.add(_end(other))
                yield other

    def _flow(self, node: str, packet: Packet) -> Flow:
        passages: list[Passage] = []
        here: str | None = node
        entering = packet
        while here is not None and len(passages) < MOST_NODES:
            compiled = self._compile(here)
            done = verdict(compiled.kernel, entering)
            passages.append(Passage(compiled, entering, done))
            here, entering = self._next(here, done)
        last = passages[-1].verdict.packet.destination
        vacancy = find_vacancy(self.cluster, last)
        return Flow(self.source, self._party_at(last), packet, tuple(passages), self._service_of(passages), vacancy)

    def _next(self, node: str, done: Verdict) -> tuple[str | None, Packet]:
        """Where an accepted packet goes on, and as what it comes in there."""
        packet = done.packet
        if not done.accepted or done.local:
            return None, packet
        there = self._node_of(packet.destination)
        if there is None or there == node:
            return None, packet
        source = self._masquerade(node, packet) if done.masqueraded else packet.source
        arriving = Packet(
            source,
            packet.destination,
            packet.protocol,
            packet.out_interface if packet.out_interface in _TUNNELS else self._uplink(there),
            packet.source_port,
            packet.destination_port,
            packet.icmp,
            CtState.NEW,
            slot=packet.slot,
        )
        return there, arriving

    def _node_of(self, address: Address) -> str | None:
        for name in self.cluster.holders.get(address, ()):
            endpoint = self.cluster.tables[Table.WORKLOAD][name]
            if isinstance(endpoint, WorkloadEndpoint):
                return endpoint.node
        if address in self.cluster.floating:
            return self.cluster.floating[address].node
        vacancy = find_vacancy(self.cluster, address)
        return vacancy.node or None if vacancy is not None else self.cluster.node_names.get(address)

    def _masquerade(self, node: str, packet: Packet) -> Address:
        """The source that a node gives to what it hides: its own address of the family."""
        own = self.cluster.tables[Table.NODE].get(Name("", node))
        address = (own.ipv4 if packet.version == 4 else own.ipv6) if isinstance(own, Node) else None
        return address.address if address is not None else packet.source

    def _entrance(self, packet: Packet) -> str:
        """The node by which a packet comes in from outside: the destination's, or of a Service one with a backend."""
        node = self._node_of(packet.destination)
        if node is not None:
            return node
        if self.services:
            found = sorted(filter(None, map(self._node_of, self.backends))) or sorted(
                name.name for name in self.cluster.tables[Table.NODE]
            )
            if found:
                return found[0]
        raise Unexplained(f"no node of this cluster is between {self.source} and {self.destination}")

    def _party_at(self, address: Address) -> Party:
        return self.destination if address in self.destination.addresses else party_at(self.cluster, address)

    def _service_of(self, passages: list[Passage]) -> Name | None:
        """The Service that a packet was sent to."""
        first = passages[0]
        asked = Frontend(first.entered.destination, first.entered.protocol, first.entered.destination_port)
        frontends = first.compiled.frontends
        intent = frontends.get(asked) or frontends.get(asked._replace(address=ANY_OWN[first.entered.version]))
        return intent.service if intent is not None else next(iter(self.services), None)

    def _compile(self, node: str) -> CompiledNode:
        if node not in self._compiled:
            self._compiled[node] = compile_node(
                node,
                self.cluster.resources(node, self.addresses, self.services),
                self.cluster.local_addresses(node),
                self._uplink(node),
                self.cluster.interfaces(node, self._uplink(node)),
            )
        return self._compiled[node]

    def _uplink(self, node: str) -> str:
        """The device by which a node has to do with the rest of the world, unless it was asked about another."""
        return self._doors.get(node) or self.cluster.uplink(node)


def _backends(cluster: Cluster, services: tuple[Name, ...]) -> frozenset[Address]:
    """Every address that some node may send these Services' connections to."""
    return frozenset(
        address
        for ref, value in cluster.slices_of(services)
        if isinstance(value, EndpointSlice) and Name(ref.name.namespace, value.service) in services
        for group in value.groups
        for backend in group.backends
        for address in backend.addresses
    )


def _slots(flow: Flow) -> int:
    """How many backends the first choice on the way is among."""
    for passage in flow.passages:
        for step in passage.verdict.steps:
            if isinstance(step.action, Balance):
                return step.action.count
            for rule in passage.compiled.kernel.chains[step.chain].rules:
                for match in rule.matches:
                    if isinstance(match, SourceSlotIn):
                        return match.count
    return 1


def _end(flow: Flow) -> tuple[Address, int]:
    return flow.end.destination, flow.end.destination_port
