"""The flows that were told of lately, each with how often: a bounded table, the oldest forgotten first. Pure.

In: sightings; out: Flows. Packets that differ in their source port only are one flow, so that the attempts of one
client count up. Each change of a flow has a number, by which one who follows asks for what is new. When an address
changes hands, the flows that name it keep the end that it was, and what comes later is another flow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from felixpy.addresses import Address
from felixpy.dataplane.chains.causes import Cause
from felixpy.flows.names import Rank
from felixpy.flows.records import FlowEnd
from felixpy.flows.sighting import Sighting, Traffic, parse_head

MOST_FLOWS = 4096
"""Some 3 MB; at the most that one rule may tell (50 a second, all different) the table holds its last 80 seconds."""


class FlowKey(NamedTuple):
    """What makes a flow: the rule's text, the devices, and the traffic without its source port."""

    text: str
    in_index: int
    out_index: int
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class About:
    """What the node knew about a flow when it was new: why, by which tier and stage, between which devices, and whose
    rules decided (`local`)."""

    cause: Cause | None = None
    tier: str = ""
    stage: str = ""
    in_device: str = ""
    out_device: str = ""
    local: FlowEnd | None = None


@dataclass(slots=True)
class Flow:
    """A flow: when it was told of first and last (seconds since the epoch), how often, and the last source port.

    `ends` are those that its addresses were, by rank, of addresses that have changed hands since. Where somebody only
    took one, it is whoever has it or gives it up without being among these takers, and nobody where there is none.
    """

    key: FlowKey
    first_s: float
    last_s: float
    told: int
    source_port: int
    change: int
    about: About = About()
    ends: dict[tuple[Address, Rank], FlowEnd | frozenset[FlowEnd]] = field(default_factory=dict)

    def end_at(self, address: Address, rank: Rank, now: FlowEnd | None) -> FlowEnd | None:
        """Who the address was when the flow was told of, where it is `now` somebody's, or nobody's."""
        kept = self.ends.get((address, rank))
        if isinstance(kept, FlowEnd):
            return kept
        return None if kept is not None and now in kept else now


class FlowTable:
    """Holds at most `most` flows; `forgotten` and `unreadable` count what it could not keep or understand."""

    def __init__(self, most: int = MOST_FLOWS) -> None:
        self._most = most
        self._flows: OrderedDict[int, Flow] = OrderedDict()
        self._open: dict[FlowKey, int] = {}
        self._naming: dict[Address, set[int]] = {}
        self._made = 0
        self.change = 0
        self.forgotten = 0
        self.unreadable = 0

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, sighting: Sighting, now_s: float) -> Flow | None:
        """Counts a packet; the flow where it is a new one."""
        traffic = parse_head(sighting.head)
        if traffic is None:
            self.unreadable += 1
            return None
        self.change += 1
        key = FlowKey(sighting.text, sighting.in_index, sighting.out_index, traffic._replace(source_port=0))
        number = self._open.get(key)
        if number is not None:
            flow = self._flows[number]
            flow.last_s, flow.source_port, flow.change = now_s, traffic.source_port, self.change
            flow.told += 1
            self._flows.move_to_end(number)
            return None
        if len(self._flows) >= self._most:
            self._forget(*self._flows.popitem(last=False))
        self._made += 1
        self._open[key] = self._made
        for address in key.traffic[:2]:
            self._naming.setdefault(address, set()).add(self._made)
        flow = self._flows[self._made] = Flow(key, now_s, now_s, 1, traffic.source_port, self.change)
        return flow

    @property
    def addresses(self) -> Collection[Address]:
        """All that some flow names."""
        return self._naming.keys()

    def give_up(self, address: Address, rank: Rank, end: FlowEnd) -> None:
        """The address is no longer the one of `end`: flows that were told of till now are."""
        for number in self._naming.get(address, ()):
            flow = self._flows[number]
            takers = flow.ends.get((address, rank), frozenset())
            if not isinstance(takers, FlowEnd) and end not in takers:
                flow.ends[address, rank] = end
            self._close(flow.key, number)

    def take(self, address: Address, rank: Rank, end: FlowEnd, before_s: float) -> None:
        """The address is that of `end`, too: flows that were told of last before `before_s` are not."""
        for number in self._naming.get(address, ()):
            flow = self._flows[number]
            if flow.last_s < before_s:
                takers = flow.ends.get((address, rank), frozenset())
                if not isinstance(takers, FlowEnd):
                    flow.ends[address, rank] = takers | {end}
                self._close(flow.key, number)

    def _forget(self, number: int, flow: Flow) -> None:
        self.forgotten += 1
        self._close(flow.key, number)
        for address in flow.key.traffic[:2]:
            self._drop_name(address, number)

    def _close(self, key: FlowKey, number: int) -> None:
        if self._open.get(key) == number:
            del self._open[key]

    def _drop_name(self, address: Address, number: int) -> None:
        naming = self._naming.get(address)
        if naming is not None:
            naming.discard(number)
            if not naming:
                del self._naming[address]

    def newest(self, after: int = 0) -> Iterator[Flow]:
        """The flows that changed after change number `after`, the latest first."""
        for flow in reversed(self._flows.values()):
            if flow.change <= after:
                return
            yield flow
