"""Ops in words that a person can paste into a shell, for logs and dry runs. Pure."""

from __future__ import annotations

from typing import assert_never

from felixpy.addresses import Address, Prefix, format_address
from felixpy.dataplane.objects import (
    Chain,
    ChainSeen,
    DeviceAddress,
    Drop,
    DropMembers,
    FdbEntry,
    IpRule,
    Key,
    Kind,
    Link,
    Neighbour,
    NextHop,
    Object,
    Op,
    Put,
    PutMembers,
    Route,
    RouteType,
    Set,
    Sysctl,
)

TABLE = "inet felixpy"


def describe_op(op: Op) -> str:
    """One line: the command that would do the same."""
    match op:
        case Put(one):
            return _put(one)
        case Drop(key, last):
            return _drop(key, last)
        case PutMembers(target, members):
            return f"nft add element {TABLE} {target.name} ({len(members)} members)"
        case DropMembers(target, members):
            return f"nft delete element {TABLE} {target.name} ({len(members)} members)"
        case _:
            assert_never(op)


def _put(one: Object) -> str:
    match one:
        case Sysctl(path, value):
            return f"sysctl -w {path.replace('/', '.')}={value}"
        case Link(name):
            return f"ip link add {name}"
        case DeviceAddress(device, prefix):
            return f"ip addr replace {prefix} dev {device}"
        case Neighbour(device, address, mac, proxy):
            what = f"proxy {format_address(address)}" if proxy else f"{format_address(address)} lladdr {mac.hex(':')}"
            return f"ip neigh replace {what} dev {device}"
        case FdbEntry(device, mac, destination):
            return f"bridge fdb replace {mac.hex(':')} dev {device} dst {format_address(destination)}"
        case NextHop(number):
            return f"ip nexthop replace id {number}"
        case Route():
            return f"ip route replace {_route(one)}"
        case IpRule(version, priority, mark, mask, table):
            return f"ip -{version} rule add pref {priority} fwmark {mark:#x}/{mask:#x} table {table}"
        case Set(name):
            return f"nft add set {TABLE} {name}"
        case Chain(name, rules):
            return f"nft add chain {TABLE} {name} ({len(rules)} rules)"
        case ChainSeen(name):
            return f"nft add chain {TABLE} {name}"
        case _:
            assert_never(one)


def _route(route: Route) -> str:
    words = [] if route.type is RouteType.UNICAST else [route.type.name.lower()]
    words.append(str(route.destination))
    if route.nexthop_id is not None:
        words.append(f"nhid {route.nexthop_id}")
    if route.gateway is not None:
        words.append(f"via {format_address(route.gateway)}")
    if route.device is not None:
        words.append(f"dev {route.device}")
    return " ".join((*words, f"proto {route.protocol}"))


def _drop(key: Key, last: Object | None) -> str:
    if isinstance(last, Route):
        return f"ip route del {_route(last)}"
    if isinstance(last, Set | Chain | ChainSeen):
        return f"nft delete {key.kind} {TABLE} {last.name}"
    match key.kind, key.id:
        case Kind.LINK, (str(name),):
            return f"ip link del {name}"
        case Kind.ADDRESS, (str(device), bytes() as address, int(length)):
            return f"ip addr del {Prefix(Address(address), length)} dev {device}"
        case Kind.NEIGHBOUR, (str(device), bytes() as address, proxy):
            return f"ip neigh del {'proxy ' if proxy else ''}{format_address(address)} dev {device}"
        case Kind.FDB, (str(device), bytes() as mac):
            return f"bridge fdb del {mac.hex(':')} dev {device}"
        case Kind.NEXTHOP, (int(number),):
            return f"ip nexthop del id {number}"
        case Kind.IP_RULE, (int(version), int(priority)):
            return f"ip -{version} rule del pref {priority}"
        case Kind.ROUTE, (int(table), bytes() as address, int(length), int(metric)):
            return f"ip route del {Prefix(Address(address), length)} table {table} metric {metric}"
        case _:
            return f"delete {key.kind} {' '.join(str(part) for part in key.id)}"
