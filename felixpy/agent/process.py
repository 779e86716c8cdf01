"""One process of the agent family: its roles, composed, under one task group.

In: Settings; out: a running node. The datastore is read once, by one syncer, and each batch goes to every role that
wants it. Decides nothing about the node's state; that is what the roles are for.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from felixpy.addresses import Address, Prefix
from felixpy.agent.chores import Chores
from felixpy.agent.clock import utc_now
from felixpy.agent.doors.answers import Answers
from felixpy.agent.doors.control import ControlServer
from felixpy.agent.doors.pages import Pages
from felixpy.agent.doors.status import StatusReader
from felixpy.agent.exclusive import hold_namespace, hold_role, keep_locks
from felixpy.agent.node.identity import Holder, Identity, keep_name, read_host
from felixpy.agent.services.serving import Serving
from felixpy.agent.settings import Role, Settings
from felixpy.calc.announcing.announcements import Why
from felixpy.calc.options import Options
from felixpy.calc.services.arbitration import ServiceCalc
from felixpy.datastore.client import open_store
from felixpy.datastore.local import LocalEtcd
from felixpy.datastore.mailbox import Batch
from felixpy.datastore.model import Event, Expect, Store
from felixpy.datastore.remembered import ClusterMemory
from felixpy.datastore.settings import EtcdSettings
from felixpy.datastore.syncer import Phase, Syncer, SyncState
from felixpy.resources.codec import Decoder, faults_of
from felixpy.resources.kinds import WATCHED_PREFIXES
from felixpy.resources.resource import Broken, Resource
from felixpy.resources.service_types import Grant
from felixpy.resources.tables import Decoded, Ref

if TYPE_CHECKING:
    from felixpy.agent.agent import AgentRole
    from felixpy.agent.routing.role import RoutingRole
    from felixpy.agent.services.layer2 import Layer2Role
    from felixpy.agent.services.liveness import LivenessWatch
    from felixpy.agent.services.statuses import ServiceStatuses

_log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Runs until cancelled.

    Raises  AlreadyRunning; RunDirGone; LocalEtcdError; MemoryBroken; NameChanged; NameTaken; AccessError.
    """
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        paths = [settings.run_dir / f"{role}.lock" for role in sorted(settings.roles)]
        locks = {path: stack.enter_context(hold_role(path)) for path in paths}
        if Role.AGENT in settings.roles:
            stack.enter_context(hold_namespace())
        if settings.roles - {Role.CONTROLLERS}:
            _keep_name(settings)
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_locks(locks))
            etcd = settings.etcd
            if etcd is None:
                local = LocalEtcd(settings.run_dir, state=settings.state_dir)
                etcd = EtcdSettings((await local.start(),))
                group.create_task(local.supervise())
            store = open_store(etcd)
            stack.push_async_callback(store.close)
            await Process(settings, store, group).run()


def _keep_name(settings: Settings) -> None:
    """Raises  NameChanged."""
    from felixpy.cni.plan import INTERFACE_PREFIX
    from felixpy.drivers.netlink.pods.link import list_pod_links

    file = settings.state_file.with_name(f"{settings.state_file.name}.node")
    keep_name(file, settings.node, lambda: list_pod_links(INTERFACE_PREFIX))


class Process:
    """The roles that `settings` name, over one store. Modules that only a role needs are loaded with it."""

    def __init__(self, settings: Settings, store: Store, group: asyncio.TaskGroup) -> None:
        self._settings = settings
        self._store = store
        self._group = group
        self._decoder = Decoder(settings.node)
        self._broken: dict[bytes, tuple[Broken, ...]] = {}
        prefixes = [prefix.encode() for prefix in WATCHED_PREFIXES]
        self._syncer = Syncer(store, prefixes, ClusterMemory(settings.state_file), on_state=self._state_changed)
        self._chores = Chores(settings, store, self._syncer)
        self._status = StatusReader(settings, store, self._syncer, self._broken)
        self._answers = Answers(store, self._status, settings)
        self._pages = Pages(self._status, group, settings.metrics)
        self._services = ServiceCalc(settings.node)
        self._serving = Serving(self._answers.flush)
        self._agent: AgentRole | None = None
        self._layer2: Layer2Role | None = None
        self._liveness: LivenessWatch | None = None
        self._routing: RoutingRole | None = None
        self._statuses: ServiceStatuses | None = None
        self._observers: list[Callable[[Event], None]] = [self._answers.observe]
        self._listeners: list[Callable[[Ref, Resource | None], None]] = [self._services.update, self._chores.update]
        self._settled = False
        self._whole = False

    async def run(self) -> None:
        """Reads and acts until cancelled.

        Raises  NameTaken; AccessError; OSError when the run directory cannot be written.
        """
        if Role.AGENT in self._settings.roles:
            self._start_agent()
        if Role.BGP in self._settings.roles:
            self._start_routing()
        if self._agent is not None or self._routing is not None:
            self._start_statuses()
        if Role.CONTROLLERS in self._settings.roles:
            self._start_controllers()
        self._serve_apart()
        self._group.create_task(self._answers.serve())
        self._group.create_task(ControlServer(self._settings, self._status, self._syncer).serve())
        self._group.create_task(self._chores.serve())
        self._pages.open(self._options)
        self._group.create_task(self._syncer.run())
        async for batch in self._syncer:
            if batch.in_sync and not self._chores.named:
                await self._claim_name()
            self._take(batch)

    def _start_agent(self) -> None:
        from felixpy.agent.agent import AgentRole
        from felixpy.agent.flows.followers import FlowFollowers
        from felixpy.agent.services.answering import Answering
        from felixpy.agent.services.layer2 import Layer2Role
        from felixpy.agent.services.liveness import LivenessWatch

        settings, store, group = self._settings, self._store, self._group
        liveness = LivenessWatch(settings.node, settings.run_dir, group, self._nodes_died)
        agent = AgentRole(settings, store, group, self._chores.host_changed, self._serving.look)
        say = Answering(store, settings.node)
        layer2 = Layer2Role(settings, group, say, agent.read_subnets, self._announcing_changed)
        self._observers += [liveness.observe, agent.observe]
        self._listeners += [liveness.update, agent.update, layer2.update]
        self._pages.sources.append(agent.families)
        self._pages.slow += [agent.counters.read, layer2.families]
        self._answers.followers = FlowFollowers(store, settings.node, agent.flows)
        group.create_task(self._answers.followers.serve())
        self._agent = self._status.agent = self._serving.agent = agent
        self._layer2 = self._status.layer2 = self._serving.layer2 = layer2
        self._liveness = self._status.liveness = liveness

    def _start_routing(self) -> None:
        from felixpy.agent.node.bgp_status import NodeStatusWriter
        from felixpy.agent.routing.role import RoutingRole

        settings, host_changed = self._settings, self._chores.host_changed
        routing = RoutingRole(settings, self._group, host_changed, self._announcing_changed, self._went_down)
        told = NodeStatusWriter(settings.node, self._store, self._status, utc_now)
        self._listeners += [routing.update, told.update]
        self._group.create_task(told.serve())
        self._routing = self._status.routing = self._serving.routing = routing

    def _start_statuses(self) -> None:
        from felixpy.agent.services.figures import AnnouncedFigures
        from felixpy.agent.services.statuses import ServiceStatuses

        figures = AnnouncedFigures(self._settings.node, self._held, self._announced, self._answered)
        self._pages.sources.append(figures.families)
        statuses = ServiceStatuses(self._store, self._settings.node, self._held, self._may_write)
        statuses.layer2, statuses.routing = self._layer2, self._routing
        self._listeners.append(statuses.update)
        self._group.create_task(statuses.serve())
        self._statuses = statuses

    def _start_controllers(self) -> None:
        """Raises  AccessError."""
        from felixpy.agent.services.figures import AllocatorFigures
        from felixpy.controllers import serve_controllers

        figures = AllocatorFigures()
        self._pages.sources.append(figures.families)
        self._group.create_task(serve_controllers(self._store, self._settings.node, told=figures.take))
        if self._settings.kubernetes:
            self._import_from_kubernetes()

    def _import_from_kubernetes(self) -> None:
        from felixpy.controllers.leader import lead
        from felixpy.kube.access import Access, read_access
        from felixpy.kube.importer import LEADER_KEY, serve_importer

        def read() -> Access:
            return read_access(self._settings.kubernetes, os.environ)

        access = read()

        async def work(fence: Expect) -> None:
            await serve_importer(access, self._store, fence, read)

        self._group.create_task(lead(self._store, LEADER_KEY, self._settings.node, work))

    def _serve_apart(self) -> None:
        """Where another process may have the other of the two roles that serve a Service together."""
        from felixpy.agent.services.apart import ServedDoor, ServedElsewhere

        serving = self._serving
        if self._agent is not None and self._routing is None:
            serving.door = ServedDoor(self._settings, serving.look)
            self._group.create_task(serving.door.serve())
        elif self._routing is not None and self._agent is None:
            serving.elsewhere = ServedElsewhere(self._settings, serving.doubt)
            self._group.create_task(serving.elsewhere.serve())

    async def _claim_name(self) -> None:
        """Before anything is written anywhere: this host alone runs a node of this name."""
        roles = self._settings.roles - {Role.CONTROLLERS}
        if roles:
            holder = Holder(read_host(self._settings.run_dir), socket.gethostname())
            identity = Identity(self._store, self._settings.node, roles, holder)
            await identity.claim()
            self._group.create_task(identity.keep())
        self._chores.named = True
        self._chores.look()

    def _take(self, batch: Batch) -> None:
        self._whole = False
        for event in batch.events:
            for observe in self._observers:
                observe(event)
            decoded = self._decode(event)
            if decoded is not None:
                for update in self._listeners:
                    update(decoded.ref, decoded.value)
        if not batch.in_sync:
            return
        self._whole = True
        if self._liveness is not None:
            self._services.put_dead(self._liveness.flush())
        self._serving.flush(batch.revision, self._services.flush())
        self._pages.open(self._options)
        if not self._settled:
            self._settle()

    def _decode(self, event: Event) -> Decoded | None:
        """The change that an event is, None where nobody reads such keys. What is broken counts as missing."""
        decoded = self._decoder.decode(event.key, event.value)
        self._report(event.key, faults_of(event.key, decoded) if event.value is not None else ())
        if not isinstance(decoded, Broken):
            return decoded
        ref = self._decoder.ref_of(decoded.key) if event.value is not None else None
        return None if ref is None else Decoded(ref, None)

    def _report(self, key: bytes, faults: tuple[Broken, ...]) -> None:
        """Says once what of a value is broken: the value, or the field."""
        known = self._broken.pop(key, ())
        if faults:
            self._broken[key] = faults
        for broken in faults:
            if broken not in known:
                _log.warning("broken, %s: %s", broken.what, broken)

    def _settle(self) -> None:
        """The collector of cycles rests while the first snapshot is read, which makes many objects and no garbage; what
        it left is kept out of the collector's sight from now on.
        """
        self._settled = True
        gc.collect()
        gc.freeze()
        gc.enable()

    def _state_changed(self, state: SyncState) -> None:
        detail = f": {state.why}" if state.why else ""
        level = logging.WARNING if state.phase in (Phase.FROZEN, Phase.UNAVAILABLE) else logging.INFO
        _log.log(level, "datastore: %s%s", state.phase, detail)
        if self._agent is not None:
            self._agent.datastore_state(state)
        if not self._settled:
            (gc.disable if state.phase is Phase.SYNCING else gc.enable)()
        self._chores.look()

    def _announcing_changed(self) -> None:
        """A role answers for, or has told, something that it did not before, or no longer."""
        self._serving.look()
        if self._statuses is not None:
            self._statuses.look()

    def _went_down(self, neighbours: frozenset[bytes]) -> None:
        if self._liveness is not None:
            self._liveness.put_lost(frozenset(map(Address, neighbours)))

    def _nodes_died(self, dead: frozenset[str]) -> None:
        """Other nodes look dead than before; while the View is half way to its next state, that waits for it."""
        self._services.put_dead(dead)
        if self._whole:
            self._serving.flush(0, self._services.flush())

    def _held(self) -> Collection[Grant]:
        return self._services.grants

    def _announced(self) -> Collection[Prefix]:
        """What neighbours are told of for Services."""
        made = self._routing.announce.announcements.values() if self._routing is not None else ()
        return [one.prefix for one in made if one.why is Why.SERVICE]

    def _answered(self) -> Collection[Address]:
        return self._layer2.answered if self._layer2 is not None else ()

    def _may_write(self) -> bool:
        """Whether this node is the one of its name, in a datastore that is obeyed."""
        return self._chores.named and self._syncer.state.phase is Phase.IN_SYNC

    @property
    def _options(self) -> Options:
        return self._agent.dataplane.graph.options if self._agent is not None else Options()
