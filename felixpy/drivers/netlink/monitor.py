"""What others do to the kernel of this namespace, as it happens.

In → out: multicast netlink → typed events. When the kernel had to throw events away an `Overrun` says so, and only
reading everything helps. Changes of whoever is to be ignored are left out: in nftables by the kernel itself, so that
our own large transactions cost nothing here. Decides nothing, changes nothing.
Source: rtnetlink(7) groups; net/netfilter/nf_tables_api.c (nft_commit_notify); linux/filter.h.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from struct import Struct

from felixpy.addresses import Prefix
from felixpy.dataplane.nftables import TABLE
from felixpy.dataplane.objects import FdbEntry, Key, Neighbour, Sysctl
from felixpy.drivers.netlink import links, neighbours, routes, settings
from felixpy.drivers.netlink.codec import Message, parse_attributes, parse_text, split_messages
from felixpy.drivers.netlink.devices import LINK_HEADER, RTM_DELLINK, RTM_NEWLINK, dump_links
from felixpy.drivers.netlink.nft.encode import SUBSYSTEM
from felixpy.drivers.netlink.socket import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket

DATAGRAMS_PER_TURN = 64
"""Read at most so many before others on the event loop have their turn."""
MOST_DISCARDED = 100_000
"""More than the receive buffer holds."""

_ROUTE_GROUPS = (1, 3, 5, 9, 7, 11, 24, 25, 32)
"""RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV6_IFADDR, IPV4_ROUTE, IPV6_ROUTE, IPV4_NETCONF, IPV6_NETCONF, NEXTHOP."""
_NFTABLES_GROUP = 7
_TABLE_ATTRIBUTES_AT = 4
_SOCK_FILTER = Struct("=HBBI")
_NATIVE = Struct("=I")
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_PORT_ID_AT = 12


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A device came, changed or went (`gone`). mtu in bytes; mac is None where it is not 6 bytes long."""

    name: str
    index: int
    up: bool
    mac: bytes | None
    mtu: int
    gone: bool


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """An address of a device came or went; the kernel's own (loopback, link-local) are not told."""

    device: str
    prefix: Prefix
    gone: bool


@dataclass(frozen=True, slots=True)
class NeighbourChanged:
    """A permanent neighbour entry, or a forwarding entry, came or went; of proxy entries the kernel tells nothing.

    Learned neighbours that went are told too: the kernel does not say what they were. `entry` is what is there now.
    """

    key: Key
    gone: bool
    entry: Neighbour | FdbEntry | None = None


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """A route came, changed or went. Those that go with their device are not told: see LinkChanged."""

    key: Key
    protocol: int
    gone: bool


@dataclass(frozen=True, slots=True)
class NextHopChanged:
    """A nexthop object came, changed or went."""

    key: Key
    protocol: int
    gone: bool


@dataclass(frozen=True, slots=True)
class SettingChanged:
    """A sysctl of those that the kernel tells of had this value when it was told; whoever set it."""

    setting: Sysctl


@dataclass(frozen=True, slots=True)
class NftChanged:
    """Someone changed something in our nftables table."""

    table: str


@dataclass(frozen=True, slots=True)
class Overrun:
    """Events were lost: read everything again."""


KernelEvent = (
    LinkChanged
    | AddressChanged
    | NeighbourChanged
    | RouteChanged
    | NextHopChanged
    | SettingChanged
    | NftChanged
    | Overrun
)


def watch_kernel(ignore: Collection[int] = (), table: str = TABLE) -> AsyncIterator[KernelEvent]:
    """Events of the namespace that this is called in, from the call on; for ever, until the iterator is closed.

    `ignore` holds the port ids of sockets whose changes are not told (`KernelDriver.port_ids`); those of links and
    settings are, since the kernel does not say who caused them.

    Raises  OSError when the sockets cannot be had.
    """
    route, netfilter, asking = (NetlinkSocket(it) for it in (NETLINK_ROUTE, NETLINK_NETFILTER, NETLINK_ROUTE))
    for group in _ROUTE_GROUPS:
        route.join_group(group)
    netfilter.attach_filter(_drop_from(ignore))
    netfilter.join_group(_NFTABLES_GROUP)
    return _events(route, netfilter, _Translator(asking, frozenset(ignore), table))


async def _events(
    route: NetlinkSocket, netfilter: NetlinkSocket, translator: _Translator
) -> AsyncIterator[KernelEvent]:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    sockets = {route: translator.translate_route, netfilter: translator.translate_nft}
    for socket in sockets:
        loop.add_reader(socket.fileno(), readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            for socket, translate in sockets.items():
                try:
                    for message in _receive(socket):
                        event = translate(message)
                        if event is not None:
                            yield event
                except OSError:
                    _discard(socket)
                    translator.refresh()
                    yield Overrun()
            await asyncio.sleep(0)
    finally:
        for socket in sockets:
            loop.remove_reader(socket.fileno())
            socket.close()
        translator.close()


def _receive(socket: NetlinkSocket) -> Iterator[Message]:
    """The messages that are there now, up to a limit; OSError when some were lost."""
    for _ in range(DATAGRAMS_PER_TURN):
        try:
            datagram = socket.receive(wait=False)
        except BlockingIOError:
            return
        yield from split_messages(datagram)


def _discard(socket: NetlinkSocket) -> None:
    """Empties the queue: until it is empty the kernel throws further events away, and does not say so again."""
    for _ in range(MOST_DISCARDED):
        try:
            socket.receive(wait=False)
        except BlockingIOError:
            return
        except OSError:
            continue


class _Translator:
    """Messages to events; keeps the devices' names by the events themselves."""

    def __init__(self, asking: NetlinkSocket, ignore: frozenset[int], table: str) -> None:
        self._asking = asking
        self._ignore = ignore
        self._table = table
        self._name_of: dict[int, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Asks the kernel for the names; of those that change meanwhile events will tell, as they are heard by now."""
        self._name_of = {index: name for index, name, _ in dump_links(self._asking, torn=True)}

    def close(self) -> None:
        """Gives the socket back."""
        self._asking.close()

    def translate_nft(self, message: Message) -> KernelEvent | None:
        """Any message about our table; the one that ends a transaction names none."""
        if message.type >> 8 != SUBSYSTEM:
            return None
        name = parse_attributes(message.body, _TABLE_ATTRIBUTES_AT).get(1, b"")
        return NftChanged(self._table) if parse_text(name) == self._table else None

    def translate_route(self, message: Message) -> KernelEvent | None:
        """Links whoever caused it, the rest unless ignored."""
        if message.type in (RTM_NEWLINK, RTM_DELLINK):
            return self._link(message.body, message.type == RTM_DELLINK)
        if message.port_id in self._ignore:
            return None
        match message.type:
            case links.RTM_NEWADDR | links.RTM_DELADDR:
                address = links.parse_device_address(message.body, self._name_of)
                gone = message.type == links.RTM_DELADDR
                return AddressChanged(address.device, address.prefix, gone) if address else None
            case neighbours.RTM_NEWNEIGH | neighbours.RTM_DELNEIGH:
                return self._neighbour(message.body, message.type == neighbours.RTM_DELNEIGH)
            case routes.RTM_NEWROUTE | routes.RTM_DELROUTE:
                route = routes.RouteDecoder(self._name_of).parse(message.body)
                return RouteChanged(route.key, route.protocol, message.type == routes.RTM_DELROUTE) if route else None
            case routes.RTM_NEWNEXTHOP | routes.RTM_DELNEXTHOP:
                hop = routes.parse_nexthop(message.body, self._name_of)
                return NextHopChanged(hop.key, hop.protocol, message.type == routes.RTM_DELNEXTHOP)
            case settings.RTM_NEWNETCONF:
                setting = settings.parse_setting(message.body, self._name_of)
                return SettingChanged(setting) if setting else None
            case _:
                return None

    def _link(self, body: bytes, gone: bool) -> KernelEvent | None:
        family, _, index, _, _ = LINK_HEADER.unpack_from(body)
        if family != 0:
            return None
        link = links.parse_link(body, self._name_of)
        if gone:
            self._name_of.pop(index, None)
        else:
            self._name_of[index] = link.name
        return LinkChanged(link.name, index, link.up, link.mac, link.mtu, gone)

    def _neighbour(self, body: bytes, gone: bool) -> KernelEvent | None:
        if gone and body[0] != neighbours.AF_BRIDGE:
            key = neighbours.parse_gone_neighbour(body, self._name_of)
            return NeighbourChanged(key, gone) if key else None
        parse = neighbours.parse_fdb if body[0] == neighbours.AF_BRIDGE else neighbours.parse_neighbour
        entry = parse(body, self._name_of)
        return NeighbourChanged(entry.key, gone, None if gone else entry) if entry else None


def _drop_from(port_ids: Collection[int]) -> bytes:
    """A socket filter that lets a datagram pass unless its first message carries one of these port ids."""
    port_ids = sorted(port_ids)
    program = [_SOCK_FILTER.pack(_LOAD_WORD, 0, 0, _PORT_ID_AT)]
    for position, port_id in enumerate(port_ids):
        swapped = int.from_bytes(_NATIVE.pack(port_id), "big")
        program.append(_SOCK_FILTER.pack(_JUMP_IF_EQUAL, len(port_ids) - position, 0, swapped))
    program.append(_SOCK_FILTER.pack(_RETURN, 0, 0, 0xFFFFFFFF))
    program.append(_SOCK_FILTER.pack(_RETURN, 0, 0, 0))
    return b"".join(program)
