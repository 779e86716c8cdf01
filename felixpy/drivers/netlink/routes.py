"""Routes and nexthop objects as rtnetlink messages, both ways.

In → out: Route, NextHop ↔ message bodies. Routes come by the hundred thousand, mostly alike but for the destination,
so everything else of a route is encoded once per batch.
Source: linux/rtnetlink.h, linux/nexthop.h, net/ipv4/fib_frontend.c, net/ipv6/route.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from operator import attrgetter
from struct import Struct

from felixpy.addresses import Address, Prefix
from felixpy.dataplane.objects import Hop, NextHop, Route, RouteType
from felixpy.drivers.netlink.codec import (
    attribute,
    attribute_u32,
    nested,
    parse_attributes,
    parse_u32,
)

RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26
RTM_NEWNEXTHOP = 104
RTM_DELNEXTHOP = 105
RTM_GETNEXTHOP = 106

AF_INET = 2
AF_INET6 = 10
FAMILY = {4: AF_INET, 16: AF_INET6}
"""Address family by length of an address in bytes."""

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS = 1, 4, 5, 6, 7, 8
_RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA, _RTA_NH_ID = 9, 15, 18, 30
_RTAX_MTU = 2
_NHA_ID, _NHA_GROUP, _NHA_BLACKHOLE, _NHA_OIF, _NHA_GATEWAY = 1, 2, 4, 5, 6
_RTNH_F_ONLINK = 4
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST, _SCOPE_NOWHERE = 0, 253, 254, 255
_DESTINATION_AT = 20
"""Where the kernel puts RTA_DST: behind struct rtmsg and RTA_TABLE (fib_dump_info, rt6_fill_node)."""
_METRIC_IPV6 = 1024
"""IP6_RT_PRIO_USER: what the kernel makes of metric 0."""

_ROUTE = Struct("=BBBBBBBBI")
"""struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""
_LEG = Struct("=HBBi")
"""struct rtnexthop: length, flags, weight - 1, index."""
_NEXTHOP = Struct("=BBBxI")
"""struct nhmsg: family, scope, protocol, flags."""
_MEMBER = Struct("=IB3x")
"""struct nexthop_grp: id, weight - 1."""
_HEADER = Struct("=HH")
_VIA = Struct("=H")

IndexOf = Callable[[str], int]
NameOf = Mapping[int, str]

_all_but_destination = attrgetter(*(field.name for field in fields(Route) if field.name != "destination"))


class RouteEncoder:
    """Bodies of route messages; all but the destination's address is encoded once per kind of route."""

    def __init__(self, index_of: IndexOf) -> None:
        self._index_of = index_of
        self._frames: dict[tuple[object, ...], tuple[bytes, bytes]] = {}

    def encode(self, route: Route) -> bytes:
        """Body of RTM_NEWROUTE.

        Raises  MissingDevice.
        """
        address, length = route.destination
        shape = (length, len(address), _all_but_destination(route))
        frame = self._frames.get(shape)
        if frame is None:
            frame = self._frames[shape] = _frame(route, self._index_of)
        return frame[0] + address + frame[1]

    def shape_of(self, route: Route) -> tuple[object, ...]:
        """What two routes have in common that differ in the destination's address alone."""
        return route.destination[1], len(route.destination[0]), _all_but_destination(route)

    def frame_of(self, shape: tuple[object, ...], example: Route) -> tuple[bytes, int]:
        """The body of a shape's messages with the address left zero, and where the address goes.

        Raises  MissingDevice.
        """
        frame = self._frames.get(shape)
        if frame is None:
            frame = self._frames[shape] = _frame(example, self._index_of)
        return frame[0] + bytes(len(example.destination.address)) + frame[1], len(frame[0])

    def drop_frame_of(self, example: Route) -> tuple[bytes, int]:
        """As `frame_of`, of RTM_DELROUTE: for routes of this length, table, metric and protocol, wherever they lead."""
        address, length = example.destination
        body = self.encode_drop(example.table, address, length, example.kernel_metric, protocol=example.protocol)
        return body, _ROUTE.size + _HEADER.size

    def encode_drop(self, table: int, address: bytes, length: int, metric: int, *, protocol: int) -> bytes:
        """Body of RTM_DELROUTE for a route of `protocol`, whatever its next hops."""
        shape = (length, len(address), table, metric, protocol)
        frame = self._frames.get(shape)
        if frame is None:
            frame = self._frames[shape] = _drop_frame(len(address), length, table, metric, protocol)
        return frame[0] + address + frame[1]


def encode_route_dump(family: int, protocol: int) -> bytes:
    """Body of RTM_GETROUTE for every table; the kernel itself leaves out other protocols (strict checking)."""
    return _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)


class RouteDecoder:
    """Routes from message bodies; bodies that differ in the destination's address alone are decoded once."""

    def __init__(self, name_of: NameOf) -> None:
        self._name_of = name_of
        self._frames: dict[tuple[bytes, bytes], Route | None] = {}

    def parse(self, body: bytes) -> Route | None:
        """The route of a message body, or None where a Route cannot tell it (multicast and the like).

        Default metrics read as 0. Where a route names a nexthop object, the device and gateway that the kernel repeats
        beside it are left out.
        """
        destination, alike = self.parse_alike(body)
        if alike is None or alike.destination == destination:
            return alike
        return Route(destination, *_all_but_destination(alike))

    def parse_alike(self, body: bytes) -> tuple[Prefix, Route | None]:
        """The destination, and a route that is the same in all else: one for all that are alike."""
        size = 4 if body[0] == AF_INET else 16
        end = _DESTINATION_AT + 4 + size
        if _HEADER.unpack_from(body, _DESTINATION_AT) != (4 + size, _RTA_DST):
            lone = _parse_route(body, size, self._name_of)
            return Prefix(Address(bytes(size)), 0) if lone is None else lone.destination, lone
        frame = (body[:_DESTINATION_AT], body[end:])
        if frame not in self._frames:
            self._frames[frame] = _parse_route(body, size, self._name_of)
        return Prefix(Address(body[end - size : end]), body[1]), self._frames[frame]


def encode_nexthop(nexthop: NextHop, index_of: IndexOf) -> bytes:
    """Body of RTM_NEWNEXTHOP.

    Raises  MissingDevice.
    """
    body = attribute_u32(_NHA_ID, nexthop.id)
    if nexthop.group:
        legs = b"".join(_MEMBER.pack(member, 0) for member in nexthop.group)
        return _NEXTHOP.pack(0, 0, nexthop.protocol, 0) + body + attribute(_NHA_GROUP, legs)
    family = AF_INET if nexthop.version == 4 else AF_INET6
    if nexthop.blackhole:
        return _NEXTHOP.pack(family, 0, nexthop.protocol, 0) + body + attribute(_NHA_BLACKHOLE, b"")
    if nexthop.gateway is not None:
        family = FAMILY[len(nexthop.gateway)]
    flags = _RTNH_F_ONLINK if nexthop.onlink else 0
    return (
        _NEXTHOP.pack(family, 0, nexthop.protocol, flags)
        + body
        + (attribute_u32(_NHA_OIF, index_of(nexthop.device)) if nexthop.device is not None else b"")
        + (attribute(_NHA_GATEWAY, nexthop.gateway) if nexthop.gateway is not None else b"")
    )


def encode_nexthop_key(nexthop_id: int) -> bytes:
    """Body of RTM_DELNEXTHOP."""
    return _NEXTHOP.pack(0, 0, 0, 0) + attribute_u32(_NHA_ID, nexthop_id)


def encode_nexthop_dump() -> bytes:
    """Body of RTM_GETNEXTHOP for all."""
    return _NEXTHOP.pack(0, 0, 0, 0)


def parse_nexthop(body: bytes, name_of: NameOf) -> NextHop:
    """The nexthop of a message body; a group's `version` is not in it and reads as 4."""
    family, _, protocol, flags = _NEXTHOP.unpack_from(body)
    found = parse_attributes(body, _NEXTHOP.size)
    group = found.get(_NHA_GROUP, b"")
    return NextHop(
        id=parse_u32(found[_NHA_ID]),
        gateway=Address(found[_NHA_GATEWAY]) if _NHA_GATEWAY in found else None,
        device=name_of.get(parse_u32(found[_NHA_OIF])) if _NHA_OIF in found else None,
        onlink=bool(flags & _RTNH_F_ONLINK),
        group=tuple(member for member, _ in _MEMBER.iter_unpack(group)),
        protocol=protocol,
        blackhole=_NHA_BLACKHOLE in found,
        version=6 if family == AF_INET6 else 4,
    )


_TYPES = frozenset(RouteType)


def _frame(route: Route, index_of: IndexOf) -> tuple[bytes, bytes]:
    address, length = route.destination
    size = len(address)
    scope = _SCOPE_LINK if route.link_scope else _SCOPE_HOST if route.type is RouteType.LOCAL else _SCOPE_UNIVERSE
    flags = _RTNH_F_ONLINK if route.onlink else 0
    head = _ROUTE.pack(FAMILY[size], length, 0, 0, _short_table(route.table), route.protocol, scope, route.type, flags)
    tail = [attribute_u32(_RTA_TABLE, route.table)]
    if route.metric:
        tail.append(attribute_u32(_RTA_PRIORITY, route.metric))
    if route.source is not None:
        tail.append(attribute(_RTA_PREFSRC, route.source))
    if route.mtu:
        tail.append(nested(_RTA_METRICS, attribute_u32(_RTAX_MTU, route.mtu)))
    if route.nexthop_id is not None:
        tail.append(attribute_u32(_RTA_NH_ID, route.nexthop_id))
    elif route.hops:
        tail.append(attribute(_RTA_MULTIPATH, b"".join(_leg(hop, size, index_of) for hop in route.hops)))
    else:
        tail.append(_towards(route.gateway, route.device, size, index_of))
    return head + _HEADER.pack(4 + size, _RTA_DST), b"".join(tail)


def _parse_route(body: bytes, size: int, name_of: NameOf) -> Route | None:
    family, length, _, _, table, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
    if family not in FAMILY.values() or kind not in _TYPES:
        return None
    found = parse_attributes(body, _ROUTE.size)
    metric = parse_u32(found[_RTA_PRIORITY]) if _RTA_PRIORITY in found else 0
    nexthop_id = parse_u32(found[_RTA_NH_ID]) if _RTA_NH_ID in found else None
    unicast = kind == RouteType.UNICAST and nexthop_id is None
    return Route(
        destination=Prefix(Address(found.get(_RTA_DST, bytes(size))), length),
        protocol=protocol,
        type=RouteType(kind),
        device=_device(found, name_of) if unicast or kind == RouteType.LOCAL else None,
        gateway=_gateway(found) if unicast else None,
        source=Address(found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else None,
        onlink=bool(unicast and flags & _RTNH_F_ONLINK and _RTA_MULTIPATH not in found),
        link_scope=unicast and scope == _SCOPE_LINK,
        nexthop_id=nexthop_id,
        hops=_parse_hops(found[_RTA_MULTIPATH], name_of) if unicast and _RTA_MULTIPATH in found else (),
        metric=0 if family == AF_INET6 and metric == _METRIC_IPV6 else metric,
        table=parse_u32(found[_RTA_TABLE]) if _RTA_TABLE in found else table,
        mtu=_mtu(found),
    )


def _drop_frame(size: int, length: int, table: int, metric: int, protocol: int) -> tuple[bytes, bytes]:
    head = _ROUTE.pack(FAMILY[size], length, 0, 0, _short_table(table), protocol, _SCOPE_NOWHERE, 0, 0)
    tail = attribute_u32(_RTA_TABLE, table)
    if metric:
        tail += attribute_u32(_RTA_PRIORITY, metric)
    return head + _HEADER.pack(4 + size, _RTA_DST), tail


def _leg(hop: Hop, size: int, index_of: IndexOf) -> bytes:
    way = _towards(hop.gateway, None, size, index_of)
    index = index_of(hop.device) if hop.device is not None else 0
    return _LEG.pack(_LEG.size + len(way), _RTNH_F_ONLINK if hop.onlink else 0, hop.weight - 1, index) + way


def _towards(gateway: Address | None, device: str | None, size: int, index_of: IndexOf) -> bytes:
    way = attribute_u32(_RTA_OIF, index_of(device)) if device is not None else b""
    if gateway is None:
        return way
    if len(gateway) == size:
        return way + attribute(_RTA_GATEWAY, gateway)
    return way + attribute(_RTA_VIA, _VIA.pack(FAMILY[len(gateway)]) + gateway)


def _short_table(table: int) -> int:
    return table if table < 256 else 0


def _device(found: Mapping[int, bytes], name_of: NameOf) -> str | None:
    return name_of.get(parse_u32(found[_RTA_OIF])) if _RTA_OIF in found else None


def _gateway(found: Mapping[int, bytes]) -> Address | None:
    if _RTA_GATEWAY in found:
        return Address(found[_RTA_GATEWAY])
    return Address(found[_RTA_VIA][2:]) if _RTA_VIA in found else None


def _mtu(found: Mapping[int, bytes]) -> int:
    mtu = parse_attributes(found[_RTA_METRICS]).get(_RTAX_MTU) if _RTA_METRICS in found else None
    return parse_u32(mtu) if mtu else 0


def _parse_hops(legs: bytes, name_of: NameOf) -> tuple[Hop, ...]:
    hops: list[Hop] = []
    offset = 0
    while offset + _LEG.size <= len(legs):
        length, flags, weight, index = _LEG.unpack_from(legs, offset)
        found = parse_attributes(legs[offset + _LEG.size : offset + length])
        hops.append(Hop(_gateway(found), name_of.get(index), bool(flags & _RTNH_F_ONLINK), weight + 1))
        offset += (max(length, _LEG.size) + 3) & ~3
    return tuple(hops)
