"""Settings of devices that the kernel tells of when they change: forwarding, rp_filter, and answering for others.

In → out: message bodies → the sysctl that has another value now. The others (route_localnet, accept_ra, proxy_delay)
change in silence. A message with all settings of a device is its birth, and no change.
Source: linux/netconf.h; net/ipv4/devinet.c (devinet_conf_proc), net/ipv6/addrconf.c.
"""

from __future__ import annotations

from collections.abc import Mapping

from felixpy.dataplane.objects import Sysctl
from felixpy.drivers.netlink.codec import parse_attributes, parse_u32
from felixpy.drivers.netlink.routes import AF_INET, AF_INET6

RTM_NEWNETCONF = 80
_ATTRIBUTES_AT = 4
_IFINDEX, _FORWARDING, _RP_FILTER, _PROXY = 1, 2, 3, 5
_ALL = 0xFFFFFFFF
_NAMES = {
    AF_INET: {_FORWARDING: "forwarding", _RP_FILTER: "rp_filter", _PROXY: "proxy_arp"},
    AF_INET6: {_FORWARDING: "forwarding", _PROXY: "proxy_ndp"},
}
_IP_FORWARD = "net/ipv4/ip_forward"
"""The kernel's other name for the forwarding of all devices."""


def parse_setting(body: bytes, name_of: Mapping[int, str]) -> Sysctl | None:
    """What a change made of one setting; None for those that nobody here sets, and for devices of no known name."""
    family, attributes = body[0], parse_attributes(body, _ATTRIBUTES_AT)
    index = parse_u32(attributes.pop(_IFINDEX, b"\0\0\0\0"))
    device = "all" if index == _ALL else name_of.get(index)
    if device is None or len(attributes) != 1:
        return None
    ((kind, value),) = attributes.items()
    name = _NAMES.get(family, {}).get(kind)
    if name is None:
        return None
    path = f"net/ipv{4 if family == AF_INET else 6}/conf/{device}/{name}"
    return Sysctl(_IP_FORWARD if path == "net/ipv4/conf/all/forwarding" else path, str(parse_u32(value)))
