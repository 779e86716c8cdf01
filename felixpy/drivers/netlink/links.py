"""Devices and their addresses as rtnetlink messages, both ways.

In → out: Link, DeviceAddress ↔ message bodies. Source: linux/if_link.h, linux/if_addr.h, linux/if_tunnel.h,
drivers/net/vxlan, net/ipv4/ipip.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from felixpy.addresses import Address, Prefix
from felixpy.dataplane.objects import DeviceAddress, IpipSettings, Link, VxlanSettings
from felixpy.drivers.netlink.codec import (
    attribute,
    attribute_be16,
    attribute_text,
    attribute_u8,
    attribute_u32,
    nested,
    parse_attributes,
    parse_text,
    parse_u32,
)
from felixpy.drivers.netlink.devices import IFLA_IFNAME, LINK_HEADER
from felixpy.drivers.netlink.routes import FAMILY, IndexOf, NameOf

RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22

_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_MTU, _IFLA_LINKINFO = 1, 4, 18
_INFO_KIND, _INFO_DATA = 1, 2
_VXLAN_ID, _VXLAN_LINK, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 3, 4, 7, 15, 17
_IPTUN_LOCAL = 2
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_PROTO = 1, 2, 8, 11
_IFA_F_NODAD = 2
_SCOPE_LINK, _SCOPE_HOST = 253, 254

_ADDRESS = Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""


def encode_link(link: Link, index_of: IndexOf, index: int = 0) -> bytes:
    """Body of RTM_NEWLINK: makes the device, or changes the one at `index`.

    Raises  MissingDevice when the VXLAN's parent is not there.
    """
    body = LINK_HEADER.pack(0, 0, index, _IFF_UP if link.up else 0, _IFF_UP)
    if not index:
        body += attribute_text(IFLA_IFNAME, link.name)
    if link.mtu:
        body += attribute_u32(_IFLA_MTU, link.mtu)
    if link.mac is not None:
        body += attribute(_IFLA_ADDRESS, link.mac)
    if index or link.settings is None:
        return body
    kind, data = _encode_settings(link.settings, index_of)
    return body + nested(_IFLA_LINKINFO, attribute_text(_INFO_KIND, kind), nested(_INFO_DATA, *data))


def encode_link_down(index: int) -> bytes:
    """Body of RTM_NEWLINK that only takes the device down."""
    return LINK_HEADER.pack(0, 0, index, 0, _IFF_UP)


def encode_link_drop(index: int) -> bytes:
    """Body of RTM_DELLINK."""
    return LINK_HEADER.pack(0, 0, index, 0, 0)


def parse_link(body: bytes, name_of: NameOf) -> Link:
    """The device of a message body; settings for VXLAN and IPIP only."""
    flags = LINK_HEADER.unpack_from(body)[3]
    found = parse_attributes(body, LINK_HEADER.size)
    mac = found.get(_IFLA_ADDRESS, b"")
    return Link(
        name=parse_text(found[IFLA_IFNAME]),
        settings=_parse_settings(parse_attributes(found.get(_IFLA_LINKINFO, b"")), name_of),
        mtu=parse_u32(found[_IFLA_MTU]) if _IFLA_MTU in found else 0,
        mac=mac if len(mac) == 6 else None,
        up=bool(flags & _IFF_UP),
    )


def encode_address(device: str, address: Address, length: int, index_of: IndexOf) -> bytes:
    """Body of RTM_NEWADDR and RTM_DELADDR; IPv6 addresses skip duplicate detection, as nobody else may hold ours.

    Raises  MissingDevice.
    """
    body = _ADDRESS.pack(FAMILY[len(address)], length, 0, 0, index_of(device))
    body += attribute(_IFA_LOCAL, address) + attribute(_IFA_ADDRESS, address)
    return body + attribute_u32(_IFA_FLAGS, _IFA_F_NODAD) if len(address) == 16 else body


def encode_address_dump() -> bytes:
    """Body of RTM_GETADDR for both families."""
    return _ADDRESS.pack(0, 0, 0, 0, 0)


def parse_device_address(body: bytes, name_of: NameOf) -> DeviceAddress | None:
    """The address of a message body; None where the kernel made it by itself."""
    _, length, _, scope, index = _ADDRESS.unpack_from(body)
    found = parse_attributes(body, _ADDRESS.size)
    address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    device = name_of.get(index)
    if address is None or device is None or scope == _SCOPE_HOST:
        return None
    if _IFA_PROTO in found:
        if found[_IFA_PROTO][0] != 0:
            return None
    elif len(address) == 16 and scope == _SCOPE_LINK and length == 64:
        return None
    return DeviceAddress(device, Prefix(Address(address), length))


def _encode_settings(settings: VxlanSettings | IpipSettings, index_of: IndexOf) -> tuple[str, tuple[bytes, ...]]:
    if isinstance(settings, IpipSettings):
        return "ipip", () if settings.local is None else (attribute(_IPTUN_LOCAL, settings.local),)
    data = [
        attribute_u32(_VXLAN_ID, settings.vni),
        attribute(_VXLAN_LOCAL if len(settings.local) == 4 else _VXLAN_LOCAL6, settings.local),
        attribute_u8(_VXLAN_LEARNING, 0),
        attribute_be16(_VXLAN_PORT, settings.port),
    ]
    if settings.parent:
        data.append(attribute_u32(_VXLAN_LINK, index_of(settings.parent)))
    return "vxlan", tuple(data)


def _parse_settings(info: Mapping[int, bytes], name_of: NameOf) -> VxlanSettings | IpipSettings | None:
    kind = parse_text(info.get(_INFO_KIND, b""))
    data = parse_attributes(info.get(_INFO_DATA, b""))
    if kind == "ipip":
        local = data.get(_IPTUN_LOCAL, b"")
        return IpipSettings(Address(local) if any(local) else None)
    if kind != "vxlan":
        return None
    return VxlanSettings(
        vni=parse_u32(data[_VXLAN_ID]),
        port=int.from_bytes(data[_VXLAN_PORT], "big"),
        parent=name_of.get(parse_u32(data[_VXLAN_LINK]), "") if _VXLAN_LINK in data else "",
        local=Address(data.get(_VXLAN_LOCAL) or data.get(_VXLAN_LOCAL6) or bytes(4)),
    )
