"""Whom diff says to reach a Service otherwise is whom the rules let through to more, or less, of what is behind it."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.addresses import parse_address
from felixpy.calc.services.frontends import Frontend
from felixpy.ctl.verdicts.compare import Difference
from felixpy.ctl.verdicts.whole import compare_all
from felixpy.dataplane.judging.packet import Packet
from felixpy.dataplane.judging.verdict import verdict
from tests.ctl.verdict_oracle import TUNNEL, Oracle, Who, everyone, is_end
from tests.ctl.verdict_world import BALANCED, NODE_OF, VIP, Maker, addresses, device, worlds

CASES = 40
PODS = tuple(one for one in everyone() if one.is_pod and one.interface == "eth0")
FRONTENDS = tuple(Frontend(parse_address(address), 6, port) for address in (VIP, BALANCED) for port in (80, 81))
HOME = {parse_address(addresses(pod)[0]): pod for pod in NODE_OF}


def share(oracle: Oracle, source: Who, frontend: Frontend) -> Fraction:
    """How many of all endpoints of a Service a pod reaches."""
    node = oracle.node(source.node, TUNNEL if oracle.is_tunnelled else "eth0")
    intent = node.frontends.get(frontend)
    if intent is None or not intent.inside:
        return Fraction(0)
    reached = 0
    for slot in range(len(intent.inside)):
        ends = parse_address(source.addresses[0]), frontend.address
        packet = Packet(*ends, 6, device(source.name), 40000, frontend.port, slot=slot)
        left = verdict(node.kernel, packet)
        tunnel = TUNNEL if oracle.is_tunnelled else "eth0"
        target = HOME.get(left.packet.destination, "")
        if left.accepted and NODE_OF[target] != source.node:
            arriving = Packet(ends[0], left.packet.destination, 6, tunnel, 40000, left.packet.destination_port)
            reached += verdict(oracle.node(NODE_OF[target]).kernel, arriving).accepted
        else:
            reached += left.accepted
    return Fraction(reached, len(intent.inside))


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 2**64))
def test_who_reaches_a_service_otherwise(seed: int) -> None:
    maker = Maker(seed)
    one = maker.cluster()
    other = maker.changed(one)
    before, after = worlds(one, other)
    found = [one for one in compare_all(before, after).differences if one.destinations[0].service is not None]
    oracles = Oracle(one), Oracle(other)
    for source in PODS:
        for frontend in FRONTENDS:
            was, is_now = (share(oracle, source, frontend) for oracle in oracles)
            told = [turn.after.allowed for turn in turns_of(found, oracles, source, frontend)]
            assert told == ([is_now > was] if was != is_now else []), (
                f"{source} to port {frontend.port}: {was} {is_now}"
            )


def turns_of(found: list[Difference], oracles: tuple[Oracle, Oracle], source: Who, frontend: Frontend):  # type: ignore[no-untyped-def]
    """What is said of a pod and a Service's port."""
    names = {oracle.name_of(source.node, source.interface) for oracle in oracles}
    guards = min(names, key=lambda one: (not one, one == "*", one != source.interface), default="")
    for one in found:
        if one.destinations[0].address != frontend.address:
            continue
        if any(is_end(end, source, parse_address(source.addresses[0]), guards) for end in one.sources):
            yield from (turn for turn in one.turns if turn.cell.ports[0] == frontend.port)
