"""Whether the kernel holds one pod's wiring, in words that say what is missing.

In → out: PodWiring and the pod's network namespace → problems. Blocking; changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from felixpy.dataplane.objects import Key, Route
from felixpy.dataplane.pod import PodObject, PodWiring, derive_pod_objects
from felixpy.drivers.netlink.dumps import read_addresses
from felixpy.drivers.netlink.iprules import RTM_GETRULE, encode_ip_rule_dump, parse_source_rule
from felixpy.drivers.netlink.neighbours import RTM_GETNEIGH, encode_neighbour_dump, parse_neighbour
from felixpy.drivers.netlink.pods.link import LinkSeen, Netns, find_end
from felixpy.drivers.netlink.pods.wiring import describe
from felixpy.drivers.netlink.routes import AF_INET, AF_INET6, RTM_GETROUTE, RouteDecoder, encode_route_dump
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkSocket, in_namespace


def check_pod(wiring: PodWiring, netns: Netns) -> tuple[str, ...]:
    """What of the wiring is not in the kernel, in words; empty when all of it is.

    A route counts when there is one to its destination: a chained plugin may have changed the rest of it.

    Raises  OSError when `netns` is none.
    """
    link = wiring.link
    with NetlinkSocket(NETLINK_ROUTE) as host:
        seen = find_end(host, link.host_device)
    if seen is None or seen.retired:
        return (f"{link.host_device} is not there",)
    problems: list[str] = []
    if seen.owner != link.owner:
        problems.append(f"{link.host_device} is {seen.owner or 'nobody'}'s")
    if not seen.up:
        problems.append(f"{link.host_device} is down")
    return (*problems, *in_namespace(netns, lambda: _check_inside(wiring, seen)))


def _check_inside(wiring: PodWiring, host: LinkSeen) -> tuple[str, ...]:
    link = wiring.link
    problems: list[str] = []
    with NetlinkSocket(NETLINK_ROUTE) as pod:
        seen = find_end(pod, link.pod_device)
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
            problems.append(f"the pod has no {describe(item)}")
    return tuple(problems)


def _read_inside(pod: NetlinkSocket, name_of: Mapping[int, str]) -> Mapping[Key, PodObject]:
    found: list[PodObject | None] = [*read_addresses(pod, name_of)]
    found += [parse_neighbour(body, name_of) for body in pod.dump(RTM_GETNEIGH, encode_neighbour_dump())]
    found += [parse_source_rule(body) for body in pod.dump(RTM_GETRULE, encode_ip_rule_dump(0))]
    routes = RouteDecoder(name_of)
    for family in (AF_INET, AF_INET6):
        found += [routes.parse(body) for body in pod.dump(RTM_GETROUTE, encode_route_dump(family, 0))]
    return {item.key: item for item in found if item is not None}
