"""The raw sockets of one interface: ARP and Neighbour Discovery frames in and out, and the groups to hear them.

In      an interface; frames to send. Out: frames that came for this host, for a group or for all.
Never   looks into a frame, nor puts an address on the interface. What cannot be sent is lost, as on the wire.
Source  packet(7), socket(7) (SO_ATTACH_FILTER), ipv6(7) (IPV6_JOIN_GROUP: multicast filter of the device, and MLD for
        switches that snoop, RFC 4541).
"""

from __future__ import annotations

import errno
import socket
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from struct import Struct, pack

from birdpy.l2.packets import ARP_ETHERTYPE, IPV6_ETHERTYPE, solicited_node
from birdpy.l2.segment import Interface

FRAME_BYTES = 2048
FRAMES_AT_ONCE = 64
"""Frames read from one socket before the others have their turn."""
RECEIVE_BUFFER_BYTES = 1 << 20
_FOR_US = (0, 1, 2)
"""PACKET_HOST, PACKET_BROADCAST, PACKET_MULTICAST; never what a promiscuous device hears besides."""
_SO_ATTACH_FILTER = 26
_LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x30, 0x15, 0x06
_NEIGHBOUR_DISCOVERY = (
    (_LOAD_BYTE, 0, 0, 20),
    (_JUMP_EQUAL, 0, 3, 58),
    (_LOAD_BYTE, 0, 0, 54),
    (_JUMP_EQUAL, 2, 0, 135),
    (_JUMP_EQUAL, 1, 0, 136),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, FRAME_BYTES),
)
"""ICMPv6 of types 135 and 136, right behind the IPv6 header; offsets from the Ethernet header."""
_MEMBERSHIP = Struct("=16sI")


class Port:
    """Sockets on one interface. `sockets` are to be watched; `read` one that can be read.

    Raises  OSError when the interface has gone, or raw sockets may not be made.
    """

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self._arp = _open(interface.name, ARP_ETHERTYPE)
        self._nd = _open(interface.name, IPV6_ETHERTYPE)
        self._groups: dict[bytes, socket.socket] = {}
        self._members: list[socket.socket] = []

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return (self._arp, self._nd)

    def close(self) -> None:
        for one in (self._arp, self._nd, *self._members):
            one.close()
        self._groups.clear()

    def send(self, frames: Iterable[bytes]) -> None:
        """Sends frames; those that the device does not take now are lost."""
        for frame in frames:
            target = self._arp if frame[12:14] == b"\x08\x06" else self._nd
            with suppress(OSError):
                target.send(frame)

    @staticmethod
    def read(readable: socket.socket) -> Iterator[bytes]:
        """Frames that have come, some at a time."""
        for _ in range(FRAMES_AT_ONCE):
            try:
                frame, sender = readable.recvfrom(FRAME_BYTES)
            except OSError:
                return
            if sender[2] in _FOR_US:
                yield frame

    def hear_groups(self, addresses: Iterable[bytes]) -> None:
        """Belongs to the solicited-node groups of these addresses from now on, and to no others."""
        wanted = {solicited_node(address) for address in addresses if len(address) == 16}
        for group in self._groups.keys() - wanted:
            with suppress(OSError):
                self._groups.pop(group).setsockopt(
                    socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, _MEMBERSHIP.pack(group, self.interface.number)
                )
        for group in wanted - self._groups.keys():
            self._join(group)

    def _join(self, group: bytes) -> None:
        """Memberships of one socket are limited by its option memory (net.core.optmem_max); then takes another."""
        option = _MEMBERSHIP.pack(group, self.interface.number)
        for fresh in (False, True):
            if fresh or not self._members:
                self._members.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
            try:
                self._members[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, option)
            except OSError as error:
                if error.errno in (errno.ENOBUFS, errno.ENOMEM) and not fresh:
                    continue
                return
            self._groups[group] = self._members[-1]
            return


def _open(device: str, ethertype: int) -> socket.socket:
    """A raw socket that hears one protocol on one device, and nothing before it is bound."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if ethertype == IPV6_ETHERTYPE:
            program = array("B", b"".join(pack("=HBBI", *one) for one in _NEIGHBOUR_DISCOVERY))
            address, _ = program.buffer_info()
            made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pack("@HP", len(_NEIGHBOUR_DISCOVERY), address))
        made.bind((device, ethertype))
    except BaseException:
        made.close()
        raise
    return made
