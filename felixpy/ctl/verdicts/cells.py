"""All packets between two addresses, divided into cells that no rule tells apart: one packet of each is enough.

In: what rules ask for; out: Cells. Ports are cut where some range begins or ends, protocols and ICMP types are those
that some rule names and one that stands for all others. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from felixpy.addresses import Address
from felixpy.ctl.explain.text import PROTOCOL_NAMES
from felixpy.ctl.verdicts.clauses import Left, Serves
from felixpy.dataplane.judging.matching import satisfies
from felixpy.dataplane.judging.packet import KernelState, Packet
from felixpy.dataplane.rules import IcmpIs, PortIn, ProtocolIs, Side
from felixpy.resources.scalars import PORTED

LAST_PORT = 65535
_ICMP = {4: 1, 6: 58}
_ANY_ICMP = frozenset(_ICMP.values())
_OTHERS = (253, 254, 255, *range(1, 253))
"""Protocols that may stand for those nobody names; those for experiments first (RFC 3692)."""

Range = tuple[int, int]
ALL_PORTS: Range = (0, LAST_PORT)


class Cell(NamedTuple):
    """Packets that no rule tells apart. `protocol` None: all but `besides`; `example` is one of them.

    `icmp` is type and code; without the code all but `besides`, without the type too all types but these.
    """

    protocol: int | None
    example: int
    ports: Range = ALL_PORTS
    source_ports: Range = ALL_PORTS
    icmp: tuple[int | None, int | None] | None = None
    icmp_example: tuple[int, int] | None = None
    besides: frozenset[int] = frozenset()

    def packet(self, source: Address, destination: Address) -> Packet:
        """One of its packets."""
        ports = (self.source_ports[0], self.ports[0]) if self.example in PORTED else (0, 0)
        return Packet(source, destination, self.example, "", *ports, self.icmp_example)


class Cells:
    """All packets between two addresses in cells; some of them are a number whose bits are their places."""

    def __init__(self, version: int, rules: Iterable[Iterable[Left]]) -> None:
        self.version = version
        self.all = tuple(_Asked(version, rules).cells())
        self.everything = (1 << len(self.all)) - 1
        self._found: dict[Left, int] = {}
        self._runs = tuple(_runs(self.all))
        self._of_protocol: dict[int, int] = {}
        for place, cell in enumerate(self.all):
            self._of_protocol[cell.example] = self._of_protocol.get(cell.example, 0) | 1 << place

    def satisfying(self, matches: Iterable[Left]) -> int:
        """The cells whose packets satisfy every match."""
        found = self.everything
        for match in matches:
            some = self._found.get(match)
            if some is None:
                some = self._found[match] = self._find(match)
            found &= some
        return found

    def of(self, some: int) -> Iterator[Cell]:
        """The cells that a number stands for."""
        while some:
            lowest = some & -some
            yield self.all[lowest.bit_length() - 1]
            some ^= lowest

    def _find(self, match: Left) -> int:
        """Where a cell's place tells, no cell is looked at: a policy of many ports has as many."""
        match match:
            case ProtocolIs(number, negate):
                found = self._of_protocol.get(number, 0)
                return self.everything ^ found if negate else found
            case PortIn("destination", ranges, negate):
                found = sum(run.within(ranges) for run in self._runs)
                return (sum(run.all for run in self._runs) ^ found) if negate else found
            case Serves("destination", ports, negate):
                found = sum(
                    run.within((port, port) for number, port in ports if number == run.protocol) for run in self._runs
                )
                return self.everything ^ found if negate else found
            case _:
                return sum(1 << place for place, cell in enumerate(self.all) if self._holds(match, cell))

    def _holds(self, match: Left, cell: Cell) -> bool:
        return holds(match, cell.packet(*_NOBODY[self.version]))


def holds(match: Left, packet: Packet) -> bool:
    """Whether what is left of a match holds for a packet."""
    if isinstance(match, Serves):
        return ((packet.protocol, packet.port(match.side)) in match.ports) != match.negate
    return satisfies(match, packet, _NOTHING)


class _Run(NamedTuple):
    """Cells that differ in their destination ports alone, as they follow each other from the place `start`."""

    protocol: int
    start: int
    begins: tuple[int, ...]

    @property
    def all(self) -> int:
        return ((1 << len(self.begins)) - 1) << self.start

    def within(self, ranges: Iterable[Range]) -> int:
        """Those whose ports are in one of the ranges, none of which divides a cell."""
        found = 0
        for low, high in ranges:
            first, after = bisect_left(self.begins, low), bisect_left(self.begins, high + 1)
            found |= ((1 << (after - first)) - 1) << first
        return found << self.start


def _runs(cells: Sequence[Cell]) -> Iterator[_Run]:
    keyed = groupby(enumerate(cells), key=lambda pair: (pair[1].example, pair[1].source_ports))
    for (example, _), group in keyed:
        if example in PORTED:
            run = list(group)
            yield _Run(example, run[0][0], tuple(cell.ports[0] for _, cell in run))


_NOTHING = KernelState({}, {}, {})
_NOBODY = {4: (Address(bytes(4)), Address(bytes(4))), 6: (Address(bytes(16)), Address(bytes(16)))}


class _Asked:
    """What rules tell packets apart by."""

    def __init__(self, version: int, rules: Iterable[Iterable[Left]]) -> None:
        self._icmp = _ICMP[version]
        self._protocols: set[int] = set()
        self._cuts: dict[tuple[int, Side], set[int]] = {}
        self._types: dict[int, set[int]] = {}
        for matches in rules:
            self._add(tuple(matches))

    def _add(self, matches: tuple[Left, ...]) -> None:
        named = {match.number for match in matches if isinstance(match, ProtocolIs) and not match.negate}
        for match in matches:
            match match:
                case ProtocolIs(number):
                    self._protocols.add(number)
                case PortIn(side, ranges):
                    for protocol in named or PORTED:
                        self._cut(protocol, side, ranges)
                case Serves(side, ports):
                    for protocol, port in ports:
                        self._cut(protocol, side, ((port, port),))
                case IcmpIs(_, kind, code):
                    self._protocols.add(self._icmp)
                    self._types.setdefault(kind, set()).update(() if code is None else (code,))
                case _:
                    pass

    def _cut(self, protocol: int, side: Side, ranges: Iterable[Range]) -> None:
        self._protocols.add(protocol)
        cuts = self._cuts.setdefault((protocol, side), set())
        for low, high in ranges:
            cuts |= {low, high + 1}

    def cells(self) -> Iterator[Cell]:
        """Every packet is in exactly one of them."""
        for protocol in sorted(self._protocols - (_ANY_ICMP - {self._icmp})):
            if protocol == self._icmp:
                yield from self._icmp_cells(protocol)
            elif protocol in PORTED:
                for source_ports in _intervals(self._cuts.get((protocol, "source"), ())):
                    for ports in _intervals(self._cuts.get((protocol, "destination"), ())):
                        yield Cell(protocol, protocol, ports, source_ports)
            else:
                yield Cell(protocol, protocol)
        example = next(one for one in _OTHERS if one not in self._protocols)
        yield Cell(None, example, besides=frozenset(self._protocols))

    def _icmp_cells(self, protocol: int) -> Iterator[Cell]:
        for kind, codes in sorted(self._types.items()):
            for code in sorted(codes):
                yield Cell(protocol, protocol, icmp=(kind, code), icmp_example=(kind, code))
            yield Cell(
                protocol, protocol, icmp=(kind, None), icmp_example=(kind, _other(codes)), besides=frozenset(codes)
            )
        others = frozenset(self._types)
        yield Cell(protocol, protocol, icmp=(None, None), icmp_example=(_other(others), 0), besides=others)


def _other(named: Iterable[int]) -> int:
    taken = set(named)
    return next(one for one in range(256) if one not in taken)


def _intervals(cuts: Iterable[int]) -> Iterator[Range]:
    """The ports between the cuts."""
    starts = sorted({0, *(cut for cut in cuts if 0 < cut <= LAST_PORT)})
    for low, after in zip(starts, (*starts[1:], LAST_PORT + 1), strict=True):
        yield low, after - 1


def describe_cells(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Cells in words, as few as say the same: `tcp/80-443`, `udp from ports 1-100`, `icmp type 8`, `all else`."""
    whole: set[int] = set()
    words: list[str] = []
    for protocol in sorted({cell.protocol for cell in cells if cell.protocol is not None}):
        own = [cell for cell in cells if cell.protocol == protocol]
        found = _icmp_words(own) if own[0].icmp is not None else _port_words(own)
        name = PROTOCOL_NAMES.get(protocol, f"protocol {protocol}")
        if found == [""]:
            whole.add(protocol)
        words += [f"{name}{word}" for word in found]
    others = next((cell for cell in cells if cell.protocol is None), None)
    if others is not None:
        if others.besides <= whole and len(words) == len(whole):
            return ("all traffic",)
        words.append("all other protocols" if others.besides else "all traffic")
    return tuple(words)


def _port_words(cells: Sequence[Cell]) -> list[str]:
    by_source: dict[Range, list[Range]] = {}
    for cell in cells:
        by_source.setdefault(cell.source_ports, []).append(cell.ports)
    by_ports: dict[tuple[Range, ...], list[Range]] = {}
    for source, ranges in by_source.items():
        by_ports.setdefault(tuple(_joined(ranges)), []).append(source)
    words = []
    for targets, sources in by_ports.items():
        to = "" if targets == (ALL_PORTS,) else f"/{','.join(map(_range_text, targets))}"
        origin = _joined(sources)
        words.append(to if origin == [ALL_PORTS] else f"{to} from ports {','.join(map(_range_text, origin))}")
    return words


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """The same ports in as few ranges as there can be."""
    found: list[Range] = []
    for low, high in sorted(ranges):
        if found and found[-1][1] + 1 == low:
            found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return found


def _range_text(ports: Range) -> str:
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


def _icmp_words(cells: Sequence[Cell]) -> list[str]:
    by_type: dict[int | None, list[Cell]] = {}
    for cell in cells:
        assert cell.icmp is not None
        by_type.setdefault(cell.icmp[0], []).append(cell)
    whole = {
        kind
        for kind, own in by_type.items()
        if any(cell.icmp == (kind, None) and len(own) == 1 + len(cell.besides) for cell in own)
    }
    others = by_type.get(None, [])
    if others and others[0].besides <= whole and len(by_type) == 1 + len(others[0].besides):
        return [""]
    words = [f" type {kind}" for kind in by_type if kind is not None and kind in whole]
    for kind in (one for one in by_type if one is not None and one not in whole):
        for cell in by_type[kind]:
            assert cell.icmp is not None
            words.append(f" type {kind} code {'other' if cell.icmp[1] is None else cell.icmp[1]}")
    return [*words, *([" of all other types"] if others else [])]
