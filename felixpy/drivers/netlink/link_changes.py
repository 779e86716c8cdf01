"""Makes the kernel's devices as asked: a device that cannot be changed into what it should be is made anew.

In → out: a Link or a name → requests, one after the other, since each depends on what the last found. Leaves alone what
a Link does not say (a MAC, an mtu). Source: net/core/rtnetlink.c, drivers/net/vxlan, net/ipv4/ipip.c.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from felixpy.dataplane.objects import IpipSettings, Link, VxlanSettings
from felixpy.drivers.netlink import links
from felixpy.drivers.netlink.codec import NLM_F_CREATE, NLM_F_EXCL
from felixpy.drivers.netlink.devices import (
    LINK_HEADER,
    RTM_DELLINK,
    RTM_NEWLINK,
    Devices,
    MissingDevice,
    find_link,
)
from felixpy.drivers.netlink.socket import NetlinkError, NetlinkSocket
from felixpy.drivers.outcomes import ABSENT


def put_link(socket: NetlinkSocket, link: Link, devices: Devices) -> None:
    """Makes the device, or changes the one that has its name.

    Raises  MissingDevice for one that is not ours to make, or whose parent is not there; NetlinkError.
    """
    body = find_link(socket, link.name)
    if body is not None and link.settings is not None:
        parent = link.settings.parent if isinstance(link.settings, VxlanSettings) else ""
        name_of = {devices.index_of(parent): parent} if parent else {}
        if links.parse_link(body, name_of).settings != link.settings:
            socket.request(RTM_DELLINK, 0, links.encode_link_drop(LINK_HEADER.unpack_from(body)[2]))
            body = None
    if body is None:
        if link.settings is None:
            raise MissingDevice(link.name)
        try:
            socket.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, links.encode_link(link, devices.index_of))
            return
        except NetlinkError as error:
            body = find_link(socket, link.name)
            if error.errno != errno.EEXIST or body is None:
                raise
    index = LINK_HEADER.unpack_from(body)[2]
    have = links.parse_link(body, {})
    if have != replace(have, mtu=link.mtu or have.mtu, mac=link.mac or have.mac, up=link.up):
        socket.request(RTM_NEWLINK, 0, links.encode_link(replace(link, settings=None), devices.index_of, index))


def drop_link(socket: NetlinkSocket, name: str) -> None:
    """Removes the device; one of IPIP, which may be the kernel's own, is set down first.

    Raises  NetlinkError.
    """
    body = find_link(socket, name)
    if body is None:
        return
    index = LINK_HEADER.unpack_from(body)[2]
    if isinstance(links.parse_link(body, {}).settings, IpipSettings):
        socket.request(RTM_NEWLINK, 0, links.encode_link_down(index))
    try:
        socket.request(RTM_DELLINK, 0, links.encode_link_drop(index))
    except NetlinkError as error:
        if error.errno not in ABSENT:
            raise
