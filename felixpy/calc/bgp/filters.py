"""BGPFilters → the speaker's statements for the neighbours that they are for.

The first rule that matches decides, over all of a peer's filters, and none decides nothing: what comes after them does.
GoBGP judges paths of others by what they carry; of our own paths, which have neither a metric nor a device there, the
rules that ask for one are decided here, and become lists of prefixes.
Source: Calico's confd template_funcs.go (filterStatement: what each condition and operation means in BIRD).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Literal

from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import bare, device_of
from birdpy.fib import LOCAL_PREF_TOP
from birdpy.intent import (
    Advertisement,
    Change,
    Direction,
    Match,
    PrefixRange,
    RouteOrigin,
    Statement,
    parse_community,
    parse_large_community,
)
from birdpy.ranges import is_meant
from felixpy.resources.bgp_types import (
    AddCommunity,
    BgpFilter,
    FilterOperation,
    FilterRule,
    MatchOperator,
    PrependAsPath,
    SetPriority,
)

OTHERS = (RouteOrigin.INTERNAL, RouteOrigin.EXTERNAL)
MARK = 65535 << 16 | 65025
"""A community of the reserved range that no path keeps."""


@dataclass(frozen=True, slots=True)
class OwnPath:
    """A path that this node originates, as rules see it; `interface` "" where it leads to no device."""

    advertisement: Advertisement
    priority: int
    interface: str = ""


@dataclass(frozen=True, slots=True)
class Audience:
    """The neighbours that a chain of filters is for: all of them in other ASes, or none. `own_asn` is ours to them."""

    neighbors: tuple[bytes, ...]
    external: bool
    own_asn: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What rules are judged by, beside the paths of others: our own paths, and the subnets of this node's devices.

    `routers` are the addresses that next hops of others can be expected to be: neighbours and nodes.
    """

    own: tuple[OwnPath, ...] = ()
    links: Mapping[str, tuple[BgpPrefix, ...]] = field(default_factory=dict)
    routers: tuple[bytes, ...] = ()


def derive_statements(
    filters: Sequence[BgpFilter], audience: Audience, around: Surroundings, direction: Direction
) -> Iterator[Statement]:
    """One direction of a chain of filters."""
    for one in filters:
        rules4, rules6 = (one.import4, one.import6) if direction is Direction.IMPORT else (one.export4, one.export6)
        for rule in rules4:
            yield from _of_rule(rule, 4, audience, around, direction)
        for rule in rules6:
            yield from _of_rule(rule, 6, audience, around, direction)


def needs_links(filters: Iterable[BgpFilter]) -> bool:
    """Whether any rule asks for a device."""
    return any(rule.interface for one in filters for rule in (*one.import4, *one.import6, *one.export4, *one.export6))


def _of_rule(
    rule: FilterRule, version: Literal[4, 6], audience: Audience, around: Surroundings, direction: Direction
) -> Iterator[Statement]:
    if rule.external_peers not in (None, audience.external):
        return
    base = _base(rule, version, audience)
    if base is None:
        return
    exporting = direction is Direction.EXPORT
    carried = replace(base, as_path=None, next_hops=_next_hops(rule, version, around))
    if rule.priority is not None:
        carried = replace(carried, local_pref=LOCAL_PREF_TOP - rule.priority)
    decided_here = bool(rule.interface) or rule.priority is not None
    if exporting and decided_here and not (rule.from_peers or rule.as_path_prefix):
        ours = _own_ranges(rule, version, around)
        if ours:
            match = replace(base, prefixes=ours, prefixes_negated=False, origin=RouteOrigin.LOCAL)
            yield from _with_operations(rule, match, audience, exporting)
    origins: tuple[RouteOrigin | None, ...] = (None,)
    if exporting and (decided_here or rule.from_peers):
        origins = OTHERS
    for origin in origins:
        yield from _with_operations(rule, replace(carried, origin=origin), audience, exporting)


def _base(rule: FilterRule, version: Literal[4, 6], audience: Audience) -> Match | None:
    """What a rule asks of every path; None where no path can meet it."""
    match = Match(audience.neighbors, version=version)
    if rule.cidr is not None:
        ranges = _ranges(rule)
        negated = rule.operator in (MatchOperator.NOT_EQUAL, MatchOperator.NOT_IN)
        if not ranges and not negated:
            return None
        if ranges:
            match = replace(match, prefixes=ranges, prefixes_negated=negated)
    if rule.community.count(":") == 1:
        match = replace(match, communities=(parse_community(rule.community),))
    elif rule.community:
        match = replace(match, large_communities=(parse_large_community(rule.community),))
    return match


def _ranges(rule: FilterRule) -> tuple[PrefixRange, ...]:
    """The prefixes that Equal and In mean, before any negation; empty where there are none."""
    if rule.cidr is None:
        return ()
    prefix = BgpPrefix(*rule.cidr)
    shortest, longest = prefix.length, prefix.length
    if rule.operator in (MatchOperator.IN, MatchOperator.NOT_IN):
        longest = len(prefix.address) * 8
    shortest = max(shortest, rule.shortest or 0)
    longest = min(longest, longest if rule.longest is None else rule.longest)
    return (PrefixRange(prefix, shortest, longest),) if shortest <= longest else ()


def _own_ranges(rule: FilterRule, version: int, around: Surroundings) -> tuple[PrefixRange, ...]:
    """Our own paths that meet what a rule asks of prefix, device and priority."""
    negated = rule.operator in (MatchOperator.NOT_EQUAL, MatchOperator.NOT_IN)
    ranges = _ranges(rule)
    found = []
    for one in around.own:
        prefix = one.advertisement.prefix
        if (len(prefix.address) == 4) is not (version == 4):
            continue
        if rule.cidr is not None and any(is_meant(prefix, it) for it in ranges) is negated:
            continue
        if rule.interface and not (one.interface and fnmatchcase(one.interface, rule.interface)):
            continue
        if rule.priority not in (None, one.priority):
            continue
        found.append(PrefixRange(prefix, prefix.length, prefix.length))
    return tuple(sorted(found, key=lambda it: it.prefix))


def _next_hops(rule: FilterRule, version: int, around: Surroundings) -> tuple[bytes, ...] | None:
    """A path of others leads to the device in whose subnet its next hop is, or that its next hop names."""
    if not rule.interface:
        return None
    subnets = [
        PrefixRange(subnet, subnet.length, len(subnet.address) * 8)
        for name, some in around.links.items()
        if fnmatchcase(name, rule.interface)
        for subnet in some
        if (len(subnet.address) == 4) is (version == 4)
    ]
    named = {bare(one) for one in around.routers if (device := device_of(one)) and fnmatchcase(device, rule.interface)}
    hosts = (BgpPrefix(address, len(address) * 8) for address in around.routers if not device_of(address))
    return tuple(sorted(named | {host.address for host in hosts if any(is_meant(host, one) for one in subnets)}))


def _with_operations(rule: FilterRule, match: Match, audience: Audience, exporting: bool) -> Iterator[Statement]:
    """A statement prepends one AS, so that several ASes take several; the last one has the verdict.

    Of what goes to another AS, GoBGP has put our AS before the path by then, where BIRD does so afterwards.
    """
    before = (audience.own_asn,) if exporting and audience.external else ()
    match = replace(match, as_path=_pattern((*before, *rule.as_path_prefix)) if rule.as_path_prefix else None)
    runs, change = _runs(rule.operations, before), _change(rule.operations)
    if len(runs) > 1 and match.as_path is not None:
        yield from _marked(rule, match, runs, change)
        return
    for run in runs[:-1]:
        yield Statement(match, change=Change(prepend=run))
    yield Statement(match, rule.accept, replace(change, prepend=runs[-1]) if runs else change)


def _marked(rule: FilterRule, match: Match, runs: Sequence[tuple[int, int]], change: Change) -> Iterator[Statement]:
    """As above, where what is prepended changes what is asked for: a mark says which paths met it, and goes at the end.

    Who sends the mark himself is rid of it first.
    """
    marked = Match(match.neighbors, version=match.version, communities=(MARK,))
    unmark = Change(remove_communities=(MARK,))
    yield Statement(marked, change=unmark)
    yield Statement(match, change=Change(prepend=runs[0], add_communities=(MARK,)))
    for run in runs[1:]:
        yield Statement(marked, change=Change(prepend=run))
    if change != Change():
        yield Statement(marked, change=change)
    yield Statement(marked, rule.accept, unmark)


def _pattern(path: tuple[int, ...]) -> tuple[str, ...]:
    return (f"^{'_'.join(map(str, path))}_",)


def _runs(operations: Iterable[FilterOperation], before: tuple[int, ...]) -> list[tuple[int, int]]:
    """ASes and how often, in the order in which they are prepended, the one nearest to the path first.

    A path to another AS has to begin with ours: where something else comes before it, ours is put before that again.
    """
    numbers: list[int] = []
    for one in operations:
        if isinstance(one, PrependAsPath):
            numbers += reversed(one.numbers)
    if numbers and before and numbers[-1] != before[0]:
        numbers.append(before[0])
    return [(asn, len(list(same))) for asn, same in groupby(numbers)]


def _change(operations: Iterable[FilterOperation]) -> Change:
    """Communities and local_pref."""
    change = Change()
    for one in operations:
        match one:
            case AddCommunity(community) if community.count(":") == 1:
                change = replace(change, add_communities=(*change.add_communities, parse_community(community)))
            case AddCommunity(community):
                large = (*change.add_large_communities, parse_large_community(community))
                change = replace(change, add_large_communities=large)
            case SetPriority(priority):
                change = replace(change, local_pref=LOCAL_PREF_TOP - priority)
            case PrependAsPath():
                pass
    return change
