"""What diff says to pass through a node otherwise, from network to network, is what the node's rules let through."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import parse_address
from felixpy.ctl.verdicts.compare import Difference
from felixpy.ctl.verdicts.ends import End
from felixpy.ctl.verdicts.shifts import Shifts
from felixpy.ctl.verdicts.through import OTHERS, compare_through
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import verdict
from felixpy.resources.scalars import PORTED
from tests.ctl.verdict_oracle import INTERFACES, OUTSIDE, TRAFFIC, Oracle, covers
from tests.ctl.verdict_world import NODES, Maker, worlds

CASES = 25
SAMPLE = 150
ADDRESSES = tuple(parse_address(text) for both in OUTSIDE for text in both)
Way = tuple[str, str, str]
"""A node, and its interfaces that a packet comes by and leaves by."""
WAYS: tuple[Way, ...] = tuple(product(NODES, INTERFACES, INTERFACES))


def passes(oracle: Oracle, way: Way, packet: Packet) -> bool:
    node, entered, left = way
    there = Packet(
        packet.source,
        packet.destination,
        packet.protocol,
        entered,
        packet.source_port,
        packet.destination_port,
        packet.icmp,
    )
    return verdict(oracle.node(node, left).kernel, there).accepted


def door(oracles: tuple[Oracle, Oracle], node: str, interface: str) -> str:
    """What tells the interface from others in one of the clusters."""
    names = {oracle.name_of(node, interface) for oracle in oracles}
    return min(names, key=lambda one: (not one, one == "*", one != interface)) or OTHERS


def is_by(end: End, node: str, interface: str) -> bool:
    return end.node == node and (not end.interface or interface in end.interfaces)


def is_about(one: Difference, doors: tuple[str, str, str], packet: Packet) -> bool:
    node, entered, left = doors
    return any(
        is_by(end, node, entered) and end.region and end.region.contains(packet.source) for end in one.sources
    ) and any(
        is_by(end, node, left) and end.region and end.region.contains(packet.destination) for end in one.destinations
    )


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 2**64))
def test_what_passes_through_otherwise(seed: int) -> None:
    maker = Maker(seed)
    one = maker.cluster()
    other = maker.changed(one)
    before, after = worlds(one, other)
    found = compare_through((before, after), Shifts(before, after)).differences
    oracles = Oracle(one), Oracle(other)
    for way in WAYS:
        doors = way[0], door(oracles, way[0], way[1]), door(oracles, way[0], way[2])
        for packet in maker.random.sample(PACKETS, SAMPLE // len(WAYS)):
            was, is_now = (passes(oracle, way, packet) for oracle in oracles)
            if was != is_now:
                told = [
                    turn.after.allowed
                    for difference in found
                    if is_about(difference, doors, packet)
                    for turn in difference.turns
                    if covers(turn.cell, packet)
                ]
                assert is_now in told, f"{way}: {packet} is {is_now} now, and nobody says so"
        for difference in found:
            check(oracles, way, doors, difference)


def check(oracles: tuple[Oracle, Oracle], way: Way, doors: tuple[str, str, str], difference: Difference) -> None:
    """What is named fares as it is said."""
    here = [end for end in difference.sources if is_by(end, doors[0], doors[1])]
    there = [end for end in difference.destinations if is_by(end, doors[0], doors[2])]
    for source, target, turn in product(here[:2], there[:2], difference.turns):
        packet = turn.cell.packet(source.address, target.address)
        fared = tuple(passes(oracle, way, packet) for oracle in oracles)
        assert fared == (turn.before.allowed, turn.after.allowed), f"{way}: {source} to {target}: {packet}: {turn}"


def packets() -> list[Packet]:
    found = []
    for (source, target), (protocol, port, icmp) in product(product(ADDRESSES, ADDRESSES), TRAFFIC):
        if (
            source != target
            and len(source) == len(target)
            and (protocol not in (1, 58) or (protocol == 58) == (len(source) == 16))
        ):
            ports = (40000, port) if protocol in PORTED else (0, 0)
            found.append(Packet(source, target, protocol, "", *ports, icmp))
    return found


PACKETS = packets()
