"""The flows that were told of lately, each with how often: a bounded table, the oldest forgotten first. Pure.

In: sightings; out: Flows. Packets that differ in their source port only are one flow, so that the attempts of one
client count up. Each change of a flow has a number, by which one who follows asks for what is new.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from felixpy.dataplane.chains.causes import Cause
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
    """A flow: when it was told of first and last (seconds since the epoch), how often, and the last source port."""

    key: FlowKey
    first_s: float
    last_s: float
    told: int
    source_port: int
    change: int
    about: About = About()


class FlowTable:
    """Holds at most `most` flows; `forgotten` and `unreadable` count what it could not keep or understand."""

    def __init__(self, most: int = MOST_FLOWS) -> None:
        self._most = most
        self._flows: OrderedDict[FlowKey, Flow] = OrderedDict()
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
        flow = self._flows.get(key)
        if flow is not None:
            flow.last_s, flow.source_port, flow.change = now_s, traffic.source_port, self.change
            flow.told += 1
            self._flows.move_to_end(key)
            return None
        if len(self._flows) >= self._most:
            self._flows.popitem(last=False)
            self.forgotten += 1
        flow = self._flows[key] = Flow(key, now_s, now_s, 1, traffic.source_port, self.change)
        return flow

    def newest(self, after: int = 0) -> Iterator[Flow]:
        """The flows that changed after change number `after`, the latest first."""
        for flow in reversed(self._flows.values()):
            if flow.change <= after:
                return
            yield flow
