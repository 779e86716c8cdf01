"""What compare finds is what differs when every pair and packet is tried with the rules of both worlds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import parse_address
from felixpy.ctl.verdicts.compare import Difference, compare
from felixpy.ctl.verdicts.ends import End
from felixpy.dataplane.judging.packet import Packet
from tests.ctl.verdict_oracle import Oracle, Who, covers, everyone, is_end, packets
from tests.ctl.verdict_world import Maker, worlds

CASES = 15
SAMPLE = 200
PACKETS = tuple(packets())
EVERYONE = tuple(everyone())


class Asked:
    """Two clusters, and what compare finds."""

    def __init__(self, seed: int) -> None:
        self.maker = Maker(seed)
        one = self.maker.cluster()
        other = self.maker.changed(one)
        before, after = worlds(one, other)
        self.found = tuple(compare(before, after))
        self.oracles = Oracle(one), Oracle(other)

    def fares(self, source: Who, target: Who, packet: Packet) -> tuple[bool, bool]:
        was, is_now = (oracle.allows(source, target, packet) for oracle in self.oracles)
        return was, is_now

    def told(self, source: Who, target: Who, packet: Packet) -> list[bool]:
        """The verdicts after the change, of every difference that the packet is in."""
        return [
            turn.after.allowed
            for one in self.found
            if any(
                one.holds(here, there)
                for here in self._ends(one.sources, source, packet.source)
                for there in self._ends(one.destinations, target, packet.destination)
            )
            for turn in one.turns
            if covers(turn.cell, packet)
        ]

    def _ends(self, ends: Sequence[End], who: Who, address: bytes) -> list[End]:
        guards = self.guards(who)
        return [end for end in ends if is_end(end, who, address, guards)]

    def knows(self, who: Who) -> bool:
        """Whether the datastore tells of the interface and its addresses: of eth1 a host endpoint has to."""
        if who.interface != "eth1":
            return True
        guards = self.guards(who)
        return guards == "eth1" or (who.is_pod and (bool(guards) or not self.guards(who._replace(interface="eth0"))))

    def guards(self, who: Who) -> str:
        """What tells the interface from others in one of the clusters."""
        names = {oracle.name_of(who.node, who.interface) for oracle in self.oracles if who.node}
        return min(names, key=lambda one: (not one, one == "*", one != who.interface), default="")


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 2**64))
def test_every_pair_that_changes_is_found_and_no_other(seed: int) -> None:
    asked = Asked(seed)
    for source, target, packet in asked.maker.random.sample(PACKETS, SAMPLE):
        if not (asked.knows(source) and asked.knows(target)):
            continue
        if not source.is_pod and asked.oracles[0].carried(source, target, packet)[0] != source:
            continue
        source, target = asked.oracles[0].carried(source, target, packet)
        was, is_now = asked.fares(source, target, packet)
        said = asked.told(source, target, packet)
        if was != is_now:
            assert is_now in said, f"{source} to {target}: {packet} is {is_now} now, and nobody says so"
        elif all(one.is_pod or asked.guards(one) for one in (source, target)):
            assert not said, f"{source} to {target}: {packet} stays {was}, and it is said to become {said}"
    for difference in asked.found:
        check(asked, difference)


def check(asked: Asked, difference: Difference) -> None:
    """Each end and packet that is named fares as it is said."""
    for source, target, turn in product(difference.sources[:3], difference.destinations[:3], difference.turns):
        here, there = who_is(asked, source), who_is(asked, target)
        if here is None or there is None or not difference.holds(source, target):
            continue
        packet = turn.cell.packet(source.address, target.address)
        fared = asked.fares(here, there, packet)
        assert fared == (turn.before.allowed, turn.after.allowed), f"{source} to {target}: {packet}: {turn}"


def who_is(asked: Asked, end: End) -> Who | None:
    """Somebody who is an end, by an interface that is meant; None where that is one besides eth0 and eth1."""
    if end.region is not None:
        return Who("", "", "", ("", ""))
    for who in EVERYONE:
        guards = asked.guards(who)
        addresses = map(parse_address, who.addresses)
        if asked.knows(who) and any(one == end.address and is_end(end, who, one, guards) for one in addresses):
            return who
    return None
