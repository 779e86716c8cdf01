"""Which ops of a batch go into a transaction of their own, before or after the one that packets see. Pure.

A commit shows packets the new rules first and what interval sets hold a moment later, one set after the other: a rule
that comes with an interval set finds nothing in it until then. So where a batch brings such sets, all of it that no
packet comes to yet goes ahead: new sets, new chains, and the rules of a changed chain that look into intervals, behind
those that are there. And where a live interval set gains members, other sets lose theirs afterwards, so that what goes
from one to the other is always in one of them.
Source: net/netfilter/nf_tables_api.c (nf_tables_commit, nft_set_commit_update), nft_set_rbtree.c (nft_rbtree_commit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from felixpy.dataplane.objects import BaseHook, Chain, Drop, DropMembers, Op, Put, PutMembers, Set
from felixpy.drivers.netlink.nft.encode import Detour
from felixpy.drivers.netlink.nft.rules import has_ranges

_AS_IT_STANDS = Detour()
_BEHIND = Detour(behind=True)


def find_ahead(ops: Sequence[Op], there: Mapping[str, BaseHook | None]) -> dict[int, Detour]:
    """The positions of what goes first, and how; nothing where no interval set is new. `there` are the chains."""
    if not any(_appears_late(op) for op in ops):
        return {}
    new = {op.object.name for op in ops if isinstance(op, Put) and isinstance(op.object, Set)}
    found: dict[int, Detour] = {}
    for position, op in enumerate(ops):
        match op:
            case Put(object=Set()):
                found[position] = _AS_IT_STANDS
            case PutMembers(set=target) if target.name in new:
                found[position] = _AS_IT_STANDS
            case Put(object=Chain(name=name, hook=hook)) if name not in there:
                if hook is None:
                    found[position] = _AS_IT_STANDS
            case Put(object=Chain(name=name, hook=hook)) if there[name] == hook and _appears_late(op):
                found[position] = _BEHIND
            case _:
                pass
    return found


def find_after(ops: Sequence[Op]) -> frozenset[int]:
    """The positions of what goes last: members out of sets that gain none, where an interval set gains some.

    With them go all drops: a chain is in use for as long as a map leads to it.
    """
    gaining = {op.set for op in ops if isinstance(op, PutMembers)}
    if not any(it.interval for it in gaining):
        return frozenset()
    last = {at for at, op in enumerate(ops) if isinstance(op, DropMembers) and op.set not in gaining}
    return frozenset(last.union(at for at, op in enumerate(ops) if isinstance(op, Drop)) if last else ())


def _appears_late(op: Op) -> bool:
    match op:
        case Put(object=Set(interval=interval)):
            return interval
        case Put(object=Chain(rules=rules)):
            return any(map(has_ranges, rules))
        case _:
            return False
