"""Routes that differ in their destinations alone, as those that BGP teaches: a few kinds, a hundred thousand of each.

In → out: one example of a kind and the destinations → messages, and what the kernel refused; the kernel's routes → each
destination with an example of its kind. No value is made per route but the destination. Decides nothing.
Source: rtnetlink(7); `routes.py` for the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from felixpy.addresses import Prefix
from felixpy.dataplane.objects import Route
from felixpy.drivers.netlink.codec import NLM_F_CREATE, NLM_F_REPLACE, Failure
from felixpy.drivers.netlink.routes import (
    AF_INET,
    AF_INET6,
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    NameOf,
    RouteDecoder,
    RouteEncoder,
    encode_route_dump,
)
from felixpy.drivers.netlink.socket import NetlinkSocket

_REPLACE = NLM_F_CREATE | NLM_F_REPLACE


def put_alike(
    socket: NetlinkSocket, encoder: RouteEncoder, example: Route, addresses: Sequence[bytes]
) -> Mapping[int, Failure]:
    """Puts routes to these addresses that are like the example, its length included; failures by position.

    Raises  MissingDevice; NetlinkError when the kernel does not answer.
    """
    body, hole = encoder.frame_of(encoder.shape_of(example), example)
    return socket.batch_alike(RTM_NEWROUTE, _REPLACE, body, hole, addresses)


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
