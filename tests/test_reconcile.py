"""The reconciler against a kernel in memory: what differs is put right, what is right stays, what failed waits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import pytest

from felixpy.addresses import Address, parse_address, parse_prefix
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.nftables import chain_digests
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_LEARNED,
    ROUTE_PROTOCOL_WORKLOAD,
    Chain,
    ChainSeen,
    Drop,
    DropMembers,
    Hop,
    Key,
    Kind,
    Link,
    Members,
    Object,
    Op,
    Outcome,
    Put,
    PutMembers,
    Route,
    Seen,
    Set,
    SetType,
    Sysctl,
)
from felixpy.dataplane.order import sort_ops
from felixpy.dataplane.rules import Accept, Rule
from felixpy.dataplane.rules import Drop as DropPacket
from felixpy.reconcile import Reconciler, same


class MemoryKernel:
    """Holds what it is told; refuses the keys in `refuses`, and the members in `refuses_members`."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.members: dict[str, dict[bytes, bytes]] = {}
        self.refuses: set[Key] = set()
        self.refuses_members: set[bytes] = set()
        self.silent = False
        self.ops: list[Op] = []

    def read(self, wanted: Iterable[Key]) -> Seen:
        self._answer()
        seen = {key: _as_read(one) for key, one in self.objects.items()}
        return Seen(seen, {name: dict(members) for name, members in self.members.items()})

    def apply(self, ops: Sequence[Op]) -> Sequence[Outcome]:
        self._answer()
        return [self._apply(op) for op in ops]

    def _answer(self) -> None:
        if self.silent:
            raise TimeoutError("no answer from the kernel")

    def _apply(self, op: Op) -> Outcome:
        self.ops.append(op)
        match op:
            case Put(one):
                if one.key in self.refuses:
                    return Outcome(op, "refused", 22)
                self.objects[one.key] = one
            case Drop(key, _):
                if key in self.refuses:
                    return Outcome(op, "busy", 16)
                self.members.pop(str(key.id[0]), None)
                self.objects.pop(key, None)
            case PutMembers(target, members):
                if target.key in self.refuses:
                    return Outcome(op, "refused", 22)
                refused = {key: data for key, data in members.items() if key in self.refuses_members}
                taken = {key: data for key, data in members.items() if key not in refused}
                self.members.setdefault(target.name, {}).update(taken)
                if refused:
                    return Outcome(op, "refused", 22, refused)
            case DropMembers(target, members):
                for member in members:
                    self.members.get(target.name, {}).pop(member, None)
        return Outcome(op)


def _as_read(one: Object) -> Object:
    return ChainSeen(one.name, chain_digests(one), one.hook) if isinstance(one, Chain) else one


IPS = Set("s4-a", SetType.IPV4)
CHAIN = Chain("in-x", (Rule(Accept()),))
ROUTE = Route(parse_prefix("10.0.0.1/32"), ROUTE_PROTOCOL_WORKLOAD, device="cali1", link_scope=True)


class Desk:
    """A reconciler with its kernel, and the members that the sets should have."""

    def __init__(self) -> None:
        self.kernel = MemoryKernel()
        self.wanted: dict[Set, dict[bytes, bytes]] = {}
        self.reconciler = Reconciler(self.kernel, self._members_of)

    def _members_of(self, sets: Collection[Set]) -> Mapping[Set, Members]:
        return self.wanted

    def want(self, *objects: Object, drop: Sequence[Key] = (), add: bytes = b"", remove: bytes = b"") -> None:
        changes = Changes({one.key: one for one in objects} | dict.fromkeys(drop))
        if add:
            self.wanted.setdefault(IPS, {})[add] = b""
            changes.add_members(IPS, {add: b""})
        if remove:
            self.wanted[IPS].pop(remove)
            changes.drop_members(IPS, {remove: b""})
        self.reconciler.want(changes)

    def apply(self) -> list[Op]:
        self.kernel.ops.clear()
        self.reconciler.apply()
        return self.kernel.ops


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_what_is_wanted_is_put_once(desk: Desk) -> None:
    desk.want(IPS, CHAIN, ROUTE, add=b"\x0a\0\0\1")
    assert len(desk.apply()) == 4
    assert desk.apply() == []
    desk.want(IPS, CHAIN, ROUTE)
    assert desk.apply() == []
    desk.want(drop=[CHAIN.key, ROUTE.key])
    assert {type(op) for op in desk.apply()} == {Drop}
    assert desk.kernel.objects.keys() == {IPS.key}


def test_adopting_touches_only_what_differs(desk: Desk) -> None:
    foreign = Route(parse_prefix("10.9.0.0/16"), 4, device="eth0")
    leftover = Route(parse_prefix("10.0.0.9/32"), ROUTE_PROTOCOL_WORKLOAD, device="cali9")
    changed = Chain("in-x", (Rule(DropPacket()),))
    device = Link("eth0")
    for one in (foreign, leftover, changed, device, IPS, ROUTE):
        desk.kernel.objects[one.key] = one
    desk.kernel.members[IPS.name] = {b"\x0a\0\0\1": b"", b"\x0a\0\0\2": b""}
    desk.want(IPS, CHAIN, ROUTE, add=b"\x0a\0\0\2")
    desk.want(add=b"\x0a\0\0\3")
    desk.reconciler.adopt()
    ops = desk.apply()
    assert {type(op).__name__: getattr(op, "members", None) for op in ops} == {
        "Put": None,
        "Drop": None,
        "PutMembers": {b"\x0a\0\0\3": b""},
        "DropMembers": {b"\x0a\0\0\1": b""},
    }
    assert Put(CHAIN) in ops
    assert Drop(leftover.key, leftover) in ops
    assert desk.kernel.objects[foreign.key] == foreign
    assert desk.kernel.objects[device.key] == device


def test_without_pruning_leftovers_stay(desk: Desk) -> None:
    desk.kernel.objects[ROUTE.key] = ROUTE
    desk.reconciler.adopt(prune=False)
    assert desk.apply() == []
    desk.reconciler.adopt()
    assert desk.apply() == [Drop(ROUTE.key, ROUTE)]


def test_a_failure_waits_and_holds_back_nothing_else(desk: Desk) -> None:
    desk.kernel.refuses.add(ROUTE.key)
    desk.want(CHAIN, ROUTE)
    assert len(desk.apply()) == 2
    assert not desk.reconciler.holds([ROUTE.key])
    assert desk.reconciler.holds([CHAIN.key])
    assert desk.apply() == [], "not before it is asked to"
    desk.kernel.refuses.clear()
    assert desk.reconciler.retry()
    assert desk.apply() == [Put(ROUTE)]
    assert desk.reconciler.holds([ROUTE.key])
    assert not desk.reconciler.retry()


def test_members_that_failed_are_not_forgotten(desk: Desk) -> None:
    desk.want(IPS)
    desk.apply()
    desk.kernel.refuses.add(IPS.key)
    desk.want(add=b"\x0a\0\0\1")
    desk.apply()
    desk.want(add=b"\x0a\0\0\2")
    desk.kernel.refuses.clear()
    desk.apply()
    assert desk.kernel.members[IPS.name].keys() == {b"\x0a\0\0\1", b"\x0a\0\0\2"}


def test_a_refused_member_waits_and_holds_back_no_other(desk: Desk) -> None:
    bad, good = b"\x0a\0\0\1", b"\x0a\0\0\2"
    desk.kernel.refuses_members.add(bad)
    desk.want(IPS, add=bad)
    desk.want(add=good)
    assert not desk.reconciler.holds_members([(IPS, good)]), "not before it is put"
    desk.apply()
    assert desk.reconciler.holds_members([(IPS, good)])
    assert not desk.reconciler.holds_members([(IPS, good), (IPS, bad)])
    assert [outcome.op for outcome in desk.reconciler.failed.values()] == [PutMembers(IPS, {bad: b""})]
    desk.kernel.refuses_members.clear()
    assert desk.reconciler.retry()
    assert desk.apply() == [PutMembers(IPS, {bad: b""})]
    assert desk.reconciler.holds_members([(IPS, bad)])


def test_a_set_that_comes_back_before_its_drop_holds_no_old_member(desk: Desk) -> None:
    old, new = b"\x0a\0\0\1", b"\x0a\0\0\2"
    desk.want(IPS, add=old)
    desk.apply()
    desk.kernel.refuses.add(IPS.key)
    desk.want(drop=[IPS.key])
    desk.apply()
    desk.kernel.refuses.clear()
    desk.wanted.clear()
    desk.want(IPS, add=new)
    desk.apply()
    assert desk.kernel.members[IPS.name].keys() == {new}


def test_after_a_silence_the_kernel_is_read_before_it_is_written(desk: Desk) -> None:
    leftover = Route(parse_prefix("10.0.0.9/32"), ROUTE_PROTOCOL_WORKLOAD, device="cali9")
    desk.want(CHAIN)
    desk.apply()
    desk.kernel.silent = True
    desk.want(ROUTE)
    with pytest.raises(TimeoutError):
        desk.apply()
    assert not desk.reconciler.holds([CHAIN.key]), "nobody knows"
    with pytest.raises(TimeoutError):
        desk.reconciler.adopt()
    desk.kernel.silent = False
    desk.kernel.objects = {leftover.key: leftover}
    desk.apply()
    assert desk.kernel.objects == {CHAIN.key: CHAIN, ROUTE.key: ROUTE}
    assert desk.reconciler.holds([CHAIN.key, ROUTE.key])


def test_only_what_is_named_is_tried_again(desk: Desk) -> None:
    desk.kernel.refuses |= {ROUTE.key, CHAIN.key}
    desk.want(CHAIN, ROUTE)
    desk.apply()
    assert desk.reconciler.retry([ROUTE.key])
    assert desk.apply() == [Put(ROUTE)]
    assert desk.reconciler.failed.keys() == {ROUTE.key, CHAIN.key}


def test_a_member_that_comes_and_goes_before_an_apply_is_no_member(desk: Desk) -> None:
    desk.want(IPS, add=b"\x0a\0\0\1")
    desk.apply()
    desk.want(add=b"\x0a\0\0\2")
    desk.want(remove=b"\x0a\0\0\2")
    desk.want(remove=b"\x0a\0\0\1")
    desk.want(add=b"\x0a\0\0\1")
    desk.apply()
    assert desk.kernel.members[IPS.name].keys() == {b"\x0a\0\0\1"}


def test_sysctls_are_never_dropped(desk: Desk) -> None:
    one = Sysctl("net/ipv4/conf/cali1/proxy_arp", "1")
    desk.want(one)
    desk.apply()
    desk.want(drop=[one.key])
    assert desk.apply() == []


@pytest.mark.parametrize(
    ("wanted", "there", "equal"),
    [
        ({"gateway": "10.0.0.1"}, {"gateway": "10.0.0.1", "device": "eth0"}, True),
        ({"gateway": "10.0.0.1", "device": "eth1"}, {"gateway": "10.0.0.1", "device": "eth0"}, False),
        ({"gateway": "10.0.0.1"}, {"gateway": "10.0.0.2", "device": "eth0"}, False),
        ({"device": "eth0"}, {"device": "eth1"}, False),
    ],
)
def test_the_kernel_may_choose_the_device_of_a_next_hop(
    wanted: dict[str, str], there: dict[str, str], equal: bool
) -> None:
    assert same(_route(**wanted), _route(**there)) is equal


def test_the_kernel_may_choose_the_devices_of_several_next_hops() -> None:
    hops = tuple(parse_address(f"10.0.0.{number}") for number in (1, 2))
    wanted = Route(parse_prefix("10.1.0.0/16"), ROUTE_PROTOCOL_LEARNED, hops=tuple(Hop(hop, None) for hop in hops))
    there = Route(parse_prefix("10.1.0.0/16"), ROUTE_PROTOCOL_LEARNED, hops=tuple(Hop(hop, "eth0") for hop in hops))
    assert same(wanted, there)


def _route(gateway: str = "", device: str | None = None) -> Route:
    via: Address | None = parse_address(gateway) if gateway else None
    return Route(parse_prefix("10.1.0.0/16"), ROUTE_PROTOCOL_LEARNED, gateway=via, device=device)


def test_policy_is_there_before_all_that_forwards_and_goes_after_the_route() -> None:
    sysctl = Sysctl("net/ipv4/conf/cali1/proxy_arp", "1")
    puts = sort_ops([Put(ROUTE), Put(CHAIN), PutMembers(IPS, {}), Put(sysctl), Put(IPS), Put(Link("vxlan.calico"))])
    assert [{_kind(op) for op in run} for run in puts] == [
        {Kind.SET, Kind.CHAIN}, {Kind.LINK}, {Kind.SYSCTL}, {Kind.ROUTE},
    ]  # fmt: skip
    drops = sort_ops([Drop(Link("vxlan.calico").key), Put(ROUTE), Drop(CHAIN.key), Drop(ROUTE.key)])
    assert [(type(run[0]), _kind(run[0])) for run in drops] == [
        (Drop, Kind.ROUTE), (Drop, Kind.CHAIN), (Put, Kind.ROUTE), (Drop, Kind.LINK),
    ]  # fmt: skip


def _kind(op: Op) -> Kind:
    return op.object.key.kind if isinstance(op, Put) else op.key.kind if isinstance(op, Drop) else Kind.SET
