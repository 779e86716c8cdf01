"""The agent role: data plane, CNI server and kernel events of one node, over the batches of the syncer."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import assert_never

from felixpy.agent.clock import utc_now
from felixpy.agent.doors.http import HttpServer
from felixpy.agent.flows.counters import FlowCounters
from felixpy.agent.flows.handovers import NAMING
from felixpy.agent.flows.watch import NO_REPORTS, FlowWatch
from felixpy.agent.kernel.dataplane import READ_AGAIN_S, Dataplane
from felixpy.agent.node.facts import NodeFacts
from felixpy.agent.pods.cni_backend import AgentBackend
from felixpy.agent.pods.mtu import PodMtus
from felixpy.agent.pods.sweeper import Sweeper
from felixpy.agent.reserved import find_reserved
from felixpy.agent.routing.tunnels import TunnelAddresses
from felixpy.agent.services.health_checks import HealthChecks
from felixpy.agent.settings import Settings
from felixpy.calc.options import Options, with_shared_tables, without_reports
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.cni.plan import INTERFACE_PREFIX
from felixpy.cni.server import CniServer
from felixpy.dataplane.objects import DeviceAddress, Sysctl
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.model import Event, Store
from felixpy.datastore.syncer import Phase, SyncState
from felixpy.drivers.driver import KernelDriver
from felixpy.drivers.netlink.conntrack import Conntrack
from felixpy.drivers.netlink.monitor import (
    AddressChanged,
    KernelEvent,
    LinkChanged,
    NeighbourChanged,
    NextHopChanged,
    NftChanged,
    Overrun,
    RouteChanged,
    SettingChanged,
    watch_kernel,
)
from felixpy.drivers.sysctl import SysctlDriver
from felixpy.resources.kinds import IPAM_PREFIX
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from ipam.engine import Allocator
from ipam.model import CONFIGURATION_KEY, POOLS_PREFIX, RESERVATIONS_PREFIX, node_owner

_MTU_TABLES = frozenset({Table.NODE, Table.POOL, Table.FELIX_CONFIGURATION})
GLANCE_S = 0.5
"""Between two glances at a back end that has no events."""
LOOK_AGAIN_S = 10.0
"""Between two looks at one whose glance says that nobody touched it; a look costs one iptables-save per family."""
_log = logging.getLogger(__name__)

_IPAM_PREFIXES = tuple(
    prefix.encode() for prefix in (IPAM_PREFIX, POOLS_PREFIX, RESERVATIONS_PREFIX, CONFIGURATION_KEY)
)


def adapt_options(driver: KernelDriver, options: Options) -> Options:
    """What the configuration says, as far as the back end can do it."""
    found = options if driver.takes_reports else without_reports(options)
    return with_shared_tables(found) if driver.shares_tables else found


class AgentRole:
    """Starts its tasks in `group`; fed by whoever reads the syncer."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        group: asyncio.TaskGroup,
        host_changed: Callable[[], None] = lambda: None,
        programmed: Callable[[], None] = lambda: None,
    ) -> None:
        self._host_changed = host_changed
        self._primary_node_ports = settings.primary_node_ports
        self._devices_again: asyncio.TimerHandle | None = None
        self._mtu_may_change = True
        driver = KernelDriver(backend=settings.backend)
        self._dataplane = Dataplane(
            settings.node,
            driver,
            driver.read_interfaces,
            Conntrack().forget,
            find_reserved(settings.etcd, os.environ),
            programmed,
            settings.node_port_addresses,
            partial(adapt_options, driver),
        )
        self._dataplane.graph.tunnels.objects = settings.nexthop_objects and not driver.why_no_nexthops()
        self.flows = FlowWatch(settings.node, self._dataplane)
        self.counters = FlowCounters(self.flows, driver.read_counts)
        if driver.takes_reports:
            group.create_task(self.flows.serve())
        else:
            self.flows.unread = NO_REPORTS
        self._health = HealthChecks(
            HttpServer(group), lambda: self._dataplane.started, settings.node_port_addresses, driver.read_interfaces
        )
        self.read_subnets = driver.read_subnets
        self._facts = NodeFacts(settings.node)
        self._allocator = Allocator(
            IpamStore(store), node_owner(settings.node), now=utc_now, rng=random.Random(), selects=self._facts.selects
        )
        self._backend = AgentBackend(settings.node, store, self._allocator, self._dataplane, self._facts, utc_now)
        self.pod_mtus = PodMtus(self._backend.pod_mtu, self._backend.list_followers)
        self._tunnels = TunnelAddresses(settings.node, store, self._allocator)
        group.create_task(self._tunnels.serve())
        group.create_task(self.pod_mtus.serve())
        group.create_task(self._backend.follower.serve())
        group.create_task(self._follow_kernel(watch_kernel(driver.port_ids)))
        if not driver.has_events:
            group.create_task(self._look_again(driver.is_touched))
        server = CniServer(settings.run_dir, settings.node, self._backend)
        self.families = server.families
        group.create_task(server.serve())
        group.create_task(Sweeper(settings.node, self._backend, self._allocator, server.collect).serve())

    @property
    def dataplane(self) -> Dataplane:
        """What the kernel should be, and is."""
        return self._dataplane

    @property
    def backend(self) -> AgentBackend:
        """What serves CNI."""
        return self._backend

    def observe(self, event: Event) -> None:
        """Takes an event as it came, before it is decoded."""
        if event.key.startswith(_IPAM_PREFIXES):
            self._allocator.observe(event.key.decode("utf-8", "replace"), event.value, event.mod_revision)
        self._backend.observe(event)

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View."""
        self._facts.update(ref, value)
        self._mtu_may_change = self._mtu_may_change or ref.table in _MTU_TABLES
        if ref.table in NAMING:
            self.flows.resource_changes(ref, value)
        self._dataplane.update(ref, value)
        self._tunnels.update(ref, value)

    def flush(self, revision: int, services: ServiceDelta) -> None:
        """Everything up to `revision` has been given."""
        self._allocator.follow()
        self._put_devices()
        self.flows.services_change(services)
        if self._primary_node_ports:
            self._dataplane.put_node_port_addresses(self._facts.primary)
            self._health.put_ranges(self._facts.primary)
        self._dataplane.flush(revision, services)
        self._health.update(services.health)
        self._tunnels.flush()
        if self._mtu_may_change:
            self._mtu_may_change = False
            self.pod_mtus.changed()

    def program(self, services: ServiceDelta) -> None:
        """Frontends that waited for their withdrawal are to go."""
        self.flows.services_change(services)
        self._dataplane.program(services)

    def _put_devices(self) -> None:
        """Tells the data plane what the tunnels lie on, where there are tunnels."""
        if not self._dataplane.graph.tunnels.needs_devices:
            return
        try:
            devices = self._backend.underlay.devices()
        except OSError as error:
            if self._devices_again is None:
                _log.warning("the host's devices cannot be read, which is tried again: %s", error)
                self._devices_again = asyncio.get_running_loop().call_later(READ_AGAIN_S, self._read_devices_again)
        else:
            self._dataplane.put_devices(devices)

    def _read_devices_again(self) -> None:
        self._devices_again = None
        self._put_devices()

    def datastore_state(self, state: SyncState) -> None:
        """The datastore can be used, or not."""
        self._backend.datastore_state(state)
        self._tunnels.frozen = state.phase is Phase.FROZEN

    def _mtu_seen(self, device: str, mtu: int) -> None:
        if device.startswith(INTERFACE_PREFIX):
            self.pod_mtus.seen(mtu)
        else:
            self.pod_mtus.changed()

    def _setting_seen(self, told: Sysctl) -> None:
        """Somebody changed a setting, or we did, and it may be another by now: what the kernel has counts."""
        wanted = self._dataplane.reconciler.desired.get(told.key)
        if wanted is not None and wanted != told:
            now = SysctlDriver().read((told.key,)).objects.get(told.key)
            if now is not None:
                self._dataplane.object_changed(told.key, now)

    async def _look_again(self, is_touched: Callable[[], bool]) -> None:
        """iptables tells nobody of a change, so what others did is found by looking.

        Where others change tables all the time, each look waits twice as long as the one before.
        """
        waited_s, pause_s = 0.0, GLANCE_S
        while True:
            await asyncio.sleep(pause_s)
            waited_s += pause_s
            touched = self._dataplane.started and is_touched()
            pause_s = min(pause_s * 2, LOOK_AGAIN_S) if touched else GLANCE_S
            if touched or waited_s >= LOOK_AGAIN_S:
                waited_s = 0.0
                self._dataplane.rules_changed("a look at iptables", certain=False)

    async def _follow_kernel(self, events: AsyncIterator[KernelEvent]) -> None:
        """Undoes what others do to what is ours, as it happens."""
        async for event in events:
            match event:
                case LinkChanged(name=name, index=index, up=up, gone=gone):
                    self._backend.underlay.device_changed(name)
                    self._dataplane.device_changed(name, index, up, gone)
                    self._dataplane.tunnel_changed(name, event.mtu, event.mac)
                    self._dataplane.interface_changed(name)
                    self._put_devices()
                    self._mtu_seen(name, event.mtu)
                case RouteChanged(key=key):
                    self._dataplane.object_changed(key)
                case NeighbourChanged(key=key, entry=entry):
                    self._dataplane.object_changed(key, entry)
                case NextHopChanged(key=key, gone=gone):
                    self._dataplane.object_changed(key, more=gone)
                case SettingChanged(setting=setting):
                    self._setting_seen(setting)
                case NftChanged():
                    self._dataplane.rules_changed("a change of our table", certain=True)
                case Overrun():
                    self._backend.underlay.changed()
                    self._dataplane.kernel_changed("an overrun of kernel events")
                    self._dataplane.interface_changed("")
                    self._put_devices()
                    self._health.look()
                case AddressChanged(device=device, prefix=prefix, gone=gone):
                    self._backend.underlay.device_changed(device)
                    address = DeviceAddress(device, prefix)
                    self._dataplane.object_changed(address.key, None if gone else address)
                    self._dataplane.interface_changed(device)
                    self._put_devices()
                    self._health.look()
                    self._host_changed()
                case _:
                    assert_never(event)
