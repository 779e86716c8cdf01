"""The kernel agrees: generated clusters in its own tables, and frames between real devices, both families."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from felixpy.addresses import format_address, parse_address
from felixpy.dataplane.judging.compiled import CompiledNode, compile_node
from felixpy.dataplane.judging.packet import KernelState, Packet
from felixpy.dataplane.judging.verdict import verdict
from felixpy.dataplane.objects import Put, PutMembers
from felixpy.dataplane.rules import CtState
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkSocket, in_namespace
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Table
from felixpy.resources.types import WorkloadEndpoint
from tests.dataplane.frames import ICMP, ICMP6, TCP, UDP, Wires, build_bell, build_frame, on_one_processor
from tests.dataplane.meaning_world import DEVICES, IPIP, NODE, OTHER, Cluster, Maker, resources_of
from tests.dataplane.truth import describe, render_table
from tests.support.netns import Namespace, link_namespaces

CLUSTERS = 40
HOST_CLUSTERS = 30
CANDIDATES, PACKETS = 200, 50
PODS = {f"cali{number}": (f"10.0.0.{number}", f"fd00::{number}") for number in (1, 2, 3)}
GATEWAYS = ("198.51.100.254", "2001:db8::fe")
OWN = parse_address("198.51.100.1")
"""The node's own address, which nobody here sends to."""
SENDABLE = (TCP, UDP, ICMP, ICMP6, IPIP, OTHER)


def mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes([number])


@dataclass(frozen=True)
class Ground:
    """A node with pods behind cali1 to cali3 and an unknown one behind cali9; everything else is behind eth0."""

    node: Namespace
    driver: NftDriver
    wires: Wires

    def load(self, compiled: CompiledNode) -> None:
        """Makes the rules of a node this node's, and forgets every connection."""
        kernel = compiled.kernel
        self.driver.destroy()
        objects = [Put(one) for one in (*kernel.sets.values(), *kernel.chains.values())]
        members = [PutMembers(kernel.sets[name], held) for name, held in kernel.members.items() if held]
        failed = [outcome for outcome in self.driver.apply([*objects, *members]) if outcome.error]
        assert not failed, failed
        self.node.run("conntrack", "-F")

    def send(self, packets: list[Packet]) -> list[str]:
        """The device that each packet comes out of, "" where it does not."""
        with on_one_processor():
            for ident, packet in enumerate(packets):
                self.wires.send(packet.in_interface, build_frame(packet, ident, mac(2), mac(1)))
            self.wires.send("eth0", build_bell(OWN, parse_address("198.51.100.77"), mac(2)))
        found = self.wires.collect()
        return [found.get(ident, "") for ident in range(len(packets))]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    node = Namespace.create("v")
    ends: dict[str, Namespace] = {}
    try:
        node.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv4__conf__all__send_redirects=0)
        for device in (*PODS, "cali9", "eth0"):
            ends[device] = Namespace.create("v")
            link_namespaces(node, device, ends[device], "eth0")
            node.ip("link", "set", device, "address", mac(1).hex(":"))
            ends[device].ip("link", "set", "eth0", "address", mac(2).hex(":"))
            node.sysctl(**{f"ipv4__conf__{device}__{name}": 0 for name in ("rp_filter", "send_redirects")})
            for address in PODS.get(device, GATEWAYS if device == "eth0" else ()):
                node.ip("route", "replace", address, "dev", device)
                node.ip("neigh", "replace", address, "lladdr", mac(2).hex(":"), "dev", device)
        node.add_address("eth0", f"{format_address(OWN)}/32")
        for gateway in GATEWAYS:
            node.ip("route", "replace", "default", "via", gateway, "dev", "eth0")
        node.sysctl(ipv4__conf__all__rp_filter=0)
        socket = in_namespace(node.path, lambda: NetlinkSocket(NETLINK_NETFILTER))
        wires = Wires(ends)
        with NftDriver(socket=socket) as driver:
            yield Ground(node, driver, wires)
        wires.close()
    finally:
        for namespace in (node, *ends.values()):
            namespace.delete()


def with_everyone(cluster: Cluster, make: Maker) -> Cluster:
    """The cluster with all three pods, each with both its addresses: as they are wired here."""
    workloads = dict(cluster[Table.WORKLOAD])
    for number, addresses in enumerate(PODS.values(), 1):
        one = workloads.get(Name("ns1", f"p{number}"), make.local_endpoint(number))
        assert isinstance(one, WorkloadEndpoint)
        both = tuple(map(parse_address, addresses))
        workloads[Name("ns1", f"p{number}")] = WorkloadEndpoint(
            NODE, one.interface, both, one.labels, one.profiles, one.ports
        )
    return {**cluster, Table.WORKLOAD: workloads}


def as_sent(packet: Packet) -> Packet:
    """The packet as conntrack sees it when nothing went before (nf_conntrack_proto_icmp.c, _icmpv6.c)."""
    state = CtState.NEW
    if packet.icmp is not None:
        kind = packet.icmp[0]
        if packet.version == 4 and kind != 8:
            state = CtState.INVALID
        elif packet.version == 6 and kind != 128:
            state = CtState.UNTRACKED if 130 <= kind <= 137 else CtState.INVALID
    return replace(packet, state=state)


def make_packets(make: Maker) -> list[Packet]:
    """New connections between everybody, none the answer to another."""
    chosen: dict[tuple[bytes, int, bytes, int, int], Packet] = {}
    while len(chosen) < CANDIDATES:
        packet = as_sent(make.packet())
        here = (packet.source, packet.source_port, packet.destination, packet.destination_port, packet.protocol)
        back = (packet.destination, packet.destination_port, packet.source, packet.source_port, packet.protocol)
        reaches = format_address(packet.destination) not in ("192.0.2.1", "2001:db8::1")
        own = (packet.protocol == ICMP) <= (packet.version == 4) and (packet.protocol == ICMP6) <= (packet.version == 6)
        if (
            reaches
            and own
            and packet.protocol in SENDABLE
            and back not in chosen
            and packet.source != packet.destination
        ):
            chosen[here] = packet
    return list(chosen.values())


def choose_packets(make: Maker, kernel: KernelState) -> list[Packet]:
    """Packets that meet as many different rules as can be had, and some by chance."""
    met: set[tuple[str, int]] = set()
    telling, others = [], []
    for packet in make_packets(make):
        steps = {(step.chain, step.index) for step in verdict(kernel, packet).steps}
        (others if steps <= met else telling).append(packet)
        met |= steps
    return [*telling, *others][:PACKETS]


def compare(ground: Ground, make: Maker, cluster: Cluster) -> None:
    """Sends packets through a cluster's rules in the kernel, and fails with a truth table where verdict differs."""
    compiled = compile_node(NODE, resources_of(cluster))
    packets = choose_packets(make, compiled.kernel)
    ground.load(compiled)
    arrived = ground.send(packets)
    rows, wrong = [], []
    for packet, device in zip(packets, arrived, strict=True):
        done = verdict(compiled.kernel, packet)
        said = done.packet.out_interface if done.accepted else ""
        rows.append((describe(packet), said, device))
        if said != device:
            wrong += [describe(packet), *(f"    {step}" for step in done.steps)]
    assert not wrong, "\n".join(("", render_table(("packet", "verdict", "kernel"), rows), *wrong))


@pytest.mark.parametrize("seed", range(CLUSTERS))
def test_the_kernel_does_what_verdict_says(ground: Ground, seed: int) -> None:
    make = Maker(seed)
    compare(ground, make, with_everyone(make.cluster(), make))


@pytest.mark.parametrize("seed", range(HOST_CLUSTERS))
def test_and_with_host_endpoints(ground: Ground, seed: int) -> None:
    make = Maker(seed)
    compare(ground, make, make.with_hosts(with_everyone(make.cluster(), make)))


def test_the_sample_holds_both_outcomes() -> None:
    fates = set()
    for seed in range(CLUSTERS):
        make = Maker(seed)
        cluster = with_everyone(make.cluster(), make)
        kernel = compile_node(NODE, resources_of(cluster)).kernel
        for packet in choose_packets(make, kernel):
            if packet.in_interface in DEVICES and packet.in_interface != "cali9":
                fates.add((packet.version, packet.protocol, verdict(kernel, packet).accepted))
    wanted = {(version, protocol, fate) for version in (4, 6) for protocol in (TCP, UDP) for fate in (True, False)}
    assert wanted <= fates
