"""One rule as iptables writes it, in one table of one family. Pure.

In → out: Rule, Place, Lookup → the specifications of the iptables rules that mean the same (`-s 10.0.0.1/32 -j DROP`).
A rule of another family is none. Lists are alternatives that iptables does not have: they are found one by one, noted
in two scratch bits of the mark, and asked for together. What has no form there is `Inexpressible`, with the reason.
Source: iptables-extensions(8); felix/iptables/match_builder.go and felix/rules/policy.go for the scratch bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import assert_never

from felixpy.addresses import format_address, version_of
from felixpy.dataplane.iptables.names import chain_kernel_name, set_kernel_name
from felixpy.dataplane.iptables.services import match_slots, translate_to
from felixpy.dataplane.iptables.terms import Inexpressible, Lookup, Place, Table
from felixpy.dataplane.nftables import distinct_nets, distinct_ranges, printable, report_text
from felixpy.dataplane.objects import Members
from felixpy.dataplane.rules import (
    MARK_DROP,
    MARK_SCRATCH,
    MARK_SCRATCH_PART,
    REPORT_GROUP,
    REPORTS_AT_ONCE,
    REPORTS_PER_S,
    Accept,
    Action,
    Balance,
    CtDestinationTranslated,
    CtState,
    CtStateIn,
    DestinationIsLocal,
    DestinationNat,
    Dispatch,
    Drop,
    FamilyIs,
    Goto,
    Hairpin,
    IcmpIs,
    InterfaceIs,
    Jump,
    Log,
    MapDestination,
    MapSource,
    MarkIs,
    Masquerade,
    Match,
    NetIn,
    NoTrack,
    PortIn,
    ProtocolIs,
    Reject,
    Remember,
    Report,
    Return,
    ReversePathFails,
    Rule,
    ServiceKnown,
    SetHas,
    SetMark,
    SourceNat,
    SourceSlotIn,
)
from felixpy.resources.scalars import PORTED

MULTIPORT_SLOTS = 15
"""Ports of one multiport match; a range takes two (XT_MULTI_PORTS, linux/netfilter/xt_multiport.h)."""
LOG_PREFIX_BYTES = 29
"""Of a LOG target's prefix less its NUL (linux/netfilter/xt_LOG.h)."""
_ANY_ICMP_TYPE = 255
_ICMP = {4: 1, 6: 58}
_TCP = 6


@dataclass(slots=True)
class _Sought:
    """What a packet must be: words of one specification, lists of alternatives, and specifications it must not meet."""

    words: list[str] = field(default_factory=list)
    blocks: list[list[str]] = field(default_factory=list)
    vetoes: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def take(self, flag: str, value: str, negate: bool = False) -> None:
        """A flag that a specification can hold once only; what comes later is noted in the mark."""
        if flag not in self.taken:
            self.taken.add(flag)
            self.words.append(f"{'! ' if negate else ''}{flag} {value}")
        elif negate:
            self.vetoes.append(f"{flag} {value}")
        else:
            self.blocks.append([f"{flag} {value}"])


class _Never(Exception):
    """No packet of this family satisfies the rule."""


def render_rule(rule: Rule, place: Place, lookup: Lookup) -> tuple[str, ...]:
    """Specifications in order, without the chain and the comment; the same rule is always the same text.

    Raises  Inexpressible.
    """
    lines: list[str] = []
    try:
        for protocol in _protocols(rule.matches):
            sought = _seek(rule.matches, place, protocol, lookup)
            lines += _render_scratch(sought)
            if sought.blocks or sought.vetoes:
                sought.words.append(f"-m mark --mark {MARK_SCRATCH:#x}/{MARK_SCRATCH:#x}")
            lines += _render_action(rule.action, sought, place, lookup)
    except _Never:
        return ()
    return tuple(lines)


def render_verdict(verdict: str, table: Table) -> tuple[str, ...]:
    """Targets for a verdict map's value."""
    word, _, chain = verdict.partition(" ")
    match word:
        case "jump":
            return (f"-j {chain_kernel_name(chain)}",)
        case "goto":
            return (f"-g {chain_kernel_name(chain)}",)
        case "drop":
            return drop_targets(table)
        case "accept":
            return ("-j ACCEPT",)
        case "return":
            return ("-j RETURN",)
        case _:
            raise Inexpressible(f"there is no verdict {verdict!r}")


def drop_targets(table: Table) -> tuple[str, ...]:
    """A nat chain cannot drop: it marks the packet, and the filter table drops what is marked."""
    return (_set_mark(MARK_DROP, MARK_DROP), "-j ACCEPT") if table is Table.NAT else ("-j DROP",)


def _set_mark(value: int, mask: int) -> str:
    return f"-j MARK --set-xmark {value:#x}/{mask:#x}"


def _protocols(matches: Iterable[Match]) -> tuple[int | None, ...]:
    """The protocol that the packet must have; those with ports where ports are asked for and none is named.

    Raises  _Never.
    """
    named: set[int] = set()
    excluded: set[int] = set()
    ported = False
    for match in matches:
        match match:
            case ProtocolIs(number, negate):
                (excluded if negate else named).add(number)
            case IcmpIs(version):
                named.add(_ICMP[version])
            case PortIn():
                ported = True
            case _:
                pass
    if len(named) > 1 or named & excluded or (ported and named - PORTED):
        raise _Never
    if named:
        return tuple(named)
    return tuple(sorted(PORTED - excluded)) if ported else (None,)


def _seek(matches: Iterable[Match], place: Place, protocol: int | None, lookup: Lookup) -> _Sought:
    """Raises  _Never, Inexpressible."""
    sought = _Sought()
    if protocol is not None:
        if protocol == 0:
            raise Inexpressible("protocol 0 means any protocol")
        sought.take("-p", str(protocol))
    for match in matches:
        if _version(match) not in (None, place.version):
            raise _Never
        if not isinstance(match, ProtocolIs):
            _add_match(match, sought, place, protocol, lookup)
        elif protocol is None:
            sought.take("-p", str(match.number), negate=True)
    return sought


def _version(match: Match) -> int | None:
    match match:
        case FamilyIs() | SourceSlotIn() | SetHas() | IcmpIs() | ServiceKnown() | Hairpin():
            return match.version
        case NetIn():
            return match.nets[0].version
        case _:
            return None


def _add_match(match: Match, sought: _Sought, place: Place, protocol: int | None, lookup: Lookup) -> None:
    words = sought.words
    match match:
        case FamilyIs() | ProtocolIs():
            pass
        case InterfaceIs(direction, name, negate):
            device = f"{name[:-1]}+" if name.endswith("*") else name
            sought.take("-i" if direction == "in" else "-o", device, negate)
        case NetIn():
            _add_nets(match, sought)
        case SetHas(side, name, _, negate, ports):
            at = "src" if side == "source" else "dst"
            words.append(_match_set(name, f"{at},{at}" if ports else at, negate))
        case ServiceKnown(name, _, negate):
            words.append(_match_set(name, "dst,dst", negate))
        case PortIn():
            _add_ports(match, sought, protocol)
        case IcmpIs():
            words.append(_match_icmp(match))
        case CtStateIn(states, negate):
            text = ",".join(state.upper() for state in CtState if state in states)
            words.append(f"-m conntrack {_not(negate)}--ctstate {text}")
        case CtDestinationTranslated(negate):
            words.append(f"-m conntrack {_not(negate)}--ctstate DNAT")
        case MarkIs(value, mask, negate):
            words.append(f"-m mark {_not(negate)}--mark {value:#x}/{mask:#x}")
        case ReversePathFails():
            if place.table not in (Table.RAW, Table.MANGLE):
                raise Inexpressible(f"the {place.table} table has no rpfilter")
            words.append("-m rpfilter --invert")
        case DestinationIsLocal(negate):
            words.append(f"-m addrtype {_not(negate)}--dst-type LOCAL")
        case SourceSlotIn():
            sought.blocks.append(list(match_slots(match)))
        case Hairpin(name):
            sought.blocks.append(_hairpins(lookup.members(name)))
        case _:
            assert_never(match)


def _match_set(name: str, where: str, negate: bool) -> str:
    return f"-m set {_not(negate)}--match-set {set_kernel_name(name)} {where}"


def _add_nets(match: NetIn, sought: _Sought) -> None:
    nets = distinct_nets(match)
    flag = "-s" if match.side == "source" else "-d"
    if nets[0].length == 0:
        if match.negate:
            raise _Never
    elif len(nets) == 1:
        sought.take(flag, str(nets[0]), match.negate)
    elif match.negate:
        sought.vetoes += [f"{flag} {net}" for net in nets]
    else:
        sought.blocks.append([f"{flag} {net}" for net in nets])


def _add_ports(match: PortIn, sought: _Sought, protocol: int | None) -> None:
    flag = "--sports" if match.side == "source" else "--dports"
    lists = tuple(_multiport_lists(distinct_ranges(match)))
    if match.negate:
        sought.words += [f"-m multiport ! {flag} {ports}" for ports in lists]
    elif len(lists) == 1:
        sought.words.append(f"-m multiport {flag} {lists[0]}")
    else:
        sought.blocks.append([f"-p {protocol} -m multiport {flag} {ports}" for ports in lists])


def _multiport_lists(ranges: Iterable[tuple[int, int]]) -> Iterator[str]:
    texts: list[str] = []
    slots = 0
    for low, high in ranges:
        needed = 1 if low == high else 2
        if slots + needed > MULTIPORT_SLOTS:
            yield ",".join(texts)
            texts, slots = [], 0
        texts.append(str(low) if low == high else f"{low}:{high}")
        slots += needed
    yield ",".join(texts)


def _match_icmp(match: IcmpIs) -> str:
    if match.type == _ANY_ICMP_TYPE:
        raise Inexpressible("ICMP type 255 means any type")
    extension, flag = ("icmp", "--icmp-type") if match.version == 4 else ("icmp6", "--icmpv6-type")
    kind = str(match.type) if match.code is None else f"{match.type}/{match.code}"
    return f"-m {extension} {_not(match.negate)}{flag} {kind}"


def _hairpins(members: Members) -> list[str]:
    if not members:
        raise _Never
    halves = ((key[: len(key) // 2], key[len(key) // 2 :]) for key in sorted(members))
    return [f"-s {format_address(source)} -d {format_address(destination)}" for source, destination in halves]


def _render_scratch(sought: _Sought) -> Iterator[str]:
    """Leaves MARK_SCRATCH set where every list has an alternative that holds, and no veto does."""
    if sought.blocks:
        first, *others = sought.blocks
        yield _set_mark(0, MARK_SCRATCH)
        yield from (f"{alternative} {_set_mark(MARK_SCRATCH, MARK_SCRATCH)}" for alternative in first)
        for block in others:
            yield _set_mark(0, MARK_SCRATCH_PART)
            yield from (f"{alternative} {_set_mark(MARK_SCRATCH_PART, MARK_SCRATCH_PART)}" for alternative in block)
            yield f"-m mark --mark 0x0/{MARK_SCRATCH_PART:#x} {_set_mark(0, MARK_SCRATCH)}"
    elif sought.vetoes:
        yield _set_mark(MARK_SCRATCH, MARK_SCRATCH)
    yield from (f"{veto} {_set_mark(0, MARK_SCRATCH)}" for veto in sought.vetoes)


def _render_action(action: Action, sought: _Sought, place: Place, lookup: Lookup) -> Iterator[str]:
    if isinstance(action, Dispatch):
        yield from _render_dispatch(action, sought, place, lookup)
        return
    if isinstance(action, MapDestination | MapSource):
        yield from _render_map(action, sought, place, lookup)
        return
    spec = " ".join(sought.words)
    for target in _targets(action, sought, place):
        yield f"{spec} {target}" if spec else target


def _targets(action: Action, sought: _Sought, place: Place) -> tuple[str, ...]:
    table = place.table
    match action:
        case Accept():
            return ("-j ACCEPT",)
        case Drop():
            return drop_targets(table)
        case Reject(tcp_reset):
            return (_reject(tcp_reset, sought, place),)
        case Return():
            return ("-j RETURN",)
        case Jump(chain):
            return (f"-j {chain_kernel_name(chain)}",)
        case Goto(chain):
            return (f"-g {chain_kernel_name(chain)}",)
        case SetMark(value, mask):
            return (_set_mark(value, mask | value),)
        case Log():
            prefix = printable(action.prefix, LOG_PREFIX_BYTES).replace("\\", "/")
            return ("-j LOG" + (f' --log-prefix "{prefix}"' if prefix else "") + " --log-level 5",)
        case Report():
            limit = f"-m limit --limit {REPORTS_PER_S}/sec --limit-burst {REPORTS_AT_ONCE}"
            text = report_text(action).replace("\\", "/")
            return (f'{limit} -j NFLOG --nflog-group {REPORT_GROUP} --nflog-prefix "{text}"',)
        case NoTrack():
            return (_only(Table.RAW, table, "-j CT --notrack"),)
        case Masquerade(random, ports):
            to = "" if ports is None else f" --to-ports {ports[0]}-{ports[1]}"
            return (_only(Table.NAT, table, "-j MASQUERADE" + to + (" --random-fully" if random else "")),)
        case SourceNat(address, ports):
            if version_of(address) != place.version:
                return ()
            source = format_address(address)
            if ports is not None:
                source = f"{source if place.version == 4 else f'[{source}]'}:{ports[0]}-{ports[1]}"
            return (_only(Table.NAT, table, f"-j SNAT --to-source {source}"),)
        case DestinationNat(address, port):
            return (
                (_only(Table.NAT, table, translate_to(address, port)),) if version_of(address) == place.version else ()
            )
        case Remember(name, version, timeout_s):
            kept = f"-j SET --add-set {set_kernel_name(name)} src --exist --timeout {timeout_s}"
            return (kept,) if version == place.version else ()
        case Balance():
            raise Inexpressible("balancing is reached by something else than a frontend")
        case Dispatch() | MapDestination() | MapSource():
            raise Inexpressible("a lookup is no single target")
        case _:
            assert_never(action)


def _reject(tcp_reset: bool, sought: _Sought, place: Place) -> str:
    if tcp_reset and f"-p {_TCP}" not in sought.words:
        raise Inexpressible("a TCP reset needs a rule for TCP")
    answer = "tcp-reset" if tcp_reset else "icmp-port-unreachable" if place.version == 4 else "icmp6-port-unreachable"
    return _only(Table.FILTER, place.table, f"-j REJECT --reject-with {answer}")


def _only(needed: Table, table: Table, target: str) -> str:
    if table is not needed:
        raise Inexpressible(f"{target.split()[1]} works in the {needed} table only, not in {table}")
    return target


def _render_dispatch(action: Dispatch, sought: _Sought, place: Place, lookup: Lookup) -> Iterator[str]:
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


def _render_map(action: MapDestination | MapSource, sought: _Sought, place: Place, lookup: Lookup) -> Iterator[str]:
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
        yield " ".join((*sought.words, *words, _only(Table.NAT, place.table, target)))


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


def _not(negate: bool) -> str:
    return "! " if negate else ""
