"""Device names to indexes and back.

The kernel's messages carry indexes, ours carry names. A name is looked up anew for every apply, since a renamed or
recreated device changes its index and nothing tells; what is kept lives as long as one apply or one read.
Source: net/core/rtnetlink.c (rtnl_getlink).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from struct import Struct

from felixpy.drivers.netlink.codec import Failure, attribute_text, attribute_u32, parse_attributes, parse_text
from felixpy.drivers.netlink.socket import NetlinkError, NetlinkSocket

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
IFLA_IFNAME = 3
_IFLA_EXT_MASK = 29
_SKIP_STATISTICS = 1 << 3
_NAME_BYTES = 15

LINK_HEADER = Struct("=BxHiII")
"""struct ifinfomsg: family, device type, index, flags, change mask."""


class MissingDevice(NetlinkError):
    """No device has that name (ENODEV)."""

    def __init__(self, name: str) -> None:
        super().__init__(Failure(errno.ENODEV, f"{name}: no such device"))


class Devices:
    """Names and indexes in the namespace of `socket`, each asked for once."""

    def __init__(self, socket: NetlinkSocket) -> None:
        self._socket = socket
        self._index_of: dict[str, int] = {}

    def index_of(self, name: str) -> int:
        """Raises MissingDevice."""
        index = self._index_of.get(name)
        if index is None:
            body = find_link(self._socket, name)
            if body is None:
                raise MissingDevice(name)
            index = self._index_of[name] = LINK_HEADER.unpack_from(body)[2]
        return index

    def forget(self, name: str) -> None:
        """Ask anew next time."""
        self._index_of.pop(name, None)


def find_link(socket: NetlinkSocket, name: str) -> bytes | None:
    """The body of the link message (ifinfomsg and attributes) of the device `name`, or None."""
    if not 0 < len(name.encode()) <= _NAME_BYTES:
        return None
    try:
        bodies = socket.request(RTM_GETLINK, 0, _ask() + attribute_text(IFLA_IFNAME, name))
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return bodies[0]


def dump_links(socket: NetlinkSocket, *, torn: bool = False) -> Iterator[tuple[int, str, bytes]]:
    """Index, name and message body of every device; `torn` as in NetlinkSocket.dump."""
    for body in socket.dump(RTM_GETLINK, _ask(), torn=torn):
        name = parse_text(parse_attributes(body, LINK_HEADER.size).get(IFLA_IFNAME, b""))
        yield LINK_HEADER.unpack_from(body)[2], name, body


def _ask() -> bytes:
    return LINK_HEADER.pack(0, 0, 0, 0, 0) + attribute_u32(_IFLA_EXT_MASK, _SKIP_STATISTICS)
