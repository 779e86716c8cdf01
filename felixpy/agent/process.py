"""One process of the agent family: its roles, composed, under one task group.

In: Settings; out: a running node. The datastore is read once, by one syncer, and each batch goes to every role that
wants it. Decides nothing about the node's state; that is what the roles are for.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import logging
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from felixpy.addresses import Address
from felixpy.agent.bootstrap import ensure_pools, initialise_cluster
from felixpy.agent.clock import utc_now
from felixpy.agent.doors.answers import Answers, StatusReader
from felixpy.agent.doors.control import ControlServer
from felixpy.agent.node.identity import Holder, Identity, read_host
from felixpy.agent.node.resource import ensure_node
from felixpy.agent.services.serving import Serving
from felixpy.agent.settings import Role, Settings
from felixpy.calc.announcing.announcements import Why
from felixpy.calc.options import Options
from felixpy.calc.services.arbitration import ServiceCalc
from felixpy.datastore.client import open_store
from felixpy.datastore.cluster import FreezeReason
from felixpy.datastore.local import LocalEtcd
from felixpy.datastore.mailbox import Batch
from felixpy.datastore.model import DatastoreError, Expect, Store
from felixpy.datastore.remembered import ClusterMemory
from felixpy.datastore.settings import EtcdSettings
from felixpy.datastore.syncer import Phase, Syncer, SyncState
from felixpy.resources.codec import Decoder, faults_of
from felixpy.resources.kinds import WATCHED_PREFIXES
from felixpy.resources.resource import Broken
from felixpy.resources.tables import Decoded

if TYPE_CHECKING:
    from felixpy.agent.agent import AgentRole
    from felixpy.agent.doors.observed import Observed, Source
    from felixpy.agent.node.bgp_status import NodeStatusWriter
    from felixpy.agent.routing.role import RoutingRole
    from felixpy.agent.services.layer2 import Layer2Role
    from felixpy.agent.services.liveness import LivenessWatch
    from felixpy.agent.services.statuses import ServiceStatuses
    from felixpy.metrics import Family

_log = logging.getLogger(__name__)


CHORE_FIRST_S, CHORE_MOST_S = 1.0, 30.0
"""Between two attempts at what this node has to write for itself."""
NAMESPACE_LOCK = "\0felixpy/agent"
HOST_SETTLES_S = 1.0
"""From a change of the host's addresses to a look at them: a renewed lease takes one away and puts it back."""


class AlreadyRunning(Exception):
    """Another process has this role in this run directory."""


async def serve(settings: Settings) -> None:
    """Runs until cancelled.

    Raises  AlreadyRunning; LocalEtcdError; MemoryBroken; NameTaken.
    """
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        for role in sorted(settings.roles):
            stack.enter_context(_hold_lock(settings.run_dir / f"{role}.lock"))
        if Role.AGENT in settings.roles:
            stack.enter_context(_hold_namespace())
        async with asyncio.TaskGroup() as group:
            etcd = settings.etcd
            if etcd is None:
                local = LocalEtcd(settings.run_dir)
                etcd = EtcdSettings((await local.start(),))
                group.create_task(local.supervise())
            store = open_store(etcd)
            stack.push_async_callback(store.close)
            await _Process(settings, store, group).run()


class _Lock:
    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _hold_lock(path: Path) -> _Lock:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise AlreadyRunning(f"{path} is held: another process runs this role here") from None
    return _Lock(file)


def _hold_namespace() -> socket.socket:
    """One agent a network namespace: two would undo each other's rules for ever. Abstract names are the namespace's."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        held.bind(NAMESPACE_LOCK)
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise AlreadyRunning("another agent runs in this network namespace") from None
    return held


class _Process:
    def __init__(self, settings: Settings, store: Store, group: asyncio.TaskGroup) -> None:
        self._settings = settings
        self._store = store
        self._group = group
        self._decoder = Decoder(settings.node)
        self._services = ServiceCalc(settings.node)
        self._settled = False
        self._chores = asyncio.Event()
        self._broken: dict[bytes, tuple[Broken, ...]] = {}
        memory = ClusterMemory(settings.state_file)
        prefixes = [prefix.encode() for prefix in WATCHED_PREFIXES]
        self._syncer = Syncer(store, prefixes, memory, on_state=self._state_changed)
        self._named = False
        self._host_settles: asyncio.TimerHandle | None = None
        self._status = StatusReader(settings, store, self._syncer, self._broken)
        self._answers = Answers(store, self._status, settings)
        self._serving = Serving(self._answers.flush)
        self._agent: AgentRole | None = None
        self._layer2: Layer2Role | None = None
        self._liveness: LivenessWatch | None = None
        self._whole = False
        self._routing: RoutingRole | None = None
        self._told: NodeStatusWriter | None = None
        self._statuses: ServiceStatuses | None = None
        self._sources: list[Source] = []
        self._observed: Observed | None = None

    async def run(self) -> None:
        """Reads and acts until cancelled.

        The collector of cycles rests while the snapshot is read, which makes many objects and no garbage; what the
        snapshot left is then kept out of its sight for good.
        """
        if Role.AGENT in self._settings.roles:
            from felixpy.agent.agent import AgentRole
            from felixpy.agent.services.answering import Answering
            from felixpy.agent.services.layer2 import Layer2Role
            from felixpy.agent.services.liveness import LivenessWatch

            look = self._serving.look
            self._agent = AgentRole(self._settings, self._store, self._group, self._host_changed, look)
            self._sources.append(self._agent.families)
            node, run_dir = self._settings.node, self._settings.run_dir
            self._liveness = LivenessWatch(node, run_dir, self._group, self._nodes_died)
            say = Answering(self._store, self._settings.node)
            told = self._announcing_changed
            self._layer2 = Layer2Role(self._settings, self._group, say, self._agent.read_subnets, told)
        if Role.BGP in self._settings.roles:
            from felixpy.agent.node.bgp_status import NodeStatusWriter
            from felixpy.agent.routing.role import RoutingRole

            self._routing = RoutingRole(
                self._settings, self._group, self._host_changed, self._announcing_changed, self._went_down
            )
            self._told = NodeStatusWriter(self._settings.node, self._store, self._status, utc_now)
            self._group.create_task(self._told.serve())
        if self._agent is not None or self._routing is not None:
            from felixpy.agent.services.statuses import ServiceStatuses

            self._sources.append(self._announced_families)
            made = ServiceStatuses(self._store, self._settings.node, lambda: self._services.grants, self._may_write)
            made.layer2, made.routing = self._layer2, self._routing
            self._statuses = made
            self._group.create_task(made.serve())
        if Role.CONTROLLERS in self._settings.roles:
            from felixpy.agent.services.figures import AllocatorFigures
            from felixpy.controllers import serve_controllers

            figures = AllocatorFigures()
            self._sources.append(figures.families)
            self._group.create_task(serve_controllers(self._store, self._settings.node, told=figures.take))
            if self._settings.kubernetes:
                self._import_from_kubernetes()
        if self._agent is not None:
            from felixpy.agent.flows.followers import FlowFollowers

            self._answers.followers = FlowFollowers(self._store, self._settings.node, self._agent.flows)
            self._group.create_task(self._answers.followers.serve())
        self._status.agent, self._status.routing = self._agent, self._routing
        self._status.layer2, self._status.liveness = self._layer2, self._liveness
        self._serving.agent, self._serving.layer2, self._serving.routing = self._agent, self._layer2, self._routing
        self._serve_apart()
        self._group.create_task(self._answers.serve())
        self._group.create_task(ControlServer(self._settings, self._status, self._syncer).serve())
        self._group.create_task(self._do_chores())
        self._open_pages()
        self._group.create_task(self._syncer.run())
        async for batch in self._syncer:
            if batch.in_sync and not self._named:
                await self._claim_name()
            self._take(batch)

    def _serve_apart(self) -> None:
        """Where another process may have the other of the two roles that serve a Service together."""
        from felixpy.agent.services.apart import ServedDoor, ServedElsewhere

        serving, run_dir = self._serving, self._settings.run_dir
        if self._agent is not None and self._routing is None:
            serving.door = ServedDoor(run_dir, serving.look)
            self._group.create_task(serving.door.serve())
        elif self._routing is not None and self._agent is None:
            serving.elsewhere = ServedElsewhere(run_dir, serving.doubt)
            self._group.create_task(serving.elsewhere.serve())

    def _import_from_kubernetes(self) -> None:
        """Raises  AccessError."""
        from felixpy.controllers.leader import lead
        from felixpy.kube.access import read_access
        from felixpy.kube.importer import LEADER_KEY, serve_importer

        access = read_access(self._settings.kubernetes, os.environ)

        async def work(fence: Expect) -> None:
            await serve_importer(access, self._store, fence)

        self._group.create_task(lead(self._store, LEADER_KEY, self._settings.node, work))

    async def _claim_name(self) -> None:
        """Before anything is written anywhere: this host alone runs a node of this name.

        Raises  NameTaken; OSError when the run directory cannot be written.
        """
        roles = self._settings.roles - {Role.CONTROLLERS}
        holder = Holder(read_host(self._settings.run_dir), socket.gethostname())
        if roles:
            identity = Identity(self._store, self._settings.node, roles, holder)
            await identity.claim()
            self._group.create_task(identity.keep())
        self._named = True
        self._chores.set()

    def _host_changed(self) -> None:
        """An address of the host came or went: once it settles, the node's own may be another."""
        if self._host_settles is None:
            self._host_settles = asyncio.get_running_loop().call_later(HOST_SETTLES_S, self._look_at_host)

    def _look_at_host(self) -> None:
        self._host_settles = None
        self._chores.set()

    def _announcing_changed(self) -> None:
        """A role answers for, or has told, something that it did not before, or no longer."""
        self._serving.look()
        if self._statuses is not None:
            self._statuses.look()

    def _may_write(self) -> bool:
        """Whether this node is the one of its name, in a datastore that is obeyed."""
        return self._named and self._syncer.state.phase is Phase.IN_SYNC

    def _went_down(self, neighbours: frozenset[bytes]) -> None:
        if self._liveness is not None:
            self._liveness.put_lost(frozenset(map(Address, neighbours)))

    def _nodes_died(self, dead: frozenset[str]) -> None:
        """Other nodes look dead than before; while the View is half way to its next state, that waits for it."""
        self._services.put_dead(dead)
        if self._whole:
            self._serving.flush(0, self._services.flush())

    def _take(self, batch: Batch) -> None:
        self._whole = False
        for event in batch.events:
            self._answers.observe(event)
            if self._liveness is not None:
                self._liveness.observe(event)
            if self._agent is not None:
                self._agent.observe(event)
            decoded = self._decoder.decode(event.key, event.value)
            self._report(event.key, faults_of(event.key, decoded) if event.value is not None else ())
            if isinstance(decoded, Broken):
                ref = self._decoder.ref_of(decoded.key) if event.value is not None else None
                decoded = Decoded(ref, None) if ref is not None else None
            if decoded is None:
                continue
            self._services.update(decoded.ref, decoded.value)
            if self._liveness is not None:
                self._liveness.update(decoded.ref, decoded.value)
            if self._agent is not None:
                self._agent.update(decoded.ref, decoded.value)
            if self._layer2 is not None:
                self._layer2.update(decoded.ref, decoded.value)
            if self._routing is not None:
                self._routing.update(decoded.ref, decoded.value)
            if self._told is not None:
                self._told.update(decoded.ref, decoded.value)
            if self._statuses is not None:
                self._statuses.update(decoded.ref, decoded.value)
        if not batch.in_sync:
            return
        self._whole = True
        if self._liveness is not None:
            self._services.put_dead(self._liveness.flush())
        self._serving.flush(batch.revision, self._services.flush())
        self._open_pages()
        if not self._settled:
            self._settled = True
            gc.collect()
            gc.freeze()
            gc.enable()

    def _announced_families(self) -> list[Family]:
        from felixpy.agent.services.figures import announced_family

        routing = self._routing
        made = routing.announce.announcements.values() if routing is not None else ()
        prefixes = [one.prefix for one in made if one.why is Why.SERVICE]
        answered = self._layer2.answered if self._layer2 is not None else frozenset()
        return [announced_family(self._settings.node, self._services.grants, prefixes, answered)]

    def _open_pages(self) -> None:
        """Listens for those who watch over this node, where that is wanted; nothing of it is loaded before."""
        options = self._agent.dataplane.graph.options if self._agent is not None else Options()
        wanted = self._settings.metrics or options.metrics_at or options.health_at
        if self._observed is None and wanted is not None:
            from felixpy.agent.doors.http import HttpServer
            from felixpy.agent.doors.observed import Observed, SlowSource

            slow: list[SlowSource] = [self._agent.counters.read] if self._agent is not None else []
            slow += [self._layer2.families] if self._layer2 is not None else []
            server = HttpServer(self._group)
            self._observed = Observed(self._status, self._sources, server, self._settings.metrics, slow)
        if self._observed is not None:
            self._observed.listen(options)

    def _report(self, key: bytes, faults: tuple[Broken, ...]) -> None:
        """Says once what of a value is broken: the value, or the field, counts as missing from now on."""
        known = self._broken.pop(key, ())
        if faults:
            self._broken[key] = faults
        for broken in faults:
            if broken not in known:
                _log.warning("broken, %s: %s", broken.what, broken)

    def _state_changed(self, state: SyncState) -> None:
        detail = f": {state.why}" if state.why else ""
        level = logging.WARNING if state.phase in (Phase.FROZEN, Phase.UNAVAILABLE) else logging.INFO
        _log.log(level, "datastore: %s%s", state.phase, detail)
        if self._agent is not None:
            self._agent.datastore_state(state)
        if not self._settled:
            (gc.disable if state.phase is Phase.SYNCING else gc.enable)()
        self._chores.set()

    async def _do_chores(self) -> NoReturn:
        """Makes what is needed and nobody has written: the cluster, the default pools, our Node. Until it is there."""
        wait_s = CHORE_FIRST_S
        while True:
            await self._chores.wait()
            self._chores.clear()
            try:
                done = await self._ensure_all(quiet=wait_s > CHORE_FIRST_S)
            except (DatastoreError, OSError) as error:  # OSError: the host's addresses cannot be read now
                _log.warning("what this node needs cannot be made now: %s", error)
                done = False
            if done:
                wait_s = CHORE_FIRST_S
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, CHORE_MOST_S)
                self._chores.set()

    async def _ensure_all(self, quiet: bool) -> bool:
        """Whether nothing is left to make in the state that the datastore is in."""
        settings, state = self._settings, self._syncer.state
        if state.phase is Phase.FROZEN and state.reason is FreezeReason.UNINITIALISED:
            if await initialise_cluster(self._store, utc_now()):
                _log.info("the datastore was empty: it is a cluster now")
            return True
        if state.phase is not Phase.IN_SYNC:
            return True
        if await ensure_pools(self._store, settings.default_pools, utc_now()):
            _log.info("made the default pools: %s", ", ".join(map(str, settings.default_pools)))
        if self._named and settings.roles & {Role.AGENT, Role.BGP}:
            return await ensure_node(self._store, settings.node, settings.node_address, quiet)
        return True
