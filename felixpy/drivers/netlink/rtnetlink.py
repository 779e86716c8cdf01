"""The kernel's devices, addresses, neighbours, forwarding entries, nexthops, policy rules and routes.

In → out: `read()` → Seen; ops → Outcomes, each with the kernel's own error. Ops of one kind that follow each other
travel in one batch. Ownership of nexthops, rules and routes is their protocol number: others are neither read nor
dropped. For the other kinds everything is read, and whoever compares decides what is ours.
Source: rtnetlink(7); linux/rtnetlink.h. No `if` about policy here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Self

from felixpy.addresses import Address, Prefix
from felixpy.dataplane.objects import (
    ROUTE_PROTOCOL_LEARNED,
    ROUTE_PROTOCOL_WORKLOAD,
    Drop,
    Key,
    Kind,
    Link,
    NextHop,
    Object,
    Op,
    Outcome,
    Put,
    Route,
    Seen,
)
from felixpy.drivers.netlink import links, routes
from felixpy.drivers.netlink.alike import drop_alike, put_alike, put_routes, read_alike
from felixpy.drivers.netlink.devices import Devices, MissingDevice, dump_links
from felixpy.drivers.netlink.dumps import (
    read_addresses,
    read_ip_rules,
    read_neighbours,
    read_nexthops,
    read_routes,
)
from felixpy.drivers.netlink.link_changes import drop_link, put_link
from felixpy.drivers.netlink.rule_changes import apply_ip_rules
from felixpy.drivers.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from felixpy.drivers.netlink.verbs import Verb, device_of, encoder_of, verb_of
from felixpy.drivers.outcomes import ABSENT, failed

PROTOCOLS = (ROUTE_PROTOCOL_WORKLOAD, ROUTE_PROTOCOL_LEARNED)

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
            read_addresses(self._socket, name_of),
            read_neighbours(self._socket, name_of),
            read_nexthops(self._socket, name_of, self._protocols),
            (rule for _, rule in read_ip_rules(self._socket, self._protocols)),
            read_routes(self._socket, name_of, self._protocols),
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
        for address in read_addresses(self._socket, name_of):
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
        name_of = {index: name for index, name, _ in dump_links(self._socket)}
        return read_nexthops(self._socket, name_of, self._protocols)

    def read_alike(self) -> Iterator[tuple[Prefix, Route]]:
        """The routes with one of our protocols: each destination, and a route that is the same in all else."""
        name_of = {index: name for index, name, _ in dump_links(self._socket)}
        for protocol in self._protocols:
            yield from read_alike(self._socket, name_of, protocol)

    def read_foreign(self) -> Iterator[tuple[Prefix, Route]]:
        """As `read_alike`, the routes of everybody else in all tables."""
        name_of = {index: name for index, name, _ in dump_links(self._socket)}
        found = read_alike(self._socket, name_of, 0)
        return ((destination, alike) for destination, alike in found if alike.protocol not in self._protocols)

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
        for verb, run in groupby(ops, verb_of):
            batch = tuple(run)
            if verb.kind is Kind.LINK:
                outcomes.extend(self._apply_link(op, devices) for op in batch)
            elif verb.kind is Kind.ROUTE and verb.put:
                outcomes.extend(_outcomes(batch, put_routes(self._socket, devices.index_of, batch)))
            elif verb.kind is Kind.IP_RULE:
                outcomes.extend(apply_ip_rules(self._socket, batch, self._protocols))
            else:
                outcomes.extend(_outcomes(batch, self._apply_batch(verb, batch, devices)))
        return tuple(outcomes)

    def _apply_batch(self, verb: Verb, ops: Sequence[Op], devices: Devices) -> Mapping[int, Outcome]:
        """What was refused, by position."""
        refused: dict[int, Outcome] = {}
        bodies: list[bytes] = []
        sources: list[int] = []
        encode = encoder_of(verb, devices.index_of, self._protocols)
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
                refused[sources[index]] = failed(op, failure.errno, failure.text, device_of(op))
        return refused

    def _apply_link(self, op: Op, devices: Devices) -> Outcome:
        try:
            match op:
                case Put(object=Link() as link):
                    devices.forget(link.name)
                    put_link(self._socket, link, devices)
                case Drop(key=Key(id=(str(name),))):
                    devices.forget(name)
                    drop_link(self._socket, name)
                case _:
                    raise TypeError(f"not an op on a link: {op}")
        except MissingDevice as error:
            return Outcome(op, error.strerror, errno.ENODEV)
        except NetlinkError as error:
            return failed(op, error.errno or errno.EIO, error.strerror or "", device_of(op))
        return Outcome(op)


def _outcomes(ops: Sequence[Op], refused: Mapping[int, Outcome]) -> Iterable[Outcome]:
    if not refused:
        return map(Outcome, ops)
    return [refused.get(position) or Outcome(op) for position, op in enumerate(ops)]


def _like(example: Route, destination: Prefix) -> Route:
    return replace(example, destination=Prefix(*destination))
