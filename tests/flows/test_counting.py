"""Figures have a bounded number of rows, whatever number of rules there were."""

from __future__ import annotations

from felixpy.calc.intent import PolicyId
from felixpy.dataplane.chains.causes import NO_PROFILE, UNSERVED, Cause, Effect
from felixpy.dataplane.objects import Counts
from felixpy.flows.counting import ToldCauses
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Table


def rule(number: int, index: int = 0, effect: Effect = Effect.DENY) -> Cause:
    return Cause(effect, "in", policy=PolicyId(Table.GLOBAL_POLICY, Name("", f"p{number}")), index=index)


def told(causes: list[Cause], most: int) -> ToldCauses:
    made = ToldCauses(most)
    for cause in causes:
        made.note(cause, "default")
    return made


def test_rows_say_verdict_tier_policy_and_rule() -> None:
    causes = [rule(1, 2), rule(1, 3, Effect.ADMIT), NO_PROFILE["out"], UNSERVED]
    made = told(causes[:2], 10)
    rows = made.packet_rows({cause: Counts(place, 0) for place, cause in enumerate(causes)})
    assert rows == {
        ("denied", "ingress", "default", "GlobalNetworkPolicy p1", "spec.ingress[2]"): 0.0,
        ("allowed", "ingress", "default", "GlobalNetworkPolicy p1", "spec.ingress[3]"): 1.0,
        ("denied", "egress", "", "", "no profile allows it"): 2.0,
        ("refused", "", "", "", "no endpoint"): 3.0,
    }


def test_denied_packets_by_policy_are_those_of_all_its_rules() -> None:
    counts = {rule(1, 0): Counts(1, 0), rule(1, 1): Counts(2, 0), rule(2, 0, Effect.ADMIT): Counts(9, 0)}
    assert told([], 1).denied_rows(counts) == {("GlobalNetworkPolicy p1",): 3.0}


def test_what_is_too_much_is_one_row() -> None:
    made = told([rule(number) for number in range(10)], 3)
    rows = made.packet_rows({cause: Counts(1, 1) for cause in made.causes})
    assert len(rows) == 4
    assert rows["", "", "", "other", "other"] == 7.0


def test_causes_that_are_gone_make_room() -> None:
    made = told([rule(1), rule(2)], 2)
    made.counted({rule(2): Counts(1, 1)})
    made.note(rule(3), "default")
    assert (set(made.causes), made.others) == ({rule(2), rule(3)}, 0)
