"""A kernel in memory: the same Protocol, and the same refusals, as drivers/driver.py on the real one.

Referential integrity is what makes it worth having: a route needs its device and nexthop, a jump its chain, a lookup
its set; what is referenced cannot go; what hangs on a device goes with it. tests/drivers/test_contract.py runs the
same scenarios on both. `refuse` and `unreachable` inject faults; `applied` is every op that came, in order.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from felixpy.dataplane.nftables import chain_digests
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_WORKLOAD,
    Chain,
    ChainSeen,
    DeviceAddress,
    Drop,
    DropMembers,
    FdbEntry,
    Key,
    Kind,
    Link,
    Neighbour,
    NextHop,
    Object,
    Op,
    Outcome,
    Put,
    PutMembers,
    Route,
    Seen,
    Set,
    Sysctl,
    VxlanSettings,
)
from felixpy.dataplane.order import NETFILTER, kind_of
from felixpy.drivers.netlink.nft.encode import needs

MTU = 1500
MAC = bytes.fromhex("020000000001")


@dataclass(slots=True)
class Netfilter:
    """Our table: sets with their members, and chains."""

    sets: dict[str, Set] = field(default_factory=dict)
    members: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)

    def copy(self) -> Netfilter:
        """One that can be changed by itself."""
        return Netfilter(dict(self.sets), {name: dict(them) for name, them in self.members.items()}, dict(self.chains))

    def has(self, kind: Kind, name: str) -> bool:
        """Whether it holds that set or chain."""
        return name in (self.sets if kind is Kind.SET else self.chains)

    def references(self) -> set[tuple[Kind, str]]:
        """The sets and chains that its rules and members name."""
        ops: list[Op] = [Put(chain) for chain in self.chains.values()]
        ops += [PutMembers(it, self.members[name]) for name, it in self.sets.items()]
        return {need for op in ops for need in needs(op) if not (isinstance(op, PutMembers) and need[0] is Kind.SET)}


class FakeKernel:
    """One namespace with `devices`, all up; routes of other protocols than `protocols` are not read."""

    def __init__(
        self, devices: Iterable[str] = ("eth0",), protocols: Iterable[int] = (ROUTE_PROTOCOL_WORKLOAD,)
    ) -> None:
        self.objects: dict[Key, Object] = {}
        self.netfilter = Netfilter()
        self.protocols = frozenset(protocols)
        self.refuse: dict[Key, int] = {}
        self.unreachable = False
        self.applied: list[Op] = []
        for name in devices:
            self.add_device(name)

    def add_device(self, name: str) -> None:
        """Someone else makes a device and brings it up."""
        link = Link(name, mtu=MTU, mac=MAC)
        self.objects[link.key] = link

    def delete_device(self, name: str) -> None:
        """Someone else takes a device away, and with it what hangs on it."""
        self._forget(Key(Kind.LINK, (name,)))

    def flush_netfilter(self) -> None:
        """Someone else flushes the ruleset."""
        self.netfilter = Netfilter()

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """As the real one; of sysctls the `wanted` that are set."""
        self._answer()
        asked = frozenset(wanted)
        objects: dict[Key, Object] = {}
        for key, one in self.objects.items():
            if key.kind is Kind.SYSCTL and key not in asked:
                continue
            if isinstance(one, Route | NextHop) and one.protocol not in self.protocols:
                continue
            objects[key] = one
        for it in self.netfilter.sets.values():
            objects[it.key] = it
        for chain in self.netfilter.chains.values():
            objects[chain.key] = ChainSeen(chain.name, chain_digests(chain), chain.hook)
        return Seen(objects, {name: dict(them) for name, them in self.netfilter.members.items()})

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """As the real one: netfilter ops that follow each other are one transaction."""
        self._answer()
        self.applied.extend(ops)
        outcomes: list[Outcome] = []
        transaction: list[Op] = []
        for op in ops:
            if kind_of(op) in NETFILTER:
                transaction.append(op)
                continue
            outcomes.extend(self._transact(transaction))
            transaction = []
            outcomes.append(self._apply_one(op))
        return (*outcomes, *self._transact(transaction))

    def _answer(self) -> None:
        if self.unreachable:
            raise OSError(errno.ETIMEDOUT, "no answer from the kernel")

    def _apply_one(self, op: Op) -> Outcome:
        if isinstance(op, Drop):
            if op.key in self.refuse:
                return _failed(op, self.refuse[op.key])
            if op.key.kind is not Kind.SYSCTL:
                self._forget(op.key)
            return Outcome(op)
        assert isinstance(op, Put)
        one = op.object
        code = self.refuse.get(one.key, 0)
        if code:
            return _failed(op, code)
        for device in _devices_of(one):
            if Key(Kind.LINK, (device,)) not in self.objects:
                return Outcome(op, f"{device}: no such device", errno.ENODEV)
        if isinstance(one, Sysctl):
            if not self._has_sysctl(one.path):
                return _failed(op, errno.ENOENT)
        elif not self._has_nexthops(one):
            return _failed(op, errno.EINVAL)
        if isinstance(one, Link):
            there = self.objects.get(one.key)
            mtu, mac = (there.mtu, there.mac) if isinstance(there, Link) else (MTU, MAC)
            settings = one.settings or (there.settings if isinstance(there, Link) else None)
            one = replace(one, settings=settings, mtu=one.mtu or mtu, mac=one.mac or mac)
        self.objects[one.key] = one
        return Outcome(op)

    def _has_sysctl(self, path: str) -> bool:
        words = path.split("/")
        if len(words) < 5 or words[2] not in ("conf", "neigh") or words[3] in ("all", "default", "lo"):
            return True
        return Key(Kind.LINK, (words[3],)) in self.objects

    def _has_nexthops(self, one: Object) -> bool:
        wanted: tuple[int, ...] = ()
        if isinstance(one, Route) and one.nexthop_id is not None:
            wanted = (one.nexthop_id,)
        elif isinstance(one, NextHop):
            wanted = one.group
        return all(Key(Kind.NEXTHOP, (number,)) in self.objects for number in wanted)

    def _forget(self, key: Key) -> None:
        if self.objects.pop(key, None) is None:
            return
        for other, one in tuple(self.objects.items()):
            if _hangs_on(one, key):
                self._forget(other)
            elif isinstance(one, NextHop) and key.kind is Kind.NEXTHOP:
                self.objects[other] = replace(one, group=tuple(number for number in one.group if number != key.id[0]))

    def _transact(self, ops: Sequence[Op]) -> list[Outcome]:
        pending = dict(enumerate(ops))
        outcomes: dict[int, Outcome] = {}
        for _ in range(len(ops) + 1):
            trial = self.netfilter.copy()
            for op in pending.values():
                _change(trial, op)
            refused = {position: code for position, op in pending.items() if (code := self._refusal(op, trial))}
            if not refused:
                self.netfilter = trial
                break
            for position, code in refused.items():
                outcomes[position] = _failed(pending.pop(position), code)
        outcomes |= {position: Outcome(op) for position, op in pending.items()}
        return [outcomes[position] for position in range(len(ops))]

    def _refusal(self, op: Op, trial: Netfilter) -> int:
        match op:
            case Put(object=one) if one.key in self.refuse:
                return self.refuse[one.key]
            case Drop(key=key) if key in self.refuse:
                return self.refuse[key]
            case PutMembers(set=it) | DropMembers(set=it) if it.key in self.refuse:
                return self.refuse[it.key]
            case Put(object=Set() as it) if self.netfilter.sets.get(it.name, it) != it:
                return errno.EEXIST
            case Put() | PutMembers() if not all(trial.has(*need) for need in needs(op)):
                return errno.ENOENT
            case Drop(key=key) if (key.kind, str(key.id[0])) in trial.references():
                return errno.EBUSY
            case _:
                return 0


def _change(netfilter: Netfilter, op: Op) -> None:
    match op:
        case Put(object=Set() as it):
            netfilter.sets[it.name] = it
            netfilter.members.setdefault(it.name, {})
        case Put(object=Chain() as chain):
            netfilter.chains[chain.name] = chain
        case Drop(key=key) if key.kind is Kind.SET:
            netfilter.sets.pop(str(key.id[0]), None)
            netfilter.members.pop(str(key.id[0]), None)
        case Drop(key=key):
            netfilter.chains.pop(str(key.id[0]), None)
        case PutMembers(set=it, members=members):
            netfilter.members.setdefault(it.name, {}).update(members)
        case DropMembers(set=it, members=members):
            there = netfilter.members.get(it.name, {})
            for key in members:
                there.pop(key, None)
        case _:
            raise TypeError(f"not an op on a set or chain: {op}")


def _failed(op: Op, code: int) -> Outcome:
    return Outcome(op, os.strerror(code), code)


def _hangs_on(one: Object, key: Key) -> bool:
    """Whether an object goes when the one under `key` goes."""
    match key.kind:
        case Kind.LINK:
            return key.id[0] in _devices_of(one) or _sysctl_device(one) == key.id[0]
        case Kind.NEXTHOP:
            return (isinstance(one, Route) and one.nexthop_id == key.id[0]) or (
                isinstance(one, NextHop) and one.group == key.id
            )
        case _:
            return False


def _devices_of(one: Object) -> Sequence[str]:
    """The devices that an object hangs on."""
    match one:
        case Link(settings=VxlanSettings(parent=parent)):
            return (parent,) if parent else ()
        case Link(name=name, settings=None):
            return (name,)
        case DeviceAddress(device=device) | Neighbour(device=device) | FdbEntry(device=device):
            return (device,)
        case Route(device=device, hops=hops):
            return tuple(it for it in (device, *(hop.device for hop in hops)) if it is not None)
        case NextHop(device=device):
            return () if device is None else (device,)
        case _:
            return ()


def _sysctl_device(one: Object) -> str:
    words = one.path.split("/") if isinstance(one, Sysctl) else []
    return words[3] if len(words) > 4 and words[2] in ("conf", "neigh") else ""
