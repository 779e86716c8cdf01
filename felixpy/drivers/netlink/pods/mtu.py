"""Gives pods' devices another mtu, at both ends, while they are in use.

In → out: names of node ends, and an mtu → which could not be changed, and why. The other end is in a namespace that is
known by a number only: it is found among those that have a name (/run/netns) or a process. Blocking. Never makes a
device. Source: net/core/net_namespace.c (RTM_GETNSID), drivers/net/veth.c, linux/if_link.h.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from struct import Struct

from felixpy.drivers.netlink.codec import attribute_u32, parse_attributes, parse_u32
from felixpy.drivers.netlink.devices import LINK_HEADER, RTM_NEWLINK, dump_links
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket, in_namespace

_IFLA_MTU, _IFLA_LINK, _IFLA_LINK_NETNSID = 4, 5, 37
_RTM_GETNSID = 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_GENERAL = Struct("=B3x")
"""struct rtgenmsg, padded."""
_SIGNED = Struct("=i")
_NAMED = Path("/run/netns")
_PROCESSES = Path("/proc")


def set_pod_mtus(devices: Collection[str], mtu: int) -> Mapping[str, str]:
    """Why a device is not as wanted, by its name; nothing for those that are, and for those that are gone.

    Raises  NetlinkError when the kernel does not answer.
    """
    failed: dict[str, str] = {}
    ends: dict[int, dict[int, str]] = {}
    with NetlinkSocket(NETLINK_ROUTE) as socket:
        for index, name, body in dump_links(socket):
            if name not in devices:
                continue
            found = parse_attributes(body, LINK_HEADER.size)
            if parse_u32(found[_IFLA_MTU]) != mtu:
                _set(socket, index, mtu, name, failed)
            if _IFLA_LINK in found and _IFLA_LINK_NETNSID in found:
                number = _SIGNED.unpack(found[_IFLA_LINK_NETNSID])[0]
                ends.setdefault(number, {})[parse_u32(found[_IFLA_LINK])] = name
        namespaces = _find_namespaces(socket, ends.keys())
    try:
        for number, inside in ends.items():
            descriptor = namespaces.get(number)
            if descriptor is None:
                failed.update((name, "its pod's network namespace is not to be found here") for name in inside.values())
                continue
            try:
                in_namespace(descriptor, partial(_set_inside, inside, mtu, failed))
            except OSError as error:
                failed.update((name, f"its pod's end: {error}") for name in inside.values())
    finally:
        for descriptor in namespaces.values():
            os.close(descriptor)
    return failed


def _set_inside(inside: Mapping[int, str], mtu: int, failed: dict[str, str]) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as socket:
        for index, _, body in dump_links(socket):
            name = inside.get(index)
            if name is not None and parse_u32(parse_attributes(body, LINK_HEADER.size)[_IFLA_MTU]) != mtu:
                _set(socket, index, mtu, name, failed)


def _set(socket: NetlinkSocket, index: int, mtu: int, name: str, failed: dict[str, str]) -> None:
    try:
        socket.request(RTM_NEWLINK, 0, LINK_HEADER.pack(0, 0, index, 0, 0) + attribute_u32(_IFLA_MTU, mtu))
    except NetlinkError as error:
        failed[name] = error.strerror or str(error)


def _find_namespaces(socket: NetlinkSocket, numbers: Collection[int]) -> dict[int, int]:
    """Descriptors, to be closed, by the number that this namespace knows each by."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    for path in _candidates():
        if len(found) == len(numbers):
            break
        with suppress(OSError):
            inode = path.stat().st_ino
            if inode in seen:
                continue
            seen.add(inode)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            number = _number_of(socket, descriptor)
            if number is not None and number in numbers and number not in found:
                found[number] = descriptor
            else:
                os.close(descriptor)
    return found


def _candidates() -> Iterator[Path]:
    for folder, pattern in ((_NAMED, "*"), (_PROCESSES, "[0-9]*/ns/net")):
        with suppress(OSError):
            yield from folder.glob(pattern)


def _number_of(socket: NetlinkSocket, descriptor: int) -> int | None:
    """The number of a namespace; None for one that this one does not know."""
    try:
        bodies = socket.request(_RTM_GETNSID, 0, _GENERAL.pack(0) + attribute_u32(_NETNSA_FD, descriptor))
    except NetlinkError:
        return None
    told = parse_attributes(bodies[0], _GENERAL.size).get(_NETNSA_NSID) if bodies else None
    return _SIGNED.unpack(told)[0] if told is not None else None
