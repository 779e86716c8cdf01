"""The text by which the kernel names a cause is understood again, whatever names are in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from felixpy.calc.intent import PolicyId
from felixpy.calc.options import DEFAULTS
from felixpy.dataplane.chains.causes import COMMON, OF_SERVICES, SHORT_NAMES, TEXT_BYTES, Cause, Effect, parse_cause
from felixpy.dataplane.chains.report import cause_chain, effect_of, render_cause
from felixpy.dataplane.nftables import report_text
from felixpy.dataplane.rules import Report
from felixpy.resources.kinds import Name
from felixpy.resources.tables import Table

_NAMES = st.text("abcdefghij0123456789.-", min_size=1, max_size=80)
_POLICIES = st.builds(PolicyId, st.sampled_from(sorted(SHORT_NAMES)), st.builds(Name, st.just("") | _NAMES, _NAMES))
_INDEXES = st.integers(0, 2000)
_WAYS = st.sampled_from(["in", "out"])
CAUSES = st.one_of(
    st.builds(Cause, st.sampled_from(Effect), _WAYS, policy=_POLICIES, index=_INDEXES),
    st.builds(Cause, st.sampled_from(Effect), _WAYS, profile=_NAMES, index=_INDEXES),
    st.builds(Cause, st.just(Effect.DENY), _WAYS, tier=_NAMES),
    st.sampled_from([*COMMON, *OF_SERVICES]),
)


@given(CAUSES)
def test_a_cause_is_known_again_by_its_text(cause: Cause) -> None:
    text = report_text(Report(cause.text))
    assert len(text.encode()) <= TEXT_BYTES
    assert parse_cause(text, {cause.text: cause}) == cause
    assert parse_cause(text, {}) in (cause, None)


@given(st.lists(CAUSES, min_size=2, max_size=8, unique=True))
def test_different_causes_have_different_texts_and_chains(causes: list[Cause]) -> None:
    assert len({cause.text for cause in causes}) == len(causes)
    assert len({cause_chain(cause) for cause in causes}) == len(causes)
    assert all(effect_of(render_cause(cause, DEFAULTS).name) is cause.effect for cause in causes)


def test_other_programs_texts_are_nobodys() -> None:
    for text in ("", "IN=eth0", "a|b|c|d", "deny|in|x", "deny|sideways|gnp/a|1", "deny|in|xyz/a|1"):
        assert parse_cause(text, {}) is None


def test_a_text_reads_well() -> None:
    policy = PolicyId(Table.NAMESPACED_POLICY, Name("web", "default.front"))
    cause = Cause(Effect.DENY, "in", policy=policy, index=2)
    assert (cause.text, str(cause)) == (
        "deny|in|np/web/default.front|2",
        "NetworkPolicy web/default.front ingress[2]",
    )
