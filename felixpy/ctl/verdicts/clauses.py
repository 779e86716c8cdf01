"""What the judges at one end of a way say about packets between two addresses: all that depends on the addresses is
decided here once, so that what is left asks for protocol, ports and ICMP types only.

In: a Path, its World and two addresses; out: Clauses in the order in which they decide. The rules are those that the
renderers give to the kernel, the order is that of dataplane/chains (endpoint, host). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from felixpy.addresses import Address
from felixpy.calc.intent import PolicyId
from felixpy.ctl.explain.reading import Said, Statement
from felixpy.ctl.verdicts.hosts import Path
from felixpy.ctl.verdicts.world import Condition, Judge, World
from felixpy.dataplane.chains.causes import Effect
from felixpy.dataplane.chains.policy import ALLOW_CHAIN, PASS_CHAIN
from felixpy.dataplane.chains.report import effect_of
from felixpy.dataplane.rules import Accept, Action, FamilyIs, Goto, Match, NetIn, Return, Rule, SetHas, Side
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


class Step(NamedTuple):
    """A rule on the way: what it asks of addresses, and of all else.

    Steps of one `group` are looked at until one takes the packet; what none takes goes on to the next group, what one
    passes or allows to the group `to`.
    """

    asked: tuple[Match, ...]
    left: tuple[Match, ...]
    verb: Verb
    group: int
    to: int
    statement: Statement


class Clause(NamedTuple):
    """Packets that satisfy every match are denied, or go on to group `to`."""

    matches: tuple[Left, ...]
    verb: Verb
    group: int
    to: int
    statement: Statement

    @property
    def meaning(self) -> tuple[object, ...]:
        """All but who says it."""
        return self[:4]


_FIRST: Mapping[type[Action], Verb] = {Accept: Verb.ALLOW, Return: Verb.PASS}
"""What a rule that goes first does by its action; by any other it denies."""
_SAID = {Verb.ALLOW: Said.ALLOWS, Verb.DENY: Said.DENIES, Verb.PASS: Said.PASSES}
_SCOPES = {
    None: "",
    "normal": "host endpoint",
    "forward": "host endpoint, on forward",
    "pre-dnat": "host endpoint, before DNAT",
    "untracked": "host endpoint, untracked",
}


class Track:
    """All steps of a path in a world, and which of them can concern an address."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.steps = tuple(_steps(world, path))

    def conditions(self, side: Side) -> Iterator[Condition]:
        """What the steps ask of the address on one side."""
        for step in self.steps:
            yield from _conditions(self.world, step, side)

    def filed(self, side: Side, narrow: Iterable[Condition]) -> Filed:
        """The steps by what they need of the address on one side, where that is one of the `narrow` conditions."""
        wanted = frozenset(narrow)
        always: list[int] = []
        by_condition: dict[Condition, list[int]] = {}
        for place, step in enumerate(self.steps):
            needed = next((one for one in _needed(self.world, step, side) if wanted.issuperset(one)), None)
            if needed is None:
                always.append(place)
            for condition in needed or ():
                by_condition.setdefault(condition, []).append(place)
        return Filed(tuple(always), by_condition)

    def between(self, source: Address, destination: Address, places: Iterable[int] | None = None) -> tuple[Clause, ...]:
        """The clauses that packets between two addresses can meet; `places` are those of the steps to look at."""
        found: list[Clause] = []
        onward: set[int] = set()
        group, flows, furthest = 0, True, 0
        for place in range(len(self.steps)) if places is None else places:
            step = self.steps[place]
            if step.group != group:
                flows = flows or any(group < to <= step.group for to in onward)
                group = step.group
            if not flows:
                if furthest <= group:
                    break
                continue
            left = _left_of(self.world, step, source, destination)
            if left is None:
                continue
            found.append(Clause(left, step.verb, group, step.to, step.statement))
            if step.verb is not Verb.DENY:
                onward.add(step.to)
                furthest = max(furthest, step.to)
            flows = bool(left)
        return tuple(found)


class Filed(NamedTuple):
    """Places of steps: those that may concern any address, and those that concern what has a condition."""

    always: tuple[int, ...]
    by_condition: dict[Condition, list[int]]

    def places(self, held: Iterable[Condition]) -> Sequence[int]:
        """The steps that may concern an address of which these conditions hold."""
        more = {place for condition in held for place in self.by_condition.get(condition, ())}
        return sorted(more.union(self.always)) if more else self.always


def allows(statement: Statement) -> bool:
    """Whether a packet about which this was said goes on."""
    return statement.said is Said.ALLOWS


def _steps(world: World, path: Path) -> Iterator[Step]:
    """Every step, those behind one that takes everything among them."""
    starts = [0]
    for judge in path:
        starts.append(starts[-1] + 2 + len(judge.tiers) + len(judge.profiles))
    for number, judge in enumerate(path):
        following = next(
            (later for later in range(number + 1, len(path)) if not judge.spares_hosts or path[later].stage is None),
            len(path),
        )
        yield from _steps_of(world, judge, starts[number], starts[number + 1], starts[following])


def _steps_of(world: World, judge: Judge, group: int, after: int, allowed: int) -> Iterator[Step]:
    """The steps of a judge whose first group is `group`; `allowed` is where packets go on that its policies allow."""
    scope, direction = _SCOPES[judge.stage], judge.direction
    for rule in judge.first:
        verb = _FIRST.get(type(rule.action), Verb.DENY)
        said = Statement(_SAID[verb], scope, direction, default=rule.comment or "what is always allowed")
        yield _step(rule, verb, group, after, said)
    for tier in judge.tiers:
        group += 1
        for policy in tier.ingress if direction == "in" else tier.egress:
            yield from _written(world, judge, policy, group, allowed, tier.name)
        if judge.ends_tiers and tier.default_action is TierDefault.DENY:
            said = Statement(Said.DENIES, scope, direction, tier.name, default=f"end of tier {tier.name}")
            yield Step((), (), Verb.DENY, group, group, said)
    for profile in judge.profiles:
        group += 1
        yield from _written(world, judge, profile, group, allowed)
    if judge.is_closed:
        said = Statement(Said.DENIES, scope, direction, default="no profile allows it")
        yield Step((), (), Verb.DENY, group + 1, group + 1, said)


def _written(
    world: World, judge: Judge, writer: PolicyId | str, group: int, allowed: int, tier: str = ""
) -> Iterator[Step]:
    """The steps of a policy, or of a profile of that name."""
    policy, profile = (None, writer) if isinstance(writer, str) else (writer, "")
    for line in world.lines(writer, judge.direction):
        verb = _verb(line.rule)
        if verb is not None:
            to = group + 1 if verb is Verb.PASS else allowed
            scope = _SCOPES[judge.stage]
            said = Statement(_SAID[verb], scope, judge.direction, tier, policy, profile, line.place)
            yield _step(line.rule, verb, group, to, said)


def _step(rule: Rule, verb: Verb, group: int, to: int, statement: Statement) -> Step:
    asked = tuple(match for match in rule.matches if isinstance(match, FamilyIs | NetIn | SetHas))
    left = tuple(match for match in rule.matches if not isinstance(match, FamilyIs | NetIn | SetHas))
    return Step(asked, left, verb, group, to, statement)


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


def _conditions(world: World, step: Step, side: Side) -> Iterator[Condition]:
    for match in step.asked:
        if isinstance(match, NetIn) and match.side == side:
            yield from match.nets
        elif isinstance(match, SetHas) and match.side == side:
            yield world.spec(match.set_name)


def _needed(world: World, step: Step, side: Side) -> Iterator[tuple[Condition, ...]]:
    """Conditions of which one must hold, for each match that is not negated."""
    for match in step.asked:
        if isinstance(match, NetIn) and match.side == side and not match.negate:
            yield match.nets
        elif isinstance(match, SetHas) and match.side == side and not match.negate:
            yield (world.spec(match.set_name),)


def _left_of(world: World, step: Step, source: Address, destination: Address) -> tuple[Left, ...] | None:
    """The matches that are not decided by the addresses; None where the step cannot concern packets between these."""
    version = 4 if len(source) == 4 else 6
    more: list[Left] = []
    for match in step.asked:
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
                    more.append(Serves(side, ports, negate))
            case _:
                raise AssertionError(f"{match} asks for no address")
        if not holds:
            return None
    return (*step.left, *more) if more else step.left
