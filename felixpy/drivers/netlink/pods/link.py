"""The veth pair between a node and a pod: made, found, and taken away.

In → out: PodLink and the pod's network namespace (descriptor or path) → a pair whose node end is up. Blocking, and safe
in several threads at once; the node's side is the namespace that the calling thread is in. The peer is made inside the
pod's namespace, and the node end carries its owner as alias: a pair without our alias is a half-made one. Deleting a
pair makes the kernel wait for every CPU (some 15 ms, however many pairs), so a pair is retired first (down, in a group
of devices of ours, 0.04 ms) and all that are retired go together later. A retired pair carries nothing, and counts as
gone. Must never choose names.
Source: drivers/net/veth.c, net/core/rtnetlink.c (rtnl_group_dellink), linux/if_link.h.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from felixpy.dataplane.pod import HOST_MAC, PodLink
from felixpy.drivers.netlink.codec import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    attribute,
    attribute_text,
    attribute_u8,
    attribute_u32,
    nested,
    parse_attributes,
    parse_text,
    parse_u32,
)
from felixpy.drivers.netlink.devices import (
    IFLA_IFNAME,
    LINK_HEADER,
    RTM_DELLINK,
    RTM_NEWLINK,
    dump_links,
    find_link,
)
from felixpy.drivers.netlink.routes import AF_INET6
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket, in_namespace

_IFLA_ADDRESS, _IFLA_MTU, _IFLA_LINK, _IFLA_LINKINFO = 1, 4, 5, 18
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD = 20, 26, 27, 28
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET6_ADDR_GEN_MODE = 8
_ADDR_GEN_MODE_NONE = 1
_IFF_UP = 1
RETIRED_GROUP = int.from_bytes(b"felx", "big")
"""The device group (`ip link show group`) of pairs that wait to be deleted."""

Netns = int | str


class PodError(OSError):
    """The kernel does not take a pod's wiring: `errno`, and what was being done to which device."""


@dataclass(frozen=True, slots=True)
class LinkSeen:
    """A device as it is: indexes (its own, and its peer's in the peer's namespace), alias, MAC, mtu, whether up.

    A `retired` one is to be deleted.
    """

    index: int
    peer_index: int
    owner: str
    mac: bytes
    mtu: int
    up: bool
    retired: bool


def create_pod_link(link: PodLink, netns: Netns) -> bool:
    """Makes the pair, the node end up; whether it had to be made.

    A pair of another owner, a half made one and a retired one give way.
    A pair that was made and cannot be finished is deleted.

    Raises  PodError: EEXIST when the pod has another device of that name already, and OSError when `netns` is none.
    """
    with opened(netns) as descriptor, NetlinkSocket(NETLINK_ROUTE) as host:
        made = _create(host, link, descriptor)
        seen = find_end(host, link.host_device)
        if not made and (seen is None or not _is_whole(link, seen, descriptor)):
            if seen is not None:
                _delete_one(host, link.host_device, seen)
            else:  # the pod's device may be the other end of a pair that is retired
                _delete_retired(host)
            made = _create(host, link, descriptor)
            seen = find_end(host, link.host_device)
        if seen is None:
            raise PodError(errno.EEXIST, f"the pod has a device {link.pod_device} already")
        try:
            _finish(host, link, seen)
        except PodError:
            if made:
                _delete_one(host, link.host_device, seen)
            raise
        return made


def retire_pod_link(host_device: str, owner: str) -> bool:
    """Takes the pair out of service when it is the owner's, or nobody's; whether there was one in service.

    No packet passes when it returns. `delete_retired_links` frees the device.

    Raises  PodError.
    """
    with NetlinkSocket(NETLINK_ROUTE) as host:
        seen = find_end(host, host_device)
        if seen is None or seen.retired or seen.owner not in ("", owner):
            return False
        body = LINK_HEADER.pack(0, 0, seen.index, 0, _IFF_UP) + attribute_u32(_IFLA_GROUP, RETIRED_GROUP)
        return _send_unless(errno.ENODEV, host, f"retiring {host_device}", RTM_NEWLINK, 0, body)


def delete_retired_links() -> bool:
    """Deletes every retired pair in one go; whether there was any.

    Raises  PodError.
    """
    with NetlinkSocket(NETLINK_ROUTE) as host:
        return _delete_retired(host)


def list_pod_links(prefix: str) -> Mapping[str, str]:
    """Owner by device, of every device in service whose name begins with `prefix` and that has an alias."""
    with NetlinkSocket(NETLINK_ROUTE) as host:
        named = {name: _parse_link(body) for _, name, body in dump_links(host) if name.startswith(prefix)}
    return {name: seen.owner for name, seen in named.items() if seen.owner and not seen.retired}


def find_end(socket: NetlinkSocket, name: str) -> LinkSeen | None:
    """The device of that name in the socket's namespace, an end of a pair or not."""
    body = find_link(socket, name)
    return None if body is None else _parse_link(body)


def end_settings(seen: LinkSeen, mac: bytes, mtu: int) -> bytes:
    """What sets a device up, and puts its MAC and mtu right where they are not."""
    body = LINK_HEADER.pack(0, 0, seen.index, _IFF_UP, _IFF_UP)
    if seen.mac != mac:
        body += attribute(_IFLA_ADDRESS, mac)
    return body + attribute_u32(_IFLA_MTU, mtu) if mtu and seen.mtu != mtu else body


def send(socket: NetlinkSocket, doing: str, kind: int, flags: int, body: bytes) -> None:
    """One request of several that wire a pod.

    Raises  PodError, which says what was being done.
    """
    try:
        socket.request(kind, flags, body)
    except NetlinkError as error:
        raise PodError(error.errno, f"{doing}: {error.strerror}") from error


@contextmanager
def opened(netns: Netns) -> Iterator[int]:
    """The namespace as a descriptor."""
    if isinstance(netns, int):
        yield netns
        return
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _create(host: NetlinkSocket, link: PodLink, netns: int) -> bool:
    """Whether it was made; False when either name is taken."""
    mtu = attribute_u32(_IFLA_MTU, link.mtu) if link.mtu else b""
    header = LINK_HEADER.pack(0, 0, 0, 0, 0)
    peer = (
        header
        + attribute_text(IFLA_IFNAME, link.pod_device)
        + attribute(_IFLA_ADDRESS, link.pod_mac)
        + mtu
        + attribute_u32(_IFLA_NET_NS_FD, netns)
    )
    kind = nested(_IFLA_LINKINFO, attribute_text(_INFO_KIND, "veth"), nested(_INFO_DATA, nested(_VETH_INFO_PEER, peer)))
    body = header + attribute_text(IFLA_IFNAME, link.host_device) + attribute(_IFLA_ADDRESS, HOST_MAC) + mtu + kind
    return _send_unless(errno.EEXIST, host, f"making {link.host_device}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def _finish(host: NetlinkSocket, link: PodLink, seen: LinkSeen) -> None:
    """Marks the node end as its owner's and sets it up."""
    doing = f"setting {link.host_device} up"
    no_address = nested(_IFLA_AF_SPEC, nested(AF_INET6, attribute_u8(_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE)))
    alias = attribute_text(_IFLA_IFALIAS, link.owner)
    with suppress(PodError):  # of a kernel without IPv6, which has no address to leave out
        send(host, doing, RTM_NEWLINK, 0, LINK_HEADER.pack(0, 0, seen.index, 0, 0) + no_address)
    send(host, doing, RTM_NEWLINK, 0, end_settings(seen, HOST_MAC, link.mtu) + alias)


def _is_whole(link: PodLink, host: LinkSeen, netns: int) -> bool:
    """Whether the node end is the owner's and in service, and its other end is the pod's device."""
    if host.owner != link.owner or host.retired:
        return False

    def find_inside() -> LinkSeen | None:
        with NetlinkSocket(NETLINK_ROUTE) as pod:
            return find_end(pod, link.pod_device)

    seen = in_namespace(netns, find_inside)
    return seen is not None and (seen.index, seen.peer_index) == (host.peer_index, host.index)


def _parse_link(body: bytes) -> LinkSeen:
    _, _, index, flags, _ = LINK_HEADER.unpack_from(body)
    found = parse_attributes(body, LINK_HEADER.size)
    return LinkSeen(
        index=index,
        peer_index=parse_u32(found[_IFLA_LINK]) if _IFLA_LINK in found else 0,
        owner=parse_text(found.get(_IFLA_IFALIAS, b"")),
        mac=found.get(_IFLA_ADDRESS, b""),
        mtu=parse_u32(found[_IFLA_MTU]) if _IFLA_MTU in found else 0,
        up=bool(flags & _IFF_UP),
        retired=_IFLA_GROUP in found and parse_u32(found[_IFLA_GROUP]) == RETIRED_GROUP,
    )


def _delete_retired(host: NetlinkSocket) -> bool:
    body = LINK_HEADER.pack(0, 0, 0, 0, 0) + attribute_u32(_IFLA_GROUP, RETIRED_GROUP)
    return _send_unless(errno.ENODEV, host, "deleting the retired devices", RTM_DELLINK, 0, body)


def _delete_one(host: NetlinkSocket, name: str, seen: LinkSeen) -> None:
    body = LINK_HEADER.pack(0, 0, seen.index, 0, 0)
    _send_unless(errno.ENODEV, host, f"deleting {name}", RTM_DELLINK, 0, body)


def _send_unless(expected: int, host: NetlinkSocket, doing: str, kind: int, flags: int, body: bytes) -> bool:
    """As `send`; False where the kernel refuses with the errno that is `expected`."""
    try:
        send(host, doing, kind, flags, body)
    except PodError as error:
        if error.errno != expected:
            raise
        return False
    return True
