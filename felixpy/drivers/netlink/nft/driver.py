"""Our nftables table: one apply is one transaction, but for what `stages` has go before or after it.

In → out: `read()` → Seen; ops on sets, members and chains → Outcomes. What the kernel refuses is left out, with what
needs it, and the rest goes again: a failed object holds back only those that need it, and what holds, holds from one
instant on; only the good ones of a map's refused entries follow later. The table's name is the mark of ownership;
nothing outside it is read or touched.
Source: net/netfilter/nfnetlink.c (nfnetlink_rcv_batch reports every failed message of a batch, and does none of it).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from struct import Struct
from typing import Self

from felixpy.dataplane.aging import OWNER_BYTES, WHOLES, encode_owner, parse_part
from felixpy.dataplane.nftables import TABLE, chain_digests
from felixpy.dataplane.objects import (
    BaseHook,
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
    Seen,
    Set,
)
from felixpy.drivers.netlink.codec import NLM_F_ACK, Failure, message
from felixpy.drivers.netlink.nft.encode import (
    MSG_DELSETELEM,
    MSG_DELTABLE,
    MSG_NEWCHAIN,
    SUBSYSTEM,
    Detour,
    Step,
    encode_table,
    encode_transaction,
    needs,
)
from felixpy.drivers.netlink.nft.read import parse_handle, parse_rule
from felixpy.drivers.netlink.nft.refusals import (
    BATCH_BEGIN,
    FRAME,
    Refusal,
    halves,
    judge,
    may_hold_in_part,
    name_of,
    without_echoes,
)
from felixpy.drivers.netlink.nft.sets import (
    encode_members,
)
from felixpy.drivers.netlink.nft.stages import find_after, find_ahead
from felixpy.drivers.netlink.nft.table import INET, NftTable
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NetlinkError, NetlinkSocket
from felixpy.drivers.outcomes import ABSENT, failed

KINDS = frozenset({Kind.SET, Kind.CHAIN})
ROUNDS = 16
"""Transactions per apply: each but the last leaves out what failed, so this is how deep failures may hang together."""
PATIENT_ROUNDS = 12
"""Rounds that look for the one op that fails validation; after them, all that are refused are left out."""
FORGET_ROUNDS = 8
"""Transactions that take members out of a set that ages: one fails where a member's time is up meanwhile."""
PARTS = 256
"""Transactions that look for the bad entries of a map: enough for ten of them among 10,000."""

_BATCH_END = 17
_BATCH = Struct(">BBH").pack(0, 0, SUBSYSTEM)
"""struct nfgenmsg: family, version, resource."""


class NftDriver:
    """Reads and applies in the network namespace of `socket` (the caller's own, when None)."""

    def __init__(self, table: str = TABLE, socket: NetlinkSocket | None = None) -> None:
        self._table = table
        self._socket = socket or NetlinkSocket(NETLINK_NETFILTER)
        self._held = NftTable(table, self._socket)
        self._chains: dict[str, BaseHook | None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port_id(self) -> int:
        """By which the kernel names us as the cause of an event."""
        return self._socket.port_id

    def close(self) -> None:
        """Gives the socket back; the table stays."""
        self._socket.close()

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """The table's sets with their members and its chains, rules by digest; nothing where there is no such table.

        `wanted` makes no difference, but for parts of sets that age: they are there with the whole, and those that
        hold something and are not wanted are there too. Else what is ours is known by its table.

        Raises  NetlinkError.
        """
        objects: dict[Key, Object] = {}
        members: dict[str, Members] = {}
        for it in self._held.read_sets(wanted):
            held = self._held.read_members(it)
            if held is not None:
                objects[it.key] = it
                members[it.name] = held
        chains = self._held.read_chains()
        self._chains = {chain.name: chain.hook for chain in chains}
        for chain in chains:
            rules = self._held.read_rules(chain.name)
            if rules is not None:
                seen = ChainSeen(chain.name, tuple(map(parse_rule, rules)), chain.hook)
                objects[seen.key] = seen
        return Seen(objects, members)

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """One outcome per op, in order; what packets see of those without error took effect together.

        `ops` name a chain or set only once.

        Raises  OSError only when the kernel does not answer, or the transaction exceeds `SEND_BUFFER_BYTES`.
        """
        outcomes: dict[int, Outcome] = {}
        detours = self._go_ahead(ops, outcomes)
        last = find_after(ops)
        for late in (False, True):
            pending = {at: op for at, op in enumerate(ops) if at not in outcomes and (at in last) == late}
            outcomes |= self._apply_together(pending, detours)
        self._forget_parts(outcomes.values())
        lost = {name_of(outcome.op) for outcome in outcomes.values() if outcome.error and isinstance(outcome.op, Put)}
        return tuple(
            self._apply_in_parts(it, lost) if may_hold_in_part(it, lost) else it
            for it in (outcomes[position] for position in range(len(ops)))
        )

    def _go_ahead(self, ops: Sequence[Op], outcomes: dict[int, Outcome]) -> dict[int, Detour]:
        """Puts what no packet comes to yet; returns how the rules behind others are to take their place.

        What is refused here goes with the rest, as it stands: there it is judged.
        """
        ahead = find_ahead(ops, self._known_chains())
        if not ahead:
            return {}
        detours: dict[int, Detour] = {}
        for position, outcome in self._apply_together({at: ops[at] for at in ahead}, ahead).items():
            if outcome.error is not None:
                continue
            if not ahead[position].behind:
                outcomes[position] = outcome
            elif (before := self._find_before(outcome.op)) is not None:
                detours[position] = Detour(instead_of=before)
        return detours

    def _find_before(self, op: Op) -> tuple[bytes, ...] | None:
        """The handles of what stands before a chain's new rules; None where these are not at its end."""
        if not (isinstance(op, Put) and isinstance(op.object, Chain)):
            return None
        wanted = chain_digests(op.object)
        bodies = self._held.read_rules(op.object.name) or []
        if tuple(map(parse_rule, bodies[-len(wanted) :])) != wanted:
            return None
        return tuple(map(parse_handle, bodies[: -len(wanted)]))

    def _forget_parts(self, outcomes: Iterable[Outcome]) -> None:
        """Takes out what the parts held that were dropped: no rule adds to them any more.

        Raises  NetlinkError when the kernel does not say what they hold.
        """
        owners: dict[Set, set[bytes]] = {}
        for outcome in outcomes:
            part = parse_part(name_of(outcome.op)[1]) if isinstance(outcome.op, Drop) and not outcome.error else None
            if part is not None:
                owners.setdefault(WHOLES[part.version], set()).add(encode_owner(part.owner))
        for whole, gone in owners.items():
            for _ in range(FORGET_ROUNDS):
                keys = [key for key in self._held.read_clients(whole, gone) if key[-OWNER_BYTES:] in gone]
                bodies = encode_members(self._table, whole, dict.fromkeys(keys, b""), data=False)
                steps = [Step(MSG_DELSETELEM, 0, body, None) for body in bodies]
                if not steps or not self._transact(steps):
                    break

    def _apply_in_parts(self, outcome: Outcome, lost: AbstractSet[tuple[Kind, str]]) -> Outcome:
        """Puts what can be put of a map's entries: one bad verdict has the kernel refuse all that come with it."""
        assert isinstance(outcome.op, PutMembers)
        target, members = outcome.op.set, outcome.op.members
        refused = {key: data for key, data in members.items() if needs(PutMembers(target, {key: data})) & lost}
        parts = [{key: data for key, data in members.items() if key not in refused}]
        last = outcome
        for _ in range(PARTS):
            if not parts:
                break
            part = parts.pop()
            tried = self._apply_together({0: PutMembers(target, part)})[0]
            if tried.error is None:
                continue
            last = tried
            if len(part) == 1:
                refused.update(part)
            else:
                parts += halves(part)
        for part in parts:
            refused.update(part)
        if not refused:
            return Outcome(outcome.op)
        return Outcome(outcome.op, last.error, last.errno, refused)

    def _apply_together(self, ops: Mapping[int, Op], ways: Mapping[int, Detour] | None = None) -> dict[int, Outcome]:
        pending = dict(ops)
        detours = self._foresee(pending) | {at: way for at, way in (ways or {}).items() if at in pending}
        outcomes: dict[int, Outcome] = {}
        last = Failure(errno.EAGAIN, "too many failures in one transaction")
        for turn in range(ROUNDS):
            failures = self._transact(encode_transaction(self._table, pending, detours)) if pending else {}
            if not failures:
                self._remember(pending.values())
                outcomes.update((position, Outcome(op)) for position, op in pending.items())
                break
            if failures.keys() == {None}:
                last = failures[None].failure
                outcomes.update((position, failed(op, *last)) for position, op in pending.items())
                break
            self._settle(failures if turn >= PATIENT_ROUNDS else without_echoes(failures), pending, detours, outcomes)
        else:
            outcomes.update((position, failed(op, *last)) for position, op in pending.items())
        return outcomes

    def destroy(self) -> None:
        """Removes the table with all that is in it.

        Raises  NetlinkError.
        """
        failures = self._transact([Step(MSG_DELTABLE, 0, encode_table(self._table), None)])
        for _, failure in failures.values():
            if failure.errno not in ABSENT:
                raise NetlinkError(failure)
        self._chains = None

    def _transact(self, steps: Sequence[Step]) -> dict[int | None, Refusal]:
        """The first refusal of each op, in the order of the messages; nothing was done when there is any."""
        first = self._socket.reserve(len(steps) + 2)
        last = first + len(steps)
        pieces = [message(BATCH_BEGIN, 0, first, _BATCH)]
        for sequence, step in enumerate(steps, first + 1):
            flags = step.flags | NLM_F_ACK if sequence == last else step.flags
            pieces.append(message(SUBSYSTEM << 8 | step.message, flags, sequence, INET + step.body))
        pieces.append(message(_BATCH_END, 0, last + 1, _BATCH))
        refusals: dict[int | None, Refusal] = {}
        for sequence, failure in sorted(self._socket.transact(b"".join(pieces), first, last).items()):
            step = steps[sequence - first - 1] if sequence > first else FRAME
            refusals.setdefault(step.source, Refusal(step.message, failure))
        return refusals

    def _settle(
        self,
        refusals: Mapping[int | None, Refusal],
        pending: dict[int, Op],
        detours: dict[int, Detour],
        outcomes: dict[int, Outcome],
    ) -> None:
        """Takes each refused op out of `pending`, or gives it a detour, once.

        What cannot go because it is in use stays while something else takes a detour: that may end the use.
        """
        blamed = {name_of(outcome.op) for outcome in outcomes.values() if outcome.error is not None}
        found = {
            position: detour
            for position, refusal in refusals.items()
            if position is not None
            and position not in detours
            and (detour := self._find_detour(pending[position], refusal)) is not None
        }
        detours.update(found)
        for position, refusal in refusals.items():
            if position is None or position in found:
                continue
            op = pending[position]
            if found and isinstance(op, Drop) and refusal.failure.errno == errno.EBUSY:
                continue
            del pending[position]
            outcomes[position] = judge(op, refusal.failure, blamed)
            if outcomes[position].error is not None:
                blamed.add(name_of(op))

    def _find_detour(self, op: Op, refusal: Refusal) -> Detour | None:
        """Another way to the same end, for an op that was refused because of what is there already."""
        code = refusal.failure.errno
        match op:
            case Put(object=Chain()) if refusal.message == MSG_NEWCHAIN and code in (errno.EEXIST, errno.EOPNOTSUPP):
                return Detour(remake=True)
            case PutMembers() if code in (errno.EBUSY, errno.EEXIST):
                present = self._held.find_members(op.set, op.members)
                changed = {key: data for key, data in present.items() if data != op.members[key]}
                return Detour(replace=changed) if changed else None
            case DropMembers() if code == errno.ENOENT:
                present = self._held.find_members(op.set, op.members)
                return Detour(members=present) if present else None
            case _:
                return None

    def _foresee(self, pending: Mapping[int, Op]) -> dict[int, Detour]:
        """Detours for chains that are there with another hook: the kernel does not refuse to take a hook away."""
        chains = self._known_chains()
        detours = {}
        for position, op in pending.items():
            match op:
                case Put(object=Chain(name=name, hook=None)) if chains.get(name) is not None:
                    detours[position] = Detour(remake=True)
        return detours

    def _known_chains(self) -> dict[str, BaseHook | None]:
        if self._chains is None:
            self._chains = {chain.name: chain.hook for chain in self._held.read_chains()}
        return self._chains

    def _remember(self, ops: Iterable[Op]) -> None:
        chains = self._known_chains()
        for op in ops:
            match op:
                case Put(object=Chain(name=name, hook=hook)):
                    chains[name] = hook
                case Drop(key=Key(Kind.CHAIN, (str() as name,))):
                    chains.pop(name, None)
                case _:
                    pass
