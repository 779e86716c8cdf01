"""One rule as iptables writes it, in one table of one family. Pure.

In → out: Rule, Place, Lookup → the specifications of the iptables rules that mean the same (`-s 10.0.0.1/32 -j DROP`).
A rule of another family is none; a lookup in a map is a rule for every entry. What has no form there is
`Inexpressible`, with the reason.
Source: iptables-extensions(8).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from felixpy.addresses import format_address
from felixpy.dataplane.iptables.matches import Never, Sought, find_protocols, render_scratch, seek
from felixpy.dataplane.iptables.targets import find_targets, only_in, render_verdict
from felixpy.dataplane.iptables.terms import Inexpressible, Lookup, Place, Table
from felixpy.dataplane.rules import MARK_SCRATCH, Action, Dispatch, MapDestination, MapSource, Rule


def render_rule(rule: Rule, place: Place, lookup: Lookup) -> tuple[str, ...]:
    """Specifications in order, without the chain and the comment; the same rule is always the same text.

    Raises  Inexpressible.
    """
    lines: list[str] = []
    try:
        for protocol in find_protocols(rule.matches):
            sought = seek(rule.matches, place, protocol, lookup)
            lines += render_scratch(sought)
            if sought.blocks or sought.vetoes:
                sought.words.append(f"-m mark --mark {MARK_SCRATCH:#x}/{MARK_SCRATCH:#x}")
            lines += _render_action(rule.action, sought, place, lookup)
    except Never:
        return ()
    return tuple(lines)


def _render_action(action: Action, sought: Sought, place: Place, lookup: Lookup) -> Iterator[str]:
    if isinstance(action, Dispatch):
        yield from _render_dispatch(action, sought, place, lookup)
        return
    if isinstance(action, MapDestination | MapSource):
        yield from _render_map(action, sought, place, lookup)
        return
    spec = " ".join(sought.words)
    for target in find_targets(action, sought, place):
        yield f"{spec} {target}" if spec else target


def _render_dispatch(action: Dispatch, sought: Sought, place: Place, lookup: Lookup) -> Iterator[str]:
    """A rule for every entry: there are no maps here."""
    if action.key in ("service4", "service6", "node_port4", "node_port6"):
        if not action.key.endswith(str(place.version)):
            return
        flags = {"-p"} if action.key.startswith("node_port") else {"-d", "-p"}
    else:
        flags = {"-i" if action.key == "in_interface" else "-o"}
    if sought.taken & flags:
        raise Inexpressible(f"a dispatch by {action.key} with another match on the same")
    members = lookup.members(action.map_name)
    for key in sorted(members):
        verdict = members[key].decode()
        entry = [*sought.words, _entry_match(action, key)]
        chain = verdict.partition(" ")[2]
        frontend = lookup.frontend(action.map_name, key, chain) if chain else None
        targets = render_verdict(verdict, place.table) if frontend is None else (f"-g {frontend}",)
        yield from (" ".join((*entry, target)) for target in targets)


def _render_map(action: MapDestination | MapSource, sought: Sought, place: Place, lookup: Lookup) -> Iterator[str]:
    """A rule for every entry of the family."""
    if action.version != place.version:
        return
    if sought.taken & {"-s", "-d"}:
        raise Inexpressible("a lookup by address with another match on addresses")
    members = lookup.members(action.map_name)
    for key in sorted(members):
        to = format_address(members[key])
        if isinstance(action, MapDestination):
            words, target = [f"-d {format_address(key)}"], f"-j DNAT --to-destination {to}"
        else:
            half = len(key) // 2
            words = [f"-s {format_address(key[:half])} -d {format_address(key[half:])}"]
            target = f"-j SNAT --to-source {to}"
        yield " ".join((*sought.words, *words, only_in(Table.NAT, place.table, target)))


def _entry_match(action: Dispatch, key: bytes) -> str:
    match action.key:
        case "in_interface":
            return f"-i {key.decode()}"
        case "out_interface":
            return f"-o {key.decode()}"
        case "service4" | "service6" | "node_port4" | "node_port6":
            return match_frontend(key)
        case _:
            assert_never(action.key)


def match_frontend(key: bytes) -> str:
    """Destination address (none of a node port), protocol and port of an encoded frontend."""
    address, protocol, port = key[:-8], key[-8], int.from_bytes(key[-4:-2], "big")
    words = f"-p {protocol} -m multiport --dports {port}"
    return f"-d {format_address(address)} {words}" if address else words
