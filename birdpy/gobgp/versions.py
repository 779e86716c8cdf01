"""What a version of GoBGP cannot do, and for whom: such a neighbour has no session, rather than one without its guard.

In: an intent and a version. Out: neighbours with reasons, and the intent without them. Pure. Source: measured on 3.10
and 4.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from birdpy.addresses import device_of, range_of
from birdpy.intent import BgpIntent, Neighbor, Policy, Statement

NO_BFD = "GoBGP 3 has no BFD"
NO_LINK = "GoBGP 3 has no sessions over a link without addresses (unnumbered)"
NO_RANGE_PASSWORD = "GoBGP 3 has no passwords for whoever connects from a prefix"
NO_RANGE_OWN_AS = "GoBGP 3 lets nobody who connects from a prefix announce paths with our AS in them"
NO_LOCAL_PREF = "GoBGP 3 cannot match local_pref, which a filter's priority is"


def find_impossible(wanted: BgpIntent, generation: Literal[3, 4]) -> Mapping[bytes, str]:
    """Neighbours that cannot be as asked, and why."""
    if generation == 4:
        return {}
    statements = [one for one in (*wanted.policy.imports, *wanted.policy.exports) if _is_beyond(one)]
    found: dict[bytes, str] = {}
    for address, neighbor in wanted.neighbors.items():
        if device_of(address):
            found[address] = NO_LINK
        elif range_of(address) is not None and neighbor.password:
            found[address] = NO_RANGE_PASSWORD
        elif range_of(address) is not None and neighbor.allow_own_asn:
            found[address] = NO_RANGE_OWN_AS
        elif neighbor.bfd is not None:
            found[address] = NO_BFD
        elif any(_concerns(one, neighbor) for one in statements):
            found[address] = NO_LOCAL_PREF
    return found


def possible(wanted: BgpIntent, generation: Literal[3, 4]) -> BgpIntent:
    """The intent without those neighbours, and without the statements that only they would need."""
    if generation == 4:
        return wanted
    refused = find_impossible(wanted, generation)
    imports, exports = (tuple(one for one in some if not _is_beyond(one)) for some in _directions(wanted.policy))
    policy = replace(wanted.policy, imports=imports, exports=exports)
    neighbors = {address: one for address, one in wanted.neighbors.items() if address not in refused}
    return replace(wanted, neighbors=neighbors, policy=policy)


def _directions(policy: Policy) -> tuple[tuple[Statement, ...], tuple[Statement, ...]]:
    return policy.imports, policy.exports


def _is_beyond(statement: Statement) -> bool:
    return statement.match.local_pref is not None


def _concerns(statement: Statement, neighbor: Neighbor) -> bool:
    """Whether it may judge a path of the neighbour, whose session carries some families only."""
    match = statement.match
    named = match.neighbors is None or (neighbor.address in match.neighbors) is not match.neighbors_negated
    return named and (match.version is None or match.version in neighbor.families)
