"""What is to be sent for an op, by its kind: the type of message, its flags, and its body.

In → out: Put and Drop → a Verb, which ops that may travel together share; a Verb → how to encode its ops. Links and
policy rules take more than a message: `link_changes.py`, `rule_changes.py`. Source: linux/rtnetlink.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from felixpy.dataplane.objects import (
    DeviceAddress,
    Drop,
    FdbEntry,
    IpRule,
    Kind,
    Link,
    Neighbour,
    NextHop,
    Object,
    Op,
    Put,
    Route,
)
from felixpy.drivers.netlink import iprules, links, neighbours, routes
from felixpy.drivers.netlink.codec import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE
from felixpy.drivers.netlink.devices import RTM_DELLINK, RTM_NEWLINK

REPLACE = NLM_F_CREATE | NLM_F_REPLACE


@dataclass(frozen=True, slots=True)
class Verb:
    """What a run of ops has in common: one kind, put or dropped, by one type of message."""

    kind: Kind
    put: bool
    message: int
    flags: int


_PUTS: Mapping[type[Object], Verb] = {
    Link: Verb(Kind.LINK, True, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL),
    DeviceAddress: Verb(Kind.ADDRESS, True, links.RTM_NEWADDR, REPLACE),
    Neighbour: Verb(Kind.NEIGHBOUR, True, neighbours.RTM_NEWNEIGH, REPLACE),
    FdbEntry: Verb(Kind.FDB, True, neighbours.RTM_NEWNEIGH, REPLACE),
    NextHop: Verb(Kind.NEXTHOP, True, routes.RTM_NEWNEXTHOP, REPLACE),
    IpRule: Verb(Kind.IP_RULE, True, iprules.RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL),
    Route: Verb(Kind.ROUTE, True, routes.RTM_NEWROUTE, REPLACE),
}
_DROPS: Mapping[Kind, Verb] = {
    Kind.LINK: Verb(Kind.LINK, False, RTM_DELLINK, 0),
    Kind.ADDRESS: Verb(Kind.ADDRESS, False, links.RTM_DELADDR, 0),
    Kind.NEIGHBOUR: Verb(Kind.NEIGHBOUR, False, neighbours.RTM_DELNEIGH, 0),
    Kind.FDB: Verb(Kind.FDB, False, neighbours.RTM_DELNEIGH, 0),
    Kind.NEXTHOP: Verb(Kind.NEXTHOP, False, routes.RTM_DELNEXTHOP, 0),
    Kind.IP_RULE: Verb(Kind.IP_RULE, False, iprules.RTM_DELRULE, 0),
    Kind.ROUTE: Verb(Kind.ROUTE, False, routes.RTM_DELROUTE, 0),
}
KINDS = frozenset(_DROPS)


def verb_of(op: Op) -> Verb:
    """What becomes of an op."""
    if type(op) is Put:
        return _PUTS[type(op.object)]
    assert type(op) is Drop, op
    return _DROPS[op.key.kind]


def encoder_of(verb: Verb, index_of: routes.IndexOf, protocols: Sequence[int]) -> Callable[[Any], tuple[bytes, ...]]:
    """From an op to the bodies of its messages, of any but links and policy rules; the ops are all the verb's.

    A route that nobody says the protocol of is dropped with each of `protocols`. What it returns raises MissingDevice.
    """
    route = routes.RouteEncoder(index_of)
    match verb:
        case Verb(kind=Kind.ROUTE):
            return lambda op: tuple(
                route.encode_drop(*op.key.id, protocol=protocol)
                for protocol in ((op.last.protocol,) if op.last else protocols)
            )
        case Verb(kind=Kind.NEXTHOP, put=True):
            return lambda op: (routes.encode_nexthop(op.object, index_of),)
        case Verb(kind=Kind.NEXTHOP):
            return lambda op: (routes.encode_nexthop_key(*op.key.id),)
        case Verb(kind=Kind.ADDRESS):
            encode_address = partial(links.encode_address, index_of=index_of)
            return lambda op: (encode_address(*_key_of(op).id),)
        case Verb(kind=Kind.NEIGHBOUR, put=True):
            return lambda op: (neighbours.encode_neighbour(op.object, index_of),)
        case Verb(kind=Kind.NEIGHBOUR):
            encode_neighbour_key = partial(neighbours.encode_neighbour_key, index_of=index_of)
            return lambda op: (encode_neighbour_key(*op.key.id),)
        case Verb(kind=Kind.FDB, put=True):
            return lambda op: (neighbours.encode_fdb(op.object, index_of),)
        case _:
            encode_fdb_key = partial(neighbours.encode_fdb_key, index_of=index_of)
            return lambda op: (encode_fdb_key(*op.key.id),)


def device_of(op: Op) -> str:
    """The device that an op is about, "" where it names none."""
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


def _key_of(op: Any) -> Any:
    return op.object.key if isinstance(op, Put) else op.key
