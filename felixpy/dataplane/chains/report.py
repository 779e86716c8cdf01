"""Causes → their chains: what becomes of a packet there, and what is told of it. Pure.

Every packet that dies passes one of these, whatever rule sent it there, so that rules that do not match cost nothing,
a cause has one count and one limit, and both outlive a change of the policy around it. A report is a copy of the
packet's head: never more than the limit, and none where nobody listens. Connections that were allowed pass before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import assert_never

from felixpy.calc.options import Options
from felixpy.dataplane.chains.causes import NO_PROFILE, Cause, Effect
from felixpy.dataplane.chains.naming import chain_name
from felixpy.dataplane.objects import Chain
from felixpy.dataplane.rules import (
    MARK_ACCEPT,
    MARK_PASS,
    MARK_REFUSED,
    CtState,
    CtStateIn,
    Drop,
    Goto,
    Log,
    MarkIs,
    Match,
    ProtocolIs,
    Reject,
    Report,
    Rule,
    SetMark,
)

_INVALID = CtStateIn(frozenset({CtState.INVALID}))
_TCP = 6
REFUSE_CHAIN = "refuse"
"""Where what policies denied is refused."""
_DENIED = MARK_ACCEPT | MARK_REFUSED
_LOG_WORD = re.compile("%[tknp]")


def cause_chain(cause: Cause) -> str:
    """The name of a cause's chain."""
    index = "" if cause.index is None else f"-{cause.index}"
    way = f"{cause.way}-" if cause.way else ""
    return chain_name(cause.effect, f"{way}{cause.subject.replace(' ', '-')}{index}")


def effect_of(chain: str) -> Effect | None:
    """What the chain of a cause does, by its name; None for any other chain."""
    word = chain.partition("-")[0]
    return Effect(word) if word in set(Effect) and word != chain else None


def render_cause(cause: Cause, options: Options, tier: str = "") -> Chain:
    """The chain of a cause, which a policy of `tier` may be.

    A refusal is a reset for TCP and an ICMP error for the rest, but not for what conntrack finds invalid: a reset for
    a stray segment would end the connection that it strayed from. Where what policies deny is refused, it is marked
    here and goes back: not every hook that leads here can refuse.
    """
    words = str(cause)
    report = (Rule(Report(cause.text)),) if _is_reported(cause, options) else ()
    rules: tuple[Rule, ...]
    match cause.effect:
        case Effect.DENY if options.refuses and is_of_policy(cause):
            rules = (*report, Rule(SetMark(_DENIED, _DENIED), (), words, counter=True))
        case Effect.DENY:
            rules = (*report, Rule(Drop(), (), words, counter=True))
        case Effect.REFUSE:
            rules = (Rule(Drop(), (_INVALID,), words), *report, *_refusals(words, counter=True))
        case Effect.ADMIT:
            rules = (*report, Rule(SetMark(MARK_ACCEPT, MARK_ACCEPT), (), words, counter=True))
        case Effect.LOG:
            rules = (*report, Rule(Log(f"{_log_prefix(cause, options.log_prefix, tier)}: "), (), words))
        case _:
            assert_never(cause.effect)
    return Chain(cause_chain(cause), rules)


def _refusals(words: str, counter: bool = False) -> tuple[Rule, Rule]:
    return (
        Rule(Reject(tcp_reset=True), (ProtocolIs(_TCP),), words, counter=counter),
        Rule(Reject(), (), words, counter=counter),
    )


def is_of_policy(cause: Cause) -> bool:
    """Whether policies are why: a rule, the end of a tier, or that no profile allows it."""
    return bool(cause.policy or cause.profile or cause.tier) or cause in NO_PROFILE.values()


def refuse_chain(options: Options) -> tuple[Chain, ...]:
    """What refuses the packets that policies denied, where these are not dropped at once."""
    if not options.refuses:
        return ()
    return (Chain(REFUSE_CHAIN, (Rule(Drop(), (_INVALID,)), *_refusals("what policy denies"))),)


def after_policy(options: Options, can_refuse: bool = True) -> tuple[Rule, ...]:
    """What follows a jump to what policies decide about; a hook that cannot refuse drops."""
    if not options.refuses:
        return ()
    denied = (MarkIs(MARK_REFUSED, MARK_REFUSED),)
    return (Rule(Goto(REFUSE_CHAIN), denied) if can_refuse else Rule(Drop(), denied, "what policy denies"),)


def marks_of_policy(options: Options) -> int:
    """The mark bits by which policies say what they decided."""
    return MARK_ACCEPT | MARK_PASS | (MARK_REFUSED if options.refuses else 0)


def _log_prefix(cause: Cause, prefix: str, tier: str) -> str:
    """The prefix with what it has words for: `%t` tier, `%k` kind, `%n` name, `%p` name in its namespace.

    Source  felix/rules/policy.go (generateLogPrefix).
    """
    kind, _, full = cause.subject.partition("/")
    name = cause.policy.name.name if cause.policy is not None else full
    words = {"%t": tier, "%k": kind if cause.policy is not None else "pro", "%n": name, "%p": full}
    return _LOG_WORD.sub(lambda found: words[found[0]], prefix)


def _is_reported(cause: Cause, options: Options) -> bool:
    match cause.effect:
        case Effect.DENY | Effect.REFUSE:
            return options.report_denied
        case Effect.ADMIT:
            return options.report_allowed
        case Effect.LOG:
            return options.report_logged
        case _:
            assert_never(cause.effect)


def common_chains(causes: Iterable[Cause], options: Options) -> tuple[Chain, ...]:
    """The chains of causes that are always there."""
    return tuple(render_cause(cause, options) for cause in causes)


def end_in(cause: Cause, *matches: Match) -> Rule:
    """A rule that leads what satisfies the matches to the chain of a cause, from which nothing comes back."""
    return Rule(Goto(cause_chain(cause)), matches, str(cause))
