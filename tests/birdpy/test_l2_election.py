"""Who answers for an address: taken over, yielded, handed back; and one owner in the end, whatever was lost before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdpy.l2.election import CHECK_S, DRAIN_S, PREEMPT_AFTER_S, PROBE_INTERVAL_S, REFRESH_S, Standing
from birdpy.l2.packets import BROADCAST, Assertion, Claim, Question, Stamp, parse_frame, render_probe
from birdpy.l2.segment import ASKS_AT_ONCE, LINGER_S, NODES_HEARD_MOST, Interface, Segment

VIP = bytes((10, 9, 0, 100))
STEP_S = 0.05
Loss = Callable[[int, int], bool]


def nothing_lost(sender: int, receiver: int) -> bool:
    return False


@dataclass
class Wire:
    """Nodes 0 (the best-ranked), 1, ... on one segment, and a clock that only `run` moves."""

    count: int
    now: float = 0.0
    drain_s: float = DRAIN_S
    nodes: dict[int, Segment] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    sent: list[tuple[float, int, bytes]] = field(default_factory=list)

    def start(self, *numbers: int) -> Wire:
        for number in numbers or range(self.count):
            self.nodes[number] = Segment(Interface("eth0", 2, mac_of(number)))
            self.want(number, number)
        return self

    def want(self, number: int, rank: int) -> None:
        self.deliver(number, self.nodes[number].want({VIP: self.standing(rank, number)}, (), self.now))

    def standing(self, rank: int, number: int) -> Standing:
        return Standing(rank, score_of(number), drain_s=self.drain_s)

    def run(self, duration_s: float, lost: Loss = nothing_lost) -> Wire:
        for _ in range(round(duration_s / STEP_S)):
            self.now += STEP_S
            for number in [one for one in sorted(self.nodes, reverse=True) if one not in self.silent]:
                self.deliver(number, self.nodes[number].tick(self.now), lost)
        return self

    def deliver(self, sender: int, frames: Iterable[bytes], lost: Loss = nothing_lost, depth: int = 0) -> None:
        assert depth < 10, "an exchange must come to an end"
        for frame in frames:
            self.sent.append((self.now, sender, frame))
            heard = parse_frame(frame)
            assert heard is not None
            for number, node in list(self.nodes.items()):
                mine = frame[:6] in (BROADCAST, mac_of(number))
                if number == sender or number in self.silent or not mine or lost(sender, number):
                    continue
                self.deliver(number, node.hear(heard, self.now), lost, depth + 1)

    def owners(self) -> list[int]:
        return [number for number, node in self.nodes.items() if number not in self.silent and owns(node)]


def owns(node: Segment) -> bool:
    return VIP in node.elections and node.elections[VIP].owns


def mac_of(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number))


def score_of(number: int) -> int:
    return 1000 - number


def announcements(wire: Wire, since: float, sender: int) -> list[float]:
    return [
        round(when - since, 2)
        for when, number, frame in wire.sent
        if number == sender and when >= since and frame[20:22] == b"\0\2" and frame[:6] == BROADCAST
    ]


def test_the_best_node_has_it_within_a_second() -> None:
    assert Wire(3).start().run(1).owners() == [0]


def test_a_single_node_has_it() -> None:
    assert Wire(1).start().run(0.5).owners() == [0]


def test_the_first_deputy_follows_a_silent_owner() -> None:
    wire = Wire(3).start().run(2)
    wire.silent = {0}
    assert wire.run(0.6).owners() == [], "a lost packet or two are no reason"
    assert wire.run(0.8).owners() == [1]


def test_the_second_deputy_follows_where_two_are_gone() -> None:
    wire = Wire(3).start().run(2)
    wire.silent = {0, 1}
    assert wire.run(2).owners() == [2]


def test_a_reserve_follows_where_all_deputies_are_gone() -> None:
    wire = Wire(6).start().run(2)
    wire.silent = {0, 1, 2}
    assert wire.run(3).owners() == [3], "it misses the owner's node, whatever its own turn to ask"


def test_a_take_over_is_announced_in_a_burst() -> None:
    wire = Wire(2).start().run(2)
    wire.silent, since = {0}, wire.now
    wire.run(1.5)
    assert wire.owners() == [1]
    wire.run(5)
    first, *rest = announcements(wire, since, 1)
    assert [round(one - first, 1) for one in rest] == pytest.approx([0.2, 1.1, 2.2, 4.4], abs=0.2)


def test_it_is_announced_again_every_minute() -> None:
    wire = Wire(1).start().run(10)
    since = wire.now
    wire.run(REFRESH_S + 1)
    assert len(announcements(wire, since, 0)) == 1


def test_ten_minutes_with_nothing_told_move_nothing_and_fail_over_works_then() -> None:
    """What the agent would tell, and so whether etcd is there, makes no difference."""
    wire = Wire(3).start().run(600)
    assert [node.counters.turns for node in wire.nodes.values()] == [1, 0, 0]
    wire.silent = {0}
    assert wire.run(1.5).owners() == [1]


def test_an_owner_that_was_only_silent_yields_and_has_it_back_later() -> None:
    wire = Wire(2).start().run(2)
    wire.silent = {0}
    assert wire.run(2).owners() == [1]
    wire.silent = set()
    assert wire.run(0.2).owners() in ([0], [1], [0, 1])
    assert wire.run(1).owners() == [1], "it has heard the newer claim"
    assert wire.run(PREEMPT_AFTER_S + 1).owners() == [0]


def test_nobody_is_without_answer_while_it_is_handed_back() -> None:
    wire = Wire(2).start(1).run(2)
    wire.start(0)
    for _ in range(200):
        assert wire.run(STEP_S).owners(), "somebody answers at any time"
    assert wire.owners() == [0]


@pytest.mark.parametrize("others", [0, 200])
def test_two_owners_that_meet_again_are_one_within_a_probe_interval(others: int) -> None:
    wire = Wire(2).start()
    more = {VIP[:2] + number.to_bytes(2, "big"): Standing(0, 7) for number in range(1000, 1000 + others)}
    for number in (0, 1):
        wire.nodes[number].want(more, (), wire.now)
    wire.run(10.1, lambda sender, receiver: True)
    assert wire.owners() == [0, 1]
    assert len(wire.run(PROBE_INTERVAL_S).owners()) == 1


def test_a_frame_lost_when_they_meet_is_made_up_for() -> None:
    wire = Wire(2).start().run(10, lambda sender, receiver: True)
    wire.run(PROBE_INTERVAL_S, lambda sender, receiver: sender == 0)
    assert len(wire.run(CHECK_S + 0.5).owners()) == 1


def test_who_claims_to_be_many_nodes_is_not_remembered_as_all_of_them() -> None:
    wire = Wire(1).start().run(2)

    def meet(number: int) -> int:
        mac = (number + 100).to_bytes(6, "big")
        stranger = Question(VIP[:3] + b"\1", mac, b"", True, Stamp(True, Claim(1, 1)))
        return len(wire.nodes[0].hear(stranger, wire.now))

    assert [meet(number) for number in (0, 0)] == [1, 0], "one that is heard anew is asked for what we own"
    assert sum(meet(number) for number in range(1, NODES_HEARD_MOST + 1)) == 0, "those after it with the next probe"
    wire.run(0.8)
    assert meet(0) == 1


def test_made_up_nodes_have_an_owner_ask_little_more_than_it_does_anyway() -> None:
    addresses = [VIP[:2] + number.to_bytes(2, "big") for number in range(1000, 1100)]

    def ask_for(duration_s: float, strangers: int) -> int:
        """Questions sent to all; so many made-up nodes are heard at each step."""
        before = node.counters.probes
        for _ in range(round(duration_s / STEP_S)):
            wire.run(STEP_S)
            for _ in range(strangers):
                mac = next(macs).to_bytes(6, "big")
                wire.deliver(0, node.hear(Question(VIP, mac, b"", True, Stamp(True, Claim(1, 1))), wire.now))
        return node.counters.probes - before

    wire, macs = Wire(1).start(), itertools.count(1 << 41)
    node = wire.nodes[0]
    wire.deliver(0, node.want(dict.fromkeys(addresses, Standing(0, 7)), (), wire.now))
    wire.run(10)
    usual = ask_for(30, 0)
    assert ask_for(30, 10) <= 2 * usual + (ASKS_AT_ONCE + 1) * (len(addresses) + 1)
    assert ask_for(30, 10) <= 2 * usual + len(addresses) + 1, "and so on for ever"


def test_deputies_ask_the_owner_and_nobody_else() -> None:
    wire = Wire(3).start().run(10)
    since = wire.now
    wire.run(30)
    everywhere = [frame for when, _, frame in wire.sent if when >= since and frame[:6] == BROADCAST]
    assert {frame[6:12] for frame in everywhere} == {mac_of(0)}
    assert len(everywhere) <= 30 / PROBE_INTERVAL_S + 30 / CHECK_S + 1, "only the owner's own checks"


def test_an_owner_that_starts_anew_goes_on() -> None:
    """Its term is forgotten; the deputies know it, and a claim of its own is none to yield to."""
    wire = Wire(2).start().run(2)
    wire.silent = {0}
    wire.run(2)
    wire.silent = set()
    wire.run(PREEMPT_AFTER_S + 3)
    assert wire.owners() == [0]
    wire.start(0).run(0.5)
    for _ in range(40):
        assert wire.run(STEP_S).owners() == [0]


def test_an_owner_takes_up_its_own_greater_term() -> None:
    wire = Wire(1).start().run(2)
    older = Question(VIP, mac_of(1), b"", True, Stamp(False, Claim(9, score_of(0))))
    (frame,) = wire.nodes[0].hear(older, wire.now)
    answer = parse_frame(frame)
    assert answer is not None
    assert answer.stamp == Stamp(True, Claim(9, score_of(0)))


def test_two_interfaces_of_one_node_on_a_segment_do_not_contend_for_ever() -> None:
    wire = Wire(2).start(0).run(2)
    wire.nodes[1] = Segment(Interface("eth1", 3, mac_of(1)))
    wire.nodes[1].want({VIP: Standing(0, score_of(0))}, (), wire.now)
    assert wire.run(30).owners() == [0]
    assert wire.nodes[1].counters.turns == 0


def test_the_one_that_stays_tells_those_who_heard_the_other() -> None:
    wire = Wire(2).start().run(10, lambda sender, receiver: True)
    since = wire.now
    (owner,) = wire.run(CHECK_S + 5).owners()
    assert len(announcements(wire, since, owner)) >= 4


def test_only_one_deputy_takes_over() -> None:
    wire = Wire(3).start().run(2)
    wire.silent = {0}
    wire.run(3)
    assert [wire.nodes[number].counters.turns for number in (1, 2)] == [1, 0]


def test_an_answer_now_and_then_is_enough() -> None:
    numbers = iter(range(10**6))

    def half(sender: int, receiver: int) -> bool:
        return sender == 0 and next(numbers) % 2 == 0

    wire = Wire(2).start().run(2)
    assert wire.run(20, half).owners() == [0]
    assert wire.nodes[1].counters.turns == 0


def test_an_address_that_is_no_longer_ours_is_answered_for_until_another_does() -> None:
    wire = Wire(2).start().run(2)
    wire.deliver(0, wire.nodes[0].want({}, [VIP], wire.now))
    assert wire.owners() == [0]
    for _ in range(round(LINGER_S / STEP_S)):
        assert wire.run(STEP_S).owners(), "somebody answers at any time"
    assert wire.owners() == [1]
    assert VIP not in wire.nodes[0].elections


def test_only_the_best_deputy_follows_one_that_leaves() -> None:
    wire = Wire(3).start().run(2)
    wire.deliver(0, wire.nodes[0].want({}, [VIP], wire.now))
    wire.run(LINGER_S)
    assert [wire.nodes[number].counters.turns for number in (1, 2)] == [1, 0]


def test_the_next_deputy_follows_where_the_best_one_is_dead() -> None:
    wire = Wire(3).start().run(2)
    wire.silent = {1}
    wire.nodes[0].want({}, [VIP], wire.now)
    wire.run(1.5)
    assert wire.owners() == [2], "it was told, and waits for no silence"


def test_nodes_whose_news_are_of_different_age_do_not_fight() -> None:
    """Node 0 joins; node 1 has not heard of it, and believes that it is the best itself."""
    wire = Wire(2).start(1).run(2)
    wire.want(1, 0)
    wire.start(0)
    assert wire.run(10).owners() == [0]
    turns = [node.counters.turns for node in wire.nodes.values()]
    assert wire.run(60).owners() == [0]
    assert [node.counters.turns for node in wire.nodes.values()] == turns


def test_an_address_that_nobody_has_any_more_is_left() -> None:
    wire = Wire(1).start().run(2)
    wire.nodes[0].want({}, [VIP], wire.now)
    assert wire.run(LINGER_S - 0.2).owners() == [0]
    assert wire.run(0.3).owners() == []
    assert not wire.nodes[0].elections


def test_an_address_that_comes_back_in_time_stays() -> None:
    wire = Wire(1).start().run(2)
    wire.nodes[0].want({}, [VIP], wire.now)
    wire.run(1)
    wire.want(0, 0)
    assert wire.run(LINGER_S + 5).owners() == [0]


def deaf(sender: int, receiver: int) -> bool:
    """The segment keeps its hosts from each other."""
    return True


def test_a_node_that_hears_nobody_leaves_the_address_to_one_that_answers_already() -> None:
    wire = Wire(2).start(0).run(2, deaf).start(1)
    told(wire, 1, score_of(0))
    assert wire.run(20, deaf).owners() == [0]
    wire.silent = {0}
    assert wire.run(20, deaf).owners() == [], "its lease says that it lives"
    told(wire, 1, 0)
    assert wire.run(1, deaf).owners() == [1]


def test_of_two_that_answer_and_hear_nobody_the_lesser_yields() -> None:
    wire = Wire(2).start().run(5, deaf)
    assert wire.owners() == [0, 1]
    told(wire, 0, score_of(1))
    told(wire, 1, score_of(0))
    assert wire.run(20, deaf).owners() == [0]


def test_a_node_that_has_heard_another_trusts_its_ears() -> None:
    wire = Wire(2).start().run(2)
    told(wire, 1, score_of(0))
    wire.silent = {0}
    assert wire.run(1.5).owners() == [1], "whatever its lease says"
    told(wire, 1, score_of(0) + 1)
    assert wire.run(5).owners() == [1]


def told(wire: Wire, number: int, elsewhere: int) -> None:
    """The datastore says that a node with this score answers on the segment; with 0, that none does."""
    wire.deliver(
        number, wire.nodes[number].want({VIP: Standing(number, score_of(number), elsewhere)}, (), wire.now), deaf
    )


def drained(count: int = 2, drain_s: float = DRAIN_S) -> Wire:
    """Node 0 has left gently, and another has taken over."""
    wire = Wire(count, drain_s=drain_s).start().run(8)
    wire.deliver(0, wire.nodes[0].want({}, (), wire.now, drain=[VIP]))
    return wire.run(1)


def known_by(number: int, wire: Wire) -> bool:
    """Whether a client that has the node in its neighbour table is answered there."""
    return bool(wire.nodes[number].hear(Question(VIP, mac_of(9), bytes((10, 9, 0, 9)), False), wire.now))


def new_to(number: int, wire: Wire) -> bool:
    """Whether a client that asks everybody is answered by the node."""
    return bool(wire.nodes[number].hear(Question(VIP, mac_of(9), bytes((10, 9, 0, 9)), True), wire.now))


def test_those_who_know_a_node_that_leaves_gently_stay_with_it_and_new_ones_do_not() -> None:
    wire = drained()
    since = wire.now
    assert wire.owners() == [1]
    assert (known_by(0, wire), new_to(0, wire), new_to(1, wire)) == (True, False, True)
    wire.run(DRAIN_S - 3)
    assert announcements(wire, since - 1.1, 1) == [], "nobody was told"
    assert known_by(0, wire)
    wire.run(8)
    assert announcements(wire, since, 1)
    assert not known_by(0, wire)
    assert VIP not in wire.nodes[0].elections


@pytest.mark.parametrize("drain_s", [0, 5, 300])
def test_how_long_it_drains_is_as_told(drain_s: float) -> None:
    wire, since = drained(drain_s=drain_s), 8.0
    if drain_s:
        wire.run(drain_s - 1.5)
        assert (known_by(0, wire), announcements(wire, since, 1)) == (True, [])
    wire.run(LINGER_S + 3)
    assert not known_by(0, wire)
    assert announcements(wire, since + drain_s, 1)[:1] == [pytest.approx(0.5, abs=0.5)]


def test_a_node_that_drained_and_can_serve_no_more_says_so() -> None:
    wire = drained()
    since = wire.now
    wire.deliver(0, wire.nodes[0].want({}, [VIP], wire.now))
    assert VIP not in wire.nodes[0].elections
    wire.run(0.5)
    assert announcements(wire, since, 1), "its successor tells everybody"


def test_a_node_that_is_to_serve_again_takes_its_address_back() -> None:
    wire = drained()
    wire.want(0, 0)
    assert wire.run(PREEMPT_AFTER_S + 2).owners() == [0]


def test_a_successor_that_dies_while_its_forerunner_drains_is_followed_aloud() -> None:
    wire = drained(3)
    wire.silent = {1}
    since = wire.now
    wire.run(2)
    assert wire.owners() == [2]
    assert announcements(wire, since, 2)


def test_a_single_node_that_drains_serves_until_the_end() -> None:
    wire = Wire(1).start().run(2)
    wire.deliver(0, wire.nodes[0].want({}, (), wire.now, drain=[VIP]))
    assert wire.run(DRAIN_S).owners() == [0]
    assert wire.run(LINGER_S + 0.2).owners() == []


def test_only_the_owner_answers() -> None:
    wire = Wire(2).start().run(2)
    question = Question(VIP, mac_of(9), bytes((10, 9, 0, 9)), True)
    assert [len(wire.nodes[number].hear(question, wire.now)) for number in (0, 1)] == [1, 0]


def test_a_stranger_with_our_address_is_answered_once_in_a_while() -> None:
    wire = Wire(1).start().run(10)
    stranger = Assertion(VIP, mac_of(9))
    assert [len(wire.nodes[0].hear(stranger, wire.now)) for _ in range(3)] == [2, 0, 0]
    assert wire.nodes[0].elections[VIP].foreign_mac == mac_of(9)
    assert wire.owners() == [0]


def test_a_probe_of_a_deputy_reaches_a_single_owner() -> None:
    wire = Wire(2).start().run(2)
    stamp = Stamp(False, Claim(0, 0))
    heard = parse_frame(render_probe(VIP, mac_of(1), b"", mac_of(0), stamp))
    assert heard is not None
    (answer,) = wire.nodes[0].hear(heard, wire.now)
    assert answer[:6] == mac_of(1)


@st.composite
def troubles(draw: st.DrawFn) -> tuple[int, list[tuple[str, int]], int]:
    """A number of nodes, a history, and a seed of what is lost in it."""
    count = draw(st.integers(1, 5))
    events = st.tuples(
        st.sampled_from(["start", "silence", "wake", "drop", "drain", "lossy", "part", "whole"]),
        st.integers(0, count - 1),
    )
    return count, draw(st.lists(events, max_size=12)), draw(st.integers(0, 2**16))


@settings(max_examples=150, deadline=None)
@given(troubles())
def test_whatever_was_lost_there_is_one_owner_in_the_end(trouble: tuple[int, list[tuple[str, int]], int]) -> None:
    count, history, seed = trouble
    wire = Wire(count).start()
    lost: Loss = nothing_lost
    for word, number in history:
        match word:
            case "start":
                wire.start(number)
            case "silence":
                wire.silent.add(number)
            case "wake":
                wire.silent.discard(number)
            case "drop":
                wire.nodes[number].want({}, [VIP], wire.now)
                wire.want(number, number)
            case "drain":
                wire.deliver(number, wire.nodes[number].want({}, (), wire.now, drain=[VIP]), lost)
            case "lossy":
                lost = random_loss(seed)
            case "part":
                lost = lambda sender, receiver, at=number: (sender <= at) != (receiver <= at)  # noqa: E731
            case _:
                lost = nothing_lost
        wire.run(0.7, lost)
    wire.silent.clear()
    for number in wire.nodes:
        wire.want(number, number)
    wire.run(CHECK_S + 0.6 + PREEMPT_AFTER_S)
    owners = wire.owners()
    assert len(owners) == 1, wire.sent[-20:]
    wire.run(PREEMPT_AFTER_S + 1)
    assert wire.owners() == [0], "the best-ranked one, all being well"


def random_loss(seed: int) -> Loss:
    state = [seed or 1]

    def lose(sender: int, receiver: int) -> bool:
        state[0] = state[0] * 1103515245 + 12345 & 0x7FFFFFFF
        return state[0] >> 16 & 1 == 0

    return lose
