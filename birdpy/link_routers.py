"""Who the router at the other end of a link is, where a session names the link alone (unnumbered).

In: devices. Out: the link-local address heard on each. As FRR does it: router advertisements go out, with lifetime 0,
since nobody is to have us for a default route, and the sender of those that come in is the neighbour. The first one
heard stays until its link goes down, or another speaks and it does not answer; so does one whose session a gobgpd of an
earlier run has. Configures nothing on the device.
Source: RFC 4861 §4.1, §4.2, §6.1 (what makes an advertisement valid), RFC 8950 for what it is good for.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fcntl import ioctl
from struct import Struct
from time import monotonic

from birdpy.addresses import device_of, format_address, is_link_local, on_link

_log = logging.getLogger(__name__)

ASK_S = 1.0
"""Between two solicitations while nobody is heard."""
ADVERTISE_S = 10.0
"""FRR's interval on such links."""
SILENT_S = 5.0
"""Who does not answer for so long while another speaks gives way to him. A router may take 3.5 s (RFC 4861 §6.2.6)."""
_SOLICITATION, _ADVERTISEMENT = 133, 134
_ALL_NODES, _ALL_ROUTERS = "ff02::1", "ff02::2"
_HOP_LIMIT = 255
_ICMP6_FILTER = 1
_ADVERT = Struct("!BBHBBHII")
"""Type, code, checksum (the kernel's work), hop limit, flags, router lifetime, reachable and retransmission time."""
_SOLICIT = Struct("!BBHI")
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40
_FLAGS = Struct("=H")
"""In struct ifreq, behind the name."""
_PACKET_BYTES_MOST = 2048
_READS_MOST = 64


@dataclass(slots=True)
class _Link:
    """A device that is listened on; `router` is who was heard. `rival_s`: since when another speaks and he does not."""

    device: str
    index: int
    socket: socket.socket
    router: bytes | None = None
    rival_s: float | None = None
    told_s: float = 0.0
    timer: asyncio.TimerHandle | None = None


class LinkRouters:
    """Told what to listen on by `want`; calls `changed` whenever `routers` is another than before."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._wanted: frozenset[str] = frozenset()
        self._links: dict[str, _Link] = {}

    @property
    def routers(self) -> Mapping[str, bytes]:
        """The address of the router on each device where one was heard."""
        return {device: link.router for device, link in self._links.items() if link.router is not None}

    def want(self, devices: frozenset[str]) -> None:
        """Listens on these devices and no other. One that is not there yet is taken when `look` finds it."""
        self._wanted = devices
        for device in self._links.keys() - devices:
            self._close(device)
        for device in devices - self._links.keys():
            self._open(device)

    def remember(self, neighbors: Iterable[bytes]) -> None:
        """Takes those of an earlier run of ours for the routers of their links, where nobody is heard yet.

        They have sessions, which would end if they had to be heard again first.
        """
        found = False
        for address in neighbors:
            link = self._links.get(device_of(address))
            if link is not None and link.router is None:
                link.router, found = address, True
        if found:
            self._changed()

    def look(self) -> None:
        """Some device changed: whoever was heard on one that lost its carrier has to be heard again."""
        ended = [device for device, link in self._links.items() if _running_index(device) != link.index]
        known = [device for device in ended if self._close(device)]
        for device in self._wanted - self._links.keys():
            self._open(device)
        if known:
            self._changed()

    def _open(self, device: str) -> None:
        index = _running_index(device)
        if not index:
            return
        try:
            listening = _listen(device, index)
        except OSError as error:
            _log.warning("%s cannot be listened on for a router: %s", device, error)
            return
        link = self._links[device] = _Link(device, index, listening)
        asyncio.get_running_loop().add_reader(listening, self._read, link)
        self._tick(link)

    def _close(self, device: str) -> bool:
        """Whether a router was known there."""
        link = self._links.pop(device)
        asyncio.get_running_loop().remove_reader(link.socket)
        link.socket.close()
        if link.timer is not None:
            link.timer.cancel()
        return link.router is not None

    def _tick(self, link: _Link) -> None:
        self._send(link, _ADVERT.pack(_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0), _ALL_NODES)
        asking = link.router is None or link.rival_s is not None
        if asking:
            self._send(link, _SOLICIT.pack(_SOLICITATION, 0, 0, 0), _ALL_ROUTERS)
        link.told_s = monotonic()
        wait_s = ASK_S if asking else ADVERTISE_S
        link.timer = asyncio.get_running_loop().call_later(wait_s, self._tick, link)

    def _send(self, link: _Link, packet: bytes, group: str) -> None:
        """What cannot go out now, for want of carrier or of an address, goes with the next."""
        try:
            link.socket.sendto(packet, (group, 0))
        except OSError as error:
            _log.debug("%s: nothing sent: %s", link.device, error)

    def _read(self, link: _Link) -> None:
        for _ in range(_READS_MOST):
            try:
                packet, ancillary, _, sender = link.socket.recvmsg(_PACKET_BYTES_MOST, socket.CMSG_SPACE(4))
            except OSError:
                return
            source = socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0])
            hops = [int.from_bytes(data, sys.byteorder) for _, kind, data in ancillary if kind == socket.IPV6_HOPLIMIT]
            if hops != [_HOP_LIMIT] or len(packet) < _SOLICIT.size or packet[1]:
                continue
            if packet[0] == _SOLICITATION:
                self._answer(link)
            elif len(packet) >= _ADVERT.size and is_link_local(source):
                self._hear(link, on_link(source, link.device))

    def _answer(self, link: _Link) -> None:
        if monotonic() - link.told_s >= ASK_S and link.timer is not None:
            link.timer.cancel()
            self._tick(link)

    def _hear(self, link: _Link, router: bytes) -> None:
        if link.router == router:
            link.rival_s = None
            return
        if link.router is not None and link.rival_s is None:
            link.rival_s = monotonic()
            self._answer(link)
        elif link.router is None or (link.rival_s is not None and monotonic() - link.rival_s >= SILENT_S):
            link.rival_s = None
            link.router = router
            _log.info("the router on %s is %s", link.device, format_address(router))
            self._changed()


def _running_index(device: str) -> int:
    """The number of a device that has a carrier; 0 where there is none."""
    request = device.encode().ljust(40, b"\0")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking:
        try:
            (flags,) = _FLAGS.unpack_from(ioctl(asking, _SIOCGIFFLAGS, request), 16)
            return socket.if_nametoindex(device) if flags & _IFF_RUNNING else 0
        except OSError:
            return 0


def _listen(device: str, index: int) -> socket.socket:
    """A socket for solicitations and advertisements of one link.

    Raises  OSError when there is no such device, or it is down.
    """
    found = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    try:
        passed = bytearray(b"\xff" * 32)
        for kind in (_SOLICITATION, _ADVERTISEMENT):
            passed[kind // 32 * 4 + kind % 32 // 8] &= ~(1 << kind % 8) & 0xFF
        found.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(passed))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        membership = socket.inet_pton(socket.AF_INET6, _ALL_ROUTERS) + index.to_bytes(4, sys.byteorder)
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    except OSError:
        found.close()
        raise
    return found
