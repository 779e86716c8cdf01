"""What a difference costs: the operations, without any gobgpd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest

from birdpy.addresses import parse_address, parse_prefix
from birdpy.gobgp.plan import (
    Actual,
    AddNeighbor,
    Agreed,
    Announce,
    Operation,
    Refresh,
    RemoveNeighbor,
    ReplaceProcess,
    SetPolicy,
    StartSpeaker,
    UpdateNeighbor,
    Withdraw,
    plan,
)
from birdpy.gobgp.policies import can_match, policies_message, policy_mark, project, read_mark
from birdpy.gobgp.wire import wire_of
from birdpy.intent import (
    Advertisement,
    BgpIntent,
    Change,
    Direction,
    Match,
    Neighbor,
    Policy,
    PrefixRange,
    RouteOrigin,
    Speaker,
    Statement,
)

N2, N3 = parse_address("10.0.0.2"), parse_address("10.0.0.3")
BLOCK, OTHER = parse_prefix("10.64.1.0/26"), parse_prefix("10.64.2.0/26")
CLOSED_TO_2 = Policy(exports=(Statement(Match(neighbors=(N2,)), False),))
INTENT = BgpIntent(
    Speaker(64512, parse_address("10.0.0.1")),
    {N2: Neighbor(N2, 64512), N3: Neighbor(N3, 64512)},
    {BLOCK: Advertisement(BLOCK)},
)


def held(intent: BgpIntent, knows_policy: bool = True) -> Actual:
    """A gobgpd that holds the intent, as its client sees it (`knows_policy` False: just restarted)."""
    marks = {direction: policy_mark(direction, intent.policy) for direction in Direction}
    policy = intent.policy if knows_policy else None
    return Actual(intent.speaker, intent.neighbors, intent.advertisements, marks, policy)


def kinds(operations: Sequence[Operation]) -> list[type[Operation]]:
    return [type(operation) for operation in operations]


def test_nothing_differs() -> None:
    assert plan(INTENT, held(INTENT), 4) == []


def test_sessions_come_last_on_a_fresh_gobgpd() -> None:
    assert kinds(plan(INTENT, Actual(), 4)) == [StartSpeaker, SetPolicy, Announce, AddNeighbor, AddNeighbor]


def test_another_as_is_another_process_and_nothing_else() -> None:
    assert plan(replace(INTENT, speaker=replace(INTENT.speaker, asn=1)), held(INTENT), 4) == [ReplaceProcess()]


def test_without_a_speaker_all_is_taken_back_and_no_policy_is_opened_for_it() -> None:
    mute = BgpIntent(speaker=None)
    assert plan(mute, held(replace(INTENT, policy=CLOSED_TO_2)), 4) == [
        Withdraw((BLOCK,)),
        RemoveNeighbor(N2),
        RemoveNeighbor(N3),
    ]
    assert plan(mute, Actual(), 4) == []


def test_withdrawn_before_anything_is_announced() -> None:
    moved = replace(INTENT, advertisements={OTHER: Advertisement(OTHER)})
    assert plan(moved, held(INTENT), 4) == [Withdraw((BLOCK,)), Announce((Advertisement(OTHER),))]


def test_other_attributes_are_one_announcement() -> None:
    preferred = Advertisement(BLOCK, local_pref=200)
    assert plan(replace(INTENT, advertisements={BLOCK: preferred}), held(INTENT), 4) == [Announce((preferred,))]


def test_a_password_updates_one_neighbour() -> None:
    secret = Neighbor(N2, 64512, password="secret")
    changed = replace(INTENT, neighbors={**INTENT.neighbors, N2: secret})
    assert plan(changed, held(INTENT), 4) == [UpdateNeighbor(secret)]


def test_a_policy_refreshes_only_the_neighbours_it_treats_otherwise() -> None:
    changed = replace(INTENT, policy=CLOSED_TO_2)
    assert plan(changed, held(INTENT), 4) == [SetPolicy(CLOSED_TO_2), Refresh(N2, Direction.EXPORT)]


@pytest.mark.parametrize("generation", [3, 4])
def test_a_prefix_that_comes_or_goes_with_its_statement_touches_no_session(generation: Literal[3, 4]) -> None:
    closed = Statement(
        Match(neighbors=(N2,), prefixes=(PrefixRange(OTHER, 26, 26),), origin=RouteOrigin.LOCAL), accept=False
    )
    advertisements = {prefix: Advertisement(prefix) for prefix in (BLOCK, OTHER)}
    more = replace(INTENT, advertisements=advertisements, policy=Policy(exports=(closed,)))
    assert plan(more, held(INTENT), generation) == [SetPolicy(more.policy), Announce((Advertisement(OTHER),))]
    assert plan(INTENT, held(more), generation) == [Withdraw((OTHER,)), SetPolicy(Policy())]
    opened = replace(more, policy=Policy())
    anew = [Refresh] if generation == 4 else [RemoveNeighbor, AddNeighbor]
    assert kinds(plan(opened, held(more), generation)) == [SetPolicy, *anew], "what stays announced is told anew"


def test_version_3_begins_a_session_anew_to_take_routes_back() -> None:
    changed = replace(INTENT, policy=CLOSED_TO_2)
    neighbor = INTENT.neighbors[N2]
    assert plan(changed, held(INTENT), 3) == [SetPolicy(CLOSED_TO_2), RemoveNeighbor(N2), AddNeighbor(neighbor)]


def test_version_3_tells_other_attributes_without_a_new_session_but_for_those_that_decide() -> None:
    marking = Statement(Match(neighbors=(N2,)), change=Change(add_communities=(7,)))
    changed = replace(INTENT, policy=Policy(exports=(marking,)))
    assert plan(changed, held(INTENT), 3) == [SetPolicy(changed.policy), Refresh(N2, Direction.EXPORT)]
    deciding = replace(INTENT, policy=Policy(exports=(marking, Statement(Match(communities=(7,)), False))))
    assert AddNeighbor in kinds(plan(deciding, held(changed), 3))
    other = replace(marking, change=Change(add_communities=(8,)))
    undecided = replace(deciding, policy=Policy(exports=(other, *deciding.policy.exports[1:])))
    assert AddNeighbor in kinds(plan(undecided, held(deciding), 3)), "what is marked otherwise is accepted otherwise"


@pytest.mark.parametrize("generation", [3, 4])
def test_a_policy_that_names_a_new_neighbour_leaves_the_old_ones_alone(generation: Literal[3, 4]) -> None:
    before = replace(INTENT, neighbors={N2: INTENT.neighbors[N2]}, policy=CLOSED_TO_2)
    after = replace(INTENT, policy=Policy(exports=(Statement(Match(neighbors=(N2, N3)), False),)))
    assert kinds(plan(after, held(before), generation)) == [SetPolicy, AddNeighbor]


def test_a_restarted_client_that_finds_another_policy_refreshes_all() -> None:
    operations = plan(replace(INTENT, policy=CLOSED_TO_2), held(INTENT, knows_policy=False), 4)
    assert operations == [SetPolicy(CLOSED_TO_2), Refresh(N2, Direction.EXPORT), Refresh(N3, Direction.EXPORT)]


def test_projection_leaves_out_what_names_others() -> None:
    verdict = Statement(Match(), False)
    assert project(CLOSED_TO_2.exports, N2) == (verdict,)
    assert project(CLOSED_TO_2.exports, N3) == ()
    but_2 = (Statement(Match(neighbors=(N2,), neighbors_negated=True), False),)
    assert (project(but_2, N2), project(but_2, N3)) == ((), (verdict,))


@pytest.mark.parametrize("generation", [3, 4])
def test_no_empty_set_is_ever_written(generation: Literal[3, 4]) -> None:
    empty = Statement(Match(neighbors=(), prefixes=(PrefixRange(BLOCK, 26, 32),)), False)
    anyone = Statement(Match(neighbors=(), neighbors_negated=True), False)
    message = policies_message(wire_of(generation), Policy((empty, anyone), (empty,)))
    assert [defined.name for defined in message.sets] == []
    assert [len(policy.statements) for policy in message.policies] == [2, 1]
    assert not can_match(empty.match)


def test_a_policy_is_known_again_by_its_mark() -> None:
    message = policies_message(wire_of(4), CLOSED_TO_2)
    assert read_mark(message.policies[1:]) == policy_mark(Direction.EXPORT, CLOSED_TO_2)
    assert read_mark([]) is None


def test_version_3_refuses_what_it_cannot_match() -> None:
    with pytest.raises(ValueError, match="local_pref"):
        policies_message(wire_of(3), Policy(imports=(Statement(Match(local_pref=100)),)))


@pytest.mark.parametrize("generation", [3, 4])
def test_what_agreed_before_is_compared_again_where_it_is_another(generation: Literal[3, 4]) -> None:
    actual = held(INTENT)
    agreed = Agreed(INTENT, actual)
    more = replace(INTENT, advertisements={**INTENT.advertisements, OTHER: Advertisement(OTHER)})
    assert plan(more, actual, generation, agreed) == [Announce((Advertisement(OTHER),))]
    for wanted, found in (
        (replace(INTENT, policy=CLOSED_TO_2), actual),
        (INTENT, replace(actual, marks={})),
        (replace(INTENT, neighbors={}), actual),
        (INTENT, replace(actual, neighbors={})),
    ):
        assert plan(wanted, found, generation, agreed) == plan(wanted, found, generation) != []
