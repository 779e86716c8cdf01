"""From what gobgpd holds to what it should: the operations, in their order.

In: intent and what was read. Out: operations, none where nothing differs. A change touches only what changed: a session
is reset only by a change of its own settings. Withdrawn first, announced before new sessions come up (a restarting
speaker then tells everything at once). Pure. Source: measured on GoBGP 3.10 and 4.8 (what resets a session).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from birdpy.addresses import Prefix, format_address, range_of
from birdpy.gobgp.peers import group_name, same_neighbor
from birdpy.gobgp.policies import policy_mark, project, statements_of, verdicts
from birdpy.gobgp.versions import possible
from birdpy.intent import Advertisement, BgpIntent, Direction, Neighbor, Policy, RouteOrigin, Speaker, Statement


@dataclass(frozen=True, slots=True)
class Actual:
    """What a gobgpd holds. `advertisements` and `policy` are what this client told it, as far as it has.

    `marks` are those of the policies assigned, None where there is none of ours. `ranges`: the groups of those who may
    connect from a prefix, by what stands for it. `shut`: neighbours whose sessions gobgpd ended for too many prefixes.
    """

    speaker: Speaker | None = None
    neighbors: Mapping[bytes, Neighbor] = field(default_factory=dict)
    advertisements: Mapping[Prefix, Advertisement] = field(default_factory=dict)
    marks: Mapping[Direction, str | None] = field(default_factory=dict)
    policy: Policy | None = None
    ranges: Mapping[bytes, str] = field(default_factory=dict)
    shut: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class ReplaceProcess:
    """End gobgpd, so that a new one can take another router id, AS or port: version 4 takes them once in its life."""

    def describe(self) -> str:
        return "kill -9 gobgpd"


@dataclass(frozen=True, slots=True)
class StartSpeaker:
    """Become this router."""

    speaker: Speaker

    def describe(self) -> str:
        speaker = self.speaker
        return (
            f"gobgp global as {speaker.asn} router-id {format_address(speaker.router_id)}"
            f" listen-port {speaker.listen_port}"
        )


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Announce these no longer."""

    prefixes: tuple[Prefix, ...]

    def describe(self) -> str:
        return _list("gobgp global rib del", [str(prefix) for prefix in self.prefixes])


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """The whole policy, of both directions."""

    policy: Policy

    def describe(self) -> str:
        return f"set policies: {len(self.policy.imports)} import, {len(self.policy.exports)} export statements"


@dataclass(frozen=True, slots=True)
class Refresh:
    """Judge anew what one neighbour taught or was told, without ending the session."""

    address: bytes
    direction: Direction

    def describe(self) -> str:
        way = "in" if self.direction is Direction.IMPORT else "out"
        return f"gobgp neighbor {format_address(self.address)} softreset{way}"


@dataclass(frozen=True, slots=True)
class Announce:
    """Announce these, or announce them with other attributes."""

    advertisements: tuple[Advertisement, ...]

    def describe(self) -> str:
        return _list("gobgp global rib add", [str(advertisement.prefix) for advertisement in self.advertisements])


@dataclass(frozen=True, slots=True)
class RemoveNeighbor:
    """End the session and forget it."""

    address: bytes

    def describe(self) -> str:
        return f"gobgp neighbor del {format_address(self.address)}"


@dataclass(frozen=True, slots=True)
class AddNeighbor:
    """Configure a session."""

    neighbor: Neighbor

    def describe(self) -> str:
        return f"gobgp neighbor add {format_address(self.neighbor.address)} as {self.neighbor.asn}"


@dataclass(frozen=True, slots=True)
class UpdateNeighbor:
    """Change a session's settings in place."""

    neighbor: Neighbor

    def describe(self) -> str:
        return f"gobgp neighbor update {format_address(self.neighbor.address)}"


Operation = (
    ReplaceProcess
    | StartSpeaker
    | Withdraw
    | SetPolicy
    | Refresh
    | Announce
    | RemoveNeighbor
    | AddNeighbor
    | UpdateNeighbor
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operation; `error` is None when it is done."""

    operation: Operation
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Agreed:
    """What was wanted and held when all had been carried out: the same objects need not be compared again.

    A change of one announcement then costs nothing that grows with neighbours or policy.
    """

    wanted: BgpIntent
    actual: Actual

    def on_neighbors(self, wanted: BgpIntent, actual: Actual) -> bool:
        """Whether neither side is another than then."""
        held = actual.neighbors is self.actual.neighbors and actual.ranges is self.actual.ranges
        return held and wanted.neighbors is self.wanted.neighbors

    def on_policy(self, wanted: BgpIntent, actual: Actual) -> bool:
        """The same of the policy."""
        return wanted.policy is self.wanted.policy and actual.marks is self.actual.marks


def plan(
    wanted: BgpIntent, actual: Actual, generation: Literal[3, 4], agreed: Agreed | None = None
) -> Sequence[Operation]:
    """The operations that make `actual` as `wanted`, in order.

    Where the speaker itself differs it is only one, and the rest follows when gobgpd is back. What a version cannot do
    is left out (`versions.find_impossible` says what).
    """
    wanted = possible(wanted, generation)
    speaker = wanted.speaker
    if speaker is None:
        return _plan_silence(actual)
    if actual.speaker is None:
        start: list[Operation] = [StartSpeaker(speaker), SetPolicy(wanted.policy)]
        return [*start, *_plan_announcements(wanted, actual), *map(AddNeighbor, wanted.neighbors.values())]
    if not same_speaker(speaker, actual.speaker):
        return [ReplaceProcess()]
    operations = _plan_withdrawals(wanted, actual)
    refreshes: list[Refresh] = []
    begin_anew: set[bytes] = set()
    same_policy = agreed is not None and agreed.on_policy(wanted, actual)
    changed = [d for d in Direction if not same_policy and actual.marks.get(d) != policy_mark(d, wanted.policy)]
    if changed:
        operations.append(SetPolicy(wanted.policy))
    for direction in changed:
        for address, told_less in _treated_otherwise(wanted, actual, direction).items():
            if generation == 3 and direction is Direction.EXPORT and told_less:
                begin_anew.add(address)
            else:
                refreshes.append(Refresh(address, direction))
    operations += [refresh for refresh in refreshes if refresh.address not in begin_anew]
    operations += _plan_announcements(wanted, actual)
    if agreed is None or begin_anew or not agreed.on_neighbors(wanted, actual):
        operations += _plan_neighbors(wanted.neighbors, actual, begin_anew, speaker)
    return operations


def _treated_otherwise(wanted: BgpIntent, actual: Actual, direction: Direction) -> Mapping[bytes, bool]:
    """The neighbours, of those that stay, to which another policy makes a difference; whether it is one of verdicts.

    Other attributes are told anew on a soft reset by either version; what is to be taken back is so by version 4 alone.
    """
    there = actual.neighbors.keys() | actual.ranges.keys()
    if actual.policy is not None:
        before = statements_of(actual.policy, direction)
    elif actual.marks.get(direction) is None:
        before = ()
    else:
        return {address: True for address in wanted.neighbors if address in there}
    known = wanted.advertisements.keys() & actual.advertisements.keys()
    before, after = (_about(known, some) for some in (before, statements_of(wanted.policy, direction)))
    staying = [address for address in wanted.neighbors if address in there]
    seen = {address: (project(before, address), project(after, address)) for address in staying}
    return {address: verdicts(old) != verdicts(new) for address, (old, new) in seen.items() if old != new}


def _about(known: Collection[Prefix], statements: Iterable[Statement]) -> tuple[Statement, ...]:
    """The statements without the prefixes of ours that come or go, which are judged as they do: withdrawn before the
    policy changes, announced after it. A virtual address more or less then costs no session.
    """
    kept: list[Statement] = []
    for one in statements:
        match, prefixes = one.match, one.match.prefixes or ()
        exact = all(it.shortest == it.longest == it.prefix.length for it in prefixes)
        if prefixes and exact and match.origin is RouteOrigin.LOCAL and not match.prefixes_negated:
            one = replace(one, match=replace(match, prefixes=tuple(it for it in prefixes if it.prefix in known)))
        kept.append(one)
    return tuple(kept)


def same_speaker(wanted: Speaker, found: Speaker) -> bool:
    """Whether they are one router; the order of listen addresses does not count."""
    return replace(wanted, listen_addresses=()) == replace(found, listen_addresses=()) and sorted(
        wanted.listen_addresses
    ) == sorted(found.listen_addresses)


def _plan_withdrawals(wanted: BgpIntent, actual: Actual) -> list[Operation]:
    gone = tuple(prefix for prefix in actual.advertisements if prefix not in wanted.advertisements)
    return [Withdraw(gone)] if gone else []


def _plan_announcements(wanted: BgpIntent, actual: Actual) -> list[Operation]:
    known = actual.advertisements
    new = [given for prefix, given in wanted.advertisements.items() if known.get(prefix) is not given]
    new = [given for given in new if known.get(given.prefix) != given]
    return [Announce(tuple(new))] if new else []


def _plan_silence(actual: Actual) -> list[Operation]:
    """The policy stays, so that nothing more gets out while the sessions end."""
    withdrawn: list[Operation] = [Withdraw(tuple(actual.advertisements))] if actual.advertisements else []
    return [*withdrawn, *map(RemoveNeighbor, (*actual.neighbors, *actual.ranges))]


def _plan_neighbors(
    wanted: Mapping[bytes, Neighbor], actual: Actual, begin_anew: Collection[bytes], speaker: Speaker
) -> list[Operation]:
    """`begin_anew`: sessions that must begin again, since version 3 takes nothing back on a soft reset."""
    removed: list[Operation] = [RemoveNeighbor(a) for a in (*actual.neighbors, *actual.ranges) if a not in wanted]
    added: list[Operation] = []
    for address, neighbor in wanted.items():
        if range_of(address) is not None:
            group = actual.ranges.get(address)
            anew = address in begin_anew or group != group_name(neighbor, speaker)
            if anew and group is not None:
                removed.append(RemoveNeighbor(address))
            if anew:
                added.append(AddNeighbor(neighbor))
            continue
        found = actual.neighbors.get(address)
        if found is None:
            added.append(AddNeighbor(neighbor))
        elif address in begin_anew or _needs_new_session(neighbor, found, address in actual.shut, speaker):
            removed.append(RemoveNeighbor(address))
            added.append(AddNeighbor(neighbor))
        elif not same_neighbor(neighbor, found, speaker):
            added.append(UpdateNeighbor(neighbor))
    return removed + added


def _needs_new_session(wanted: Neighbor, found: Neighbor, shut: bool, speaker: Speaker) -> bool:
    """GoBGP ignores an update of these without an error; and one that it has shut stays so through any."""
    ignored = wanted.reflection != found.reflection or wanted.allow_own_asn != found.allow_own_asn
    return ignored or (shut and not same_neighbor(wanted, found, speaker))


def _list(head: str, names: Sequence[str]) -> str:
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{head} {names[0]}{rest}"
