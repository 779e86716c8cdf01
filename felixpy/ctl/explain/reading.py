"""The rules that a packet met, in the words of policies: which tier, policy, rule or default said what. Pure.

In: a Passage; out: Statements in the order in which they were made; the last of a passage that loses its packet is the
one that decided. Chains are known again by the names that the renderers give them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from felixpy.addresses import format_address
from felixpy.calc.intent import HostEndpointIntent, PolicyId, SetSpec, TierIntent
from felixpy.calc.reasons import Reason
from felixpy.ctl.explain.flow import Passage
from felixpy.dataplane.chains.causes import NO_LOCAL_BACKEND, Effect
from felixpy.dataplane.chains.endpoint import Direction, judgement_chain
from felixpy.dataplane.chains.host import host_chain, places_of
from felixpy.dataplane.chains.policy import (
    PASS_CHAIN,
    Origin,
    policy_chain,
    profile_chain,
    rendered_from,
)
from felixpy.dataplane.chains.report import cause_chain, effect_of
from felixpy.dataplane.judging.compiled import CompiledNode
from felixpy.dataplane.judging.verdict import Step
from felixpy.dataplane.rules import (
    Accept,
    Balance,
    DestinationNat,
    Goto,
    Jump,
    MapDestination,
    MapSource,
    Masquerade,
    NoTrack,
    SourceNat,
)
from felixpy.dataplane.sets import Version, describe_sets

FIELDS: Mapping[Direction, str] = {"in": "ingress", "out": "egress"}


class Said(StrEnum):
    """What a rule, a policy or a default did."""

    ALLOWS = "allows"
    DENIES = "denies"
    REFUSES = "refuses"
    PASSES = "passes it on to the next tier"
    LOGS = "logs"
    NOTHING = "has no rule that matches"
    TRANSLATES = "translates"
    UNTRACKED = "is not tracked"


@dataclass(frozen=True, slots=True)
class Statement:
    """Who said what about a packet.

    `scope` is whose chain it was (an endpoint), "" for what is common to the node. `policy` (or the name of a
    `profile`) with `place` when a rule said it: `index` among the rules that were written, None where nobody wrote
    them. Otherwise `default` says in words what it was.
    """

    said: Said
    scope: str
    direction: Direction | None = None
    tier: str = ""
    policy: PolicyId | None = None
    profile: str = ""
    index: int | None = None
    default: str = ""

    @property
    def field(self) -> str:
        """The field of the policy that holds the rule: `spec.ingress[2]`."""
        if self.direction is None or self.index is None:
            return ""
        return f"spec.{FIELDS[self.direction]}[{self.index}]"


@dataclass(frozen=True, slots=True)
class _Scope:
    """An endpoint's chain."""

    words: str
    direction: Direction
    tiers: tuple[TierIntent, ...]


@dataclass(frozen=True, slots=True)
class _Owner:
    """A chain of a policy or profile, and the written rules that its rules are made from."""

    policy: PolicyId | None
    profile: str
    direction: Direction
    rules: tuple[Origin, ...]


def read_passage(passage: Passage) -> tuple[Statement, ...]:
    """Everything that was said about a packet on one node."""
    return tuple(_Reader(passage).statements())


class _Reader:
    def __init__(self, passage: Passage) -> None:
        self._steps = passage.verdict.steps
        self._compiled = passage.compiled
        self._translated = passage.verdict.packet
        self._scopes = dict(_scopes(passage))
        self._owners = dict(_owners(passage.compiled))
        self._scope = _Scope("", "in", ())

    def statements(self) -> Iterator[Statement]:
        """In order; a policy that was asked and had no rule for the packet says so."""
        for place, step in enumerate(self._steps):
            following = self._steps[place + 1] if place + 1 < len(self._steps) else None
            if step.chain in self._scopes:
                self._scope = self._scopes[step.chain]
            if step.chain in self._owners:
                yield self._by_rule(step, self._owners[step.chain])
            elif isinstance(step.action, Jump) and step.action.chain in self._owners:
                if following is None or following.chain != step.action.chain:
                    yield self._by_owner(Said.NOTHING, self._owners[step.action.chain])
            elif effect_of(step.chain) is None:
                yield from self._by_default(step)

    def _by_rule(self, step: Step, owner: _Owner) -> Statement:
        terms, place = owner.rules[step.index]
        return self._by_owner(_said(step), owner, None if owner.profile and terms.index is None else place)

    def _by_owner(self, said: Said, owner: _Owner, index: int | None = None) -> Statement:
        tier = ""
        if owner.policy is not None:
            tier = next((one.name for one in self._scope.tiers if owner.policy in (*one.ingress, *one.egress)), "")
        return Statement(said, self._scope.words, owner.direction, tier, owner.policy, owner.profile, index)

    def _by_default(self, step: Step) -> Iterator[Statement]:
        scoped = step.chain in self._scopes
        scope = self._scope.words if scoped else ""
        direction = self._scope.direction if scoped else None
        match step.action:
            case Goto(chain) if effect_of(chain) is not None:
                said = Said.REFUSES if effect_of(chain) is Effect.REFUSE else Said.DENIES
                yield Statement(said, scope, direction, default=step.rule.comment or self._words_of(chain))
            case NoTrack():
                yield Statement(Said.UNTRACKED, scope, direction, default="answers need rules of their own")
            case Accept() if scoped:
                yield Statement(Said.ALLOWS, scope, direction, default="an answer to what was allowed")
            case Accept() if step.rule.comment:
                yield Statement(Said.ALLOWS, scope, direction, default=step.rule.comment)
            case Balance() | DestinationNat():
                end = f"{format_address(self._translated.destination)} port {self._translated.destination_port}"
                yield Statement(Said.TRANSLATES, "", default=f"destination becomes {end}")
            case MapDestination():
                end = f"destination becomes {format_address(self._translated.destination)} (floating address)"
                yield Statement(Said.TRANSLATES, "", default=end)
            case MapSource():
                end = f"source becomes {format_address(self._translated.source)} (floating address)"
                yield Statement(Said.TRANSLATES, "", default=end)
            case Masquerade() | SourceNat():
                yield Statement(Said.TRANSLATES, "", default="source becomes the node's own address")
            case _:
                pass

    def _words_of(self, chain: str) -> str:
        """Why packets end in the chain of a cause, where the rule that led there does not say."""
        if chain == cause_chain(NO_LOCAL_BACKEND):
            return Reason.NO_LOCAL_ENDPOINT
        return self._compiled.kernel.chains[chain].rules[-1].comment


def _said(step: Step) -> Said:
    match step.action:
        case Goto(chain) if effect_of(chain) is Effect.DENY:
            return Said.DENIES
        case Jump():
            return Said.LOGS
        case Goto(chain) if chain == PASS_CHAIN:
            return Said.PASSES
        case _:
            return Said.ALLOWS


def _scopes(passage: Passage) -> Iterator[tuple[str, _Scope]]:
    """The chains that judge the endpoints which the packet comes from and goes to, and all chains of hosts."""
    ways: tuple[tuple[Direction, str], ...] = (
        ("out", passage.entered.in_interface),
        ("in", passage.verdict.packet.out_interface),
    )
    for endpoint in passage.compiled.endpoints.values():
        for direction, device in ways:
            if endpoint.interface == device:
                yield judgement_chain(direction, endpoint), _Scope(device, direction, endpoint.tiers)
    for name, host in passage.compiled.hosts.items():
        for place in places_of(host):
            words = f"host endpoint {name} ({place.stage})"
            yield host_chain(place, name), _Scope(words, place.direction, _host_tiers(host))


def _host_tiers(host: HostEndpointIntent) -> tuple[TierIntent, ...]:
    return tuple(tier for tiers in host.stages.values() for tier in tiers)


def _owners(compiled: CompiledNode) -> Iterator[tuple[str, _Owner]]:
    def names(spec: SetSpec, version: Version) -> tuple[str, ...]:
        every = (one.name for one in describe_sets(spec, version, addresses=True, prefixes=True))
        return tuple(name for name in every if name in compiled.kernel.sets)

    directions: tuple[Direction, Direction] = ("in", "out")
    for direction in directions:
        for identity, rules in compiled.policies.items():
            written = rules.ingress if direction == "in" else rules.egress
            yield policy_chain(direction, identity), _Owner(identity, "", direction, rendered_from(written, names))
        for profile, rules in compiled.profiles.items():
            written = rules.ingress if direction == "in" else rules.egress
            yield profile_chain(direction, profile), _Owner(None, profile, direction, rendered_from(written, names))
