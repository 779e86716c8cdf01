"""What is put before what, as data. Puts run down the table, drops run up it; nothing is referenced before it exists.

Rules come before all else: when the node forwards, a tunnel comes up or a pod's route appears, the policy is already
there. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from felixpy.dataplane.objects import Drop, DropMembers, Kind, NextHop, Object, Op, Put, PutMembers

PUT_ORDER: tuple[Kind, ...] = (
    Kind.SET,
    Kind.CHAIN,
    Kind.LINK,
    Kind.SYSCTL,
    Kind.ADDRESS,
    Kind.NEIGHBOUR,
    Kind.FDB,
    Kind.NEXTHOP,
    Kind.IP_RULE,
    Kind.ROUTE,
)
"""A device's sysctls exist only once the device does."""

DROPPED_BEFORE_NETFILTER = frozenset({Kind.IP_RULE, Kind.ROUTE})
"""What leads packets to a pod goes before its policy. All else goes after the puts: routes that lead elsewhere from now
on have been put by then, so that none is lost with its old device or next hop."""

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
    """Ops in runs to apply one after the other; all netfilter ops are one run."""
    runs: dict[tuple[int, int], list[Op]] = {}
    places: dict[type[Object], tuple[int, int]] = {}
    for op in ops:
        kind = type(op.object) if type(op) is Put else None
        place = places.get(kind) if kind is not None else None
        if place is None:
            place = _place(op)
            if kind is not None and kind is not NextHop:
                places[kind] = place
        runs.setdefault(place, []).append(op)
    return [runs[place] for place in sorted(runs)]


def _place(op: Op) -> tuple[int, int]:
    kind = kind_of(op)
    if kind in NETFILTER:
        return 1, 0
    if not isinstance(op, Drop):
        return 2, 2 * _RANK[kind] + _is_group(op.object if isinstance(op, Put) else None)
    return 0 if kind in DROPPED_BEFORE_NETFILTER else 3, -2 * _RANK[kind] - _is_group(op.last)


def _is_group(one: Object | None) -> bool:
    """A nexthop that is made of others comes after them."""
    return type(one) is NextHop and bool(one.group)
