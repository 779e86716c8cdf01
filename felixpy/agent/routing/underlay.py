"""The devices of a host that hold its addresses, and the mtu of the one that it reaches other nodes by.

In: kernel events; out: devices by address, bytes. Reads the kernel when asked for the first time, and again after a
device or an address has changed. The mtu is that of the device with the node's address; where no address is known, the
smallest among the devices whose names Calico takes for a machine's own. So it is where the address is on loopback, as
hosts have it whose links have none: loopback's own mtu (65536) is no link's, and no pod's device can have it.
Source: felix/dataplane/linux/int_dataplane.go (findHostMTU), felix/config (MTUIfacePattern).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from felixpy.addresses import Address
from felixpy.calc.tunnel_plan import HostDevice, HostDevices
from felixpy.cni.plan import INTERFACE_PREFIX
from felixpy.drivers.netlink.devices import LINK_HEADER, dump_links
from felixpy.drivers.netlink.links import RTM_GETADDR, encode_address_dump, parse_device_address, parse_link
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkSocket

_OWN_DEVICE = re.compile(r"((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)")
"""Calico's default for mtuIfacePattern."""
_ARPHRD_LOOPBACK = 772
_ETHERNET_MTU = 1500


class Underlay:
    """The devices of the namespace that the calling thread is in."""

    def __init__(self) -> None:
        self._known = False
        self._mtu_of: dict[str, int] = {}
        self._device_of: dict[Address, str] = {}
        self._devices: HostDevices = {}

    def changed(self) -> None:
        """What was read may no longer be so."""
        self._known = False

    def device_changed(self, device: str) -> None:
        """A device, or an address of it, is not what it was; those of pods do not count."""
        if not device.startswith(INTERFACE_PREFIX):
            self.changed()

    def mtu(self, addresses: Sequence[Address], pattern: re.Pattern[str] | None = None) -> int:
        """The mtu of the devices that hold `addresses`, or (when given) match `pattern`, in bytes; 0: it is not known.

        Raises  OSError when the kernel does not answer.
        """
        if not self._known:
            self._read()
        devices = {self._device_of[address] for address in addresses if address in self._device_of}
        if pattern is not None or not devices:
            devices = {name for name in self._mtu_of if (pattern or _OWN_DEVICE).fullmatch(name)} or devices
        return min((self._mtu_of[name] for name in devices), default=0)

    def devices(self) -> HostDevices:
        """Every address of the host with its device, whether that is up or not."""
        if not self._known:
            self._read()
        return self._devices

    def _read(self) -> None:
        with NetlinkSocket(NETLINK_ROUTE) as socket:
            dumped = tuple(dump_links(socket))
            links = [(index, parse_link(body, {})) for index, _, body in dumped]
            loopback = {name for _, name, body in dumped if LINK_HEADER.unpack_from(body)[1] == _ARPHRD_LOOPBACK}
            names = {index: link.name for index, link in links}
            seen = [parse_device_address(body, names) for body in socket.dump(RTM_GETADDR, encode_address_dump())]
        mtus = {link.name: link.mtu for _, link in links}
        own = [link.mtu for _, link in links if link.up and _OWN_DEVICE.fullmatch(link.name)]
        mtus.update(dict.fromkeys(loopback, min(own, default=_ETHERNET_MTU)))
        self._mtu_of = {link.name: mtus[link.name] for _, link in links if link.up}
        self._device_of = {one.prefix.address: one.device for one in seen if one and one.device in self._mtu_of}
        self._devices = {
            one.prefix.address: HostDevice("" if one.device in loopback else one.device, mtus[one.device])
            for one in seen
            if one
        }
        self._known = True
