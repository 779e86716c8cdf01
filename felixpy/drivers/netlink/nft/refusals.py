"""What the kernel's refusals of a transaction mean for its ops: which are to blame, and why. Pure."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from felixpy.dataplane.objects import DataType, Drop, DropMembers, Kind, Members, Op, Outcome, Put, PutMembers, Set
from felixpy.drivers.netlink.codec import Failure
from felixpy.drivers.netlink.nft.encode import Step, needs
from felixpy.drivers.outcomes import failed

BATCH_BEGIN = 16
"""NFNL_MSG_BATCH_BEGIN."""


class Refusal(NamedTuple):
    """A message that the kernel refused, and why."""

    message: int
    failure: Failure


_VALIDATION = frozenset({errno.EMLINK, errno.EOPNOTSUPP, errno.EINVAL})
FRAME = Step(BATCH_BEGIN, 0, b"", None)
"""What a refusal of the batch as a whole is about."""


def without_echoes(refusals: Mapping[int | None, Refusal]) -> dict[int | None, Refusal]:
    """The kernel validates the whole table after every rule, so that one bad rule has the next ones refused too."""
    kept: dict[int | None, Refusal] = {}
    heard: set[int] = set()
    for position, refusal in refusals.items():
        if refusal.failure.errno not in heard:
            kept[position] = refusal
        if refusal.failure.errno in _VALIDATION:
            heard.add(refusal.failure.errno)
    return kept


def may_hold_in_part(outcome: Outcome, lost: AbstractSet[tuple[Kind, str]]) -> bool:
    """Whether a refused map may have entries that the kernel takes."""
    match outcome:
        case Outcome(op=PutMembers(set=Set(data=DataType.VERDICT) as target, members=members), error=str()):
            return len(members) > 1 and (Kind.SET, target.name) not in lost
        case _:
            return False


def halves(members: Members) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Two parts of a map's entries, to look for the bad ones."""
    entries = list(members.items())
    middle = len(entries) // 2
    return dict(entries[:middle]), dict(entries[middle:])


def judge(op: Op, failure: Failure, blamed: AbstractSet[tuple[Kind, str]]) -> Outcome:
    """What a refusal makes of an op; `blamed` are the chains and sets that failed before."""
    name = name_of(op)[1]
    if isinstance(op, Drop | DropMembers) and failure.errno == errno.ENOENT:
        return Outcome(op)
    missing = ", ".join(sorted(name for _, name in needs(op) & blamed))
    return failed(op, failure.errno, f"needs {missing}, which failed" if missing else failure.text, name)


def name_of(op: Op) -> tuple[Kind, str]:
    """Which chain or set an op is about."""
    key = op.object.key if isinstance(op, Put) else op.key if isinstance(op, Drop) else op.set.key
    return key.kind, str(key.id[0])
