"""Neighbour and forwarding (FDB) entries as rtnetlink messages, both ways.

In → out: Neighbour, FdbEntry ↔ message bodies. Source: linux/neighbour.h, net/core/neighbour.c,
drivers/net/vxlan (vxlan_fdb_parse).
"""

from __future__ import annotations

from struct import Struct

from felixpy.addresses import Address
from felixpy.dataplane.objects import FdbEntry, Key, Neighbour
from felixpy.drivers.netlink.codec import attribute, parse_attributes
from felixpy.drivers.netlink.routes import FAMILY, IndexOf, NameOf

RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
RTM_GETNEIGH = 30

AF_BRIDGE = 7
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_NOARP = 0x40
_NUD_PERMANENT = 0x80
_NTF_SELF = 0x02
_NTF_PROXY = 0x08
_UNICAST = 1

_HEADER = Struct("=BxHiHBB")
"""struct ndmsg: family, index, state, flags, type (with the padding before and within)."""


def encode_neighbour(neighbour: Neighbour, index_of: IndexOf) -> bytes:
    """Body of RTM_NEWNEIGH.

    Raises  MissingDevice.
    """
    body = encode_neighbour_key(neighbour.device, neighbour.address, neighbour.proxy, index_of)
    return body if neighbour.proxy or not neighbour.mac else body + attribute(_NDA_LLADDR, neighbour.mac)


def encode_neighbour_key(device: str, address: Address, proxy: bool, index_of: IndexOf) -> bytes:
    """Body of RTM_DELNEIGH.

    Raises  MissingDevice.
    """
    flags = _NTF_PROXY if proxy else 0
    body = _HEADER.pack(FAMILY[len(address)], 0, index_of(device), _NUD_PERMANENT, flags, _UNICAST)
    return body + attribute(_NDA_DST, address)


def encode_fdb(entry: FdbEntry, index_of: IndexOf) -> bytes:
    """Body of RTM_NEWNEIGH for a VXLAN device.

    Raises  MissingDevice.
    """
    return encode_fdb_key(entry.device, entry.mac, index_of) + attribute(_NDA_DST, entry.destination)


def encode_fdb_key(device: str, mac: bytes, index_of: IndexOf) -> bytes:
    """Body of RTM_DELNEIGH for a VXLAN device: the entry with every destination.

    Raises  MissingDevice.
    """
    body = _HEADER.pack(AF_BRIDGE, 0, index_of(device), _NUD_NOARP | _NUD_PERMANENT, _NTF_SELF, 0)
    return body + attribute(_NDA_LLADDR, mac)


def encode_neighbour_dump(*, family: int = 0, proxies: bool = False) -> bytes:
    """Body of RTM_GETNEIGH: neighbours of both families, or addresses that we answer for, or (AF_BRIDGE) the FDB."""
    return _HEADER.pack(family, 0, 0, 0, _NTF_PROXY if proxies else 0, 0)


def parse_neighbour(body: bytes, name_of: NameOf) -> Neighbour | None:
    """The permanent or proxy entry of a message body; None where it is a learned one."""
    family, _, index, state, flags, _ = _HEADER.unpack_from(body)
    proxy = bool(flags & _NTF_PROXY)
    device = name_of.get(index)
    if family not in FAMILY.values() or device is None or not (proxy or state & _NUD_PERMANENT):
        return None
    found = parse_attributes(body, _HEADER.size)
    return Neighbour(device, Address(found[_NDA_DST]), found.get(_NDA_LLADDR, b""), proxy)


def parse_gone_neighbour(body: bytes, name_of: NameOf) -> Key | None:
    """The key of an entry that is told to be gone: by then the kernel has forgotten that it was permanent."""
    family, _, index, _, flags, _ = _HEADER.unpack_from(body)
    found = parse_attributes(body, _HEADER.size)
    device = name_of.get(index)
    if family not in FAMILY.values() or device is None or _NDA_DST not in found:
        return None
    return Neighbour(device, Address(found[_NDA_DST]), proxy=bool(flags & _NTF_PROXY)).key


def parse_fdb(body: bytes, name_of: NameOf) -> FdbEntry | None:
    """The static VXLAN entry of a message body; None where it is learned or of another kind of device."""
    family, _, index, state, _, _ = _HEADER.unpack_from(body)
    found = parse_attributes(body, _HEADER.size)
    device = name_of.get(index)
    if family != AF_BRIDGE or device is None or _NDA_DST not in found or not state & _NUD_PERMANENT:
        return None
    return FdbEntry(device, found.get(_NDA_LLADDR, b""), Address(found[_NDA_DST]))
