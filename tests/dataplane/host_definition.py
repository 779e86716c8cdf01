"""Host endpoints by their documentation: the stages on a packet's way, in plain steps over the resources.

One host endpoint, h0, of the node's uplink eth0 or of all interfaces. Knows no chain, mark or set.
Source: Calico's documentation (host endpoints; policy for hosts: failsafe ports, preDNAT, doNotTrack, applyOnForward).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

from felixpy.addresses import Address
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.rules import CtState
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import Policy, RuleAction, TierDefault
from felixpy.resources.tables import Table
from felixpy.resources.types import HostEndpoint
from tests.dataplane.definition import Cluster, decide, find_profile, first_action, labels_of, rules_of, tiers_of

UPLINK = "eth0"
TCP, UDP, ICMP6 = 6, 17, 58
OPEN_IN, OPEN_OUT = (TCP, 443), (UDP, 53)
"""The failsafe ports of the tests: protocol and port, into the host and out of it."""
ALWAYS_ICMP6 = {130, 131, 132, 133, 134, 135, 136, 137, 143}
CONNECTED = (CtState.ESTABLISHED, CtState.RELATED)


class Stage(StrEnum):
    """Where policies for hosts decide."""

    UNTRACKED = "untracked"
    PRE_DNAT = "preDNAT"
    FORWARD = "forward"
    NORMAL = "normal"


class Outcome(StrEnum):
    """What a stage makes of a packet."""

    ALLOWED = "a policy allows it"
    ENDED = "it passes, whatever policies there are"
    NOTHING = "nobody says anything"
    DROPPED = "dropped"


def passes(cluster: Cluster, node: str, packet: Packet, local: frozenset[Address]) -> bool:
    """Whether a packet that comes in, or that the node sends, gets to where it is going."""
    host = cluster[Table.HOST].get(Name("", "h0"))
    way = Way(cluster, host if isinstance(host, HostEndpoint) else None, packet)
    if not packet.in_interface:
        return way.leaves_host()
    return way.comes_in(node, local)


class Way:
    """One packet, and the host endpoint that may govern the interfaces it passes."""

    def __init__(self, cluster: Cluster, host: HostEndpoint | None, packet: Packet) -> None:
        self.cluster, self.host, self.packet = cluster, host, packet
        self.to_workload = any(
            packet.destination in getattr(one, "addresses", ()) and getattr(one, "interface", "")
            for one in cluster[Table.WORKLOAD].values()
        )

    def leaves_host(self) -> bool:
        """The node reaches its own workloads; the rest is judged untracked, then normally."""
        if self.to_workload:
            return True
        early = self.judge(Stage.UNTRACKED, "out")
        if early is Outcome.ALLOWED:
            return True
        return Outcome.DROPPED not in (early, self.judge(Stage.NORMAL, "out"))

    def comes_in(self, node: str, local: frozenset[Address]) -> bool:
        """Untracked and pre-DNAT policies first; what they allow is not judged again on its way in."""
        from_workload = self.packet.in_interface.startswith("cali")
        outcome = Outcome.NOTHING if from_workload else self.judge(Stage.UNTRACKED, "in")
        untracked = outcome is Outcome.ALLOWED
        if untracked:
            self.packet = replace(self.packet, state=CtState.UNTRACKED)
        if outcome in (Outcome.NOTHING, Outcome.ENDED):
            outcome = self.judge(Stage.PRE_DNAT, "in")
        if outcome is Outcome.DROPPED:
            return False
        accepted = outcome is Outcome.ALLOWED
        usual = decide(self.cluster, node, self.packet, local).allowed
        if self.packet.destination in local:
            if from_workload:
                return usual
            return accepted or self.judge(Stage.NORMAL, "in") is not Outcome.DROPPED
        if not accepted:
            outcome = self.judge(Stage.FORWARD, "in")
            if outcome is Outcome.DROPPED:
                return False
            if outcome is Outcome.ENDED:
                return not from_workload or usual
        if not usual:
            return False
        if self.packet.state in CONNECTED and (from_workload or self.to_workload):
            return True
        return self.judge(Stage.FORWARD, "out") is not Outcome.DROPPED

    def governs(self, stage: Stage, way: str) -> bool:
        """Whether the host endpoint has a say at a stage, by the interface that the packet passes there."""
        if self.host is None:
            return False
        workload = self.packet.in_interface.startswith("cali") if way == "in" else self.to_workload
        if self.host.interface == "*":
            return not workload or stage in (Stage.FORWARD, Stage.PRE_DNAT)
        return not workload

    def judge(self, stage: Stage, way: str) -> Outcome:
        """What one stage makes of the packet."""
        if not self.governs(stage, way):
            return Outcome.NOTHING
        assert self.host is not None
        labels = labels_of(self.cluster, self.host.labels, self.host.profiles)
        counted = [tiers_of(self.cluster, labels, each, _counting(stage)) for each in ("in", "out")]
        if stage in (Stage.UNTRACKED, Stage.PRE_DNAT) and not any(counted):
            return Outcome.NOTHING
        if stage is not Stage.UNTRACKED and self.packet.state in CONNECTED:
            return Outcome.ENDED
        if stage is not Stage.UNTRACKED and self.packet.state is CtState.INVALID:
            return Outcome.DROPPED
        if stage is not Stage.FORWARD and self.is_failsafe(stage, way):
            return Outcome.ENDED
        for _, tier, policies in counted[way == "out"]:
            rules = (rule for policy in policies for rule in rules_of(policy, way))
            action = first_action(self.cluster, self.packet, rules)
            if action is RuleAction.ALLOW:
                return Outcome.ALLOWED
            ends = stage in (Stage.NORMAL, Stage.FORWARD) and tier.default_action is TierDefault.DENY
            if action is RuleAction.DENY or (action is None and ends):
                return Outcome.DROPPED
        return self.profiles(way) if stage is Stage.NORMAL else Outcome.NOTHING

    def profiles(self, way: str) -> Outcome:
        """The first profile that says something; none: dropped."""
        assert self.host is not None
        for name in self.host.profiles:
            profile = find_profile(self.cluster, name)
            if profile is None:
                return Outcome.DROPPED
            action = first_action(self.cluster, self.packet, rules_of(profile, way))
            if action in (RuleAction.ALLOW, RuleAction.DENY):
                return Outcome.ALLOWED if action is RuleAction.ALLOW else Outcome.DROPPED
        return Outcome.DROPPED

    def is_failsafe(self, stage: Stage, way: str) -> bool:
        """Ports that are always open; before conntrack, for answers too. And IPv6 itself."""
        packet = self.packet
        if packet.version == 6 and packet.protocol == ICMP6 and packet.icmp is not None:
            return packet.icmp[0] in ALWAYS_ICMP6
        asked, answered = (OPEN_IN, OPEN_OUT) if way == "in" else (OPEN_OUT, OPEN_IN)
        if (packet.protocol, packet.destination_port) == asked:
            return True
        return stage is Stage.UNTRACKED and (packet.protocol, packet.source_port) == answered


def _counting(stage: Stage) -> Callable[[Policy], bool]:
    def counts(policy: Policy) -> bool:
        if stage is Stage.UNTRACKED:
            return policy.do_not_track
        if stage is Stage.PRE_DNAT:
            return policy.pre_dnat and not policy.do_not_track
        normal = not (policy.do_not_track or policy.pre_dnat)
        return normal and (stage is Stage.NORMAL or policy.apply_on_forward)

    return counts
