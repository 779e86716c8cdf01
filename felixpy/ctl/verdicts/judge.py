"""What one endpoint's rules say about packets between two addresses: all that depends on the addresses is decided
here once, so that what is left asks for protocol, ports and ICMP types only.

In: a Judge, its World and two addresses; out: Clauses in the order in which they decide. The rules are those that the
renderers give to the kernel, the order is that of dataplane/endpoint_chains. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from felixpy.addresses import Address
from felixpy.calc.intent import PolicyId
from felixpy.ctl.explain.reading import Said, Statement
from felixpy.ctl.verdicts.world import Judge, Line, World
from felixpy.dataplane.chains.causes import Effect
from felixpy.dataplane.chains.policy import ALLOW_CHAIN, PASS_CHAIN
from felixpy.dataplane.chains.report import effect_of
from felixpy.dataplane.judging.matching import satisfies
from felixpy.dataplane.judging.packet import KernelState, Packet
from felixpy.dataplane.rules import FamilyIs, Goto, Match, NetIn, Rule, SetHas, Side
from felixpy.resources.policy_types import TierDefault


class Verb(StrEnum):
    """What a clause does with a packet that satisfies it."""

    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"


class Serves(NamedTuple):
    """Protocol and port on one side are among these: what is left of a set of named ports for one address."""

    side: Side
    ports: frozenset[tuple[int, int]]
    negate: bool


Left = Match | Serves
"""What can be left of a match when the addresses are known."""


class Clause(NamedTuple):
    """Packets that satisfy every match are allowed or denied, or pass over the rest of the clauses of `group`."""

    matches: tuple[Left, ...]
    verb: Verb
    group: int
    statement: Statement

    @property
    def meaning(self) -> tuple[object, ...]:
        """All but who says it."""
        return (self.matches, self.verb, self.group)


_NOTHING = KernelState({}, {}, {})
_SAID = {Verb.ALLOW: Said.ALLOWS, Verb.DENY: Said.DENIES, Verb.PASS: Said.PASSES}


def clauses_between(world: World, judge: Judge, source: Address, destination: Address) -> tuple[Clause, ...]:
    """The clauses that packets between two addresses can meet; the last one takes what is left."""
    found: list[Clause] = []
    ended = escaped = -1
    for clause in _all_clauses(world, judge, source, destination):
        if clause.group == ended:
            continue
        found.append(clause)
        if clause.verb is Verb.PASS and clause.matches:
            escaped = clause.group
        elif not clause.matches:
            if clause.verb is not Verb.PASS and escaped != clause.group:
                break
            ended = clause.group
    return tuple(found)


def decide(clauses: Sequence[Clause], packet: Packet) -> Statement:
    """What is said about a packet in the end."""
    passed = -1
    for clause in clauses:
        if clause.group != passed and all(_holds(match, packet) for match in clause.matches):
            if clause.verb is not Verb.PASS:
                return clause.statement
            passed = clause.group
    raise AssertionError("no clause took what was left")


def allows(statement: Statement) -> bool:
    """Whether a packet about which this was said goes on."""
    return statement.said is Said.ALLOWS


def _holds(match: Left, packet: Packet) -> bool:
    if isinstance(match, Serves):
        return ((packet.protocol, packet.port(match.side)) in match.ports) != match.negate
    return satisfies(match, packet, _NOTHING)


def _all_clauses(world: World, judge: Judge, source: Address, destination: Address) -> Iterator[Clause]:
    """Every clause, those behind one that takes everything among them."""
    group = 0
    for rule in judge.first:
        left = _left_of(world, rule, source, destination)
        if left is not None:
            said = Statement(Said.DENIES, "", judge.direction, default=rule.comment)
            yield Clause(left, Verb.DENY, group, said)
    for tier in judge.tiers:
        group += 1
        for policy in tier.ingress if judge.direction == "in" else tier.egress:
            for line in world.lines(policy, judge.direction):
                yield from _clause(world, judge, line, group, tier.name, policy, source, destination)
        if tier.default_action is TierDefault.DENY:
            said = Statement(Said.DENIES, "", judge.direction, tier.name, default=f"end of tier {tier.name}")
            yield Clause((), Verb.DENY, group, said)
    for profile in judge.profiles:
        group += 1
        for line in world.lines(profile, judge.direction):
            yield from _clause(world, judge, line, group, "", profile, source, destination)
    said = Statement(Said.DENIES, "", judge.direction, default="no profile allows it")
    yield Clause((), Verb.DENY, group + 1, said)


def _clause(
    world: World,
    judge: Judge,
    line: Line,
    group: int,
    tier: str,
    writer: PolicyId | str,
    source: Address,
    destination: Address,
) -> Iterator[Clause]:
    verb = _verb(line.rule)
    left = _left_of(world, line.rule, source, destination) if verb is not None else None
    if verb is None or left is None:
        return
    policy, profile = (None, writer) if isinstance(writer, str) else (writer, "")
    said = Statement(_SAID[verb], "", judge.direction, tier, policy, profile, line.place)
    yield Clause(left, verb, group, said)


def _verb(rule: Rule) -> Verb | None:
    """None for a rule that decides nothing."""
    match rule.action:
        case Goto(chain) if effect_of(chain) is Effect.DENY:
            return Verb.DENY
        case Goto(chain) if chain == ALLOW_CHAIN or effect_of(chain) is Effect.ADMIT:
            return Verb.ALLOW
        case Goto(chain) if chain == PASS_CHAIN:
            return Verb.PASS
        case _:
            return None


def _left_of(world: World, rule: Rule, source: Address, destination: Address) -> tuple[Left, ...] | None:
    """The matches that are not decided by the addresses; None where the rule cannot match between these."""
    version = 4 if len(source) == 4 else 6
    left: list[Left] = []
    for match in rule.matches:
        match match:
            case FamilyIs(wanted):
                holds = wanted == version
            case NetIn(side, nets, negate):
                address = source if side == "source" else destination
                holds = nets[0].version == version and any(net.contains(address) for net in nets) != negate
            case SetHas(side, name, wanted, negate, False):
                address = source if side == "source" else destination
                holds = wanted == version and world.held(world.spec(name)).has(address) != negate
            case SetHas(side, name, wanted, negate, True):
                ports = world.held(world.spec(name)).ports_of(source if side == "source" else destination)
                holds = wanted == version and (bool(ports) or negate)
                if holds and ports:
                    left.append(Serves(side, ports, negate))
            case _:
                holds = True
                left.append(match)
        if not holds:
            return None
    return tuple(left)
