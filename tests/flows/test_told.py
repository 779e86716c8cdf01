"""What the rules tell of a packet is what explain says of it, for generated clusters and packets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.ctl.explain.flow import Passage
from felixpy.ctl.explain.reading import Said, Statement, read_passage
from felixpy.dataplane.chains.causes import Cause, Effect, parse_cause
from felixpy.dataplane.judging.compiled import compile_node
from felixpy.dataplane.judging.verdict import Verdict, verdict
from felixpy.dataplane.rules import Report
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import FelixConfiguration
from tests.dataplane.meaning_world import LOCAL, NODE, Maker, resources_of

PACKETS = 20
TELL_ALL = (
    Ref(Table.FELIX_CONFIGURATION, Name("", "default")),
    FelixConfiguration((("flowLogsFileEnabledForAllowed", True),)),
)
_SAID = {Effect.DENY: Said.DENIES, Effect.REFUSE: Said.REFUSES, Effect.ADMIT: Said.ALLOWS, Effect.LOG: Said.LOGS}


def told(done: Verdict) -> list[Cause]:
    """The causes that the kernel would tell of, in order."""
    texts = [step.action.text for step in done.steps if isinstance(step.action, Report)]
    causes = [parse_cause(text, {}) for text in texts]
    assert None not in causes, texts
    return [cause for cause in causes if cause is not None]


def is_told(statement: Statement) -> bool:
    """Whether somebody's rule, or what denies by default, said it: what passes by default is not told of."""
    written = statement.policy is not None or bool(statement.profile)
    return statement.said in (Said.DENIES, Said.REFUSES) or (written and statement.said in (Said.ALLOWS, Said.LOGS))


def same(cause: Cause, statement: Statement) -> bool:
    if statement.said is not _SAID[cause.effect]:
        return False
    if statement.policy is None and not statement.profile:
        return statement.default == str(cause)
    place = statement.index if statement.index is not None else cause.index
    return (statement.policy, statement.profile, place) == (cause.policy, cause.profile, cause.index)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**64))
def test_what_is_told_is_what_explain_says(seed: int) -> None:
    make = Maker(seed)
    node = compile_node(NODE, [*resources_of(make.cluster()), TELL_ALL], LOCAL)
    for packet in [make.packet() for _ in range(PACKETS)]:
        done = verdict(node.kernel, packet)
        said = [one for one in read_passage(Passage(node, packet, done)) if is_told(one)]
        causes = told(done)
        assert len(causes) == len(said), (causes, said)
        assert all(map(same, causes, said)), (causes, said)
        assert done.accepted or causes, "nothing dies in silence"
