"""The figures of what this node's rules denied, refused and allowed, asked of the kernel at each scrape.

In: the causes that were told of, and a driver that reads counts; out: families. Asks in a thread, one scrape at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from felixpy.agent.flows.watch import FlowWatch
from felixpy.dataplane.chains.report import cause_chain
from felixpy.dataplane.objects import Counts
from felixpy.flows.counting import LABELS
from felixpy.metrics import Family, FamilyKind

_log = logging.getLogger(__name__)


class FlowCounters:
    """A source of figures for one node."""

    def __init__(self, flows: FlowWatch, read_counts: Callable[[Iterable[str]], Mapping[str, Counts]]) -> None:
        self._flows = flows
        self._read_counts = read_counts
        self._one_at_a_time = asyncio.Lock()

    async def count(self, chains: Iterable[str]) -> Mapping[str, Counts]:
        """What the kernel counted in chains, those that are there; nothing where it does not answer.

        One who no longer waits leaves the reading to its end: the socket is one, and the thread cannot be cancelled.
        """
        return await asyncio.shield(self._count(tuple(chains)))

    async def _count(self, chains: tuple[str, ...]) -> Mapping[str, Counts]:
        async with self._one_at_a_time:
            try:
                return await asyncio.to_thread(self._read_counts, chains)
            except OSError as error:
                _log.warning("the rules' counters cannot be read: %s", error)
                return {}

    async def read(self) -> Iterable[Family]:
        """The figures now; only those of the reports where the kernel does not answer."""
        told = self._flows.told
        chains = {cause_chain(cause): cause for cause in told.causes}
        counted = await self.count(chains) if chains else {}
        counts = {chains[name]: count for name, count in counted.items()}
        if counts:
            told.counted(counts)
        table = self._flows.table
        counter = FamilyKind.COUNTER
        return (
            Family(
                "felixpy_policy_packets", "Packets by what the rules did", counter, LABELS, told.packet_rows(counts)
            ),
            Family("felixpy_policy_bytes", "Their bytes", counter, LABELS, told.byte_rows(counts)),
            Family("calico_denied_packets", "Packets denied", labels=("policy",), rows=told.denied_rows(counts)),
            Family("felixpy_flows", "Flows that can be asked for", rows={(): float(len(table))}),
            Family("felixpy_flow_reports_lost", "Not handed over", counter, rows={(): float(self._flows.lost)}),
            Family("felixpy_flows_forgotten", "Older ones", counter, rows={(): float(table.forgotten)}),
        )
