"""What a packet must be, as iptables asks for it: matches → words of one specification, and a scratch mark. Pure.

Lists are alternatives that iptables does not have: they are found one by one, noted in two scratch bits of the mark,
and asked for together.
Source: iptables-extensions(8); felix/iptables/match_builder.go and felix/rules/policy.go for the scratch bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import assert_never

from felixpy.addresses import format_address
from felixpy.dataplane.iptables.names import set_kernel_name
from felixpy.dataplane.iptables.services import match_slots
from felixpy.dataplane.iptables.terms import Inexpressible, Lookup, Place, Table, set_mark
from felixpy.dataplane.nftables import distinct_nets, distinct_ranges
from felixpy.dataplane.objects import Members
from felixpy.dataplane.rules import (
    MARK_SCRATCH,
    MARK_SCRATCH_PART,
    CtDestinationTranslated,
    CtState,
    CtStateIn,
    DestinationIsLocal,
    FamilyIs,
    Hairpin,
    IcmpIs,
    InterfaceIs,
    MarkIs,
    Match,
    NetIn,
    PortIn,
    ProtocolIs,
    ReversePathFails,
    ServiceKnown,
    SetHas,
    SourceSlotIn,
)
from felixpy.resources.scalars import PORTED

MULTIPORT_SLOTS = 15
"""Ports of one multiport match; a range takes two (XT_MULTI_PORTS, linux/netfilter/xt_multiport.h)."""
_ANY_ICMP_TYPE = 255
_ICMP = {4: 1, 6: 58}


@dataclass(slots=True)
class Sought:
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


class Never(Exception):
    """No packet of this family satisfies the rule."""


def find_protocols(matches: Iterable[Match]) -> tuple[int | None, ...]:
    """The protocol that the packet must have; those with ports where ports are asked for and none is named.

    Raises  Never.
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
        raise Never
    if named:
        return tuple(named)
    return tuple(sorted(PORTED - excluded)) if ported else (None,)


def seek(matches: Iterable[Match], place: Place, protocol: int | None, lookup: Lookup) -> Sought:
    """All that a packet of this protocol must be.

    Raises  Never, Inexpressible.
    """
    sought = Sought()
    if protocol is not None:
        if protocol == 0:
            raise Inexpressible("protocol 0 means any protocol")
        sought.take("-p", str(protocol))
    for match in matches:
        if _version(match) not in (None, place.version):
            raise Never
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


def _add_match(match: Match, sought: Sought, place: Place, protocol: int | None, lookup: Lookup) -> None:
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


def _add_nets(match: NetIn, sought: Sought) -> None:
    nets = distinct_nets(match)
    flag = "-s" if match.side == "source" else "-d"
    if nets[0].length == 0:
        if match.negate:
            raise Never
    elif len(nets) == 1:
        sought.take(flag, str(nets[0]), match.negate)
    elif match.negate:
        sought.vetoes += [f"{flag} {net}" for net in nets]
    else:
        sought.blocks.append([f"{flag} {net}" for net in nets])


def _add_ports(match: PortIn, sought: Sought, protocol: int | None) -> None:
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
        raise Never
    halves = ((key[: len(key) // 2], key[len(key) // 2 :]) for key in sorted(members))
    return [f"-s {format_address(source)} -d {format_address(destination)}" for source, destination in halves]


def render_scratch(sought: Sought) -> Iterator[str]:
    """Leaves MARK_SCRATCH set where every list has an alternative that holds, and no veto does."""
    if sought.blocks:
        first, *others = sought.blocks
        yield set_mark(0, MARK_SCRATCH)
        yield from (f"{alternative} {set_mark(MARK_SCRATCH, MARK_SCRATCH)}" for alternative in first)
        for block in others:
            yield set_mark(0, MARK_SCRATCH_PART)
            yield from (f"{alternative} {set_mark(MARK_SCRATCH_PART, MARK_SCRATCH_PART)}" for alternative in block)
            yield f"-m mark --mark 0x0/{MARK_SCRATCH_PART:#x} {set_mark(0, MARK_SCRATCH)}"
    elif sought.vetoes:
        yield set_mark(MARK_SCRATCH, MARK_SCRATCH)
    yield from (f"{veto} {set_mark(0, MARK_SCRATCH)}" for veto in sought.vetoes)


def _not(negate: bool) -> str:
    return "! " if negate else ""
