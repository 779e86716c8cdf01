"""Which device the kernel would send towards an address by, and whether straight to it.

In → out: addresses → ways. One question each (no dump), so for few addresses. Changes nothing.
Source: net/ipv4/route.c (inet_rtm_getroute), net/ipv6/route.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import NamedTuple

from felixpy.addresses import Address
from felixpy.drivers.netlink.codec import attribute, parse_attributes, parse_u32
from felixpy.drivers.netlink.devices import dump_links
from felixpy.drivers.netlink.routes import FAMILY, RTM_GETROUTE
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_VIA = 1, 4, 5, 6, 18
_UNICAST = 1
_RTM_F_FIB_MATCH = 0x2000
_PROTOCOL = -1
_ROUTE = Struct("=BBBBBBBBI")
"""struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""


class Outlet(NamedTuple):
    """Towards an address: the device, and the gateway that it is behind; None where it is on the device's link."""

    device: str
    gateway: Address | None = None


def find_outlets(addresses: Iterable[Address], but_by: int = 0, spared: int = 0) -> Mapping[Address, Outlet]:
    """The way to each address that has one, in the namespace of the calling thread.

    A way behind a gateway that a route of protocol `but_by` gives is none, unless its metric is `spared`.

    Raises  NetlinkError when the kernel does not answer.
    """
    with NetlinkSocket(NETLINK_ROUTE) as socket:
        name_of = {index: name for index, name, _ in dump_links(socket)}
        found = {address: _find(socket, address, name_of, (but_by, spared)) for address in addresses}
    return {address: outlet for address, outlet in found.items() if outlet is not None}


def _find(
    socket: NetlinkSocket, address: Address, name_of: Mapping[int, str], refused: tuple[int, int]
) -> Outlet | None:
    but_by, spared = refused
    told = _ask(socket, address, 0)
    if told is None or _RTA_OIF not in told:
        return None
    device = name_of.get(parse_u32(told[_RTA_OIF]))
    if device is None:
        return None
    if _RTA_VIA in told:
        gateway: Address | None = Address(told[_RTA_VIA][2:])
    else:
        gateway = Address(told[_RTA_GATEWAY]) if _RTA_GATEWAY in told else None
    if gateway is not None and but_by:
        matched = _ask(socket, address, _RTM_F_FIB_MATCH)
        if matched is None:
            return None
        metric = parse_u32(matched[_RTA_PRIORITY]) if _RTA_PRIORITY in matched else 0
        if matched[_PROTOCOL] == bytes([but_by]) and metric != spared:
            return None
    return Outlet(device, gateway)


def _ask(socket: NetlinkSocket, address: Address, flags: int) -> dict[int, bytes] | None:
    """The attributes of the answer, and under _PROTOCOL whose route it is; None where there is no way."""
    size = len(address)
    ask = _ROUTE.pack(FAMILY[size], size * 8, 0, 0, 0, 0, 0, 0, flags) + attribute(_RTA_DST, address)
    try:
        bodies = socket.request(RTM_GETROUTE, 0, ask)
    except NetlinkError:
        return None
    if not bodies or _ROUTE.unpack_from(bodies[0])[7] != _UNICAST:
        return None
    return {**parse_attributes(bodies[0], _ROUTE.size), _PROTOCOL: bodies[0][5:6]}
