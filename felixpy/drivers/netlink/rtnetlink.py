"""The kernel's devices, addresses, neighbours, forwarding entries, nexthops, policy rules and routes.

In → out: `read()` → Seen; ops → Outcomes, each with the kernel's own error. Ops of one kind that follow each other
travel in one batch. Ownership of nexthops, rules and routes is their protocol number: others are neither read nor
dropped. For the other kinds everything is read, and whoever compares decides what is ours.
Source: rtnetlink(7); linux/rtnetlink.h. No `if` about policy here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, Self

from felixpy.addresses import Address, Prefix
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_LEARNED,
    ROUTE_PROTOCOL_WORKLOAD,
    DeviceAddress,
    Drop,
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
    Route,
    Seen,
    VxlanSettings,
)
from felixpy.drivers.netlink import iprules, links, neighbours, routes
from felixpy.drivers.netlink.alike import drop_alike, put_alike, read_alike
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
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from felixpy.drivers.outcomes import ABSENT, failed

PROTOCOLS = (ROUTE_PROTOCOL_WORKLOAD, ROUTE_PROTOCOL_LEARNED)

_REPLACE = NLM_F_CREATE | NLM_F_REPLACE
_TRIAL = 0x3FFF_FFFF
"""The number of a nexthop that is there for a moment only: below all that routes name."""


class RouteDriver:
    """Reads and applies in the network namespace of `socket` (the caller's own, when None)."""

    def __init__(self, socket: NetlinkSocket | None = None, protocols: Sequence[int] = PROTOCOLS) -> None:
        self._socket = socket or NetlinkSocket(NETLINK_ROUTE)
        self._protocols = tuple(protocols)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port_id(self) -> int:
        """By which the kernel names us as the cause of an event."""
        return self._socket.port_id

    def close(self) -> None:
        """Gives the socket back."""
        self._socket.close()

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """Everything of these kinds, and of nexthops, rules and routes what carries one of our protocols.

        `wanted` makes no difference.

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

    def read_interfaces(self) -> Mapping[str, frozenset[Address]]:
        """Every device with its addresses, those that the kernel made by itself left out.

        Raises  NetlinkError.
        """
        return {
            name: frozenset(prefix.address for prefix in prefixes) for name, prefixes in self.read_subnets().items()
        }

    def read_subnets(self) -> Mapping[str, frozenset[Prefix]]:
        """As `read_interfaces`, each address with the length of its subnet."""
        name_of = {index: name for index, name, _ in dump_links(self._socket)}
        found: dict[str, set[Prefix]] = {name: set() for name in name_of.values()}
        for address in self._read_addresses(name_of):
            found[address.device].add(address.prefix)
        return {name: frozenset(prefixes) for name, prefixes in found.items()}

    def why_no_nexthops(self) -> str:
        """Why the kernel has no nexthop objects, found by making one; "" where it has them (Linux 5.3 and later)."""
        trial = NextHop(_TRIAL, blackhole=True, protocol=self._protocols[0])
        (outcome,) = self.apply([Put(trial)])
        self.apply([Drop(trial.key, trial)])
        return outcome.error or ""

    def read_nexthops(self) -> Iterable[NextHop]:
        """The nexthop objects with one of our protocols; none where the kernel knows no such thing."""
        return self._read_nexthops({index: name for index, name, _ in dump_links(self._socket)})

    def read_alike(self) -> Iterator[tuple[Prefix, Route]]:
        """The routes with one of our protocols: each destination, and a route that is the same in all else."""
        name_of = {index: name for index, name, _ in dump_links(self._socket)}
        for protocol in self._protocols:
            yield from read_alike(self._socket, name_of, protocol)

    def put_alike(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        """Puts a route like the example to each, all of one length; what was refused, by position.

        Raises  NetlinkError only when the kernel does not answer.
        """
        addresses = [address for address, _ in destinations]
        encoder = routes.RouteEncoder(Devices(self._socket).index_of)
        try:
            refused = put_alike(self._socket, encoder, example, addresses)
        except MissingDevice as error:
            text = error.strerror or ""
            return {at: Outcome(Put(_like(example, to)), text, errno.ENODEV) for at, to in enumerate(destinations)}
        return {
            at: failed(Put(_like(example, destinations[at])), one.errno, one.text, example.device or "")
            for at, one in refused.items()
        }

    def drop_alike(self, example: Route, destinations: Sequence[Prefix]) -> Mapping[int, Outcome]:
        """Drops the route to each that has the example's table, length and metric; as `put_alike`."""
        addresses = [address for address, _ in destinations]
        refused = drop_alike(self._socket, routes.RouteEncoder(Devices(self._socket).index_of), example, addresses)
        outcomes: dict[int, Outcome] = {}
        for at, one in refused.items():
            if one.errno not in ABSENT:
                route = _like(example, destinations[at])
                outcomes[at] = failed(Drop(route.key, route), one.errno, one.text)
        return outcomes

    def apply(self, ops: Sequence[Op]) -> tuple[Outcome, ...]:
        """One outcome per op, in order. A refused op changes nothing for the others.

        Raises  NetlinkError only when the kernel does not answer.
        """
        devices = Devices(self._socket)
        outcomes: list[Outcome] = []
        for verb, run in groupby(ops, _verb_of):
            batch = tuple(run)
            if verb.kind is Kind.LINK:
                outcomes.extend(self._apply_link(op, devices) for op in batch)
            elif verb.kind is Kind.ROUTE and verb.put:
                outcomes.extend(self._put_routes(batch, devices))
            elif verb.kind is Kind.IP_RULE:
                outcomes.extend(self._apply_ip_rules(batch))
            else:
                outcomes.extend(self._apply_batch(verb, batch, devices))
        return tuple(outcomes)

    def _put_routes(self, ops: tuple[Op, ...], devices: Devices) -> Sequence[Outcome]:
        """Routes come by the hundred thousand, mostly alike: those are one message repeated. No two have one key."""
        encoder = routes.RouteEncoder(devices.index_of)
        shape_of = encoder.shape_of
        alike: dict[tuple[object, ...], list[int]] = {}
        last: tuple[object, ...] = ()
        positions: list[int] = []
        for position, op in enumerate(ops):
            shape = shape_of(op.object)  # type: ignore[union-attr, arg-type]
            if shape != last:
                last, positions = shape, alike.setdefault(shape, [])
            positions.append(position)
        refused: dict[int, Outcome] = {}
        lone = [positions[0] for positions in alike.values() if len(positions) == 1]
        if len(lone) > 1:
            self._put_lone_routes(ops, lone, encoder, refused)
        for shape, positions in alike.items():
            if len(positions) == 1 and len(lone) > 1:
                continue
            puts = [ops[position].object for position in positions]  # type: ignore[union-attr]
            try:
                body, hole = encoder.frame_of(shape, puts[0])  # type: ignore[arg-type]
            except MissingDevice as error:
                refused.update((at, Outcome(ops[at], error.strerror, errno.ENODEV)) for at in positions)
                continue
            addresses: list[bytes] = [route.destination[0] for route in puts]  # type: ignore[union-attr, misc]
            failures = self._socket.batch_alike(routes.RTM_NEWROUTE, _REPLACE, body, hole, addresses)
            for index, failure in failures.items():
                op = ops[positions[index]]
                refused[positions[index]] = failed(op, failure.errno, failure.text, _device_of(op))
        if not refused:
            return tuple(map(Outcome, ops))
        return [refused.get(position) or Outcome(op) for position, op in enumerate(ops)]

    def _put_lone_routes(
        self, ops: tuple[Op, ...], positions: list[int], encoder: routes.RouteEncoder, refused: dict[int, Outcome]
    ) -> None:
        """Those that are like no other, as the routes of pods are: each a message, all in one go."""
        sent: list[int] = []
        bodies: list[bytes] = []
        for position in positions:
            try:
                bodies.append(encoder.encode(ops[position].object))  # type: ignore[union-attr, arg-type]
            except MissingDevice as error:
                refused[position] = Outcome(ops[position], error.strerror, errno.ENODEV)
            else:
                sent.append(position)
        for index, failure in self._socket.batch(routes.RTM_NEWROUTE, _REPLACE, bodies).items():
            op = ops[sent[index]]
            refused[sent[index]] = failed(op, failure.errno, failure.text, _device_of(op))

    def _apply_batch(self, verb: _Verb, ops: tuple[Op, ...], devices: Devices) -> Sequence[Outcome]:
        refused: dict[int, Outcome] = {}
        bodies: list[bytes] = []
        sources: list[int] = []
        encode = self._encoder(verb, devices.index_of)
        for position, op in enumerate(ops):
            try:
                for body in encode(op):
                    bodies.append(body)
                    sources.append(position)
            except MissingDevice as error:
                if not isinstance(op, Drop):
                    refused[position] = Outcome(op, error.strerror, errno.ENODEV)
        for index, failure in self._socket.batch(verb.message, verb.flags, bodies).items():
            op = ops[sources[index]]
            if not (isinstance(op, Drop) and failure.errno in ABSENT):
                refused[sources[index]] = failed(op, failure.errno, failure.text, _device_of(op))
        if not refused:
            return tuple(map(Outcome, ops))
        return [refused.get(position) or Outcome(op) for position, op in enumerate(ops)]

    def _encoder(self, verb: _Verb, index_of: routes.IndexOf) -> Callable[[Any], tuple[bytes, ...]]:
        """From an op to the bodies of its messages; the ops of a run are all `verb`'s."""
        route = routes.RouteEncoder(index_of)
        match verb:
            case _Verb(kind=Kind.ROUTE):
                return lambda op: tuple(
                    route.encode_drop(*op.key.id, protocol=protocol)
                    for protocol in ((op.last.protocol,) if op.last else self._protocols)
                )
            case _Verb(kind=Kind.NEXTHOP, put=True):
                return lambda op: (routes.encode_nexthop(op.object, index_of),)
            case _Verb(kind=Kind.NEXTHOP):
                return lambda op: (routes.encode_nexthop_key(*op.key.id),)
            case _Verb(kind=Kind.ADDRESS):
                encode_address = partial(links.encode_address, index_of=index_of)
                return lambda op: (encode_address(*_key_of(op).id),)
            case _Verb(kind=Kind.NEIGHBOUR, put=True):
                return lambda op: (neighbours.encode_neighbour(op.object, index_of),)
            case _Verb(kind=Kind.NEIGHBOUR):
                encode_neighbour_key = partial(neighbours.encode_neighbour_key, index_of=index_of)
                return lambda op: (encode_neighbour_key(*op.key.id),)
            case _Verb(kind=Kind.FDB, put=True):
                return lambda op: (neighbours.encode_fdb(op.object, index_of),)
            case _:
                encode_fdb_key = partial(neighbours.encode_fdb_key, index_of=index_of)
                return lambda op: (encode_fdb_key(*op.key.id),)

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
            failure: Failure | None = None
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
        for body in self._socket.dump(links.RTM_GETADDR, links.encode_address_dump()):
            address = links.parse_device_address(body, name_of)
            if address is not None:
                yield address

    def _read_neighbours(self, name_of: routes.NameOf) -> Iterable[Neighbour | FdbEntry]:
        for ask, parse in _NEIGHBOUR_DUMPS:
            for body in self._socket.dump(neighbours.RTM_GETNEIGH, ask):
                entry = parse(body, name_of)
                if entry is not None:
                    yield entry

    def _read_nexthops(self, name_of: routes.NameOf) -> Iterable[NextHop]:
        try:
            bodies = self._socket.dump(routes.RTM_GETNEXTHOP, routes.encode_nexthop_dump())
        except NetlinkError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return
        found = [routes.parse_nexthop(body, name_of) for body in bodies]
        version_of = {hop.id: hop.version for hop in found if not hop.group}
        for hop in found:
            if hop.protocol in self._protocols:
                yield replace(hop, version=version_of.get(hop.group[0], 4)) if hop.group else hop

    def _read_ip_rules(self) -> Iterable[IpRule]:
        return (rule for _, rule in self._dump_ip_rules())

    def _dump_ip_rules(self) -> Iterable[tuple[int, IpRule]]:
        for family in (routes.AF_INET, routes.AF_INET6):
            for body in self._socket.dump(iprules.RTM_GETRULE, iprules.encode_ip_rule_dump(family)):
                protocol, rule = iprules.parse_ip_rule(body)
                if protocol in self._protocols:
                    yield protocol, rule

    def _read_routes(self, name_of: routes.NameOf) -> Iterable[Route]:
        parse = routes.RouteDecoder(name_of).parse
        for family in (routes.AF_INET, routes.AF_INET6):
            for protocol in self._protocols:
                for body in self._socket.dump(routes.RTM_GETROUTE, routes.encode_route_dump(family, protocol)):
                    route = parse(body)
                    if route is not None:
                        yield route


def _like(example: Route, destination: Prefix) -> Route:
    return replace(example, destination=Prefix(*destination))


_Parse = Callable[[bytes, Mapping[int, str]], Neighbour | FdbEntry | None]
_NEIGHBOUR_DUMPS: tuple[tuple[bytes, _Parse], ...] = (
    (neighbours.encode_neighbour_dump(), neighbours.parse_neighbour),
    (neighbours.encode_neighbour_dump(proxies=True), neighbours.parse_neighbour),
    (neighbours.encode_neighbour_dump(family=neighbours.AF_BRIDGE), neighbours.parse_fdb),
)


@dataclass(frozen=True, slots=True)
class _Verb:
    """What a run of ops has in common: one kind, put or dropped, by one type of message."""

    kind: Kind
    put: bool
    message: int
    flags: int


_PUTS: Mapping[type[Object], _Verb] = {
    Link: _Verb(Kind.LINK, True, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL),
    DeviceAddress: _Verb(Kind.ADDRESS, True, links.RTM_NEWADDR, _REPLACE),
    Neighbour: _Verb(Kind.NEIGHBOUR, True, neighbours.RTM_NEWNEIGH, _REPLACE),
    FdbEntry: _Verb(Kind.FDB, True, neighbours.RTM_NEWNEIGH, _REPLACE),
    NextHop: _Verb(Kind.NEXTHOP, True, routes.RTM_NEWNEXTHOP, _REPLACE),
    IpRule: _Verb(Kind.IP_RULE, True, iprules.RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL),
    Route: _Verb(Kind.ROUTE, True, routes.RTM_NEWROUTE, _REPLACE),
}
_DROPS: Mapping[Kind, _Verb] = {
    Kind.LINK: _Verb(Kind.LINK, False, RTM_DELLINK, 0),
    Kind.ADDRESS: _Verb(Kind.ADDRESS, False, links.RTM_DELADDR, 0),
    Kind.NEIGHBOUR: _Verb(Kind.NEIGHBOUR, False, neighbours.RTM_DELNEIGH, 0),
    Kind.FDB: _Verb(Kind.FDB, False, neighbours.RTM_DELNEIGH, 0),
    Kind.NEXTHOP: _Verb(Kind.NEXTHOP, False, routes.RTM_DELNEXTHOP, 0),
    Kind.IP_RULE: _Verb(Kind.IP_RULE, False, iprules.RTM_DELRULE, 0),
    Kind.ROUTE: _Verb(Kind.ROUTE, False, routes.RTM_DELROUTE, 0),
}
KINDS = frozenset(_DROPS)


def _verb_of(op: Op) -> _Verb:
    if type(op) is Put:
        return _PUTS[type(op.object)]
    assert type(op) is Drop, op
    return _DROPS[op.key.kind]


def _key_of(op: Any) -> Any:
    return op.object.key if isinstance(op, Put) else op.key


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
