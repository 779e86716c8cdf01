"""Reads what the node's rules tell of packets, and keeps it for those who ask.

In: the NFLOG group, and what the data plane knows; out: records, with names. What is told of costs the event loop at
most READ_PER_S packets a second; the rest waits in the socket or is lost there, and counted. Who has an address is
looked up when somebody asks, beside the event loop. Changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from itertools import islice
from typing import NoReturn

from felixpy.addresses import Address
from felixpy.agent.flows.handovers import Handovers
from felixpy.agent.kernel.dataplane import Dataplane
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.dataplane.chains.causes import Cause, parse_cause
from felixpy.drivers.netlink.nflog import Nflog
from felixpy.drivers.readable import until_readable
from felixpy.flows.counting import ToldCauses
from felixpy.flows.names import HOST_ENDPOINT, Named, Rank, find_ends, pod_end
from felixpy.flows.records import FLOWS_SHOWN, FlowEnd, FlowsAnswer, FlowsQuestion, is_asked_for
from felixpy.flows.table import About, Flow, FlowTable
from felixpy.flows.telling import tell
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref

READ_PER_S = 2000
DATAGRAMS_PER_TURN = 16
AGAIN_S = 2.0
"""Between two attempts to have the group: another process may hold it, for as long as it lives."""
NO_REPORTS = "the kernel cannot tell of packets (NFLOG)"
_log = logging.getLogger(__name__)


class FlowWatch:
    """The flows of one node. `serve` reads; `answer` tells."""

    def __init__(self, node: str, dataplane: Dataplane) -> None:
        self._node = node
        self._dataplane = dataplane
        self.table = FlowTable()
        self._handovers = Handovers(self.table)
        self.told = ToldCauses()
        self.lost = 0
        self.unread = "nothing is read yet"
        self.changed = asyncio.Event()

    async def serve(self) -> NoReturn:
        """Reads until cancelled."""
        said = ""
        while True:
            try:
                source = Nflog()
            except OSError as error:
                self.unread = f"the kernel's reports cannot be read: {error.strerror}"
                if said != self.unread:
                    _log.warning("no flows: %s", self.unread)
                    said = self.unread
                await asyncio.sleep(AGAIN_S)
                continue
            said = self.unread = ""
            lost = self.lost
            with source:
                while True:
                    await until_readable(source)
                    try:
                        taken = self._take(source)
                    except OSError as error:
                        _log.warning("the kernel's reports cannot be read, which is tried again: %s", error)
                        break
                    self.lost = lost + source.lost
                    await asyncio.sleep(taken / READ_PER_S)

    def _take(self, source: Nflog) -> int:
        """Takes what is there now, up to a limit; how many packets that was. Raises  OSError."""
        taken, now = 0, time.time()
        for _ in range(DATAGRAMS_PER_TURN):
            sightings = source.read()
            if sightings is None:
                break
            for sighting in sightings:
                flow = self.table.add(sighting, now)
                if flow is not None:
                    flow.about = self._describe(flow)
            taken += len(sightings)
        if taken:
            self.changed.set()
        return taken

    def _describe(self, flow: Flow) -> About:
        """What is known about a new flow, now that its devices and policies are there."""
        key, dataplane = flow.key, self._dataplane
        cause = parse_cause(key.text, dataplane.translator.causes.by_text)
        in_device, out_device = _device_name(key.in_index), _device_name(key.out_index)
        if cause is None:
            return About(in_device=in_device, out_device=out_device)
        tier, stage = cause.tier, ""
        policy = dataplane.graph.policy.policy(cause.policy) if cause.policy is not None else None
        if policy is not None:
            tier = policy.tier
            stage = "untracked" if policy.do_not_track else "pre-dnat" if policy.pre_dnat else ""
        self.told.note(cause, tier)
        return About(cause, tier, stage, in_device, out_device, self._judge(cause, in_device, out_device, flow))

    def _judge(self, cause: Cause, in_device: str, out_device: str, flow: Flow) -> FlowEnd | None:
        """Whose rules the cause is of: the pod's behind a device, else the host endpoint's that governs one."""
        if not cause.way:
            return None
        graph, traffic = self._dataplane.graph, flow.key.traffic
        of_pod, of_host = (in_device, out_device) if cause.way == "out" else (out_device, in_device)
        name = self._dataplane.endpoint_at(of_pod, cause) if of_pod else None
        endpoint = graph.policy.endpoint(name) if name is not None else None
        if name is not None and endpoint is not None:
            return pod_end(traffic.source if cause.way == "out" else traffic.destination, name, endpoint)
        host = graph.hosts.governing(of_host) if of_host and not graph.options.is_workload(of_host) else None
        return _host_end(host) if host is not None else None

    def resource_changes(self, ref: Ref, value: Resource | None) -> None:
        """Takes a change of somebody with addresses before it is made: what was told of stays the former holder's."""
        self._handovers.resource_changes(ref, self._dataplane.graph.sets.holders.get(ref), value)

    def services_change(self, delta: ServiceDelta) -> None:
        """The same of Services."""
        self._handovers.services_change(delta, self._dataplane.frontends)

    async def answer(self, question: FlowsQuestion, after: int = 0) -> FlowsAnswer:
        """The latest flows that are asked for, of those that changed after change number `after`."""
        told = list(self.table.newest(after))
        wanted = frozenset(
            address
            for flow in told
            for address in flow.key.traffic[:2]
            if not isinstance(flow.ends.get((address, Rank.ENDPOINT)), FlowEnd)
        )
        named = await self._find(wanted) if wanted else {}
        records = [record for record in (tell(flow, named) for flow in told) if is_asked_for(record, question)]
        shown = tuple(islice(records, FLOWS_SHOWN))[::-1]
        return FlowsAnswer(self._node, shown, len(records) - len(shown), self.lost, self.unread)

    async def _find(self, wanted: frozenset[Address]) -> Mapping[Address, Named]:
        """Looks through everything as it is now, in a thread: other changes go on meanwhile."""
        graph = self._dataplane.graph
        everyone = list(graph.sets.holders.items()), list(graph.nodes.items()), list(self._dataplane.frontends.items())
        return await asyncio.to_thread(find_ends, wanted, *everyone)


def _host_end(name: Name) -> FlowEnd:
    return FlowEnd("", HOST_ENDPOINT, name=name.name)


def _device_name(index: int) -> str:
    """The device's name; its number where it is gone."""
    if not index:
        return ""
    try:
        return os.fsencode(socket.if_indextoname(index)).decode(errors="replace")
    except OSError:
        return str(index)
