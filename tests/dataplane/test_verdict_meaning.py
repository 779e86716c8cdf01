"""Meaning: what the rules do to a packet is what the policy model says, for generated clusters and packets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.dataplane.judging.compiled import compile_node
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import Verdict, verdict
from tests.dataplane.definition import Decision, decide
from tests.dataplane.meaning_world import LOCAL, NODE, Cluster, Maker, resources_of, shrink
from tests.dataplane.truth import render_case, render_cluster

CASES = 500
PACKETS = 20


def both(cluster: Cluster, packet: Packet) -> tuple[Decision, Verdict]:
    node = compile_node(NODE, resources_of(cluster), LOCAL)
    return decide(cluster, NODE, packet, LOCAL), verdict(node.kernel, packet)


def disagree(cluster: Cluster, packet: Packet) -> bool:
    said, done = both(cluster, packet)
    return said.allowed != done.accepted


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 2**64))
def test_rules_do_what_policies_say(seed: int) -> None:
    make = Maker(seed)
    cluster = make.cluster()
    node = compile_node(NODE, resources_of(cluster), LOCAL)
    for packet in [make.packet() for _ in range(PACKETS)]:
        if verdict(node.kernel, packet).accepted != decide(cluster, NODE, packet, LOCAL).allowed:
            least = shrink(cluster, lambda part, packet=packet: disagree(part, packet))
            raise AssertionError(f"{render_cluster(least)}\n{render_case(packet, *both(least, packet))}")
