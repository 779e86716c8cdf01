"""Devices, addresses, neighbours, nexthops, policy rules and routes in a real kernel, each read back as it was put."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest

from felixpy.addresses import parse_address, parse_prefix
from felixpy.dataplane.objects import (
    DeviceAddress,
    Drop,
    FdbEntry,
    Hop,
    IpRule,
    Key,
    Kind,
    Link,
    Neighbour,
    NextHop,
    Object,
    Prefix,
    Put,
    Route,
    RouteType,
    VxlanSettings,
)
from felixpy.drivers.netlink.devices import dump_links
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket, in_namespace
from tests.support.netns import Namespace

MAC = bytes.fromhex("66aabbccddee")
VXLAN = Link("vxlan.t", VxlanSettings(4096, 4789, "up0", parse_address("192.0.2.1")), mtu=1450, mac=MAC)


@pytest.fixture
def driver(namespace: Namespace) -> Iterator[RouteDriver]:
    """In a namespace with two devices, up0 (192.0.2.1/24, 2001:db8::1/64) and up1."""
    for line in (
        "ip link add up0 type veth peer name far0",
        "ip link add up1 type veth peer name far1",
        "ip addr add 192.0.2.1/24 dev up0",
        "ip addr add 2001:db8::1/64 dev up0 nodad",
        *(f"ip link set {name} up" for name in ("up0", "far0", "up1", "far1")),
    ):
        run(namespace, line)
    with in_namespace(namespace.path, RouteDriver) as it:
        yield it


def run(namespace: Namespace, command: str) -> str:
    return namespace.run(*command.split())


def address(text: str) -> Prefix:
    """An address with its length, host bits kept."""
    return Prefix(parse_address(text.partition("/")[0]), int(text.partition("/")[2]))


def route(destination: str, **rest: object) -> Route:
    return Route(parse_prefix(destination), protocol=176, **rest)


def put(driver: RouteDriver, *objects: Object) -> list[str | None]:
    return [outcome.error for outcome in driver.apply([Put(it) for it in objects])]


def drop(driver: RouteDriver, *objects: Object) -> list[str | None]:
    return [outcome.error for outcome in driver.apply([Drop(it.key) for it in objects])]


GATEWAY = parse_address("192.0.2.9")
GATEWAY6 = parse_address("2001:db8::9")
ROUTES = {
    "device": route("10.0.0.1/32", device="up1", link_scope=True),
    "device6": route("fd00::1/128", device="up1"),
    "gateway": route("10.1.0.0/24", gateway=GATEWAY, device="up0"),
    "gateway6": route("fd00:1::/64", gateway=GATEWAY6, device="up0"),
    "onlink": route("10.2.0.0/24", gateway=parse_address("203.0.113.7"), device="up1", onlink=True),
    "onlink6": route("fd00:2::/64", gateway=parse_address("2001:db8:f::7"), device="up1", onlink=True),
    "via6": route("10.3.0.0/24", gateway=GATEWAY6, device="up0"),
    "source": route("10.4.0.0/24", gateway=GATEWAY, device="up0", source=parse_address("192.0.2.1")),
    "mtu": route("10.5.0.0/24", gateway=GATEWAY, device="up0", mtu=1400),
    "mtu6": route("fd00:5::/64", gateway=GATEWAY6, device="up0", mtu=1400),
    "metric": route("10.6.0.0/24", device="up1", metric=77),
    "metric6": route("fd00:6::/64", device="up1", metric=77),
    "table": route("10.7.0.0/24", device="up1", table=1000),
    "table6": route("fd00:7::/64", device="up1", table=1000),
    "blackhole": route("10.8.0.0/26", type=RouteType.BLACKHOLE),
    "blackhole6": route("fd00:8::/122", type=RouteType.BLACKHOLE),
    "unreachable": route("10.9.0.0/26", type=RouteType.UNREACHABLE),
    "prohibit": route("10.10.0.0/26", type=RouteType.PROHIBIT),
    "default": route("0.0.0.0/0", gateway=GATEWAY, device="up0"),
    "default6": route("::/0", gateway=GATEWAY6, device="up0"),
    "multipath": route(
        "10.11.0.0/24",
        hops=(Hop(GATEWAY, "up0"), Hop(parse_address("203.0.113.7"), "up1", onlink=True, weight=3)),
    ),
    "multipath6": route("fd00:11::/64", hops=(Hop(GATEWAY6, "up0"), Hop(parse_address("2001:db8::8"), "up0"))),
}


@pytest.mark.parametrize("wanted", ROUTES.values(), ids=ROUTES)
def test_route_reads_back_as_put_and_goes_when_dropped(driver: RouteDriver, wanted: Route) -> None:
    assert put(driver, wanted, wanted) == [None, None]
    assert driver.read().objects.get(wanted.key) == wanted
    assert drop(driver, wanted, wanted) == [None, None]
    assert wanted.key not in driver.read().objects


@pytest.mark.parametrize("after", ["gateway", "device", "blackhole", "multipath"])
@pytest.mark.parametrize("before", ["gateway", "device", "blackhole", "multipath"])
@pytest.mark.parametrize("version", [4, 6])
def test_put_replaces_a_route_of_any_other_form(
    namespace: Namespace, driver: RouteDriver, before, after, version
) -> None:
    suffix, destination = ("", "10.20.0.0/24") if version == 4 else ("6", "fd00:20::/64")
    old, new = (replace(ROUTES[name + suffix], destination=parse_prefix(destination)) for name in (before, after))
    assert put(driver, old, new) == [None, None]
    assert driver.read().objects[new.key] == new
    listed = run(namespace, f"ip -{version} route show exact {destination}").splitlines()
    assert sum(not line.startswith("\t") for line in listed) == 1, listed


def test_put_takes_the_place_of_a_foreign_route_and_drop_leaves_one(namespace: Namespace, driver: RouteDriver) -> None:
    run(namespace, "ip route add 10.0.0.1/32 dev up0 proto 199")
    wanted = ROUTES["device"]
    assert drop(driver, wanted) == [None]
    assert "proto 199" in run(namespace, "ip route")
    assert put(driver, wanted) == [None]
    assert "proto 199" not in run(namespace, "ip route")


def test_missing_device_is_named_and_holds_back_nothing_else(driver: RouteDriver) -> None:
    lost = route("10.30.0.1/32", device="nowhere")
    astray = route("10.31.0.0/24", gateway=parse_address("198.51.100.1"))
    first, second, third, fourth = driver.apply([Put(it) for it in (ROUTES["device"], lost, astray, ROUTES["gateway"])])
    assert (first.error, fourth.error) == (None, None)
    assert (second.errno, second.error) == (errno.ENODEV, "nowhere: no such device")
    assert third.errno == errno.ENETUNREACH


def test_each_refused_route_has_its_own_error(driver: RouteDriver) -> None:
    many = [route(f"10.40.{i >> 8}.{i & 255}/32", device="up1") for i in range(2500)]
    unreachable = {3, 1023, 1024, 2499}
    for i in unreachable:
        many[i] = replace(many[i], device=None, gateway=parse_address("198.51.100.1"))
    outcomes = driver.apply([Put(it) for it in many])
    assert {i for i, outcome in enumerate(outcomes) if outcome.error} == unreachable
    assert "gateway" in (outcomes[3].error or "")
    assert sum(key.kind is Kind.ROUTE for key in driver.read().objects) == 2496


def test_routes_follow_their_nexthop_object(namespace: Namespace, driver: RouteDriver) -> None:
    hop = NextHop(700, GATEWAY, "up0")
    group = NextHop(701, group=(700,))
    hop6 = NextHop(702, GATEWAY6, "up0", version=6)
    hole = NextHop(703, blackhole=True, version=6)
    to = [route("10.50.0.0/24", nexthop_id=700), route("10.51.0.0/24", nexthop_id=701)]
    to6 = route("fd00:50::/64", nexthop_id=702)
    assert put(driver, hop, group, hop6, hole, *to, to6) == [None] * 7
    seen = driver.read().objects
    assert [seen.get(it.key) for it in (hop, group, hop6, hole, *to, to6)] == [hop, group, hop6, hole, *to, to6]
    moved = replace(hop, device="up1", gateway=parse_address("203.0.113.7"), onlink=True)
    assert put(driver, moved) == [None]
    assert "dev up1" in run(namespace, "ip route get 10.50.0.1")
    assert drop(driver, *to, to6, group, hop, hop6, hole, hole) == [None] * 8
    assert not [key for key in driver.read().objects if key.kind in (Kind.NEXTHOP, Kind.ROUTE)]


def test_foreign_nexthops_routes_and_rules_are_not_read(namespace: Namespace, driver: RouteDriver) -> None:
    run(namespace, "ip nexthop add id 9 via 192.0.2.9 dev up0")
    run(namespace, "ip route add 10.0.0.0/24 via 192.0.2.9")
    run(namespace, "ip rule add priority 50 fwmark 1 table 100")
    assert {key.kind for key in driver.read().objects} == {Kind.LINK, Kind.ADDRESS}


@pytest.mark.parametrize("version", [4, 6])
def test_ip_rule_changes_in_place(namespace: Namespace, driver: RouteDriver, version) -> None:
    rule = IpRule(version, 100, 0x10, 0xF0, 300)
    assert put(driver, rule, rule) == [None, None]
    changed = replace(rule, table=301)
    assert put(driver, changed) == [None]
    assert driver.read().objects[rule.key] == changed
    assert run(namespace, f"ip -{version} rule").count("100:") == 1
    assert drop(driver, rule, rule) == [None, None]
    assert rule.key not in driver.read().objects


def test_vxlan_device_is_made_changed_remade_and_dropped(namespace: Namespace, driver: RouteDriver) -> None:
    assert put(driver, VXLAN) == [None]
    assert driver.read().objects[VXLAN.key] == VXLAN
    index = run(namespace, "ip -o link show vxlan.t").split(":")[0]
    thinner = replace(VXLAN, mtu=1400, mac=bytes.fromhex("66aabbccddef"))
    assert put(driver, thinner, thinner) == [None, None]
    assert driver.read().objects[VXLAN.key] == thinner
    assert run(namespace, "ip -o link show vxlan.t").split(":")[0] == index
    other = replace(VXLAN, mtu=1400, settings=VxlanSettings(4097, 4790, "up1", parse_address("2001:db8::1")))
    assert put(driver, other) == [None]
    assert driver.read().objects[VXLAN.key] == other
    assert drop(driver, VXLAN, VXLAN) == [None, None]
    assert VXLAN.key not in driver.read().objects


def test_link_that_is_down_reads_so_and_comes_up(namespace: Namespace, driver: RouteDriver) -> None:
    run(namespace, "ip link set up1 down")
    assert driver.read().objects[Key(Kind.LINK, ("up1",))].up is False
    assert put(driver, Link("up1", mtu=1300)) == [None]
    link = driver.read().objects[Key(Kind.LINK, ("up1",))]
    assert (link.up, link.mtu) == (True, 1300)


def test_link_without_settings_or_parent_needs_them_to_be_there(driver: RouteDriver) -> None:
    orphan = replace(VXLAN, settings=VxlanSettings(5, 4789, "nowhere", parse_address("192.0.2.1")))
    assert put(driver, Link("lost0"), orphan) == ["lost0: no such device", "nowhere: no such device"]


@pytest.mark.parametrize("text", ["192.0.2.77/32", "2001:db8::77/128"])
def test_address_reads_back_and_goes(namespace: Namespace, driver: RouteDriver, text: str) -> None:
    wanted = DeviceAddress("up1", address(text))
    assert put(driver, wanted, wanted) == [None, None]
    assert driver.read().objects[wanted.key] == wanted
    assert "tentative" not in run(namespace, "ip addr show dev up1 scope global")
    assert drop(driver, wanted, wanted) == [None, None]
    assert wanted.key not in driver.read().objects


def test_addresses_that_the_kernel_made_are_not_read(driver: RouteDriver) -> None:
    seen = [key.id[0] for key in driver.read().objects if key.kind is Kind.ADDRESS]
    assert seen == ["up0", "up0"]


@pytest.mark.parametrize("text", ["192.0.2.50", "2001:db8::50"])
@pytest.mark.parametrize("proxy", [False, True])
def test_neighbour_reads_back_changes_and_goes(driver: RouteDriver, text: str, proxy: bool) -> None:
    wanted = Neighbour("up0", parse_address(text), b"" if proxy else MAC, proxy)
    moved = wanted if proxy else replace(wanted, mac=bytes.fromhex("66aabbccddef"))
    assert put(driver, wanted, moved) == [None, None]
    assert driver.read().objects[wanted.key] == moved
    assert drop(driver, wanted, wanted) == [None, None]
    assert wanted.key not in driver.read().objects


def test_forwarding_entry_changes_destination_in_place(driver: RouteDriver) -> None:
    entry = FdbEntry("vxlan.t", bytes.fromhex("66aabbccdd01"), parse_address("192.0.2.7"))
    moved = replace(entry, destination=parse_address("192.0.2.8"))
    assert put(driver, VXLAN, entry, entry, moved) == [None] * 4
    assert driver.read().objects[entry.key] == moved
    assert drop(driver, entry, entry) == [None, None]
    assert entry.key not in driver.read().objects


def test_what_hangs_on_a_dropped_device_is_gone_without_error(driver: RouteDriver) -> None:
    entry = FdbEntry("vxlan.t", MAC, parse_address("192.0.2.7"))
    to = route("10.60.0.0/24", device="vxlan.t")
    assert put(driver, VXLAN, entry, to) == [None] * 3
    assert drop(driver, VXLAN, to, entry) == [None] * 3


class _Overtaken(NetlinkSocket):
    """Whenever it has received a part of a dump, a device comes or goes."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__(NETLINK_ROUTE)
        self._namespace = namespace
        self._there = False

    def receive(self, *, wait: bool = True) -> bytes:
        part = super().receive(wait=wait)
        change = ("del", "odd") if self._there else ("add", "odd", "type", "bridge")
        self._namespace.ip("link", *change)
        self._there = not self._there
        return part


def test_a_dump_that_changes_overtake_is_no_whole_one_and_good_enough_for_who_hears_of_them(
    namespace: Namespace,
) -> None:
    names = {f"up{number}" for number in range(60)}
    namespace.run("ip", "-batch", "-", stdin="".join(f"link add {name} type bridge\n" for name in names))
    with in_namespace(namespace.path, lambda: _Overtaken(namespace)) as socket:
        with pytest.raises(NetlinkError, match="changed during every dump"):
            list(dump_links(socket))
        assert names <= {name for _, name, _ in dump_links(socket, torn=True)}
