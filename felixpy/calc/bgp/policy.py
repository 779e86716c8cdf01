"""Who may be told what, and what is believed: the speaker's policy for the neighbours of one node. Pure.

In the mesh every node tells its own neighbours of other ASes only what it originates. Without the mesh, and at a route
reflector, they are told other nodes' blocks too, of the pools that are exported. Nothing learned from them goes on to
other nodes, so that no node becomes a transit; but a route reflector passes on everything to its clients. What is
announced to some peers goes to no other neighbour, the mesh included, whatever a filter accepts.
A neighbour of another AS that is about to go (GRACEFUL_SHUTDOWN) is the last choice, before any filter sees its paths.
Order of exports: next hops, what is for some peers only, longer AS paths, BGPFilters (the first rule that matches ends
it), pools that are not exported, communities of prefixes, and who may be told of whose paths.
Source: Calico's confd bgp_processor.go (buildExportFilter) and bird_ipam.cfg.template; RFC 8326 §4.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from birdpy import topology
from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import device_of, range_of, version_of
from birdpy.intent import (
    Change,
    Direction,
    Match,
    Neighbor,
    NextHopRule,
    Policy,
    PrefixRange,
    RouteOrigin,
    Statement,
    parse_community,
    parse_large_community,
)
from felixpy.calc.announcing.announcements import GRACEFUL_SHUTDOWN, Announcement
from felixpy.calc.bgp.filters import OTHERS, Audience, Surroundings, derive_statements
from felixpy.resources.bgp_types import BgpFilter, BgpPeer, NextHopMode, PrefixCommunities
from felixpy.resources.types import IpPool

LAST_CHOICE = 1
"""A local_pref; 0, which RFC 8326 §4.3 recommends, GoBGP takes for none."""


@dataclass(frozen=True, slots=True)
class Circle:
    """Everything that the policy depends on. `peers` are Calico's peers whose sessions the neighbours are, in order.

    `told` are the addresses that a name among an announcement's peers means. `hidden` goes out by a filter alone.
    """

    router: topology.Node
    neighbors: Mapping[bytes, Neighbor]
    peers: Mapping[bytes, Sequence[BgpPeer]]
    filters: Mapping[str, BgpFilter]
    announced: tuple[Announcement, ...]
    told: Mapping[str, frozenset[bytes]]
    around: Surroundings
    pools: tuple[IpPool, ...]
    mesh: bool
    communities: tuple[PrefixCommunities, ...] = ()
    hidden: tuple[Announcement, ...] = ()


def derive_policy(circle: Circle) -> Policy:
    """The whole policy."""
    audiences = _audiences(circle)
    imports = [
        *_turn_away(circle),
        *(
            statement
            for chain, audience in audiences
            for statement in derive_statements(chain, audience, circle.around, Direction.IMPORT)
        ),
    ]
    exports = [
        *_next_hops(circle),
        *_restrict(circle),
        *_lengthen(circle),
        *(
            statement
            for chain, audience in audiences
            for statement in derive_statements(chain, audience, circle.around, Direction.EXPORT)
        ),
        *_hide(circle),
        *_mark(circle.communities),
        *_pass_on(circle),
    ]
    ranges = any(range_of(address) is not None for address in circle.neighbors)
    return Policy(tuple(imports), tuple(exports), tuple(sorted(circle.neighbors)) if ranges else ())


def is_external(neighbor: Neighbor, router: topology.Node) -> bool:
    """Whether it is in another AS than the one that we are in to it."""
    return neighbor.asn != (neighbor.local_asn or router.asn)


def _audiences(circle: Circle) -> list[tuple[tuple[BgpFilter, ...], Audience]]:
    """Neighbours that share a chain of filters, and all that rules ask about a neighbour."""
    groups: dict[tuple[tuple[str, ...], bool, int], list[bytes]] = {}
    for address, neighbor in circle.neighbors.items():
        names = tuple(name for peer in circle.peers.get(address, ()) for name in peer.filters)
        if names:
            own_asn = neighbor.local_asn or circle.router.asn
            groups.setdefault((names, is_external(neighbor, circle.router), own_asn), []).append(address)
    return [
        (tuple(circle.filters[name] for name in names), Audience(tuple(sorted(addresses)), external, own_asn))
        for (names, external, own_asn), addresses in sorted(groups.items())
    ]


def _turn_away(circle: Circle) -> Iterator[Statement]:
    """What says that it is about to go is what one takes where there is nothing else."""
    if external := _external(circle):
        leaving = Match(external, communities=(parse_community(GRACEFUL_SHUTDOWN),))
        yield Statement(leaving, change=Change(local_pref=LAST_CHOICE))


def _next_hops(circle: Circle) -> Iterator[Statement]:
    """What a peer's nextHopMode says, and our own address of the right family where a session carries both."""
    selves: list[bytes] = []
    keepers: list[bytes] = []
    for address, neighbor in circle.neighbors.items():
        for peer in circle.peers.get(address, ()):
            if peer.next_hop is NextHopMode.SELF:
                selves.append(address)
            elif peer.next_hop is NextHopMode.KEEP or (peer.legacy_keep and is_external(neighbor, circle.router)):
                keepers.append(address)
    if selves:
        yield Statement(Match(tuple(sorted(selves))), change=Change(next_hop=NextHopRule.SELF))
    for origin in OTHERS if keepers else ():
        yield Statement(Match(tuple(sorted(keepers)), origin=origin), change=Change(next_hop=NextHopRule.UNCHANGED))
    for own in circle.router.addresses:
        version = version_of(own)
        crossing = [
            address
            for address, neighbor in circle.neighbors.items()
            if version in neighbor.families and version_of(address) != version and not device_of(address)
        ]
        if crossing:
            match = Match(tuple(sorted(crossing)), version=version, origin=RouteOrigin.LOCAL)
            yield Statement(match, change=Change(next_hop=own))


def _restrict(circle: Circle) -> Iterator[Statement]:
    """Keeps what is for some peers from all other neighbours; a peer that is not there yet is told nothing."""
    prefixes_for: dict[frozenset[bytes], list[PrefixRange]] = {}
    neighbors = frozenset(circle.neighbors)
    for one in circle.announced:
        if one.peers:
            told = frozenset(address for name in one.peers for address in circle.told.get(name, ()))
            prefix = BgpPrefix(*one.prefix)
            prefixes_for.setdefault(neighbors - told, []).append(PrefixRange(prefix, prefix.length, prefix.length))
    for others, prefixes in sorted(prefixes_for.items(), key=lambda item: sorted(item[0])):
        if others:
            for ranges in _by_family(sorted(prefixes, key=lambda one: one.prefix)):
                yield Statement(Match(tuple(sorted(others)), prefixes=ranges, origin=RouteOrigin.LOCAL), accept=False)


def _lengthen(circle: Circle) -> Iterator[Statement]:
    """Puts our AS in front of paths as often as their advertisements say; nobody of it would take such a path."""
    told_as: dict[int, list[bytes]] = {}
    for address in _external(circle):
        told_as.setdefault(circle.neighbors[address].local_asn or circle.router.asn, []).append(address)
    by_count: dict[int, list[BgpPrefix]] = {}
    for one in circle.announced if told_as else ():
        if one.prepend:
            by_count.setdefault(one.prepend, []).append(BgpPrefix(*one.prefix))
    for count, prefixes in sorted(by_count.items()):
        for ranges in _by_family(PrefixRange(one, one.length, one.length) for one in sorted(prefixes)):
            for own_asn, neighbors in sorted(told_as.items()):
                match = Match(tuple(neighbors), prefixes=ranges, origin=RouteOrigin.LOCAL)
                yield Statement(match, change=Change(prepend=(own_asn, count)))


def _external(circle: Circle) -> tuple[bytes, ...]:
    return tuple(sorted(a for a, one in circle.neighbors.items() if is_external(one, circle.router)))


def _passes_on(circle: Circle) -> bool:
    """Whether other ASes are told by this node of other nodes' blocks."""
    return not circle.mesh or circle.router.cluster_id is not None


def _hide(circle: Circle) -> Iterator[Statement]:
    """Blocks of pools that are not exported: this node's own, and those of others."""
    ours = (BgpPrefix(*one.prefix) for one in circle.hidden)
    for ranges in _by_family(PrefixRange(one, one.length, one.length) for one in sorted(ours)):
        yield Statement(Match(prefixes=ranges, origin=RouteOrigin.LOCAL), accept=False)
    external = _external(circle)
    if external and _passes_on(circle):
        hidden = sorted(BgpPrefix(*pool.cidr) for pool in circle.pools if pool.disable_bgp_export)
        for ranges in _by_family(_inside(hidden)):
            yield Statement(Match(external, prefixes=ranges, origin=RouteOrigin.INTERNAL), accept=False)


def _mark(communities: Iterable[PrefixCommunities]) -> Iterator[Statement]:
    """Communities that go with whatever lies in a prefix; where one of them is not known, nothing of it goes out."""
    for one in communities:
        (ranges,) = _by_family(_inside([BgpPrefix(*one.prefix)]))
        if one.unknown:
            yield Statement(Match(prefixes=ranges), accept=False)
            continue
        plain = tuple(parse_community(word) for word in one.communities if word.count(":") == 1)
        large = tuple(parse_large_community(word) for word in one.communities if word.count(":") == 2)
        if plain or large:
            change = Change(add_communities=plain, add_large_communities=large)
            yield Statement(Match(prefixes=ranges), change=change)


def _pass_on(circle: Circle) -> Iterator[Statement]:
    external = _external(circle)
    internal = tuple(sorted(circle.neighbors.keys() - set(external)))
    if external:
        exported = sorted(BgpPrefix(*pool.cidr) for pool in circle.pools if not pool.disable_bgp_export)
        for ranges in _by_family(_inside(exported)) if _passes_on(circle) else ():
            yield Statement(Match(external, prefixes=ranges, origin=RouteOrigin.INTERNAL), accept=True)
        for origin in OTHERS:
            yield Statement(Match(external, origin=origin), accept=False)
    if internal and circle.router.cluster_id is None:
        yield Statement(Match(internal, origin=RouteOrigin.EXTERNAL), accept=False)


def _inside(prefixes: Iterable[BgpPrefix]) -> Iterator[PrefixRange]:
    for prefix in prefixes:
        yield PrefixRange(prefix, prefix.length, len(prefix.address) * 8)


def _by_family(ranges: Iterable[PrefixRange]) -> Iterator[tuple[PrefixRange, ...]]:
    """A statement holds prefixes of one family."""
    given = tuple(ranges)
    for size in (4, 16):
        one_family = tuple(one for one in given if len(one.prefix.address) == size)
        if one_family:
            yield one_family
