"""Sets, maps and their members in nft's own language. Pure and total.

Source: nft(8); `typeof` where a key ends in a number, which `type` has no word for.
"""

from __future__ import annotations

from sys import byteorder
from typing import assert_never

from felixpy.addresses import format_address
from felixpy.dataplane.aging import WHOLES, parse_part
from felixpy.dataplane.objects import DataType, Members, Set, SetType

AGING_MOST = 262144
"""Members of the sets that age, of a family: a flood of sources must not take the kernel's memory."""
PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "ipv6-icmp", 132: "sctp", 136: "udplite"}
_NUMBER = "numgen random mod 2"
_TYPEOF_KEYS = {
    SetType.IPV4_OWNER: f"ip saddr . {_NUMBER} . {_NUMBER}",
    SetType.IPV6_OWNER: f"ip6 saddr . {_NUMBER} . {_NUMBER}",
    SetType.OWNER_SLOT: f"{_NUMBER} . {_NUMBER} . {_NUMBER}",
    SetType.NODE_PORT_SLOT: f"meta l4proto . th dport . {_NUMBER}",
    SetType.IPV4_PORT_SLOT: f"ip daddr . meta l4proto . th dport . {_NUMBER}",
    SetType.IPV6_PORT_SLOT: f"ip6 daddr . meta l4proto . th dport . {_NUMBER}",
}
_SLOT_DATA = {
    DataType.IPV4_PORT: "ip daddr . th dport",
    DataType.IPV6_PORT: "ip6 daddr . th dport",
}


def render_set(it: Set, members: Members) -> str:
    """A set with its members, in lines."""
    kind = "map" if it.data is not DataType.NONE else "set"
    if it.type in _TYPEOF_KEYS:
        declared = f"typeof {_TYPEOF_KEYS[it.type]}" + (f" : {_SLOT_DATA[it.data]}" if it.data in _SLOT_DATA else "")
    else:
        declared = f"type {it.type}" + (f" : {it.data}" if it.data is not DataType.NONE else "")
    lines = [f"\t{kind} {it.name} {{", f"\t\t{declared}"]
    if it.interval:
        lines.append("\t\tflags interval")
    if it.ages:
        lines += [f"\t\tsize {AGING_MOST}", "\t\tflags dynamic,timeout"]
    if members:
        elements = (_render_member(it, key, members[key]) for key in sorted(members))
        lines += ["\t\telements = {", ",\n".join(f"\t\t\t{element}" for element in elements), "\t\t}"]
    return "\n".join([*lines, "\t}", ""])


def _render_member(it: Set, key: bytes, data: bytes) -> str:
    text = render_key(it, key)
    match it.data:
        case DataType.NONE:
            return text
        case DataType.VERDICT:
            return f"{text} : {data.decode()}"
        case DataType.IPV4 | DataType.IPV6:
            return f"{text} : {format_address(data)}"
        case DataType.IPV4_PORT | DataType.IPV6_PORT:
            size = 4 if it.data is DataType.IPV4_PORT else 16
            return f"{text} : {format_address(data[:size])} . {int.from_bytes(data[size : size + 2], 'big')}"
        case _:
            assert_never(it.data)


def render_key(it: Set, key: bytes) -> str:
    """One member's key as people write it."""
    match it.type:
        case SetType.INTERFACE:
            return f'"{key.decode()}"'
        case SetType.IPV4 | SetType.IPV6:
            if it.interval and key[-1] < 8 * (len(key) - 1):
                return f"{format_address(key[:-1])}/{key[-1]}"
            return format_address(key[:-1] if it.interval else key)
        case SetType.IPV4_IPV4 | SetType.IPV6_IPV6:
            half = len(key) // 2
            return f"{format_address(key[:half])} . {format_address(key[half:])}"
        case SetType.IPV4_PORT | SetType.IPV6_PORT | SetType.NODE_PORT:
            return _render_endpoint_key(key)
        case SetType.IPV4_PORT_SLOT | SetType.IPV6_PORT_SLOT | SetType.NODE_PORT_SLOT:
            return f"{_render_endpoint_key(key[:-4])} . {int.from_bytes(key[-4:], byteorder)}"
        case SetType.IPV4_OWNER | SetType.IPV6_OWNER:
            return f"{format_address(key[:-8])} . {_render_numbers(key[-8:])}"
        case SetType.OWNER_SLOT:
            return _render_numbers(key)
        case _:
            assert_never(it.type)


def _render_numbers(key: bytes) -> str:
    return " . ".join(str(int.from_bytes(key[at : at + 4], byteorder)) for at in range(0, len(key), 4))


def _render_endpoint_key(key: bytes) -> str:
    protocol, port = key[-8], int.from_bytes(key[-4:-2], "big")
    words = f"{PROTOCOL_NAMES.get(protocol, protocol)} . {port}"
    return f"{format_address(key[:-8])} . {words}" if key[:-8] else words


def whole_of(it: Set) -> Set:
    """The set that a part of one is in; any other itself."""
    part = parse_part(it.name)
    return it if part is None else WHOLES[part.version]
