"""What the kernel has of a kind, read whole: addresses, neighbours, forwarding entries, nexthops, rules and routes.

In → out: a socket, the names of devices by index, and of kinds that carry one the protocol numbers that count → values.
Decides nothing. Source: rtnetlink(7); the modules of each kind for the bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from felixpy.dataplane.objects import DeviceAddress, FdbEntry, IpRule, Neighbour, NextHop, Route
from felixpy.drivers.netlink import iprules, links, neighbours, routes
from felixpy.drivers.netlink.routes import NameOf
from felixpy.drivers.netlink.socket import NetlinkError, NetlinkSocket

_Parse = Callable[[bytes, Mapping[int, str]], Neighbour | FdbEntry | None]
_NEIGHBOUR_DUMPS: tuple[tuple[bytes, _Parse], ...] = (
    (neighbours.encode_neighbour_dump(), neighbours.parse_neighbour),
    (neighbours.encode_neighbour_dump(proxies=True), neighbours.parse_neighbour),
    (neighbours.encode_neighbour_dump(family=neighbours.AF_BRIDGE), neighbours.parse_fdb),
)


def read_addresses(socket: NetlinkSocket, name_of: NameOf) -> Iterator[DeviceAddress]:
    """Those that somebody gave; not the ones that the kernel made by itself."""
    for body in socket.dump(links.RTM_GETADDR, links.encode_address_dump()):
        address = links.parse_device_address(body, name_of)
        if address is not None:
            yield address


def read_neighbours(socket: NetlinkSocket, name_of: NameOf) -> Iterator[Neighbour | FdbEntry]:
    """Neighbours, proxied ones too, and what bridges and tunnels forward to where."""
    for ask, parse in _NEIGHBOUR_DUMPS:
        for body in socket.dump(neighbours.RTM_GETNEIGH, ask):
            entry = parse(body, name_of)
            if entry is not None:
                yield entry


def read_nexthops(socket: NetlinkSocket, name_of: NameOf, protocols: Sequence[int]) -> Iterator[NextHop]:
    """None where the kernel knows no such thing. A group has the family of its members."""
    try:
        bodies = socket.dump(routes.RTM_GETNEXTHOP, routes.encode_nexthop_dump())
    except NetlinkError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return
    found = [routes.parse_nexthop(body, name_of) for body in bodies]
    version_of = {hop.id: hop.version for hop in found if not hop.group}
    for hop in found:
        if hop.protocol in protocols:
            yield replace(hop, version=version_of.get(hop.group[0], 4)) if hop.group else hop


def read_ip_rules(socket: NetlinkSocket, protocols: Sequence[int]) -> Iterator[tuple[int, IpRule]]:
    """Each with the protocol number that it carries."""
    for family in (routes.AF_INET, routes.AF_INET6):
        for body in socket.dump(iprules.RTM_GETRULE, iprules.encode_ip_rule_dump(family)):
            protocol, rule = iprules.parse_ip_rule(body)
            if protocol in protocols:
                yield protocol, rule


def read_routes(socket: NetlinkSocket, name_of: NameOf, protocols: Sequence[int]) -> Iterator[Route]:
    """Those of every table."""
    parse = routes.RouteDecoder(name_of).parse
    for family in (routes.AF_INET, routes.AF_INET6):
        for protocol in protocols:
            for body in socket.dump(routes.RTM_GETROUTE, routes.encode_route_dump(family, protocol)):
                route = parse(body)
                if route is not None:
                    yield route
