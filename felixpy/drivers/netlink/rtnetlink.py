"""The kernel's devices, addresses, neighbours, forwarding entries, nexthops, policy rules and routes.

In → out: `read()` → Seen; ops → Outcomes, each with the kernel's own error. Ops of one kind that follow each other
travel in one batch. Ownership of nexthops, rules and routes is their protocol number: others are neither read nor
dropped. For the other kinds everything is read, and whoever compares decides what is ours.
Source: rtnetlink(7); linux/rtnetlink.h. No `if` about policy here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Self, assert_never

from felixpy.addresses import Address, Prefix
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_LEARNED,
    ROUTE_PROTOCOL_WORKLOAD,
    DeviceAddress,
    Drop,
    DropMembers,
    FdbEntry,
    IpipSettings,
    IpRule,
    Key,
    Kind,
    Link,
    Neighbour,
    NextHop,
    Object,
    Op,
    Outcome,
    Put,
    PutMembers,
    Route,
    Seen,
    VxlanSettings,
)
from felixpy.drivers.netlink import iprules, links, neighbours, routes
from felixpy.drivers.netlink.codec import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Failure
from felixpy.drivers.netlink.devices import (
    LINK_HEADER,
    RTM_DELLINK,
    RTM_NEWLINK,
    Devices,
    MissingDevice,
    dump_links,
    find_link,
)
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket, Request
from felixpy.drivers.outcomes import ABSENT, failed

KINDS = frozenset({Kind.LINK, Kind.ADDRESS, Kind.NEIGHBOUR, Kind.FDB, Kind.NEXTHOP, Kind.IP_RULE, Kind.ROUTE})
PROTOCOLS = (ROUTE_PROTOCOL_WORKLOAD, ROUTE_PROTOCOL_LEARNED)

_PUT = NLM_F_CREATE | NLM_F_REPLACE


class RouteDriver:
    """Reads and applies in the network namespace of `socket` (the caller's own, when None)."""

    def __init__(self, socket: NetlinkSocket | None = None, protocols: Sequence[int] = PROTOCOLS) -> None:
        self._socket = socket or NetlinkSocket(NETLINK_ROUTE)
        self._protocols = tuple(protocols)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the socket back."""
        self._socket.close()

    def read(self) -> Seen:
        """Everything of these kinds, and of nexthops, rules and routes what carries one of our protocols.

        Raises  NetlinkError.
        """
        devices = tuple(dump_links(self._socket))
        name_of = {index: name for index, name, _ in devices}
        objects: dict[Key, Object] = {}
        for found in (
            (links.parse_link(body, name_of) for _, _, body in devices),
            self._read_addresses(name_of),
            self._read_neighbours(name_of),
            self._read_nexthops(name_of),
            self._read_ip_rules(),
            self._read_routes(name_of),
        ):
            for item in found:
                objects[item.key] = item
        return Seen(objects)

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """One outcome per op, in order. A refused op changes nothing for the others.

        Raises  NetlinkError only when the kernel does not answer.
        """
        devices = Devices(self._socket)
        outcomes: list[Outcome] = []
        for kind, run in groupby(ops, _kind_of):
            batch = tuple(run)
            if kind is Kind.LINK:
                outcomes.extend(self._apply_link(op, devices) for op in batch)
            elif kind is Kind.IP_RULE:
                outcomes.extend(self._apply_ip_rules(batch))
            else:
                outcomes.extend(self._apply_batch(batch, devices))
        return tuple(outcomes)

    def _apply_batch(self, ops: tuple[Op, ...], devices: Devices) -> list[Outcome]:
        encode_route = routes.RouteEncoder(devices.index_of).encode
        requests: list[Request] = []
        sources: list[int] = []
        outcomes: list[Outcome | None] = [None] * len(ops)
        for position, op in enumerate(ops):
            try:
                if type(op) is Put and type(op.object) is Route:
                    requests.append(Request(routes.RTM_NEWROUTE, _PUT, encode_route(op.object)))
                    sources.append(position)
                    continue
                for request in self._requests(op, devices.index_of):
                    requests.append(request)
                    sources.append(position)
            except MissingDevice as error:
                outcomes[position] = Outcome(op) if isinstance(op, Drop) else Outcome(op, error.strerror, errno.ENODEV)
        for index, failure in self._socket.batch(requests).items():
            position = sources[index]
            op = ops[position]
            if not (isinstance(op, Drop) and failure.errno in ABSENT):
                outcomes[position] = failed(op, failure.errno, failure.text, _device_of(op))
        return [outcome or Outcome(op) for op, outcome in zip(ops, outcomes, strict=True)]

    def _requests(self, op: Op, index_of: routes.IndexOf) -> Iterable[Request]:
        match op:
            case Put(object=DeviceAddress() as it):
                yield Request(links.RTM_NEWADDR, _PUT, links.encode_address(it.device, it.prefix, index_of))
            case Put(object=Neighbour() as it):
                yield Request(neighbours.RTM_NEWNEIGH, _PUT, neighbours.encode_neighbour(it, index_of))
            case Put(object=FdbEntry() as it):
                yield Request(neighbours.RTM_NEWNEIGH, _PUT, neighbours.encode_fdb(it, index_of))
            case Put(object=NextHop() as it):
                yield Request(routes.RTM_NEWNEXTHOP, _PUT, routes.encode_nexthop(it, index_of))
            case Drop(key=Key(kind=Kind.ADDRESS, id=(str(device), bytes(address), int(length)))):
                body = links.encode_address(device, Prefix(Address(address), length), index_of)
                yield Request(links.RTM_DELADDR, 0, body)
            case Drop(key=Key(kind=Kind.NEIGHBOUR, id=(str(device), bytes(address), proxy))):
                gone = Neighbour(device, Address(address), proxy=bool(proxy))
                yield Request(neighbours.RTM_DELNEIGH, 0, neighbours.encode_neighbour(gone, index_of))
            case Drop(key=Key(kind=Kind.FDB, id=(str(device), bytes(mac)))):
                yield Request(neighbours.RTM_DELNEIGH, 0, neighbours.encode_fdb_key(device, mac, index_of))
            case Drop(key=Key(kind=Kind.NEXTHOP, id=(int(number),))):
                yield Request(routes.RTM_DELNEXTHOP, 0, routes.encode_nexthop_key(number))
            case Drop(key=Key(kind=Kind.ROUTE, id=(int(table), bytes(address), int(length), int(metric))), last=last):
                destination = Prefix(Address(address), length)
                for protocol in (last.protocol,) if isinstance(last, Route) else self._protocols:
                    body = routes.encode_route_drop(table, destination, metric, protocol)
                    yield Request(routes.RTM_DELROUTE, 0, body)
            case _:
                raise TypeError(f"not an op on {', '.join(sorted(KINDS))}: {op}")

    def _apply_link(self, op: Op, devices: Devices) -> Outcome:
        try:
            match op:
                case Put(object=Link() as link):
                    devices.forget(link.name)
                    self._put_link(link, devices)
                case Drop(key=Key(id=(str(name),))):
                    devices.forget(name)
                    self._drop_link(name)
                case _:
                    raise TypeError(f"not an op on a link: {op}")
        except MissingDevice as error:
            return Outcome(op, error.strerror, errno.ENODEV)
        except NetlinkError as error:
            return failed(op, error.errno or errno.EIO, error.strerror or "", _device_of(op))
        return Outcome(op)

    def _put_link(self, link: Link, devices: Devices) -> None:
        body = find_link(self._socket, link.name)
        if body is not None and link.settings is not None:
            parent = link.settings.parent if isinstance(link.settings, VxlanSettings) else ""
            name_of = {devices.index_of(parent): parent} if parent else {}
            if links.parse_link(body, name_of).settings != link.settings:
                self._socket.request(RTM_DELLINK, 0, links.encode_link_drop(LINK_HEADER.unpack_from(body)[2]))
                body = None
        if body is None:
            if link.settings is None:
                raise MissingDevice(link.name)
            try:
                self._socket.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, links.encode_link(link, devices.index_of))
                return
            except NetlinkError as error:
                body = find_link(self._socket, link.name)
                if error.errno != errno.EEXIST or body is None:
                    raise
        index = LINK_HEADER.unpack_from(body)[2]
        have = links.parse_link(body, {})
        if have != replace(have, mtu=link.mtu or have.mtu, mac=link.mac or have.mac, up=link.up):
            self._socket.request(
                RTM_NEWLINK, 0, links.encode_link(replace(link, settings=None), devices.index_of, index)
            )

    def _drop_link(self, name: str) -> None:
        body = find_link(self._socket, name)
        if body is None:
            return
        index = LINK_HEADER.unpack_from(body)[2]
        if isinstance(links.parse_link(body, {}).settings, IpipSettings):
            self._socket.request(RTM_NEWLINK, 0, links.encode_link_down(index))
        try:
            self._socket.request(RTM_DELLINK, 0, links.encode_link_drop(index))
        except NetlinkError as error:
            if error.errno not in ABSENT:
                raise

    def _apply_ip_rules(self, ops: tuple[Op, ...]) -> list[Outcome]:
        present = list(self._dump_ip_rules())
        outcomes: list[Outcome] = []
        for op in ops:
            wanted = op.object if isinstance(op, Put) and isinstance(op.object, IpRule) else None
            key = op.key if isinstance(op, Drop) else wanted.key if wanted else None
            others = [entry for entry in present if entry[1].key == key and entry[1] != wanted]
            failure = None
            if wanted is not None:
                failure = self._change_ip_rule(iprules.RTM_NEWRULE, wanted, self._protocols[0], errno.EEXIST)
            if failure is None:
                for protocol, other in others:
                    failure = self._change_ip_rule(iprules.RTM_DELRULE, other, protocol, errno.ENOENT) or failure
            outcomes.append(Outcome(op) if failure is None else failed(op, failure.errno, failure.text))
        return outcomes

    def _change_ip_rule(self, kind: int, rule: IpRule, protocol: int, harmless: int) -> Failure | None:
        flags = NLM_F_CREATE | NLM_F_EXCL if kind == iprules.RTM_NEWRULE else 0
        try:
            self._socket.request(kind, flags, iprules.encode_ip_rule(rule, protocol))
        except NetlinkError as error:
            if error.errno != harmless:
                return Failure(error.errno or errno.EIO, error.strerror or "")
        return None

    def _read_addresses(self, name_of: routes.NameOf) -> Iterable[DeviceAddress]:
        for reply in self._socket.dump(links.RTM_GETADDR, links.encode_address_dump()):
            address = links.parse_device_address(reply.body, name_of)
            if address is not None:
                yield address

    def _read_neighbours(self, name_of: routes.NameOf) -> Iterable[Neighbour | FdbEntry]:
        for ask, parse in _NEIGHBOUR_DUMPS:
            for reply in self._socket.dump(neighbours.RTM_GETNEIGH, ask):
                entry = parse(reply.body, name_of)
                if entry is not None:
                    yield entry

    def _read_nexthops(self, name_of: routes.NameOf) -> Iterable[NextHop]:
        found = [
            routes.parse_nexthop(reply.body, name_of)
            for reply in self._socket.dump(routes.RTM_GETNEXTHOP, routes.encode_nexthop_dump())
        ]
        version_of = {hop.id: hop.version for hop in found if not hop.group}
        for hop in found:
            if hop.protocol in self._protocols:
                yield replace(hop, version=version_of.get(hop.group[0], 4)) if hop.group else hop

    def _read_ip_rules(self) -> Iterable[IpRule]:
        return (rule for _, rule in self._dump_ip_rules())

    def _dump_ip_rules(self) -> Iterable[tuple[int, IpRule]]:
        for family in (routes.AF_INET, routes.AF_INET6):
            for reply in self._socket.dump(iprules.RTM_GETRULE, iprules.encode_ip_rule_dump(family)):
                protocol, rule = iprules.parse_ip_rule(reply.body)
                if protocol in self._protocols:
                    yield protocol, rule

    def _read_routes(self, name_of: routes.NameOf) -> Iterable[Route]:
        for family in (routes.AF_INET, routes.AF_INET6):
            for protocol in self._protocols:
                for reply in self._socket.dump(routes.RTM_GETROUTE, routes.encode_route_dump(family, protocol)):
                    route = routes.parse_route(reply.body, name_of)
                    if route is not None:
                        yield route


_Parse = Callable[[bytes, Mapping[int, str]], Neighbour | FdbEntry | None]
_NEIGHBOUR_DUMPS: tuple[tuple[bytes, _Parse], ...] = (
    (neighbours.encode_neighbour_dump(), neighbours.parse_neighbour),
    (neighbours.encode_neighbour_dump(proxies=True), neighbours.parse_neighbour),
    (neighbours.encode_neighbour_dump(family=neighbours.AF_BRIDGE), neighbours.parse_fdb),
)


_KIND_OF: Mapping[type[Object], Kind] = {
    Link: Kind.LINK,
    DeviceAddress: Kind.ADDRESS,
    Neighbour: Kind.NEIGHBOUR,
    FdbEntry: Kind.FDB,
    NextHop: Kind.NEXTHOP,
    IpRule: Kind.IP_RULE,
    Route: Kind.ROUTE,
}


def _kind_of(op: Op) -> Kind:
    match op:
        case Put():
            return _KIND_OF[type(op.object)]
        case Drop():
            return op.key.kind
        case PutMembers() | DropMembers():
            return Kind.SET
        case _:
            assert_never(op)


def _device_of(op: Op) -> str:
    subject = op.object if isinstance(op, Put) else op.last if isinstance(op, Drop) else None
    match subject:
        case Link():
            return subject.name
        case DeviceAddress() | Neighbour() | FdbEntry():
            return subject.device
        case Route() | NextHop():
            return subject.device or ""
        case _:
            return ""
