"""Host endpoints mean in the rules what they mean in words, for generated clusters and packets."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import parse_address
from felixpy.dataplane.judging.compiled import compile_node
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import Verdict, verdict
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import Policy
from felixpy.resources.tables import POLICY_TABLES, Table
from felixpy.resources.types import FailsafePort, FelixConfiguration, HostEndpoint
from tests.dataplane.definition import Decision
from tests.dataplane.host_definition import OPEN_IN, OPEN_OUT, UPLINK, passes
from tests.dataplane.meaning_world import LOCAL, NODE, PROFILES, Cluster, Maker, resources_of, shrink
from tests.dataplane.truth import render_case, render_cluster

CASES = 400
PACKETS = 30
HOST = {4: parse_address("192.0.2.1"), 6: parse_address("2001:db8::1")}


class HostMaker(Maker):
    """Makes clusters with a host endpoint on the node, and packets that its interfaces see."""

    def host_endpoint(self) -> HostEndpoint:
        interface = self.pick(("eth0", "*", ""))
        expected = tuple(sorted(LOCAL)) if not interface else ()
        return HostEndpoint(NODE, interface, expected, self.labels(), self.some(PROFILES, 0, 2))

    def hosted_policy(self, policy: Policy) -> Policy:
        do_not_track, pre_dnat = self.pick(((False, False), (False, False), (False, True), (True, False)))
        forward = do_not_track or pre_dnat or self.once_in(2)
        return replace(policy, do_not_track=do_not_track, pre_dnat=pre_dnat, apply_on_forward=forward)

    def cluster(self) -> Cluster:
        cluster = super().cluster()
        cluster[Table.HOST][Name("", "h0")] = self.host_endpoint()
        ports = {"failsafe_in": (FailsafePort(*OPEN_IN),), "failsafe_out": (FailsafePort(*OPEN_OUT),)}
        cluster[Table.FELIX_CONFIGURATION][Name("", "default")] = FelixConfiguration((), **ports)
        for table in POLICY_TABLES:
            for name, policy in cluster[table].items():
                assert isinstance(policy, Policy)
                cluster[table][name] = self.hosted_policy(policy)
        return cluster

    def packet(self) -> Packet:
        packet = super().packet()
        if self.once_in(4):
            return replace(packet, in_interface="", source=HOST[packet.version])
        if packet.in_interface == UPLINK and self.once_in(3):
            return replace(packet, destination=HOST[packet.version])
        return packet


def judge(cluster: Cluster, packet: Packet) -> tuple[Decision, Verdict]:
    node = compile_node(NODE, resources_of(cluster), LOCAL, UPLINK)
    return Decision(passes(cluster, NODE, packet, LOCAL), "the stages"), verdict(node.kernel, packet)


def disagree(cluster: Cluster, packet: Packet) -> bool:
    said, done = judge(cluster, packet)
    return said.allowed != done.accepted


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 2**64))
def test_rules_do_what_policies_for_hosts_say(seed: int) -> None:
    make = HostMaker(seed)
    cluster = make.cluster()
    node = compile_node(NODE, resources_of(cluster), LOCAL, UPLINK)
    for packet in [make.packet() for _ in range(PACKETS)]:
        if packet.destination in LOCAL and not packet.in_interface:
            continue
        if verdict(node.kernel, packet).accepted != passes(cluster, NODE, packet, LOCAL):
            least = shrink(cluster, lambda part, packet=packet: disagree(part, packet))
            raise AssertionError(f"{render_cluster(least)}\n{render_case(packet, *judge(least, packet))}")
