"""Makes the kernel hold one pod's wiring, reads it back, and takes it away.

In → out: PodLink, PodWiring and the pod's network namespace (descriptor or path) → a veth pair that is up at both ends.
Blocking, and safe in several threads at once; the node's side is the namespace that the calling thread is in. The peer
is made inside the pod's namespace, and the node end carries its owner as alias: a pair without our alias is a half-made
one. Deleting a pair makes the kernel wait for every CPU (some 15 ms, however many pairs), so a pair is retired first
(down, in a group of devices of ours, 0.04 ms) and all that are retired go together later. A retired pair carries
nothing, and counts as gone. Must never choose names or addresses, and leaves the node's routes alone.
Source: drivers/net/veth.c, net/core/rtnetlink.c (rtnl_group_dellink), linux/if_link.h.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from felixpy.addresses import Prefix, format_address, host_prefix
from felixpy.dataplane.objects import DeviceAddress, Key, Neighbour, Route, Sysctl
from felixpy.dataplane.pod import (
    GATEWAY_V6,
    HOST_MAC,
    PodLink,
    PodObject,
    PodWiring,
    SourceRule,
    derive_pod_objects,
)
from felixpy.drivers.netlink.codec import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
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
    Devices,
    dump_links,
    find_link,
)
from felixpy.drivers.netlink.iprules import (
    RTM_DELRULE,
    RTM_GETRULE,
    RTM_NEWRULE,
    encode_ip_rule_dump,
    encode_source_rule,
    encode_source_rule_place,
    parse_source_rule,
)
from felixpy.drivers.netlink.links import (
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    encode_address,
    encode_address_dump,
    parse_device_address,
)
from felixpy.drivers.netlink.neighbours import (
    RTM_GETNEIGH,
    RTM_NEWNEIGH,
    encode_neighbour,
    encode_neighbour_dump,
    parse_neighbour,
)
from felixpy.drivers.netlink.routes import (
    AF_INET,
    AF_INET6,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    IndexOf,
    RouteDecoder,
    RouteEncoder,
    encode_route_dump,
)
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket, in_namespace
from felixpy.drivers.sysctl import write_sysctl

_IFLA_ADDRESS, _IFLA_MTU, _IFLA_LINK, _IFLA_LINKINFO = 1, 4, 5, 18
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD = 20, 26, 27, 28
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET6_ADDR_GEN_MODE = 8
_ADDR_GEN_MODE_NONE = 1
_IFF_UP = 1
_LINK_LOCAL_LENGTH = 64
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
    with _opened(netns) as descriptor, NetlinkSocket(NETLINK_ROUTE) as host:
        made = _create(host, link, descriptor)
        seen = _find(host, link.host_device)
        if not made and (seen is None or not _is_whole(link, seen, descriptor)):
            if seen is not None:  # else a retired pair was in the way, and has just gone
                _delete_one(host, link.host_device, seen)
            made = _create(host, link, descriptor)
            seen = _find(host, link.host_device)
        if seen is None:
            raise PodError(errno.EEXIST, f"the pod has a device {link.pod_device} already")
        try:
            _finish(host, link, seen)
        except PodError:
            if made:
                _delete_one(host, link.host_device, seen)
            raise
        return made


def make_pod(wiring: PodWiring, netns: Netns) -> bool:
    """Makes the pair and gives both ends all but the addresses; whether it had to be made.

    A pair that is there already is left as it is: `configure_pod` puts it right without taking its address away.

    Raises  as `create_pod_link`.
    """
    bare = replace(wiring, addresses=())
    with _opened(netns) as descriptor:
        made = create_pod_link(wiring.link, descriptor)
        if made:
            try:
                configure_pod(bare, descriptor)
            except PodError:
                retire_pod_link(wiring.link.host_device, wiring.link.owner)
                raise
        return made


def add_pod_addresses(wiring: PodWiring, netns: Netns) -> None:
    """Gives a pod that `make_pod` has just made its addresses, which is all that it lacks.

    Raises  PodError, and OSError when `netns` is none.
    """
    in_namespace(netns, lambda: _add_addresses_inside(wiring))


def configure_pod(wiring: PodWiring, netns: Netns) -> None:
    """Gives the ends of an existing pair what `wiring` says, and takes other addresses off the pod's.

    Raises  PodError, and OSError when `netns` is none.
    """
    _configure_host(wiring)
    in_namespace(netns, lambda: _configure_inside(wiring))


def retire_pod_link(host_device: str, owner: str) -> bool:
    """Takes the pair out of service when it is the owner's, or nobody's; whether there was one in service.

    No packet passes when it returns. `delete_retired_links` frees the device.

    Raises  PodError.
    """
    with NetlinkSocket(NETLINK_ROUTE) as host:
        seen = _find(host, host_device)
        if seen is None or seen.retired or seen.owner not in ("", owner):
            return False
        body = LINK_HEADER.pack(0, 0, seen.index, 0, _IFF_UP) + attribute_u32(_IFLA_GROUP, RETIRED_GROUP)
        try:
            host.request(RTM_NEWLINK, 0, body)
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return False
            raise PodError(error.errno, f"retiring {host_device}: {error.strerror}") from error
        return True


def delete_retired_links() -> bool:
    """Deletes every retired pair in one go; whether there was any.

    Raises  PodError.
    """
    with NetlinkSocket(NETLINK_ROUTE) as host:
        body = LINK_HEADER.pack(0, 0, 0, 0, 0) + attribute_u32(_IFLA_GROUP, RETIRED_GROUP)
        return _delete(host, body, "the retired devices")


def check_pod(wiring: PodWiring, netns: Netns) -> tuple[str, ...]:
    """What of the wiring is not in the kernel, in words; empty when all of it is.

    A route counts when there is one to its destination: a chained plugin may have changed the rest of it.

    Raises  OSError when `netns` is none.
    """
    link = wiring.link
    with NetlinkSocket(NETLINK_ROUTE) as host:
        seen = _find(host, link.host_device)
    if seen is None or seen.retired:
        return (f"{link.host_device} is not there",)
    problems: list[str] = []
    if seen.owner != link.owner:
        problems.append(f"{link.host_device} is {seen.owner or 'nobody'}'s")
    if not seen.up:
        problems.append(f"{link.host_device} is down")
    return (*problems, *in_namespace(netns, lambda: _check_inside(wiring, seen)))


def list_pod_links(prefix: str) -> Mapping[str, str]:
    """Owner by device, of every device in service whose name begins with `prefix` and that has an alias."""
    with NetlinkSocket(NETLINK_ROUTE) as host:
        named = {name: _parse_link(body) for _, name, body in dump_links(host) if name.startswith(prefix)}
    return {name: seen.owner for name, seen in named.items() if seen.owner and not seen.retired}


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
    try:
        host.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            return False
        raise PodError(error.errno, f"making {link.host_device}: {error.strerror}") from error
    return True


def _finish(host: NetlinkSocket, link: PodLink, seen: LinkSeen) -> None:
    """Marks the node end as its owner's and sets it up."""
    doing = f"setting {link.host_device} up"
    no_address = nested(_IFLA_AF_SPEC, nested(AF_INET6, attribute_u8(_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE)))
    alias = attribute_text(_IFLA_IFALIAS, link.owner)
    with suppress(PodError):  # of a kernel without IPv6, which has no address to leave out
        _send(host, doing, RTM_NEWLINK, 0, LINK_HEADER.pack(0, 0, seen.index, 0, 0) + no_address)
    _send(host, doing, RTM_NEWLINK, 0, _settings(seen, HOST_MAC, link.mtu) + alias)


def _configure_host(wiring: PodWiring) -> None:
    device = wiring.link.host_device
    for sysctl in wiring.host_sysctls:
        _write_sysctl(sysctl)
    if all(route.version == 4 for route in wiring.routes):
        return
    with NetlinkSocket(NETLINK_ROUTE) as host:
        _put(host, DeviceAddress(device, Prefix(GATEWAY_V6, _LINK_LOCAL_LENGTH)), Devices(host).index_of)


def _configure_inside(wiring: PodWiring) -> None:
    link = wiring.link
    for sysctl in wiring.pod_sysctls:
        _write_sysctl(sysctl)
    objects = derive_pod_objects(wiring)
    with NetlinkSocket(NETLINK_ROUTE) as pod:
        seen = _demand(pod, link.pod_device)
        index_of = {link.pod_device: seen.index}.__getitem__
        for surplus in _addresses(pod, {seen.index: link.pod_device}) - set(objects):
            body = encode_address(surplus.device, *surplus.prefix, index_of)
            _send(pod, f"taking away {_describe(surplus)}", RTM_DELADDR, 0, body)
        _send(pod, f"setting {link.pod_device} up", RTM_NEWLINK, 0, _settings(seen, link.pod_mac, link.mtu))
        for item in objects:
            _put(pod, item, index_of)


def _add_addresses_inside(wiring: PodWiring) -> None:
    device = wiring.link.pod_device
    with NetlinkSocket(NETLINK_ROUTE) as pod:
        index_of = {device: _demand(pod, device).index}.__getitem__
        for address in wiring.addresses:
            _put(pod, DeviceAddress(device, host_prefix(address)), index_of)
            if wiring.rank:
                _put(pod, SourceRule(address, wiring.rank), index_of)


def _demand(pod: NetlinkSocket, device: str) -> LinkSeen:
    seen = _find(pod, device)
    if seen is None:
        raise PodError(errno.ENODEV, f"the pod has no {device}")
    return seen


def _check_inside(wiring: PodWiring, host: LinkSeen) -> tuple[str, ...]:
    link = wiring.link
    problems: list[str] = []
    with NetlinkSocket(NETLINK_ROUTE) as pod:
        seen = _find(pod, link.pod_device)
        if seen is None:
            return (f"the pod has no {link.pod_device}",)
        if seen.index != host.peer_index or seen.peer_index != host.index:
            problems.append(f"{link.pod_device} is not the other end of {link.host_device}")
        if not seen.up:
            problems.append(f"{link.pod_device} is down")
        if seen.mac != link.pod_mac:
            problems.append(f"{link.pod_device} has the MAC {seen.mac.hex(':')}")
        held = _read_inside(pod, {seen.index: link.pod_device})
    for item in derive_pod_objects(wiring):
        there = held.get(item.key)
        if there is None or (there != item and not isinstance(item, Route)):
            problems.append(f"the pod has no {_describe(item)}")
    return tuple(problems)


def _read_inside(pod: NetlinkSocket, name_of: Mapping[int, str]) -> Mapping[Key, PodObject]:
    found: list[PodObject | None] = [*_addresses(pod, name_of)]
    found += [parse_neighbour(body, name_of) for body in pod.dump(RTM_GETNEIGH, encode_neighbour_dump())]
    found += [parse_source_rule(body) for body in pod.dump(RTM_GETRULE, encode_ip_rule_dump(0))]
    routes = RouteDecoder(name_of)
    for family in (AF_INET, AF_INET6):
        found += [routes.parse(body) for body in pod.dump(RTM_GETROUTE, encode_route_dump(family, 0))]
    return {item.key: item for item in found if item is not None}


def _addresses(pod: NetlinkSocket, name_of: Mapping[int, str]) -> set[DeviceAddress]:
    """Those that somebody gave; the kernel's own link-local address is none."""
    seen = (parse_device_address(body, name_of) for body in pod.dump(RTM_GETADDR, encode_address_dump()))
    return {item for item in seen if item is not None}


def _put(socket: NetlinkSocket, item: PodObject, index_of: IndexOf) -> None:
    match item:
        case DeviceAddress():
            kind, body = RTM_NEWADDR, encode_address(item.device, *item.prefix, index_of)
        case Neighbour():
            kind, body = RTM_NEWNEIGH, encode_neighbour(item, index_of)
        case Route():
            kind, body = RTM_NEWROUTE, RouteEncoder(index_of).encode(item)
        case SourceRule():
            with suppress(NetlinkError):  # there is none in its place
                socket.request(RTM_DELRULE, 0, encode_source_rule_place(item))
            kind, body = RTM_NEWRULE, encode_source_rule(item)
    _send(socket, f"putting {_describe(item)}", kind, NLM_F_CREATE | NLM_F_REPLACE, body)


def _send(socket: NetlinkSocket, doing: str, kind: int, flags: int, body: bytes) -> None:
    try:
        socket.request(kind, flags, body)
    except NetlinkError as error:
        raise PodError(error.errno, f"{doing}: {error.strerror}") from error


def _settings(seen: LinkSeen, mac: bytes, mtu: int) -> bytes:
    """What sets a device up, and puts its MAC and mtu right where they are not."""
    body = LINK_HEADER.pack(0, 0, seen.index, _IFF_UP, _IFF_UP)
    if seen.mac != mac:
        body += attribute(_IFLA_ADDRESS, mac)
    return body + attribute_u32(_IFLA_MTU, mtu) if mtu and seen.mtu != mtu else body


def _describe(item: PodObject) -> str:
    match item:
        case DeviceAddress():
            return f"address {item.prefix}"
        case Neighbour():
            return f"neighbour {format_address(item.address)}"
        case Route():
            return f"route to {item.destination}"
        case SourceRule():
            return f"rule for source {format_address(item.source)}"


def _is_whole(link: PodLink, host: LinkSeen, netns: int) -> bool:
    """Whether the node end is the owner's and in service, and its other end is the pod's device."""
    if host.owner != link.owner or host.retired:
        return False

    def find_inside() -> LinkSeen | None:
        with NetlinkSocket(NETLINK_ROUTE) as pod:
            return _find(pod, link.pod_device)

    seen = in_namespace(netns, find_inside)
    return seen is not None and (seen.index, seen.peer_index) == (host.peer_index, host.index)


def _find(socket: NetlinkSocket, name: str) -> LinkSeen | None:
    body = find_link(socket, name)
    return None if body is None else _parse_link(body)


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


def _delete_one(host: NetlinkSocket, name: str, seen: LinkSeen) -> None:
    _delete(host, LINK_HEADER.pack(0, 0, seen.index, 0, 0), name)


def _delete(host: NetlinkSocket, body: bytes, what: str) -> bool:
    """Whether there was anything to delete."""
    try:
        host.request(RTM_DELLINK, 0, body)
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return False
        raise PodError(error.errno, f"deleting {what}: {error.strerror}") from error
    return True


def _write_sysctl(sysctl: Sysctl) -> None:
    try:
        write_sysctl(sysctl)
    except OSError as error:
        raise PodError(error.errno, f"sysctl {sysctl.path}: {error.strerror}") from error


@contextmanager
def _opened(netns: Netns) -> Iterator[int]:
    if isinstance(netns, int):
        yield netns
        return
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
