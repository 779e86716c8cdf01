"""Desired against actual: the difference as ops, the ops through a driver, the outcomes remembered.

In: Changes of what is desired; out: ops to one driver, and a Report. What failed is set aside until `retry`, or until
it is wanted otherwise; what is right is not touched. Members of sets are compared in full only after a read. The state
here is a belief about the kernel; `adopt` renews it from the kernel itself, after a start or someone else's change.
It must never ask for a read or a write before the first complete desired state (the caller's promise).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from felixpy.dataplane.changes import Changes, MemberChange
from felixpy.dataplane.describe import describe_op
from felixpy.dataplane.nftables import chain_digests
from felixpy.dataplane.objects import (
    Chain,
    ChainSeen,
    Drop,
    DropMembers,
    Key,
    Kind,
    Members,
    Object,
    Op,
    Outcome,
    Put,
    PutMembers,
    Route,
    Seen,
    Set,
)
from felixpy.dataplane.order import sort_ops
from felixpy.dataplane.ownership import is_ours

NEVER_DROPPED = frozenset({Kind.SYSCTL})
"""What was there before us is not known, so it stays."""


class Driver(Protocol):
    """Reads objects from the kernel and applies ops to it."""

    def read(self, wanted: Iterable[Key]) -> Seen:
        """All that is ours, and of what is nobody's (sysctls) the `wanted` keys."""

    def apply(self, ops: Sequence[Op]) -> Sequence[Outcome]:
        """One outcome per op, in order."""


@dataclass(slots=True)
class Report:
    """What one application did: the number of ops, the first and last in words, and those that failed."""

    applied: int = 0
    first: str = ""
    last: str = ""
    failed: list[Outcome] = field(default_factory=list)


class Reconciler:
    """Owns the belief about one driver's kernel."""

    def __init__(self, driver: Driver, members_of: Callable[[Collection[Set]], Mapping[Set, Members]]) -> None:
        self._driver = driver
        self._members_of = members_of
        self._desired: dict[Key, Object] = {}
        self._actual: dict[Key, Object] = {}
        self._dirty: set[Key] = set()
        self._members: dict[Set, MemberChange] = {}
        self._failed: dict[Key, Outcome] = {}
        self._failed_members: dict[Set, MemberChange] = {}
        self._stale = False
        self._prune = True
        self._leftovers: dict[Key, Object] = {}

    @property
    def stale(self) -> bool:
        """Whether the kernel must be read before anything is written, and so nothing is known to hold."""
        return self._stale

    @property
    def desired(self) -> Mapping[Key, Object]:
        """All that should be in the kernel."""
        return self._desired

    @property
    def failed(self) -> Mapping[Key, Outcome]:
        """What is desired and does not hold, with why."""
        return self._failed

    def outdated(self) -> Iterator[Object]:
        """What is in the kernel and is to be replaced or dropped."""
        return (self._actual[key] for key in self._dirty if key in self._actual)

    def holds(self, keys: Iterable[Key]) -> bool:
        """Whether all of these objects are in the kernel as desired."""
        return not self._stale and all(key not in self._dirty and key in self._actual for key in keys)

    def holds_members(self, members: Iterable[tuple[Set, bytes]]) -> bool:
        """Whether none of these members is still to be put, or was refused."""
        return not any(
            key in change.added
            for target, key in members
            for change in (self._members.get(target), self._failed_members.get(target))
            if change is not None
        )

    def wants(self, key: Key) -> bool:
        """Whether an object is desired."""
        return key in self._desired

    def want(self, changes: Changes) -> None:
        """Takes over what the desired state became.

        What a set holds that is wanted again before it was dropped is not known, so the next apply reads it.
        """
        for key, one in changes.objects.items():
            if one is None:
                dropped = self._desired.pop(key, None)
                if isinstance(dropped, Set):
                    self._members.pop(dropped, None)
                    self._failed_members.pop(dropped, None)
            else:
                if isinstance(one, Set) and key not in self._desired and key in self._actual:
                    self._stale = True
                self._desired[key] = one
            self._dirty.add(key)
        for target, change in changes.members.items():
            self._take_up(target)
            held = self._members.get(target)
            self._members[target] = change if held is None else combine(held, change)

    def _take_up(self, target: Set) -> None:
        """Has a set's members that failed tried again, before what was wanted since."""
        failed = self._failed_members.pop(target, None)
        if failed is not None:
            since = self._members.get(target)
            self._members[target] = failed if since is None else combine(failed, since)

    def retry(self, keys: Collection[Key] | None = None) -> bool:
        """Takes up again what failed, or of it what has one of `keys`; whether there is anything."""
        again = set(self._failed) if keys is None else self._failed.keys() & set(keys)
        self._dirty |= again
        for key in again:
            del self._failed[key]
        targets = [target for target in self._failed_members if keys is None or target.key in keys]
        for target in targets:
            self._take_up(target)
        return bool(again or targets)

    def touch(self, keys: Iterable[Key]) -> None:
        """Marks objects as not known to hold any more (a device came back, a route was taken away)."""
        for key in keys:
            self._actual.pop(key, None)
            self._failed.pop(key, None)
            self._dirty.add(key)

    def distrust(self, prune: bool = True) -> None:
        """Has the next apply adopt the kernel first."""
        self._stale, self._prune = True, prune

    def prune(self) -> None:
        """Has the next apply drop what was ours and not desired when the kernel was last read without pruning."""
        self._prune = True
        for key, one in self._leftovers.items():
            if key not in self._desired and key not in self._actual:
                self._actual[key] = one
                self._dirty.add(key)
        self._leftovers = {}

    def adopt(self, prune: bool = True) -> None:
        """Reads the kernel: what is right stays, what differs or is missing becomes dirty.

        So does, with `prune`, what is ours and not desired.

        Raises  OSError when the kernel does not answer; the next apply tries again.
        """
        self.distrust(prune)
        seen = self._driver.read(tuple(self._desired))
        self._actual, self._failed, self._failed_members, self._leftovers = {}, {}, {}, {}
        self._dirty = set(self._desired)
        for key, one in seen.objects.items():
            wanted = self._desired.get(key)
            if wanted is not None and same(wanted, one):
                self._actual[key] = wanted
                self._dirty.discard(key)
            elif wanted is not None or (prune and is_ours(one)):
                self._actual[key] = one
                self._dirty.add(key)
            elif is_ours(one):
                self._leftovers[key] = one
        sets = [one for one in self._desired.values() if isinstance(one, Set)]
        wanted_members = self._members_of(sets)
        for one in sets:
            there = seen.members.get(one.name, {}) if one.key not in self._dirty else {}
            self._compare_members(one, wanted_members.get(one, {}), there)
        self._stale = False

    def _compare_members(self, target: Set, wanted: Members, there: Members) -> None:
        added = {key: data for key, data in wanted.items() if there.get(key) != data}
        removed = {key: data for key, data in there.items() if key not in wanted}
        if added or removed:
            self._members[target] = MemberChange(added, removed)
        else:
            self._members.pop(target, None)

    def apply(self) -> Report:
        """Makes the kernel what is desired, as far as it lets us; reads it first where that is due.

        Raises  OSError when the kernel does not answer: what it did is not known, so the next apply reads it.
        """
        if self._stale:
            self.adopt(self._prune)
        keys: dict[int, Key] = {}
        ops = self._difference(keys)
        if not ops:
            return Report()
        report = Report(len(ops), describe_op(ops[0]), describe_op(ops[-1]))
        self._stale = True
        for run in sort_ops(ops):
            for outcome in self._driver.apply(run):
                self._settle(outcome, keys.get(id(outcome.op)) or key_of(outcome.op), report)
        self._stale = False
        return report

    def _difference(self, keys: dict[int, Key]) -> list[Op]:
        """The ops; `keys` gets the key of each by the op's identity: to build it again costs more than all else."""
        ops: list[Op] = []
        settled: list[Key] = []
        for key in self._dirty:
            wanted, there = self._desired.get(key), self._actual.get(key)
            if wanted is None:
                if there is not None and key.kind not in NEVER_DROPPED:
                    ops.append(Drop(key, there))
                    keys[id(ops[-1])] = key
                    continue
            elif there is None or not same(wanted, there):
                ops.append(Put(wanted))
                keys[id(ops[-1])] = key
                continue
            settled.append(key)
        self._dirty.difference_update(settled)
        for key in settled:
            self._failed.pop(key, None)
        for target, change in self._members.items():
            if target.key not in self._desired:
                continue
            if change.added:
                ops.append(PutMembers(target, change.added))
            if change.removed:
                ops.append(DropMembers(target, change.removed))
        return ops

    def _settle(self, outcome: Outcome, key: Key, report: Report) -> None:
        op = outcome.op
        if outcome.error is not None:
            if isinstance(op, PutMembers) and outcome.refused:
                op = PutMembers(op.set, outcome.refused)
                outcome = replace(outcome, op=op)
            report.failed.append(outcome)
            self._failed[key] = outcome
            self._dirty.discard(key)
            if isinstance(op, PutMembers):
                self._failed_members.setdefault(op.set, MemberChange()).added.update(op.members)
                self._done(op.set, added=True)
            elif isinstance(op, DropMembers):
                self._failed_members.setdefault(op.set, MemberChange()).removed.update(op.members)
                self._done(op.set, added=False)
            return
        match op:
            case Put(one):
                self._actual[key] = one
                self._dirty.discard(key)
                self._failed.pop(key, None)
            case Drop():
                self._actual.pop(key, None)
                self._dirty.discard(key)
                self._failed.pop(key, None)
            case PutMembers(target, _):
                self._done(target, added=True)
            case DropMembers(target, _):
                self._done(target, added=False)

    def _done(self, target: Set, added: bool) -> None:
        if target not in self._failed_members:
            self._failed.pop(target.key, None)
        change = self._members.get(target)
        if change is None:
            return
        if added:
            change.added = {}
        else:
            change.removed = {}
        if not change.added and not change.removed:
            del self._members[target]


def combine(first: MemberChange, then: MemberChange) -> MemberChange:
    """Two changes of one set's members, one after the other, as one."""
    added = {key: data for key, data in first.added.items() if key not in then.removed} | then.added
    removed = {key: data for key, data in first.removed.items() if key not in then.added} | then.removed
    return MemberChange(added, removed)


def key_of(op: Op) -> Key:
    """The key of the object that an op concerns."""
    match op:
        case Put(one):
            return one.key
        case Drop(key, _):
            return key
        case PutMembers(target, _) | DropMembers(target, _):
            return target.key


def same(wanted: Object, there: Object) -> bool:
    """Whether what was read is what is wanted.

    Chains are compared by the digests left beside their rules. A next hop that names no device has the one that the
    kernel chose.
    """
    if isinstance(there, ChainSeen) and isinstance(wanted, Chain):
        return there.hook == wanted.hook and there.digests == chain_digests(wanted)
    if isinstance(there, Route) and isinstance(wanted, Route):
        if wanted.device is None and wanted.gateway is not None:
            there = replace(there, device=None)
        if wanted.hops and len(wanted.hops) == len(there.hops):
            seen = zip(there.hops, wanted.hops, strict=True)
            there = replace(there, hops=tuple(hop if ask.device else replace(hop, device=None) for hop, ask in seen))
    return wanted == there
