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

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_VIA = 1, 4, 5, 18
_UNICAST = 1
_ROUTE = Struct("=BBBBBBBBI")
"""struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""


class Outlet(NamedTuple):
    """Towards an address: the device, and whether the address is on its link (`direct`) or behind a gateway."""

    device: str
    direct: bool


def find_outlets(addresses: Iterable[Address]) -> Mapping[Address, Outlet]:
    """The way to each address that has one, in the namespace of the calling thread.

    Raises  NetlinkError when the kernel does not answer.
    """
    with NetlinkSocket(NETLINK_ROUTE) as socket:
        name_of = {index: name for index, name, _ in dump_links(socket)}
        found = {address: _find(socket, address, name_of) for address in addresses}
    return {address: outlet for address, outlet in found.items() if outlet is not None}


def _find(socket: NetlinkSocket, address: Address, name_of: Mapping[int, str]) -> Outlet | None:
    ask = _ROUTE.pack(FAMILY[len(address)], len(address) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, address)
    try:
        bodies = socket.request(RTM_GETROUTE, 0, ask)
    except NetlinkError:
        return None
    if not bodies or _ROUTE.unpack_from(bodies[0])[7] != _UNICAST:
        return None
    told = parse_attributes(bodies[0], _ROUTE.size)
    device = name_of.get(parse_u32(told[_RTA_OIF])) if _RTA_OIF in told else None
    return Outlet(device, _RTA_GATEWAY not in told and _RTA_VIA not in told) if device is not None else None
