"""The agent role's core: Intent deltas → desired objects → the kernel, and knowledge of what holds there.

In: resources (through `update`) and kernel events; out: a kernel that is as desired, and answers to `wait_programmed`.
Nothing is written before the first complete desired state. One log line per applied batch.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from felixpy.addresses import Prefix
from felixpy.agent.kernel.applier import Applier
from felixpy.agent.kernel.forgetter import Forgetter
from felixpy.agent.kernel.repairs import Contest, Repairs
from felixpy.calc.graph import Graph
from felixpy.calc.options import Options
from felixpy.calc.policy.hosts import Interfaces
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.calc.services.frontends import Frontend, FrontendIntent
from felixpy.calc.tunnel_plan import HostDevices
from felixpy.dataplane.chains.base import base_objects
from felixpy.dataplane.chains.causes import Cause
from felixpy.dataplane.chains.host import Guards, Reserved
from felixpy.dataplane.chains.services import ServiceTables, service_base_rules, service_objects
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.describe import describe_op
from felixpy.dataplane.objects import (
    Key,
    Kind,
    Link,
    Members,
    Neighbour,
    Object,
    Outcome,
    Put,
    Route,
    Set,
    Sysctl,
)
from felixpy.dataplane.order import NETFILTER
from felixpy.dataplane.stale_flows import Forget, StaleFlows
from felixpy.dataplane.translate import Translator, endpoint_owner
from felixpy.dataplane.tunnel_objects import carriers
from felixpy.reconcile import Driver, Reconciler
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref

READ_AGAIN_S = 1.0
RULES = "packet rules"
BASE = "base"
"""The ledger's name for what all endpoints rely on."""
_log = logging.getLogger(__name__)


class Dataplane:
    """One node's data plane; `adapt` makes options of what the kernel can."""

    def __init__(
        self,
        node: str,
        driver: Driver,
        read_interfaces: Callable[[], Interfaces],
        forget: Callable[[Forget], int],
        reserved: tuple[Reserved, ...] = (),
        programmed: Callable[[], None] = lambda: None,
        node_port_addresses: tuple[Prefix, ...] | None = None,
        adapt: Callable[[Options], Options] = lambda options: options,
    ) -> None:
        self._node_port_addresses = node_port_addresses
        self._service_rules = service_base_rules(node_port_addresses)
        self.graph = Graph(node)
        self.translator = Translator(self.graph.sets.members, reserved)
        self.reconciler = Reconciler(driver, self._members_of)
        self._applier = Applier("kernel", self.reconciler, self._notify, self._awaits_device)
        self._programmed = programmed
        self._services = ServiceTables()
        self._flows = StaleFlows()
        self._forgetter = Forgetter(self._flows.take, forget)
        self._adapt = adapt
        self.revision = 0
        self._guards: Guards | None = None
        self.read_interfaces = read_interfaces
        self._interfaces_read = False
        self._unflushed = False
        self._started = False
        self._devices: dict[str, set[Name]] = {}
        self._indexes: dict[str, int] = {}
        self._device_of: dict[Name, str] = {}
        self._lost: set[str] = set()
        self._repairs = Repairs(self._repair)
        self._reading_again: asyncio.TimerHandle | None = None
        self._waiting: dict[asyncio.Future[None], tuple[Name, int]] = {}

    @property
    def started(self) -> bool:
        """Whether the first complete desired state has been applied."""
        return self._started

    def find_base_failure(self) -> str:
        """Why a chain or set that all endpoints rely on could not be put into the kernel; "" where none failed."""
        failed = self.reconciler.failed
        if not failed:
            return ""
        keys = self.translator.ledger.keys_of(BASE) & failed.keys()
        return (failed[min(keys)].error or "") if keys else ""

    def _members_of(self, sets: Collection[Set]) -> Mapping[Set, Members]:
        """All that these sets should hold."""
        members = dict(self._services.members())
        for target in sets:
            own = self.translator.set_members(target)
            if own is not None:
                members[target] = own
        return members

    def put_node_port_addresses(self, addresses: tuple[Prefix, ...]) -> None:
        """Node ports are those of the node's own addresses in these; nothing happens before `flush`."""
        if addresses != self._node_port_addresses:
            self._node_port_addresses = addresses
            self._service_rules = service_base_rules(addresses)
            self._guards = None

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View; nothing happens before `flush`."""
        self._unflushed = True
        self.graph.update(ref, value)

    def flush(self, revision: int, services: ServiceDelta) -> None:
        """Makes the kernel what the View up to `revision` asks for."""
        changes = self._translate()
        changes.merge(self._services.update(services))
        self._flows.update_frontends(services)
        self.reconciler.want(changes)
        if not self._started:
            self._start()
        elif changes:
            self._applier.apply("change")
        self._forgetter.start()
        self.revision = max(self.revision, revision)
        self._notify()

    def program(self, services: ServiceDelta) -> None:
        """Frontends that waited until they were withdrawn, between two flushes."""
        changes = self._services.update(services)
        self._flows.update_frontends(services)
        self.reconciler.want(changes)
        if self._started:
            self._applier.apply("withdrawn")
            self._forgetter.start()

    @property
    def frontends(self) -> Mapping[Frontend, FrontendIntent]:
        """What the kernel is to serve."""
        return self._services.intents

    @property
    def fails_to_serve(self) -> bool:
        """Whether something failed that frontends may need."""
        return any(key.kind in NETFILTER for key in self.reconciler.failed)

    def holds_frontend(self, frontend: Frontend) -> bool | None:
        """Whether the kernel serves a frontend as it was last asked to; None when it is not known."""
        if not self._started or self.reconciler.stale:
            return None
        keys, members = self._services.needs(frontend)
        return self.reconciler.holds(keys) and self.reconciler.holds_members(members)

    def _start(self) -> None:
        """Takes over what is in the kernel; one that does not answer is asked again, and not written to before."""
        try:
            self.reconciler.adopt()
        except OSError as error:
            _log.warning("the kernel cannot be read, which is tried again: %s", error)
            self._read_later()
            return
        self._flows.forget_routes(self.reconciler.outdated())
        self._started = True
        self._applier.apply("start")

    def _translate(self) -> Changes:
        """What the kernel should hold otherwise than after the last time."""
        self._unflushed = False
        if self.graph.hosts.needs_addresses and not self._interfaces_read:
            self._take_interfaces()
        delta = self.graph.flush()
        if delta.options is not None:
            delta = replace(delta, options=self._adapt(delta.options))
        self._flows.update_endpoints(delta.policy.endpoints)
        changes = Changes()
        self.translator.translate(delta, changes)
        if self.translator.guards != self._guards:
            self._guards = self.translator.guards
            fixed = (*base_objects(self._service_rules, self._guards), *service_objects(self._guards.options))
            self.translator.ledger.put(BASE, fixed, changes)
        for name, endpoint in delta.policy.endpoints.items():
            self._note_device(name, endpoint.interface if endpoint is not None else None)
        return changes

    def _take_interfaces(self) -> None:
        try:
            self.graph.put_interfaces(self.read_interfaces())
        except OSError as error:
            _log.warning("the addresses of the host cannot be read, which is tried again: %s", error)
            self._read_later()
        else:
            self._interfaces_read = True

    def _read_later(self) -> None:
        if self._reading_again is None:
            self._reading_again = asyncio.get_running_loop().call_later(READ_AGAIN_S, self._read_again)

    def _read_again(self) -> None:
        self._reading_again = None
        if self._started:
            self.interface_changed("")
        else:
            self._start()
            self._forgetter.start()

    def interface_changed(self, device: str) -> None:
        """A device of the host or one of its addresses came, changed or went: other host endpoints may govern it."""
        if self.graph.options.is_workload(device):
            return
        self._interfaces_read = False
        if not self._started or self._unflushed or not self.graph.hosts.needs_addresses:
            return
        changes = self._translate()
        if changes:
            self.reconciler.want(changes)
            self._applier.apply(f"interface {device}")

    def put_devices(self, devices: HostDevices) -> None:
        """Takes the host's addresses with the devices that hold them: tunnels lie on these."""
        self.graph.tunnels.put_devices(devices)
        if not self._started or self._unflushed:
            return
        changes = self._translate()
        if changes:
            self.reconciler.want(changes)
            self._applier.apply("underlay")

    def tunnel_changed(self, device: str, mtu: int, mac: bytes | None) -> None:
        """A device has this mtu and MAC now: a tunnel's are put right where somebody else changed them."""
        wanted = self.reconciler.desired.get(Key(Kind.LINK, (device,)))
        if isinstance(wanted, Link) and (mtu != wanted.mtu or (wanted.mac or mac) != mac):
            self.object_changed(wanted.key)

    def _carrier_changed(self, device: str, lost: bool) -> None:
        """A tunnel's device, or the one that it lies on: what went with it the kernel does not tell, so all is read."""
        if device not in carriers(self.graph.tunnels.intent.devices.values()):
            self._lost.discard(device)
            return
        if lost or device in self._lost:
            self.kernel_changed(f"a change of {device}")
        if lost:
            self._lost.add(device)
        else:
            self._lost.discard(device)

    def _note_device(self, name: Name, device: str | None) -> None:
        """Several endpoints may name one device: each is put again when it comes."""
        old = self._device_of.pop(name, None)
        if old is not None:
            self._devices[old].discard(name)
            if not self._devices[old]:
                del self._devices[old]
        if device is not None:
            self._device_of[name] = device
            self._devices.setdefault(device, set()).add(name)

    def _notify(self) -> None:
        """Wakes those who wait for what now holds."""
        for waiter, (endpoint, revision) in tuple(self._waiting.items()):
            if waiter.done():
                del self._waiting[waiter]
            elif self.revision >= revision and self.holds(endpoint):
                waiter.set_result(None)
                del self._waiting[waiter]
        self._programmed()

    def device_changed(self, device: str, index: int, up: bool, gone: bool) -> None:
        """A device came, changed or went: what an endpoint wants on it is put again where it was lost.

        The kernel drops a device's routes when it goes down; a device of another index is another device.
        """
        known = self._indexes.pop(device, index)
        if not gone:
            self._indexes[device] = index
        self._carrier_changed(device, lost=gone or not up or known != index)
        names = self._devices.get(device)
        if names is None or not self._started:
            return
        keys = self._on_device(names)
        if gone or not up or known != index:
            self.reconciler.touch(keys)
        if up and not gone and not self.reconciler.holds(keys):
            self._put_again(names, f"device {device}")

    def _put_again(self, names: Collection[Name], why: str) -> None:
        self.reconciler.touch(self._on_device(names))
        self._applier.apply(why)

    @property
    def contests(self) -> tuple[Contest, ...]:
        """What somebody keeps undoing, which is put right later each time."""
        return self._repairs.contests

    def rules_changed(self, what: str, certain: bool) -> None:
        """Somebody else changed our packet rules, or may have: all is read and compared, once for a burst."""
        self._repairs.notice(RULES, f"repair after {what}", everything=True, certain=certain)

    def kernel_changed(self, what: str) -> None:
        """Something of ours may have gone: soon all is read and compared."""
        self._repairs.notice(what, f"repair after {what}", everything=True, certain=False)

    def object_changed(self, key: Key, now: Object | None = None, more: bool = False) -> None:
        """Somebody changed or removed an object: ourselves, where it is `now` as desired (not every event says who).

        With `more`, what the kernel does not tell may have gone with it.
        """
        if self._started and self.reconciler.wants(key) and (now is None or now != self.reconciler.desired[key]):
            self.reconciler.touch((key,))
            self._repairs.notice(describe_op(Put(self.reconciler.desired[key])), "repair", everything=more)

    def _repair(self, why: str, everything: bool) -> bool:
        if not self._started:
            return False
        if everything:
            self.reconciler.distrust()
        return self._applier.apply(why).applied > 0

    def _awaits_device(self, outcome: Outcome) -> bool:
        """Whether an op failed for want of an endpoint's device, of which an event will tell."""
        match outcome:
            case Outcome(op=Put(object=Route() | Neighbour() as one), errno=errno.ENODEV | errno.ENETDOWN):
                return one.device in self._devices
            case Outcome(op=Put(object=Sysctl(path=path)), errno=errno.ENOENT):
                return not self._devices.keys().isdisjoint(path.split("/"))
            case _:
                return False

    def _on_device(self, names: Iterable[Name]) -> list[Key]:
        keys = (key for name in names for key in self.translator.ledger.keys_of(endpoint_owner(name)))
        return [key for key in keys if key.kind in (Kind.ROUTE, Kind.SYSCTL, Kind.NEIGHBOUR)]

    def endpoint_at(self, device: str, cause: Cause) -> Name | None:
        """The endpoint behind a device, where its rules may come to the cause."""
        names = sorted(self._devices.get(device, ()))
        return next((name for name in names if self.translator.comes_to(name, cause)), None)

    def holds(self, endpoint: Name) -> bool:
        """Whether an endpoint is known, and all of it is in the kernel."""
        keys = self.translator.ledger.keys_of(endpoint_owner(endpoint))
        entries = self.translator.entries_of(endpoint)
        return bool(keys) and self.reconciler.holds(keys) and self.reconciler.holds_members(entries)

    async def wait_programmed(self, endpoint: Name, revision: int) -> None:
        """Returns when the endpoint as of `revision` (or later) is in the kernel, routes and policy.

        Its device must be there by now: what failed for want of it is put again at once.
        """
        if self.revision >= revision and not self.holds(endpoint):
            self._put_again((endpoint,), "wired")
        if self.revision >= revision and self.holds(endpoint):
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = (endpoint, revision)
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)
