"""Events from a real kernel: what others change is told, what we change is not, and loss is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from felixpy.addresses import Prefix, parse_address, parse_prefix
from felixpy.dataplane.objects import Chain, DeviceAddress, FdbEntry, Key, Link, Neighbour, NextHop, Put, Route, Sysctl
from felixpy.dataplane.objects import VxlanSettings as Vxlan
from felixpy.dataplane.rules import Accept, Rule
from felixpy.drivers.driver import KernelDriver
from felixpy.drivers.netlink import socket as netlink_socket
from felixpy.drivers.netlink.monitor import (
    AddressChanged,
    KernelEvent,
    LinkChanged,
    NeighbourChanged,
    NextHopChanged,
    NftChanged,
    Overrun,
    RouteChanged,
    SettingChanged,
    watch_kernel,
)
from felixpy.drivers.netlink.socket import in_namespace
from tests.support.netns import Namespace


class Heard:
    """The events so far, and waiting for one more."""

    def __init__(self, events: AsyncIterator[KernelEvent]) -> None:
        self._events = events
        self.all: list[KernelEvent] = []

    async def until(self, wanted: Callable[[KernelEvent], bool]) -> KernelEvent:
        async with asyncio.timeout(40):
            async for event in self._events:
                self.all.append(event)
                if wanted(event):
                    return event
        raise AssertionError(f"ended after {self.all}")

    async def device(self, name: str, **state: object) -> LinkChanged:
        """The next change that leaves the device so."""

        def wanted(event: KernelEvent) -> bool:
            same = isinstance(event, LinkChanged) and event.name == name
            return same and all(getattr(event, field) == value for field, value in state.items())

        event = await self.until(wanted)
        assert isinstance(event, LinkChanged)
        return event


@pytest.fixture
async def driver(namespace: Namespace) -> AsyncIterator[KernelDriver]:
    with in_namespace(namespace.path, KernelDriver) as it:
        yield it


@pytest.fixture
async def heard(namespace: Namespace, driver: KernelDriver) -> AsyncIterator[Heard]:
    namespace.ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
    for name in ("up0", "far0"):
        namespace.ip("link", "set", name, "up")
    async with aclosing(in_namespace(namespace.path, lambda: watch_kernel(driver.port_ids))) as events:
        yield Heard(events)


def marker(namespace: Namespace) -> None:
    """Something to wait for, behind which nothing else is to come."""
    namespace.ip("link", "add", "marker", "type", "bridge")


async def test_device_comes_up_is_renamed_and_goes(namespace: Namespace, heard: Heard) -> None:
    namespace.ip("link", "add", "new0", "mtu", "1400", "type", "veth", "peer", "name", "new1")
    made = await heard.device("new0")
    assert (made.mtu, made.gone, made.up) == (1400, False, False)
    namespace.ip("link", "set", "new0", "up")
    assert (await heard.device("new0", up=True)).mac == made.mac
    namespace.ip("link", "set", "new0", "down")
    namespace.ip("link", "set", "new0", "name", "other0")
    assert (await heard.device("other0")).index == made.index
    namespace.ip("route", "add", "10.9.0.0/24", "dev", "up0", "proto", "176")
    namespace.ip("link", "del", "other0")
    await heard.device("other0", gone=True)


async def test_address_neighbour_route_and_nexthop_are_told(namespace: Namespace, heard: Heard) -> None:
    for command in (
        "address add 192.0.2.1/24 dev up0",
        "neighbour add 192.0.2.9 lladdr 66:aa:bb:cc:dd:ee dev up0",
        "neighbour add 192.0.2.10 lladdr 66:aa:bb:cc:dd:ee dev up0",
        "neighbour del 192.0.2.10 dev up0",
        "nexthop add id 9 via 192.0.2.9 dev up0 protocol 176",
        "route add 10.0.0.0/24 dev up0 proto 176",
        "-6 route add fd00::/64 dev up0 proto 177",
        "route del 10.0.0.0/24",
    ):
        namespace.ip(*command.split())
    route, route6 = Route(parse_prefix("10.0.0.0/24"), 176), Route(parse_prefix("fd00::/64"), 177)
    await heard.until(lambda event: event == RouteChanged(route.key, 176, gone=True))
    neighbour = Neighbour("up0", parse_address("192.0.2.9"), bytes.fromhex("66aabbccddee"))
    for expected in (
        AddressChanged("up0", Prefix(parse_address("192.0.2.1"), 24), gone=False),
        NeighbourChanged(neighbour.key, False, neighbour),
        NeighbourChanged(Neighbour("up0", parse_address("192.0.2.10")).key, gone=True),
        NextHopChanged(NextHop(9).key, 176, gone=False),
        RouteChanged(route.key, 176, gone=False),
        RouteChanged(route6.key, 177, gone=False),
    ):
        assert expected in heard.all


async def test_what_we_change_is_not_told(namespace: Namespace, heard: Heard, driver: KernelDriver) -> None:
    vxlan = Link("vx0", Vxlan(9, 4789, "up0", parse_address("192.0.2.1")))
    objects = (
        DeviceAddress("up0", Prefix(parse_address("192.0.2.1"), 32)),
        Neighbour("up0", parse_address("192.0.2.9"), b"\x66" * 6),
        NextHop(9, None, "up0", protocol=176),
        Route(parse_prefix("10.0.0.0/24"), 176, device="up0"),
        Chain("a", (Rule(Accept()),)),
    )
    assert [outcome.error for outcome in driver.apply([Put(it) for it in (vxlan, *objects)])] == [None] * 6
    namespace.run("nft", "add", "table", "inet", "other")
    namespace.run("nft", "add", "rule", "inet", "felixpy", "a", "drop")
    await heard.until(lambda event: isinstance(event, NftChanged))
    marker(namespace)
    await heard.device("marker")
    ours: set[Key] = {it.key for it in objects} | {FdbEntry("vx0", bytes(6), parse_address("192.0.2.1")).key}
    assert [event for event in heard.all if getattr(event, "key", None) in ours] == []
    assert [event for event in heard.all if isinstance(event, AddressChanged | NftChanged)] == [NftChanged("felixpy")]


@pytest.mark.parametrize(
    "change",
    [
        "flush ruleset",
        "delete table inet felixpy",
        "flush chain inet felixpy a",
        "add rule inet felixpy a accept",
        "add set inet felixpy s { type ipv4_addr; }",
        "delete chain inet felixpy empty",
    ],
)
async def test_foreign_change_of_our_table_is_told(
    namespace: Namespace, heard: Heard, driver: KernelDriver, change: str
) -> None:
    driver.apply([Put(Chain("a", (Rule(Accept()),))), Put(Chain("empty"))])
    namespace.run("nft", "-f", "-", stdin=change)
    assert await heard.until(lambda event: isinstance(event, NftChanged)) == NftChanged("felixpy")


async def test_a_setting_of_a_device_is_told(namespace: Namespace, heard: Heard) -> None:
    marker(namespace)
    await heard.device("marker")
    for path in (
        "net/ipv4/conf/up0/rp_filter",
        "net/ipv4/conf/up0/proxy_arp",
        "net/ipv4/conf/marker/forwarding",
        "net/ipv6/conf/up0/proxy_ndp",
        "net/ipv6/conf/up0/forwarding",
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
    ):
        value = "0" if namespace.run("cat", f"/proc/sys/{path}").strip() == "1" else "1"
        namespace.sysctl(**{path.removeprefix("net/").replace("/", "__"): value})
        told = SettingChanged(Sysctl(path, value))
        assert await heard.until(lambda event, told=told: event == told) == told  # type: ignore[misc]


async def test_lost_events_are_an_overrun_and_later_ones_are_told(
    namespace: Namespace, driver: KernelDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netlink_socket, "RECEIVE_BUFFER_BYTES", 65536)
    namespace.ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
    namespace.ip("link", "set", "up0", "up")
    async with aclosing(in_namespace(namespace.path, watch_kernel)) as events:
        heard = Heard(events)
        driver.apply([Put(Route(parse_prefix(f"10.0.{i >> 8}.{i & 255}"), 176, device="up0")) for i in range(2000)])
        await heard.until(lambda event: event == Overrun())
        marker(namespace)
        await heard.until(lambda event: isinstance(event, LinkChanged) and event.name == "marker")
