"""Routes that differ in their destinations alone, as those that BGP teaches: a few kinds, a hundred thousand of each.

In → out: one example of a kind and the destinations, or ops on routes of any kind → messages, and what the kernel
refused; the kernel's routes → each destination with an example of its kind. No value is made per route but the
destination. Decides nothing.
Source: rtnetlink(7); `routes.py` for the bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence

from felixpy.addresses import Prefix
from felixpy.dataplane.objects import Op, Outcome, Put, Route
from felixpy.drivers.netlink.codec import Failure
from felixpy.drivers.netlink.devices import MissingDevice
from felixpy.drivers.netlink.routes import (
    AF_INET,
    AF_INET6,
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    IndexOf,
    NameOf,
    RouteDecoder,
    RouteEncoder,
    encode_route_dump,
)
from felixpy.drivers.netlink.socket import NetlinkSocket
from felixpy.drivers.netlink.verbs import REPLACE, device_of
from felixpy.drivers.outcomes import failed


def put_alike(
    socket: NetlinkSocket, encoder: RouteEncoder, example: Route, addresses: Sequence[bytes]
) -> Mapping[int, Failure]:
    """Puts routes to these addresses that are like the example, its length included; failures by position.

    Raises  MissingDevice; NetlinkError when the kernel does not answer.
    """
    body, hole = encoder.frame_of(encoder.shape_of(example), example)
    return socket.batch_alike(RTM_NEWROUTE, REPLACE, body, hole, addresses)


def put_routes(socket: NetlinkSocket, index_of: IndexOf, ops: Sequence[Op]) -> Mapping[int, Outcome]:
    """Puts routes of any kinds, no two with one key; what was refused, by position.

    Raises  NetlinkError when the kernel does not answer.
    """
    encoder = RouteEncoder(index_of)
    puts = [op.object for op in ops if isinstance(op, Put) and isinstance(op.object, Route)]
    assert len(puts) == len(ops), "only puts of routes"
    kinds: dict[tuple[object, ...], list[int]] = {}
    last: tuple[object, ...] = ()
    positions: list[int] = []
    for position, route in enumerate(puts):
        shape = encoder.shape_of(route)
        if shape != last:
            last, positions = shape, kinds.setdefault(shape, [])
        positions.append(position)
    refused: dict[int, Outcome] = {}
    lone = [positions[0] for positions in kinds.values() if len(positions) == 1]
    if len(lone) > 1:
        failures, missing = _put_lone(socket, encoder, {at: puts[at] for at in lone})
        refused |= {at: Outcome(ops[at], error.strerror, errno.ENODEV) for at, error in missing.items()}
        _note(refused, ops, range(len(ops)), failures)
    for positions in kinds.values():
        if len(positions) == 1 and len(lone) > 1:
            continue
        try:
            failures = put_alike(socket, encoder, puts[positions[0]], [puts[at].destination[0] for at in positions])
        except MissingDevice as error:
            refused.update((at, Outcome(ops[at], error.strerror, errno.ENODEV)) for at in positions)
            continue
        _note(refused, ops, positions, failures)
    return refused


def _put_lone(
    socket: NetlinkSocket, encoder: RouteEncoder, lone: Mapping[int, Route]
) -> tuple[Mapping[int, Failure], Mapping[int, MissingDevice]]:
    """Those that are like no other, as the routes of pods are: each a message, all in one go. Failures by position."""
    bodies: dict[int, bytes] = {}
    missing: dict[int, MissingDevice] = {}
    for position, route in lone.items():
        try:
            bodies[position] = encoder.encode(route)
        except MissingDevice as error:
            missing[position] = error
    sent = tuple(bodies)
    failures = socket.batch(RTM_NEWROUTE, REPLACE, tuple(bodies.values()))
    return {sent[index]: failure for index, failure in failures.items()}, missing


def _note(
    refused: dict[int, Outcome], ops: Sequence[Op], positions: Sequence[int], failures: Mapping[int, Failure]
) -> None:
    for index, failure in failures.items():
        op = ops[positions[index]]
        refused[positions[index]] = failed(op, failure.errno, failure.text, device_of(op))


def drop_alike(
    socket: NetlinkSocket, encoder: RouteEncoder, example: Route, addresses: Sequence[bytes]
) -> Mapping[int, Failure]:
    """Drops the routes to these addresses that have the example's length, table, metric and protocol."""
    body, hole = encoder.drop_frame_of(example)
    return socket.batch_alike(RTM_DELROUTE, 0, body, hole, addresses)


def read_alike(socket: NetlinkSocket, name_of: NameOf, protocol: int) -> Iterator[tuple[Prefix, Route]]:
    """All routes of a protocol, in every table: the destination, and a route that is the same in all else.

    Raises  NetlinkError.
    """
    decoder = RouteDecoder(name_of)
    for family in (AF_INET, AF_INET6):
        for body in socket.dump(RTM_GETROUTE, encode_route_dump(family, protocol)):
            destination, alike = decoder.parse_alike(body)
            if alike is not None:
                yield destination, alike
