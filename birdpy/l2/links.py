"""The interfaces that questions for Service addresses may come in by, followed by netlink.

In      rtnetlink messages of this network namespace. Out: usable interfaces by their number, as they are now.
Never   changes anything. A lost message (overrun) is made up for by a new dump.
Source  linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h; MetalLB's internal/layer2/announcer.go (which are usable)
        and excludel2.yaml (which never are).
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator, Mapping
from struct import Struct

from birdpy.l2.segment import Interface

EXCLUDED = re.compile(
    r"^(docker|cbr|dummy|virbr|lxcbr|veth|lo$|cali|tunl|vxlan|flannel|kube-ipvs|cni|nodelocaldns|lxc)"
)
"""Devices that lead to pods, other hosts' tunnels, or nowhere: nobody asks for a Service address there."""

_HEADER = Struct("=IHHII")
_LINK = Struct("=BxHiII")
_ADDRESS = Struct("=BBBBI")
_ATTRIBUTE = Struct("=HH")
_ERROR, _DONE = 2, 3
_NEW_LINK, _DEL_LINK, _GET_LINK, _NEW_ADDRESS, _DEL_ADDRESS, _GET_ADDRESS = 16, 17, 18, 20, 21, 22
_REQUEST_DUMP = 0x301
_GROUPS = 0x1 | 0x100  # RTMGRP_LINK, RTMGRP_IPV6_IFADDR
_UP, _BROADCAST, _LOOPBACK, _RUNNING, _NOARP = 0x1, 0x2, 0x8, 0x40, 0x80
_ETHERNET = 1
_IFLA_ADDRESS, _IFLA_NAME, _IFLA_MASTER, _IFA_ADDRESS = 1, 3, 10, 1
_SCOPE_LINK = 253
_TENTATIVE_OR_FAILED = 0x48
_ATTRIBUTE_TYPE = 0x3FFF
_RECEIVE_BYTES = 1 << 16
_DUMP_TIMEOUT_S = 5.0
_DUMP_ATTEMPTS = 10


class Links:
    """The usable interfaces. Register `fileno` for reading, and call `read` then.

    Raises  OSError when the kernel cannot be asked.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS))
        self._links: dict[int, Interface] = {}
        self._link_local: dict[int, bytes] = {}
        self._dump()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def usable(self) -> Mapping[int, Interface]:
        """All of them now, by their number."""
        return {
            number: link._replace(link_local=self._link_local.get(number, b"")) for number, link in self._links.items()
        }

    def read(self) -> None:
        """Takes in what has come."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._dump()
                return
            self._take(data)

    def _dump(self) -> None:
        """Reads all anew, and once more where changes that came meanwhile were too many for the socket, too."""
        for _ in range(_DUMP_ATTEMPTS - 1):
            try:
                return self._dump_once()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        return self._dump_once()

    def _dump_once(self) -> None:
        self._links.clear()
        self._link_local.clear()
        self._socket.settimeout(_DUMP_TIMEOUT_S)
        for kind, body in ((_GET_LINK, _LINK.pack(0, 0, 0, 0, 0)), (_GET_ADDRESS, bytes([socket.AF_INET6, *bytes(7)]))):
            self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_DUMP, kind, 0) + body)
            while not self._take(self._socket.recv(_RECEIVE_BYTES)):
                pass
        self._socket.setblocking(False)

    def _take(self, data: bytes) -> bool:
        """Whether a dump has come to its end."""
        place = 0
        ended = False
        while place + _HEADER.size <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, place)
            if length < _HEADER.size:
                break
            body = data[place + _HEADER.size : place + length]
            if kind in (_NEW_LINK, _DEL_LINK):
                self._take_link(body, kind == _NEW_LINK)
            elif kind in (_NEW_ADDRESS, _DEL_ADDRESS):
                self._take_address(body, kind == _NEW_ADDRESS)
            ended = ended or kind in (_DONE, _ERROR)
            place += (length + 3) & ~3
        return ended

    def _take_link(self, body: bytes, new: bool) -> None:
        family, kind, number, flags, _ = _LINK.unpack_from(body)
        if family:
            return  # a bridge tells its ports' state in messages of its own family
        attributes = dict(_attributes(body[_LINK.size :]))
        name = attributes.get(_IFLA_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
        mac = attributes.get(_IFLA_ADDRESS, b"")
        wanted = _UP | _BROADCAST | _RUNNING
        ready = new and flags & wanted == wanted and not flags & (_LOOPBACK | _NOARP) and _IFLA_MASTER not in attributes
        if ready and kind == _ETHERNET and len(mac) == 6 and not EXCLUDED.match(name):
            self._links[number] = Interface(name, number, mac)
        else:
            self._links.pop(number, None)

    def _take_address(self, body: bytes, new: bool) -> None:
        family, _, flags, scope, number = _ADDRESS.unpack_from(body)
        if family != socket.AF_INET6 or scope != _SCOPE_LINK or flags & _TENTATIVE_OR_FAILED:
            return
        address = dict(_attributes(body[_ADDRESS.size :])).get(_IFA_ADDRESS, b"")
        if new:
            self._link_local.setdefault(number, address)
        elif self._link_local.get(number) == address:
            del self._link_local[number]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _ATTRIBUTE_TYPE, data[place + _ATTRIBUTE.size : place + length]
        place += (length + 3) & ~3
