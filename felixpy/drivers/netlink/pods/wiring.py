"""Makes the kernel hold one pod's wiring: both ends of its veth pair as they should be.

In → out: PodWiring and the pod's network namespace (descriptor or path) → addresses, routes, neighbours, rules and
sysctls. Blocking, and safe in several threads at once; the node's side is the namespace that the calling thread is in.
Must never choose names or addresses, and leaves the node's routes alone. The pair itself is `link.py`'s.
Source: rtnetlink(7).
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace

from felixpy.addresses import Prefix, format_address, host_prefix
from felixpy.dataplane.objects import DeviceAddress, Neighbour, Route, Sysctl
from felixpy.dataplane.pod import (
    GATEWAY_V6,
    PodObject,
    PodWiring,
    SourceRule,
    derive_pod_objects,
)
from felixpy.drivers.netlink.codec import NLM_F_CREATE, NLM_F_REPLACE
from felixpy.drivers.netlink.devices import RTM_NEWLINK, Devices
from felixpy.drivers.netlink.dumps import read_addresses
from felixpy.drivers.netlink.iprules import RTM_DELRULE, RTM_NEWRULE, encode_source_rule, encode_source_rule_place
from felixpy.drivers.netlink.links import RTM_DELADDR, RTM_NEWADDR, encode_address
from felixpy.drivers.netlink.neighbours import RTM_NEWNEIGH, encode_neighbour
from felixpy.drivers.netlink.pods.link import (
    LinkSeen,
    Netns,
    PodError,
    create_pod_link,
    end_settings,
    find_end,
    opened,
    retire_pod_link,
    send,
)
from felixpy.drivers.netlink.routes import RTM_NEWROUTE, IndexOf, RouteEncoder
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket, in_namespace
from felixpy.drivers.sysctl import write_sysctl

_LINK_LOCAL_LENGTH = 64


def make_pod(wiring: PodWiring, netns: Netns) -> bool:
    """Makes the pair and gives both ends all but the addresses; whether it had to be made.

    A pair that is there already is left as it is: `configure_pod` puts it right without taking its address away.

    Raises  as `create_pod_link`.
    """
    bare = replace(wiring, addresses=())
    with opened(netns) as descriptor:
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


def describe(item: PodObject) -> str:
    """It in words."""
    match item:
        case DeviceAddress():
            return f"address {item.prefix}"
        case Neighbour():
            return f"neighbour {format_address(item.address)}"
        case Route():
            return f"route to {item.destination}"
        case SourceRule():
            return f"rule for source {format_address(item.source)}"


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
        for surplus in {*read_addresses(pod, {seen.index: link.pod_device})}.difference(objects):
            body = encode_address(surplus.device, *surplus.prefix, index_of)
            send(pod, f"taking away {describe(surplus)}", RTM_DELADDR, 0, body)
        send(pod, f"setting {link.pod_device} up", RTM_NEWLINK, 0, end_settings(seen, link.pod_mac, link.mtu))
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
    seen = find_end(pod, device)
    if seen is None:
        raise PodError(errno.ENODEV, f"the pod has no {device}")
    return seen


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
    send(socket, f"putting {describe(item)}", kind, NLM_F_CREATE | NLM_F_REPLACE, body)


def _write_sysctl(sysctl: Sysctl) -> None:
    try:
        write_sysctl(sysctl)
    except OSError as error:
        raise PodError(error.errno, f"sysctl {sysctl.path}: {error.strerror}") from error
