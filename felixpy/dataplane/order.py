"""What is put before what, as data. Puts run down the table, drops run up it; nothing is referenced before it exists.

Rules come before routes: when the route to a pod appears, its policy is already there. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from felixpy.dataplane.objects import Drop, DropMembers, Kind, Op, Put, PutMembers

PUT_ORDER: tuple[Kind, ...] = (
    Kind.LINK,
    Kind.SYSCTL,
    Kind.ADDRESS,
    Kind.NEIGHBOUR,
    Kind.FDB,
    Kind.SET,
    Kind.CHAIN,
    Kind.NEXTHOP,
    Kind.IP_RULE,
    Kind.ROUTE,
)
"""A device's sysctls exist only once the device does."""

DROPPED_AFTER_PUTS = frozenset({Kind.NEXTHOP})
"""Routes that lead elsewhere from now on have been put by then, so that none is lost with the old next hop."""

NETFILTER = frozenset({Kind.SET, Kind.CHAIN})
"""Kinds that one transaction holds: their order inside it is the driver's."""

_RANK = {kind: rank for rank, kind in enumerate(PUT_ORDER)}


def kind_of(op: Op) -> Kind:
    """The kind of object that an op concerns; members belong to their set."""
    match op:
        case Put(one):
            return one.key.kind
        case Drop(key, _):
            return key.kind
        case PutMembers() | DropMembers():
            return Kind.SET


def sort_ops(ops: Iterable[Op]) -> list[list[Op]]:
    """Ops in runs to apply one after the other; all netfilter ops are one run.

    Drops of what depends on netfilter objects (routes and the like) come before that run, its puts of them after.
    """
    middle = _RANK[Kind.CHAIN]
    before: dict[int, list[Op]] = {}
    netfilter: list[Op] = []
    after: dict[int, list[Op]] = {}
    last: dict[int, list[Op]] = {}
    for op in ops:
        kind = kind_of(op)
        rank = _RANK[kind]
        if kind in NETFILTER:
            netfilter.append(op)
        elif isinstance(op, Drop):
            (before if rank > middle and kind not in DROPPED_AFTER_PUTS else last).setdefault(-rank, []).append(op)
        else:
            (before if rank < middle else after).setdefault(rank + (100 if rank < middle else 0), []).append(op)
    runs = [before[rank] for rank in sorted(before)]
    if netfilter:
        runs.append(netfilter)
    runs += [after[rank] for rank in sorted(after)]
    runs += [last[rank] for rank in sorted(last)]
    return runs
