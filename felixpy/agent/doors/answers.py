"""This process's status, and its answers to those who ask for it through the datastore.

In: the roles of the process and the syncer's state, questions as events; out: NodeStatus, one put per question under
the asker's lease. Questions that come while one is answered wait, each once; one that is withdrawn meanwhile is
forgotten. A question counts as answered only after everything up to it has been applied. Never changes the node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from heapq import nsmallest
from itertools import chain, islice, starmap
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from birdpy.addresses import Prefix as BgpPrefix
from birdpy.addresses import range_of
from birdpy.ranges import find_meant
from felixpy.addresses import Address, Prefix, format_address
from felixpy.agent.clock import utc_now
from felixpy.agent.services.answers import read_layer2, read_served
from felixpy.agent.settings import Role, Settings
from felixpy.calc.tunnel_plan import Direct, Tunnel, Unreached, Way
from felixpy.dataplane.describe import describe_op
from felixpy.dataplane.objects import Outcome
from felixpy.datastore.model import DatastoreError, Event, Store
from felixpy.datastore.syncer import Phase, Syncer
from felixpy.drivers.netlink.lookup import Outlet, find_outlets
from felixpy.resources.resource import Broken
from felixpy.status.answers import (
    DETAILS_SHOWN,
    FAILURES_SHOWN,
    AnnouncedPrefix,
    Ask,
    BfdStatus,
    BgpStatus,
    BrokenResource,
    ChainCount,
    DeadNode,
    Failure,
    KernelStatus,
    LearnedPrefix,
    MessagesStatus,
    NodeStatus,
    SessionStatus,
    SilentPrefix,
    TunnelledPrefix,
    Want,
    answer_key,
    parse,
    parse_ask_key,
    render,
)

if TYPE_CHECKING:
    from birdpy.session import BfdSession, MessageCounts, Session
    from birdpy.speaker import BgpStatus as RoleStatus
    from felixpy.agent.agent import AgentRole
    from felixpy.agent.flows.followers import FlowFollowers
    from felixpy.agent.routing.role import RoutingRole
    from felixpy.agent.services.layer2 import Layer2Role
    from felixpy.agent.services.liveness import LivenessWatch
    from felixpy.calc.announcing.announcements import Announcement
    from felixpy.calc.bgp.speaker import BgpPlan
    from felixpy.calc.tunnels import TunnelRoute

_log = logging.getLogger(__name__)

COUNTERS_TIMEOUT_S = 1.0
"""How long gobgpd may take to tell its counters before the last known ones are given."""
LEADER_TIMEOUT_S = 1.0
"""How long etcd may take to tell who leads: one that hangs must not keep the rest of the answer back."""


class StatusReader:
    """Composes the status of one process. The roles that it has are set once they are there."""

    def __init__(
        self, settings: Settings, store: Store, syncer: Syncer, broken: Mapping[bytes, tuple[Broken, ...]]
    ) -> None:
        self.agent: AgentRole | None = None
        self.routing: RoutingRole | None = None
        self.layer2: Layer2Role | None = None
        self.liveness: LivenessWatch | None = None
        self.revision = 0
        self._settings = settings
        self._store = store
        self._syncer = syncer
        self._broken = broken

    async def read(
        self, want: Collection[str] = (), services: Collection[str] = (), chains: Collection[str] = ()
    ) -> NodeStatus:
        """How the process stands now, with the details asked for."""
        state = self._syncer.state
        return NodeStatus(
            node=self._settings.node,
            roles=tuple(sorted(self._settings.roles)),
            version=_own_version(),
            revision=self.revision,
            datastore=f"{state.phase}: {state.why}" if state.why else str(state.phase),
            in_sync=state.phase is Phase.IN_SYNC,
            expected_roles=_known_roles(self._settings.run_dir),
            broken=sum(map(len, self._broken.values())),
            broken_resources=tuple(
                BrokenResource(one.key, one.field, one.why, one.in_part)
                for one in islice(chain.from_iterable(self._broken.values()), FAILURES_SHOWN)
            ),
            kernel=self._kernel(self.agent, want) if self.agent is not None else None,
            bgp=await self._bgp(self.routing, want) if self.routing is not None else None,
            layer2=await read_layer2(self.layer2, self.agent, want) if self.layer2 and self.agent else None,
            served=read_served(self.agent, services) if self.agent is not None and Want.SERVED in want else (),
            cni_unready=await self._cni(self.agent) if self.agent is not None else None,
            leader=await self._leads() if Role.CONTROLLERS in self._settings.roles else False,
            dead=tuple(islice(starmap(DeadNode, self._find_dead()), FAILURES_SHOWN)),
            counted=await self._count(self.agent, chains) if self.agent is not None and chains else (),
        )

    def _find_dead(self) -> list[tuple[str, str]]:
        dead = self.liveness.dead if self.liveness is not None else {}
        return sorted((node, str(sign)) for node, sign in dead.items())

    @staticmethod
    async def _count(agent: AgentRole, chains: Collection[str]) -> tuple[ChainCount, ...]:
        found = await agent.counters.count(chains)
        return tuple(ChainCount(chain, *counts) for chain, counts in sorted(found.items()))

    @staticmethod
    def _kernel(agent: AgentRole, want: Collection[str]) -> KernelStatus:
        dataplane, tunnels = agent.dataplane, agent.dataplane.graph.tunnels
        shown = DETAILS_SHOWN if Want.TUNNELLED in want else 0
        failed, unreached = dataplane.reconciler.failed, dataplane.graph.tunnels.intent.unreached
        return KernelStatus(
            started=dataplane.started,
            endpoints=len(dataplane.graph.policy.endpoint_names()),
            objects=len(dataplane.reconciler.desired),
            failed=len(failed),
            failures=_failures(failed.values()),
            unreached=len(unreached),
            unreached_ways=tuple(
                Failure(*one) for one in islice(sorted(map(_unreached, unreached.items())), FAILURES_SHOWN)
            ),
            tunnelled=tunnels.count_routes(),
            pod_mtu=_pod_mtu(agent),
            tunnels=tuple(map(_tunnelled, islice(tunnels.list_routes(), shown))),
        )

    @staticmethod
    async def _cni(agent: AgentRole) -> str | None:
        unready = await agent.backend.find_unready()
        return None if unready is None else str(unready)

    @staticmethod
    async def _bgp(routing: RoutingRole, want: Collection[str]) -> BgpStatus:
        try:
            async with asyncio.timeout(COUNTERS_TIMEOUT_S):
                status = await routing.role.read_status()
        except TimeoutError:
            status = routing.role.status()
        now = utc_now().timestamp()
        announcements, silences = routing.announce.announcements, routing.announce.silences
        failed = routing.learned.reconciler.failed
        told = tuple(_failure_of_gobgpd(words) for words in islice(status.errors, FAILURES_SHOWN))
        shown = DETAILS_SHOWN if Want.ANNOUNCED in want else 0
        return BgpStatus(
            no_speaker=str(routing.silent or ""),
            generation=status.generation,
            ranges=_ranges(status, routing.plan),
            sessions=tuple(_session(one, now, status, routing.plan) for _, one in sorted(status.sessions.items())),
            announced=len(announcements if routing.plan is None else routing.plan.intent.advertisements),
            advertised=status.advertised,
            silent=len(silences),
            learned=status.routes,
            failed=len(status.errors) + len(failed),
            failures=(*told, *_failures(failed.values()))[:FAILURES_SHOWN],
            refused=len(refusals := routing.refusals),
            refusals=tuple(Failure(one.what, one.why) for one in islice(refusals, FAILURES_SHOWN)),
            announcements=tuple(_announced(announcements[prefix]) for prefix in nsmallest(shown, announcements)),
            silences=tuple(
                SilentPrefix(str(prefix), str(silences[prefix].reason)) for prefix in nsmallest(shown, silences)
            ),
            routes=_learned(routing) if Want.LEARNED in want else (),
            installed=routing.learned.installed,
            router_id=_router_id(routing.plan),
            phase=str(status.phase),
            pending=status.pending[:FAILURES_SHOWN],
            plain=routing.learned.plain,
        )

    async def _leads(self) -> bool:
        from felixpy.controllers.leader import Leader
        from felixpy.controllers.loadbalancer import LEADER_KEY

        if self._syncer.state.phase is not Phase.IN_SYNC:
            return False
        try:
            async with asyncio.timeout(LEADER_TIMEOUT_S):
                pair = await self._store.get(LEADER_KEY)
            return pair is not None and msgspec.json.decode(pair.value, type=Leader).node == self._settings.node
        except (TimeoutError, DatastoreError, msgspec.MsgspecError):
            return False


class Answers:
    """Answers questions for one process: `observe` each event, `flush` once a batch has been applied, and `serve`."""

    def __init__(self, store: Store, reader: StatusReader, settings: Settings) -> None:
        self._store = store
        self._reader = reader
        self._settings = settings
        self.followers: FlowFollowers | None = None
        self._asked: dict[str, Ask] = {}
        self._applied = asyncio.Event()

    def observe(self, event: Event) -> None:
        """Takes note of a question, or of its withdrawal."""
        question = parse_ask_key(event.key)
        if question is None:
            return
        self._asked.pop(question, None)
        if self.followers is not None:
            self.followers.drop(question)
        if event.value is None:
            return
        try:
            ask = parse(event.value, Ask)
        except ValueError as error:
            _log.warning("a question that cannot be read: %s: %s", question, error)
            return
        if not ask.nodes or self._settings.node in ask.nodes:
            self._asked[question] = ask

    def flush(self, revision: int) -> None:
        """Everything up to `revision` has been applied, all questions so far with it."""
        self._reader.revision = max(self._reader.revision, revision)
        if self._asked:
            self._applied.set()

    async def serve(self) -> NoReturn:
        """Answers until cancelled."""
        while True:
            await self._applied.wait()
            self._applied.clear()
            while self._asked:
                question = next(iter(self._asked))
                await self._answer(question, self._asked.pop(question))

    async def _answer(self, question: str, ask: Ask) -> None:
        if ask.flows is not None:
            if self.followers is not None:
                await self.followers.answer(question, ask, ask.flows)
            return
        status = await self._reader.read(ask.want, ask.services, ask.chains)
        key = answer_key(question, status.node, status.roles)
        try:
            await self._store.put(key, render(status), ask.lease)
        except DatastoreError as error:
            _log.debug("nobody waits for an answer any more: %s", error)


@cache
def _own_version() -> str:
    from importlib.metadata import version  # slow to load, and no start-up waits for it

    return version("felixpy")


def _known_roles(run_dir: Path) -> tuple[str, ...]:
    """The roles that some process has had in this run directory: their locks stay."""
    return tuple(sorted(role for role in Role if (run_dir / f"{role}.lock").exists()))


def _failures(outcomes: Iterable[Outcome]) -> tuple[Failure, ...]:
    shown = islice(outcomes, FAILURES_SHOWN)
    return tuple(Failure(describe_op(outcome.op), outcome.error or "") for outcome in shown)


def _unreached(item: tuple[Way | Tunnel, Unreached]) -> tuple[str, str]:
    """What does not work, and why."""
    way, why = item
    what = f"the tunnel {way}" if isinstance(way, Tunnel) else f"reach {way.node} through {way.tunnel} ({way.mode})"
    return what, str(why)


def _failure_of_gobgpd(words: str) -> Failure:
    operation, _, error = words.partition(": ")
    return Failure(operation, error)


def _ranges(status: RoleStatus, plan: BgpPlan | None) -> tuple[str, ...]:
    """Prefixes from which whoever connects is a neighbour, and how many have."""
    neighbors = plan.intent.neighbors if plan is not None else {}
    ranges = sorted(one for one in neighbors if range_of(one) is not None)
    meant = [find_meant(address, neighbors) for address in (status.sessions if ranges else ())]
    return tuple(
        f"whoever connects from {range_of(one)} is a neighbour of AS {neighbors[one].asn}"
        f" ({', '.join(plan.asked_by.get(one, ()) if plan is not None else ())}): {meant.count(one) or 'nobody'} has"
        for one in ranges
    )


def _session(session: Session, now: float, status: RoleStatus, plan: BgpPlan | None) -> SessionStatus:
    meant = find_meant(session.address, plan.intent.neighbors) if plan is not None else None
    since = session.up_since if session.established else session.down_since
    return SessionStatus(
        address=format_address(session.address),
        asn=session.asn,
        state=str(session.state),
        established=session.established,
        since_s=None if since is None else max(0, int(now - since)),
        last_error=session.last_error,
        received=session.received,
        accepted=session.accepted,
        advertised=session.advertised,
        asked_by=plan.asked_by.get(meant, ()) if plan is not None and meant is not None else (),
        differences=status.differences.get(session.address, ()),
        visitor=plan is not None and meant in plan.visitors,
        sent=_messages(session.sent),
        got=_messages(session.got),
        bfd=_bfd(session.bfd) if session.bfd is not None else None,
    )


def _messages(counts: MessageCounts) -> MessagesStatus:
    return MessagesStatus(
        counts.opens, counts.updates, counts.notifications, counts.keepalives, counts.refreshes, counts.total
    )


def _bfd(session: BfdSession) -> BfdStatus:
    return BfdStatus(session.up, session.sent, session.got, session.failures)


def _router_id(plan: BgpPlan | None) -> str:
    return "" if plan is None or plan.intent.speaker is None else format_address(plan.intent.speaker.router_id)


def _pod_mtu(agent: AgentRole) -> int:
    try:
        return agent.backend.pod_mtu()
    except OSError:
        return 0


def _tunnelled(route: TunnelRoute) -> TunnelledPrefix:
    way, hop = route.way, route.hop
    device = "" if hop is None else hop.device if isinstance(hop, Direct) else str(hop.tunnel)
    return TunnelledPrefix(
        prefix=str(route.destination),
        holder=way.node,
        mode=f"{way.tunnel} {way.mode}",
        device=device,
        gateway="" if hop is None else format_address(hop.gateway),
        error=str(route.why_dropped or "") if hop is None else "",
    )


def _announced(one: Announcement) -> AnnouncedPrefix:
    return AnnouncedPrefix(str(one.prefix), str(one.why), one.communities, one.local_pref, one.peers)


def _learned(routing: RoutingRole) -> tuple[LearnedPrefix, ...]:
    """The routes that the kernel should have, in the order of their prefixes."""
    shown = nsmallest(DETAILS_SHOWN, routing.learned.reconciler.desired)
    try:
        outlets = find_outlets({hop for prefix in shown for hop in _next_hops(prefix, routing)})
    except OSError:
        outlets = {}
    return tuple(_learned_route(one, routing, outlets) for one in shown)


def _next_hops(prefix: Prefix, routing: RoutingRole) -> tuple[Address, ...]:
    """The neighbours' addresses, which the kernel's own form of the route need not name."""
    return tuple(map(Address, routing.role.find_next_hops(BgpPrefix(*prefix))))


def _learned_route(prefix: Prefix, routing: RoutingRole, outlets: Mapping[Address, Outlet]) -> LearnedPrefix:
    hops, reconciler = _next_hops(prefix, routing), routing.learned.reconciler
    return LearnedPrefix(
        prefix=str(prefix),
        next_hops=tuple(map(format_address, hops)),
        metric=routing.role.find_metric(BgpPrefix(*prefix)),
        error=reconciler.why_failed(prefix),
        teachers=routing.role.find_teachers(BgpPrefix(*prefix)),
        devices=tuple(sorted({outlets[hop].device for hop in hops if hop in outlets})),
    )
