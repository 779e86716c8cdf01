"""Who looks dead: signs, rounds, and who is never judged."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st

from felixpy.addresses import Address, parse_address, parse_prefix
from felixpy.calc.services.liveness import ANSWERS, ASKED_MOST, SILENCES, STEADY, STEADY_EVERY, Liveness, Sign
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Node, NodeAddress

N2 = parse_address("10.0.0.2")


def put_node(state: Liveness, name: str, address: Address | None = N2) -> None:
    own = NodeAddress(address, parse_prefix("10.0.0.0/24")) if address is not None else None
    state.update(Ref(Table.NODE, Name("", name)), Node(ipv4=own))


def held(state: Liveness, name: str, there: bool = True, role: str = "agent") -> None:
    state.observe(f"/felixpy/holders/{name}/{role}".encode(), there)


def world(known_dead: Collection[str] = ()) -> Liveness:
    """n2, which ran an agent of ours and runs it now."""
    state = Liveness("n1", known_dead)
    state.observe(b"/felixpy/nodes/n2", True)
    held(state, "n2")
    put_node(state, "n2")
    state.flush()
    return state


def lose_lease(state: Liveness) -> None:
    held(state, "n2", False)
    state.flush()


def ask(state: Liveness, answers: bool, rounds: int = 1) -> None:
    for _ in range(rounds):
        asked = state.next_round()
        state.note(asked, asked if answers else ())


def test_a_node_is_dead_when_nobody_holds_its_name_and_it_is_silent() -> None:
    state = world()
    assert not state.has_suspects
    lose_lease(state)
    assert state.next_round() == {"n2": (N2,)}
    ask(state, False, SILENCES - 1)
    assert not state.dead
    ask(state, False)
    assert state.dead == {"n2": Sign.NO_LEASE}


def test_an_agent_that_is_away_does_not_make_its_node_dead() -> None:
    state = world()
    lose_lease(state)
    for _ in range(5):
        ask(state, False, SILENCES - 1)
        ask(state, True)
    assert not state.dead


def test_a_dead_node_lives_with_its_lease_at_once_and_after_some_answers() -> None:
    state = world()
    lose_lease(state)
    ask(state, False, SILENCES)
    ask(state, True, ANSWERS - 1)
    assert state.dead
    ask(state, True)
    assert not state.dead
    ask(state, False, SILENCES)
    held(state, "n2")
    state.flush()
    assert not state.dead
    assert not state.has_suspects


def test_any_role_that_holds_the_name_keeps_it() -> None:
    state = world()
    held(state, "n2", role="bgp")
    lose_lease(state)
    assert not state.has_suspects


def test_a_lost_session_makes_a_suspect_while_the_lease_is_there() -> None:
    state = world()
    state.put_lost(frozenset({N2, parse_address("192.0.2.1")}))
    state.flush()
    ask(state, False, SILENCES)
    assert state.dead == {"n2": Sign.NO_SESSION}
    state.put_lost(frozenset())
    state.flush()
    assert not state.dead


def test_nodes_that_are_not_ours_and_this_one_are_not_judged() -> None:
    state = Liveness("n1")
    put_node(state, "calico")
    state.observe(b"/felixpy/nodes/n1", True)
    put_node(state, "n1", parse_address("10.0.0.1"))
    state.observe(b"/felixpy/nodes/nowhere", True)
    put_node(state, "nowhere", None)
    state.flush()
    assert not state.has_suspects, "the last one cannot be asked"


def test_a_node_without_node_and_holder_is_gone() -> None:
    state = world()
    lose_lease(state)
    state.update(Ref(Table.NODE, Name("", "n2")), None)
    state.flush()
    ask(state, False, SILENCES)
    assert state.dead == {"n2": Sign.NO_NODE}


def test_who_looked_dead_before_a_restart_does_so_until_it_answers() -> None:
    state = Liveness("n1", ["n2", "n3"])
    for node in ("n2", "n3"):
        state.observe(f"/felixpy/nodes/{node}".encode(), True)
        put_node(state, node)
    held(state, "n3")
    state.flush()
    assert state.dead == {"n2": Sign.NO_LEASE}
    ask(state, True, ANSWERS)
    assert not state.dead


def test_who_answers_again_and_again_is_asked_less_often() -> None:
    state = world()
    lose_lease(state)
    ask(state, True, STEADY)
    asked = [bool(state.next_round()) for _ in range(2 * STEADY_EVERY)]
    assert sum(asked) == 2
    while not state.next_round():
        pass
    state.note({"n2"}, ())
    ask(state, False, SILENCES - 1)
    assert state.dead, "who is silent once is asked at once again"


def test_all_suspects_are_asked_in_turn_and_no_more_than_some_at_once() -> None:
    state = Liveness("n1")
    names = {f"n{number}" for number in range(2, 2 + 2 * ASKED_MOST + 1)}
    for name in names:
        state.observe(f"/felixpy/nodes/{name}".encode(), True)
        put_node(state, name)
    state.flush()
    rounds = [state.next_round().keys() for _ in range(3)]
    assert all(len(one) <= ASKED_MOST for one in rounds)
    assert set().union(*rounds) == names


_STEPS = st.tuples(st.sampled_from(["member", "agent", "bgp", "node", "lost", "round"]), st.booleans())


@given(st.lists(_STEPS, max_size=40))
def test_signs_depend_on_what_is_so_now_only(steps: list[tuple[str, bool]]) -> None:
    state, now = Liveness("n1"), dict.fromkeys(("member", "agent", "bgp", "node", "lost"), False)
    for what, there in steps:
        if what == "round":
            ask(state, there)
            continue
        now[what] = there
        feed(state, what, there)
        state.flush()
        fresh = Liveness("n1")
        for name, value in now.items():
            feed(fresh, name, value)
        fresh.flush()
        assert state.sign_of("n2") == fresh.sign_of("n2")
        assert state.has_suspects == fresh.has_suspects == (state.sign_of("n2") is not None)
        assert state.dead.keys() <= {"n2"}


def feed(state: Liveness, what: str, there: bool) -> None:
    match what:
        case "member":
            state.observe(b"/felixpy/nodes/n2", there)
        case "node" if there:
            put_node(state, "n2")
        case "node":
            state.update(Ref(Table.NODE, Name("", "n2")), None)
        case "lost":
            state.put_lost(frozenset({N2} if there else ()))
        case role:
            held(state, "n2", there, role)
