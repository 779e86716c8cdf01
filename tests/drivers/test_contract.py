"""What the reconciler may rely on: the same scenarios on the real kernel and on its twin in memory."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from felixpy.addresses import Prefix, parse_address, parse_prefix
from felixpy.dataplane.nftables import chain_digests
from felixpy.dataplane.objects import (
    BaseHook,
    Chain,
    ChainSeen,
    DataType,
    DeviceAddress,
    Drop,
    DropMembers,
    FdbEntry,
    IpRule,
    Key,
    Kind,
    Link,
    Neighbour,
    NextHop,
    Object,
    Op,
    Put,
    PutMembers,
    Route,
    Seen,
    Set,
    SetType,
    Sysctl,
    VxlanSettings,
)
from felixpy.dataplane.rules import Accept, Dispatch, Jump, Rule, SetHas
from felixpy.drivers.driver import Driver, KernelDriver
from felixpy.drivers.netlink.socket import in_namespace
from felixpy.reconcile import Driver as ReconcilerDriver
from tests.fakes.kernel import FakeKernel
from tests.support.netns import Namespace
from tests.support.wait import eventually

CALI = Route(parse_prefix("10.0.0.1/32"), 176, device="cali1", link_scope=True)
VXLAN = Link("vx0", VxlanSettings(9, 4789, "eth0", parse_address("192.0.2.1")), mtu=1400, mac=b"\x66" * 6)
HOP = NextHop(9, parse_address("192.0.2.9"), "eth0", protocol=176)
VIA = Route(parse_prefix("10.1.0.0/26"), 176, nexthop_id=9)
FORWARDING = Sysctl("net/ipv4/conf/cali1/forwarding", "1")
LEAF = Chain("leaf", (Rule(Accept()),))
HOSTS = Set("hosts", SetType.IPV4)
DISPATCH = Set("dispatch", SetType.INTERFACE, DataType.VERDICT)
USER = Chain("user", (Rule(Accept(), (SetHas("source", "hosts", 4),)), Rule(Jump("leaf"))))
BASE = Chain("forward", (Rule(Dispatch("in_interface", "dispatch")),), BaseHook("filter", "forward", 0, "drop"))
ENTRY = PutMembers(DISPATCH, {b"cali1": b"jump leaf"})
OTHERS: tuple[Object, ...] = (
    DeviceAddress("eth0", Prefix(parse_address("192.0.2.7"), 32)),
    Neighbour("eth0", parse_address("192.0.2.8"), b"\x66" * 6),
    FdbEntry("vx0", b"\x66" * 6, parse_address("192.0.2.9")),
    IpRule(4, 100, 1, 1, 300),
)


@dataclass(frozen=True, slots=True)
class World:
    """A driver, and what others do to its kernel, which has the devices eth0 (192.0.2.1/24) and cali1."""

    driver: Driver
    delete_device: Callable[[str], object]
    flush_netfilter: Callable[[], object]
    inside: Callable[[Callable[[], list[Any]]], list[Any]]

    def apply(self, *ops: Op) -> list[int]:
        return [outcome.errno for outcome in self.driver.apply(ops)]

    def put(self, *objects: Object) -> list[int]:
        return self.apply(*map(Put, objects))

    def drop(self, *objects: Object) -> list[int]:
        return self.apply(*(Drop(it.key, it) for it in objects))

    def has(self, *objects: Object) -> list[bool]:
        seen = self.driver.read([it.key for it in objects]).objects
        return [seen.get(it.key) == expected(it) for it in objects]

    def netfilter(self) -> Seen:
        seen = self.driver.read()
        objects = {key: one for key, one in seen.objects.items() if key.kind in (Kind.SET, Kind.CHAIN)}
        return Seen(objects, seen.members)


def expected(one: Object) -> Object:
    return ChainSeen(one.name, chain_digests(one), one.hook) if isinstance(one, Chain) else one


@pytest.fixture(params=["kernel", "fake"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        fake = FakeKernel(("eth0", "cali1"))
        yield World(fake, fake.delete_device, fake.flush_netfilter, lambda function: function())
        return
    namespace: Namespace = request.getfixturevalue("namespace")
    for name in ("eth0", "cali1"):
        namespace.ip("link", "add", name, "type", "veth", "peer", "name", f"far-{name}")
        namespace.ip("link", "set", name, "up")
        namespace.ip("link", "set", f"far-{name}", "up")
    namespace.ip("address", "add", "192.0.2.1/24", "dev", "eth0")
    with in_namespace(namespace.path, KernelDriver) as driver:
        yield World(
            driver,
            lambda name: namespace.ip("link", "del", name),
            lambda: namespace.run("nft", "flush", "ruleset"),
            lambda function: in_namespace(namespace.path, function),
        )


def test_both_are_what_the_reconciler_asks_for(world: World) -> None:
    driver: ReconcilerDriver = world.driver
    assert driver.read(()).members == {}


def test_objects_read_back_and_go(world: World) -> None:
    objects = (VXLAN, *OTHERS, HOP, VIA, CALI, HOSTS, LEAF, USER)
    assert world.put(*objects) == [0] * len(objects)
    assert world.has(*objects) == [True] * len(objects)
    assert world.put(*objects) == [0] * len(objects)
    backwards = objects[::-1]
    assert world.drop(*backwards, *backwards) == [0] * len(objects) * 2
    assert world.has(*objects) == [False] * len(objects)


def test_routes_need_their_device_and_go_with_it(world: World) -> None:
    lost = replace(CALI, device="nowhere")
    outcome = world.driver.apply([Put(lost)])[0]
    assert (outcome.errno, outcome.error) == (errno.ENODEV, "nowhere: no such device")
    assert world.put(CALI) == [0]
    world.delete_device("cali1")
    assert world.has(CALI) == [False]
    assert world.put(CALI) == [errno.ENODEV]
    assert world.drop(CALI) == [0]


def test_tunnel_needs_its_parent_and_takes_what_hangs_on_it_along(world: World) -> None:
    assert world.put(replace(VXLAN, settings=replace(VXLAN.settings, parent="nowhere"))) == [errno.ENODEV]
    route = replace(CALI, device="vx0")
    assert world.put(VXLAN, route, OTHERS[2]) == [0, 0, 0]
    assert world.drop(VXLAN) == [0]
    assert world.has(VXLAN, route, OTHERS[2]) == [False] * 3


def test_existing_device_changes_and_missing_one_is_an_error(world: World) -> None:
    assert world.put(Link("cali1", mtu=1400), Link("nowhere")) == [0, errno.ENODEV]
    link = world.driver.read().objects[Key(Kind.LINK, ("cali1",))]
    assert isinstance(link, Link)
    assert (link.mtu, link.up) == (1400, True)


def test_routes_need_their_nexthop_and_go_with_it(world: World) -> None:
    assert world.put(VIA) == [errno.EINVAL]
    assert world.put(HOP, VIA) == [0, 0]
    assert world.drop(HOP) == [0]
    assert world.has(HOP, VIA) == [False, False]


def test_sysctl_of_a_device_needs_it(world: World) -> None:
    lost = replace(FORWARDING, path="net/ipv4/conf/nowhere/forwarding")
    assert world.inside(lambda: world.put(FORWARDING, lost)) == [0, errno.ENOENT]
    assert world.inside(lambda: world.has(FORWARDING, lost)) == [True, False]
    assert FORWARDING.key not in world.driver.read().objects


def test_netfilter_ops_are_one_transaction_whatever_their_order(world: World) -> None:
    assert world.apply(ENTRY, Put(BASE), Put(USER), Put(LEAF), Put(DISPATCH), Put(HOSTS)) == [0] * 6
    assert world.has(BASE, USER, LEAF, DISPATCH, HOSTS) == [True] * 5
    assert world.drop(HOSTS, LEAF, USER, DISPATCH, BASE) == [0] * 5
    assert world.netfilter() == Seen()


def test_chain_needs_what_it_names_and_holds_back_what_needs_it(world: World) -> None:
    above = Chain("above", (Rule(Jump("user")),))
    assert world.put(above, USER, LEAF) == [errno.ENOENT, errno.ENOENT, 0]
    assert world.has(above, USER, LEAF) == [False, False, True]
    assert world.put(above, USER, HOSTS) == [0, 0, 0]


def test_members_of_a_set_of_100_000_come_and_go_by_themselves(world: World) -> None:
    held = {parse_address(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"): b"" for n in range(100_000)}
    assert world.apply(Put(HOSTS), PutMembers(HOSTS, held)) == [0, 0]
    gone, new = parse_address("10.0.0.0"), parse_address("11.0.0.1")
    assert world.apply(PutMembers(HOSTS, {new: b""}), DropMembers(HOSTS, {gone: b""})) == [0, 0]
    wanted = held.keys() - {gone} | {new}
    # a table of the kernel that is still growing does not show all that is in it
    eventually(lambda: world.driver.read().members["hosts"].keys() == wanted)


def test_verdict_needs_its_chain(world: World) -> None:
    other = PutMembers(HOSTS, {parse_address("10.0.0.1"): b""})
    assert world.apply(Put(DISPATCH), Put(HOSTS), ENTRY, other) == [0, 0, errno.ENOENT, 0]
    assert world.driver.read().members == {"dispatch": {}, "hosts": other.members}
    assert world.apply(Put(LEAF), ENTRY) == [0, 0]
    assert world.drop(LEAF) == [errno.EBUSY]
    assert world.apply(DropMembers(DISPATCH, ENTRY.members), Drop(LEAF.key)) == [0, 0]


def test_what_is_referenced_stays(world: World) -> None:
    assert world.put(HOSTS, LEAF, USER) == [0, 0, 0]
    assert world.drop(HOSTS, LEAF) == [errno.EBUSY, errno.EBUSY]
    assert world.put(replace(USER, rules=())) == [0]
    assert world.drop(HOSTS, LEAF) == [0, 0]


def test_refused_change_leaves_what_was(world: World) -> None:
    assert world.put(LEAF, HOSTS) == [0, 0]
    assert world.put(replace(LEAF, rules=(Rule(Jump("nowhere")),))) == [errno.ENOENT]
    assert world.put(replace(HOSTS, type=SetType.IPV6)) == [errno.EEXIST]
    assert world.has(LEAF, HOSTS) == [True, True]


def test_members_come_go_and_change_without_complaint(world: World) -> None:
    one, two = {b"cali1": b"jump leaf"}, {b"cali1": b"accept", b"cali2": b"drop"}
    assert world.apply(Put(LEAF), Put(DISPATCH), PutMembers(DISPATCH, one), PutMembers(DISPATCH, one)) == [0] * 4
    assert world.apply(PutMembers(DISPATCH, two)) == [0]
    assert world.driver.read().members == {"dispatch": two}
    assert world.apply(DropMembers(DISPATCH, {b"cali2": b"drop", b"cali3": b"drop"})) == [0]
    assert world.driver.read().members == {"dispatch": {b"cali1": b"accept"}}
    assert world.apply(DropMembers(HOSTS, {parse_address("10.0.0.1"): b""})) == [0]


def test_flushed_table_reads_as_nothing_and_is_made_anew(world: World) -> None:
    ops = (Put(LEAF), Put(DISPATCH), ENTRY, Put(BASE))
    assert world.apply(*ops) == [0] * 4
    world.flush_netfilter()
    assert world.netfilter() == Seen()
    assert world.apply(*ops) == [0] * 4
    assert world.has(LEAF, DISPATCH, BASE) == [True] * 3


def test_fake_refuses_and_falls_silent_when_told() -> None:
    fake = FakeKernel(("cali1",))
    fake.refuse[CALI.key] = errno.EPERM
    assert [outcome.errno for outcome in fake.apply([Put(CALI), Put(LEAF)])] == [errno.EPERM, 0]
    fake.unreachable = True
    with pytest.raises(OSError, match="no answer"):
        fake.read()
