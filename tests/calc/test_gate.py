"""Announced once the kernel serves, withdrawn before it ceases to; whatever happens in between."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from felixpy.addresses import parse_address
from felixpy.calc.announcing.gate import Gate
from felixpy.calc.reasons import Reason
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.calc.services.frontends import BackendAddress, Frontend, FrontendIntent, Origin
from felixpy.resources.kinds import Name

VIP = Frontend(parse_address("203.0.113.1"), 6, 80)
BACKENDS = tuple(BackendAddress(parse_address(f"10.0.0.{number}"), 8080) for number in range(3))
ONE = FrontendIntent(Name("a", "x"), Origin.GRANT, BACKENDS[:1], BACKENDS[:1])
TWO = replace(ONE, inside=BACKENDS[:2], outside=BACKENDS[:2])
ELSEWHERE = replace(ONE, outside=(), reason=Reason.NO_LOCAL_ENDPOINT)
INSIDE = replace(ONE, origin=Origin.CLUSTER)


@dataclass
class World:
    """A gate, a kernel that may refuse, and those who announce, with what their neighbours may not have heard yet."""

    gate: Gate = field(default_factory=Gate)
    turn: int = 0
    wanted: dict[Frontend, FrontendIntent] = field(default_factory=dict)
    kernel: dict[Frontend, FrontendIntent] = field(default_factory=dict)
    refused: set[Frontend] = field(default_factory=set)
    unknown: bool = False
    announcers: dict[Frontend, FrontendIntent] = field(default_factory=dict)
    lingering: dict[int, set[Frontend]] = field(default_factory=dict)

    def ask(self, puts: dict[Frontend, FrontendIntent], *drops: Frontend) -> World:
        self.turn += 1
        gone = [one for one in drops if one in self.wanted]
        for one in gone:
            del self.wanted[one]
        self.wanted |= puts
        before = self.announced()
        told = self.gate.take(ServiceDelta(puts, frozenset(gone)), self.turn)
        apply(self.announcers, told)
        self.lingering[self.turn] = before - self.announced()
        return self.look()

    def carry_out(self) -> World:
        """All withdrawals so far have reached the neighbours."""
        self.lingering.clear()
        return self.look()

    def look(self, everything: bool = False) -> World:
        withdrawn = min(self.lingering, default=self.turn + 1) - 1
        released = self.gate.release(withdrawn)
        for one in (*released.drops, *released.puts):
            lingers = any(one in some for some in self.lingering.values())
            served = one in released.puts and released.puts[one].outside
            assert not lingers or served, "the kernel ceases to serve what neighbours may still send"
        apply(self.kernel, released)
        apply(self.announcers, self.gate.admit(self.holds, everything))
        for one in self.announced():
            assert self.unknown or (one in self.kernel and one not in self.refused) or not everything
        return self

    def holds(self, frontend: Frontend) -> bool | None:
        return None if self.unknown else frontend in self.kernel and frontend not in self.refused

    def announced(self) -> set[Frontend]:
        return {one for one, intent in self.announcers.items() if intent.outside}


def apply(table: dict[Frontend, FrontendIntent], delta: ServiceDelta) -> None:
    for one in delta.drops:
        del table[one]
    table |= delta.puts


def test_an_address_waits_for_the_kernel_and_says_why() -> None:
    world = World(refused={VIP}).ask({VIP: ONE})
    assert world.kernel == {VIP: ONE}
    assert world.announcers[VIP].reason is Reason.NOT_IN_KERNEL
    world.refused.clear()
    assert world.look().announcers == {VIP: ONE}


def test_the_kernel_serves_until_it_is_withdrawn() -> None:
    world = World().ask({VIP: ONE}).carry_out().ask({}, VIP)
    assert (world.announcers, world.kernel) == ({}, {VIP: ONE})
    assert world.carry_out().kernel == {}


def test_a_node_that_lost_its_last_endpoint_serves_until_it_is_withdrawn() -> None:
    world = World().ask({VIP: ONE}).carry_out().ask({VIP: ELSEWHERE})
    assert (world.announcers, world.kernel) == ({VIP: ELSEWHERE}, {VIP: ONE})
    assert world.carry_out().kernel == {VIP: ELSEWHERE}


def test_an_address_that_comes_back_in_time_never_left_the_kernel() -> None:
    world = World().ask({VIP: ONE}).carry_out().ask({}, VIP).ask({VIP: TWO})
    assert (world.announcers, world.kernel) == ({VIP: TWO}, {VIP: TWO})


def test_other_backends_reach_the_kernel_at_once_and_nothing_is_withdrawn() -> None:
    world = World().ask({VIP: ONE}).carry_out().ask({VIP: TWO})
    assert (world.announcers, world.kernel) == ({VIP: TWO}, {VIP: TWO})


def test_what_is_not_known_of_the_kernel_changes_nothing() -> None:
    world = World().ask({VIP: ONE}).carry_out()
    world.unknown = True
    assert world.ask({VIP: TWO}).announcers == {VIP: ONE}
    assert World(unknown=True).ask({VIP: ONE}).announced() == set()


def test_an_address_that_the_kernel_loses_is_withdrawn() -> None:
    world = World().ask({VIP: ONE}).carry_out()
    world.refused.add(VIP)
    assert world.look(everything=True).announced() == set()


def test_one_that_is_doubted_is_looked_at_again_and_no_other() -> None:
    other = VIP._replace(port=443)
    world = World().ask({VIP: ONE, other: ONE}).carry_out()
    world.refused |= {VIP, other}
    assert world.look().announced() == {VIP, other}, "nobody said that anything has changed"
    world.gate.doubt([VIP])
    assert world.look().announced() == {other}
    world.refused.clear()
    assert world.look().announced() == {VIP, other}, "until it holds it is looked at each time"


def test_other_frontends_pass_as_they_come() -> None:
    world = World(refused={VIP}).ask({VIP: INSIDE})
    assert (world.announcers, world.kernel) == ({}, {VIP: INSIDE})
    assert world.ask({}, VIP).kernel == {}


FRONTENDS = (VIP, Frontend(VIP.address, 6, 443), Frontend(parse_address("fd00::1"), 17, 53))
STEPS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(FRONTENDS), st.sampled_from((ONE, TWO, ELSEWHERE, INSIDE, None))),
    st.tuples(st.sampled_from(("refuse", "allow", "doubt", "know", "carry out")), st.sampled_from(FRONTENDS)),
)


@given(st.lists(STEPS, max_size=30))
def test_after_any_history_all_is_as_if_it_had_been_asked_for_at_once(steps: list[tuple[object, ...]]) -> None:
    world = World()
    for step in steps:
        match step:
            case ("ask", Frontend() as one, FrontendIntent() as intent):
                world.ask({one: intent})
            case ("ask", Frontend() as one, None):
                world.ask({}, one)
            case ("refuse", Frontend() as one):
                world.refused.add(one)
            case ("allow", Frontend() as one):
                world.refused.discard(one)
            case ("doubt", _):
                world.unknown = True
            case ("know", _):
                world.unknown = False
            case _:
                world.carry_out()
        world.look(everything=True)
    world.unknown = False
    world.carry_out().look(everything=True)
    assert world.kernel == world.wanted
    assert world.announcers == derive_told(world.wanted, world.refused)


def derive_told(wanted: dict[Frontend, FrontendIntent], refused: set[Frontend]) -> dict[Frontend, FrontendIntent]:
    """What those who announce should know in the end, from scratch."""
    hidden = {one: replace(i, outside=(), reason=Reason.NOT_IN_KERNEL) for one, i in wanted.items() if one in refused}
    return {
        one: hidden.get(one, intent) if intent.outside else intent
        for one, intent in wanted.items()
        if intent.origin is Origin.GRANT
    }
