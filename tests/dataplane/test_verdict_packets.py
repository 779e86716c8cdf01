"""The kernel agrees: generated clusters in its own tables, and frames between real devices, both families."""

from __future__ import annotations

from dataclasses import replace

import pytest

from felixpy.addresses import format_address, parse_address
from felixpy.dataplane.judging.compiled import compile_node
from felixpy.dataplane.judging.packet import KernelState, Packet
from felixpy.dataplane.judging.verdict import verdict
from felixpy.dataplane.rules import CtState
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Table
from felixpy.resources.types import WorkloadEndpoint
from tests.dataplane.frames import ICMP, ICMP6, TCP, UDP
from tests.dataplane.ground import PODS, Ground
from tests.dataplane.meaning_world import DEVICES, IPIP, NODE, OTHER, Cluster, Maker, resources_of
from tests.dataplane.truth import describe, render_table

CLUSTERS = 40
HOST_CLUSTERS = 30
CANDIDATES, PACKETS = 200, 50
SENDABLE = (TCP, UDP, ICMP, ICMP6, IPIP, OTHER)


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
