"""What compare finds is what differs when every pair and packet is tried with the rules of both worlds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import parse_address
from felixpy.ctl.explain.cluster import read_cluster
from felixpy.ctl.verdicts.cells import Cell
from felixpy.ctl.verdicts.compare import Difference, compare
from felixpy.ctl.verdicts.ends import End
from felixpy.ctl.verdicts.world import World
from felixpy.dataplane.judging.compiled import CompiledNode, compile_node
from felixpy.dataplane.judging.packet import KernelState, Packet
from felixpy.dataplane.judging.verdict import verdict
from felixpy.resources.codec import Decoder
from felixpy.resources.scalars import PORTED
from felixpy.resources.tables import Decoded
from tests.ctl.verdict_world import PODS, Keys, Maker, addresses, device, items

CASES = 30
SAMPLE = 250
OUTSIDE = (("192.0.2.7", "2001:db8::7"), ("192.0.2.1", "2001:db8::8"), ("198.51.100.1", "2001:db8::9"))
TRAFFIC: tuple[tuple[int, int, tuple[int, int] | None], ...] = (
    *((protocol, port, None) for protocol in (6, 17) for port in (53, 80, 443, 4789, 4790, 8080)),
    (132, 80, None),
    (4, 0, None),
    (253, 0, None),
    (1, 0, (8, 0)),
    (1, 0, (3, 1)),
    (58, 0, (128, 0)),
    (58, 0, (128, 1)),
    (58, 0, (3, 0)),
)


def compiled(cluster: Keys) -> CompiledNode:
    decoder = Decoder("n1")
    found = (decoder.decode(item.key, item.value) for item in items(cluster))
    return compile_node("n1", [(one.ref, one.value) for one in found if isinstance(one, Decoded) and one.value])


def packets() -> Iterator[tuple[str, str, Packet]]:
    """Who sends, who receives (pods by name, others by address), and what."""
    everyone = [*((pod, addresses(pod), device(pod)) for pod in PODS), *((one[0], one, "eth0") for one in OUTSIDE)]
    for (source, here, way), (target, there, _) in product(everyone, everyone):
        if source == target or (source not in PODS and target not in PODS):
            continue
        for family, (protocol, port, icmp) in product((0, 1), TRAFFIC):
            if protocol in (1, 58) and (protocol == 58) != bool(family):
                continue
            ports = (40000, port) if protocol in PORTED else (0, 0)
            ends = parse_address(here[family]), parse_address(there[family])
            yield source, target, Packet(*ends, protocol, way, *ports, icmp)


PACKETS = tuple(packets())


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


def is_one_of(ends: Sequence[End], who: str, address: bytes) -> bool:
    if who in PODS:
        return any(end.endpoint is not None and end.address == address for end in ends)
    return any(end.region is not None and end.region.contains(address) for end in ends)


def told(found: Sequence[Difference], source: str, target: str, packet: Packet) -> list[bool]:
    """The verdicts after the change, of every difference that the packet is in."""
    return [
        turn.after.allowed
        for one in found
        if is_one_of(one.sources, source, packet.source) and is_one_of(one.destinations, target, packet.destination)
        for turn in one.turns
        if covers(turn.cell, packet)
    ]


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 2**64))
def test_every_pair_that_changes_is_found_and_no_other(seed: int) -> None:
    maker = Maker(seed)
    one = maker.cluster()
    other = maker.changed(one)
    before = World(read_cluster(items(one)))
    changes = {key: json.dumps(other[key]).encode() if key in other else None for key in {**one, **other}}
    after = World(before.cluster.changed({k: v for k, v in changes.items() if one.get(k) != other.get(k)}), before)
    found = list(compare(before, after))
    kernels = compiled(one).kernel, compiled(other).kernel
    for source, target, packet in maker.random.sample(PACKETS, SAMPLE):
        was, is_now = (verdict(kernel, packet).accepted for kernel in kernels)
        inside = source in PODS and target in PODS
        said = told(found, source, target, packet)
        if was != is_now:
            assert is_now in said, f"{source} to {target}: {packet} is {is_now} now, and nobody says so"
        elif inside:
            assert not said, f"{source} to {target}: {packet} stays {was}, and it is said to become {said}"
    for difference in found:
        check(difference, *kernels)


def check(difference: Difference, before: KernelState, after: KernelState) -> None:
    """Each end and packet that is named fares as it is said."""
    for source, target, turn in product(difference.sources[:3], difference.destinations[:3], difference.turns):
        if source.endpoint is not None and source.endpoint == target.endpoint:
            continue
        way = device(source.endpoint.name.split("-")[2]) if source.endpoint else "eth0"
        packet = replace(turn.cell.packet(source.address, target.address), in_interface=way)
        fared = tuple(verdict(kernel, packet).accepted for kernel in (before, after))
        assert fared == (turn.before.allowed, turn.after.allowed), f"{packet}: {turn}"
