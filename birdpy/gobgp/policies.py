"""Import and export statements to GoBGP's policies.

The whole policy is one SetPolicies call (atomic), with one policy per direction, assigned globally: a neighbour's own
assignment works for route servers only, so statements name their neighbours. Every statement's name ends in a digest
of the whole direction: reading the names back tells whether GoBGP already holds it. Empty sets, which GoBGP takes as
"any", are never written. Source: measured on 3.10 and 4.8; RFC 7454 has the practice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from birdpy.addresses import Prefix, bare, format_address, format_prefix, range_of, version_of
from birdpy.gobgp.wire import Message, Wire, family_message
from birdpy.intent import (
    Change,
    Direction,
    Match,
    NextHopRule,
    Policy,
    RouteOrigin,
    Statement,
    format_community,
    format_large_community,
)
from birdpy.ranges import leave_out, reach_of

GLOBAL = "global"
"""GoBGP's name for the assignment that all neighbours share."""
DIRECTION_CODES = {Direction.IMPORT: 1, Direction.EXPORT: 2}
ACCEPT, REJECT = 1, 2
_ANY, _INVERT = 0, 2
_PREFIX_SET, _NEIGHBOR_SET, _AS_PATH_SET, _COMMUNITY_SET, _LARGE_COMMUNITY_SET = 0, 1, 3, 4, 6
_ADD, _REMOVE = 0, 1
_REPLACE = 1
_ORIGINS = {RouteOrigin.INTERNAL: 1, RouteOrigin.EXTERNAL: 2, RouteOrigin.LOCAL: 3}


def policy_mark(direction: Direction, policy: Policy) -> str:
    """Digest of all that `direction` does: two policies with one mark are the same to GoBGP."""
    apart = repr(policy.apart) if policy.apart else ""
    return blake2b((repr(statements_of(policy, direction)) + apart).encode(), digest_size=6).hexdigest()


def read_mark(policies: Sequence[Message]) -> str | None:
    """The mark of the policy that is assigned now; None where it is not one of ours."""
    names = [statement.name for policy in policies for statement in policy.statements]
    marks = {name.rpartition(".")[2] for name in names}
    return marks.pop() if len(marks) == 1 and all(name.startswith("birdpy.") for name in names) else None


def can_match(match: Match) -> bool:
    """Whether any path can meet it: an empty list of alternatives is met by none."""
    alternatives: list[Sequence[Any] | None] = [
        match.communities,
        match.large_communities,
        match.as_path,
        match.next_hops,
    ]
    if not match.neighbors_negated:
        alternatives.append(match.neighbors)
    if not match.prefixes_negated:
        alternatives.append(match.prefixes)
    return all(given is None or len(given) > 0 for given in alternatives)


def statements_of(policy: Policy, direction: Direction) -> tuple[Statement, ...]:
    """One direction's statements."""
    return policy.imports if direction is Direction.IMPORT else policy.exports


def project(statements: Iterable[Statement], neighbor: bytes) -> tuple[Statement, ...]:
    """What the statements do for one neighbour: those that name others only left out, and the names as well.

    Two policies with equal projections treat that neighbour alike.
    """
    kept = []
    for statement in statements:
        named = statement.match.neighbors
        if can_match(statement.match) and (
            named is None or (neighbor in named) is not statement.match.neighbors_negated
        ):
            kept.append(replace(statement, match=replace(statement.match, neighbors=None, neighbors_negated=False)))
    return tuple(kept)


def verdicts(statements: Iterable[Statement]) -> tuple[Statement, ...]:
    """Which paths are accepted, whatever becomes of their attributes. One that a change makes matter is a verdict's."""
    given = tuple(statements)
    if any(one.accept is None and _decides(one.change, given) for one in given):
        return given
    return tuple(replace(one, change=Change()) for one in given if one.accept is not None)


def _decides(change: Change, statements: Iterable[Statement]) -> bool:
    """Whether what it changes is what some statement asks for."""
    return any(
        ((change.add_communities or change.remove_communities) and one.match.communities)
        or (change.add_large_communities and one.match.large_communities)
        or (change.prepend and one.match.as_path)
        or (change.local_pref is not None and one.match.local_pref is not None)
        or (change.next_hop is not None and one.match.next_hops)
        for one in statements
    )


def policies_message(wire: Wire, policy: Policy) -> Message:
    """SetPolicies' argument for both directions.

    Raises  ValueError when a statement needs what this version of GoBGP cannot do.
    """
    call = wire.messages["SetPoliciesCall"]()
    for direction in Direction:
        mark = policy_mark(direction, policy)
        compiled = wire.messages["Policy"](name=f"birdpy.{direction}")
        for number, statement in enumerate(statements_of(policy, direction)):
            meant = _meant(statement.match, policy.apart)
            if not can_match(statement.match) or meant == ():
                continue
            stem = f"birdpy.{direction}.{number}"
            conditions = wire.messages["Conditions"]()
            for defined in _conditions(wire, statement.match, meant, stem, conditions):
                call.sets.append(defined)
            compiled.statements.append(
                wire.messages["Statement"](
                    name=f"{stem}.{mark}", conditions=conditions, actions=_actions(wire, statement)
                )
            )
        compiled.statements.append(wire.messages["Statement"](name=f"birdpy.{direction}.end.{mark}"))
        call.policies.append(compiled)
    return call


def assignment_message(wire: Wire, direction: Direction) -> Message:
    """SetPolicyAssignment's argument: the direction's policy for every neighbour, and accept at its end."""
    return wire.messages["AssignmentCall"](
        assignment=wire.messages["Assignment"](
            name=GLOBAL,
            direction=DIRECTION_CODES[direction],
            policies=[wire.messages["Policy"](name=f"birdpy.{direction}")],
            default=ACCEPT,
        )
    )


def _meant(match: Match, apart: Sequence[bytes]) -> tuple[Prefix, ...] | None:
    """The addresses of the neighbours that a statement names, none where nobody is left; None where any will do."""
    found: list[Prefix] = []
    for address in match.neighbors or ():
        prefix = range_of(address)
        if prefix is None:
            found.append(reach_of(address))
            continue
        holes = (reach_of(one) for one in apart if one != address)
        found += leave_out(prefix, (one for one in holes if one.length > prefix.length))
    if not match.neighbors or (match.neighbors_negated and not found):
        return None
    return tuple(found)


def _conditions(
    wire: Wire, match: Match, meant: Sequence[Prefix] | None, stem: str, conditions: Message
) -> Iterator[Message]:
    """Fills `conditions` in; yields the sets that they name."""
    matched, defined = wire.messages["MatchSet"], wire.messages["DefinedSet"]
    version = match.version
    if meant is not None:
        kind = _INVERT if match.neighbors_negated else _ANY
        hosts = [str(prefix) for prefix in meant]
        conditions.neighbors.CopyFrom(matched(type=wire.enum(kind), name=f"{stem}.neighbors"))
        yield defined(type=wire.enum(_NEIGHBOR_SET), name=f"{stem}.neighbors", list=hosts)
    if match.prefixes:
        version = version_of(match.prefixes[0].prefix.address)
        kind = _INVERT if match.prefixes_negated else _ANY
        ranges = [
            wire.messages["PrefixRange"](prefix=format_prefix(r.prefix), shortest=r.shortest, longest=r.longest)
            for r in match.prefixes
        ]
        conditions.prefixes.CopyFrom(matched(type=wire.enum(kind), name=f"{stem}.prefixes"))
        yield defined(type=wire.enum(_PREFIX_SET), name=f"{stem}.prefixes", prefixes=ranges)
    if match.communities:
        values = [f"^{format_community(value)}$" for value in match.communities]
        conditions.communities.CopyFrom(matched(type=wire.enum(_ANY), name=f"{stem}.communities"))
        yield defined(type=wire.enum(_COMMUNITY_SET), name=f"{stem}.communities", list=values)
    if match.large_communities:
        values = [f"^{format_large_community(value)}$" for value in match.large_communities]
        conditions.large_communities.CopyFrom(matched(type=wire.enum(_ANY), name=f"{stem}.large"))
        yield defined(type=wire.enum(_LARGE_COMMUNITY_SET), name=f"{stem}.large", list=values)
    if match.as_path:
        conditions.as_path.CopyFrom(matched(type=wire.enum(_ANY), name=f"{stem}.as-path"))
        yield defined(type=wire.enum(_AS_PATH_SET), name=f"{stem}.as-path", list=match.as_path)
    if match.next_hops:
        conditions.next_hops.extend(format_address(bare(address)) for address in match.next_hops)
    if match.origin is not None:
        conditions.route_type = _ORIGINS[match.origin]
    if version is not None:
        conditions.families.append(family_message(wire, version))
    if match.local_pref is not None:
        if wire.generation == 3:
            raise ValueError("GoBGP 3 cannot match local_pref")
        conditions.local_pref.CopyFrom(wire.messages["Value"](value=match.local_pref))


def _actions(wire: Wire, statement: Statement) -> Message:
    messages = wire.messages
    actions = messages["Actions"]()
    if statement.accept is not None:
        actions.route = ACCEPT if statement.accept else REJECT
    change: Change = statement.change
    if change.add_communities:
        values = [format_community(value) for value in change.add_communities]
        actions.communities.CopyFrom(messages["CommunityAction"](type=wire.enum(_ADD), communities=values))
    elif change.remove_communities:
        values = [format_community(value) for value in change.remove_communities]
        actions.communities.CopyFrom(messages["CommunityAction"](type=wire.enum(_REMOVE), communities=values))
    if change.add_large_communities:
        values = [format_large_community(value) for value in change.add_large_communities]
        actions.large_communities.CopyFrom(messages["CommunityAction"](type=wire.enum(_ADD), communities=values))
    if change.local_pref is not None:
        actions.local_pref.CopyFrom(messages["Value"](value=change.local_pref))
    if change.med is not None:
        actions.med.CopyFrom(messages["MedAction"](type=wire.enum(_REPLACE), value=change.med))
    if change.prepend is not None:
        asn, repeat = change.prepend
        actions.prepend.CopyFrom(messages["PrependAction"](asn=asn, repeat=repeat))
    match change.next_hop:
        case NextHopRule.SELF:
            actions.next_hop.CopyFrom(messages["NextHopAction"](to_self=True))
        case NextHopRule.UNCHANGED:
            actions.next_hop.CopyFrom(messages["NextHopAction"](unchanged=True))
        case bytes() as address:
            actions.next_hop.CopyFrom(messages["NextHopAction"](address=format_address(address)))
    return actions
