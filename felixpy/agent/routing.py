"""The bgp role: what this node announces and learns, between the View, gobgpd (through birdpy) and the kernel's routes.

In: resources; out: an intent for the speaker, and learned routes in the kernel under their own protocol number. Routes
of an earlier run stay until the neighbours have spoken: only a complete table sweeps. What others take away, or what
goes with its device, is put back as the kernel tells.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import assert_never

from birdpy.addresses import Prefix as BgpPrefix
from birdpy.fib import NORMAL_METRIC, LearnedRoute, RouteDelta
from birdpy.gobgp.program import GobgpdSettings
from birdpy.intent import BgpIntent
from birdpy.speaker import BgpRole, RoleSettings
from felixpy.addresses import Address, Prefix, format_address
from felixpy.agent.applier import Applier
from felixpy.agent.bgp_facts import POLL_S, HostReader
from felixpy.agent.settings import ConfigError, Settings
from felixpy.calc.announce import AnnounceCalc
from felixpy.calc.bgp import BgpPlan, NoSpeaker, derive_bgp
from felixpy.calc.bgp_peers import Refusal
from felixpy.calc.services import ServiceDelta
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.objects import ROUTE_PROTOCOL_LEARNED, Hop, Key, Kind, Route, Seen
from felixpy.drivers.netlink.monitor import (
    AddressChanged,
    KernelEvent,
    LinkChanged,
    NeighbourChanged,
    NextHopChanged,
    NftChanged,
    Overrun,
    RouteChanged,
    watch_kernel,
)
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.reconcile import Reconciler
from felixpy.resources.codec import Ref, Table
from felixpy.resources.types import Resource
from felixpy.resources.view import View

_log = logging.getLogger(__name__)

_TABLES = frozenset(
    {
        Table.NODE,
        Table.BGP_CONFIGURATION,
        Table.BGP_PEER,
        Table.BGP_FILTER,
        Table.POOL,
        Table.SPEAKER_PEER,
        Table.BFD_PROFILE,
        Table.SECRET,
    }
)
NO_GOBGPD = "none"
DRAIN_S = 10.0
"""How long neighbours are asked to send elsewhere before an excluded node withdraws (RFC 8326 §4.1)."""
GATHER_S = 0.05
"""Kernel events so close together cost one repair."""


class LearnedRoutes(RouteDriver):
    """The route driver, for routes that BGP taught and nothing else."""

    def __init__(self) -> None:
        super().__init__(protocols=(ROUTE_PROTOCOL_LEARNED,))

    def read(self, wanted: Iterable[Key] = ()) -> Seen:
        """Routes with our protocol number."""
        seen = super().read()
        return Seen({key: one for key, one in seen.objects.items() if key.kind is Kind.ROUTE})


class RoutingRole:
    """Starts its tasks in `group`; fed by whoever reads the syncer."""

    def __init__(
        self,
        settings: Settings,
        group: asyncio.TaskGroup,
        host_changed: Callable[[], None] = lambda: None,
        carried_out: Callable[[], None] = lambda: None,
    ) -> None:
        self._host_changed = host_changed
        self._node = settings.node
        self._view = View()
        self._announce = AnnounceCalc(settings.node)
        self._dirty = True
        self._silent: NoSpeaker | None = None
        self._plan: BgpPlan | None = None
        self._driver = LearnedRoutes()
        self._reconciler = Reconciler(self._driver, lambda _: {})
        self._applier = Applier("learned routes", self._reconciler, lambda: None)
        self._keys: dict[BgpPrefix, Key] = {}
        self._adopted = False
        self._pruned = False
        self._unflushed = False
        self._excluded: bool | None = None
        self._draining: asyncio.TimerHandle | None = None
        self._down: set[str] = set()
        self._reread = False
        self._repair: asyncio.TimerHandle | None = None
        self._facts = HostReader(settings.secrets_dir, self._driver.read_subnets)
        self._poll: asyncio.TimerHandle | None = None
        self._gateways: frozenset[Key] = frozenset()
        survived = bool(self._driver.read().objects)
        self.role = BgpRole(
            RoleSettings(
                socket_path=settings.run_dir / "gobgp.sock",
                gobgpd=_gobgpd(settings),
                forwarding_survived=survived,
            ),
            carried_out=carried_out,
        )
        group.create_task(self.role.run())
        group.create_task(self._follow_routes())
        group.create_task(self._follow_kernel(watch_kernel({self._driver.port_id})))

    @property
    def announce(self) -> AnnounceCalc:
        """What is announced, and what is not."""
        return self._announce

    @property
    def reconciler(self) -> Reconciler:
        """The learned routes in the kernel."""
        return self._reconciler

    @property
    def plan(self) -> BgpPlan | None:
        """What the speaker should be; None where there is to be none."""
        return self._plan

    @property
    def silent(self) -> NoSpeaker | None:
        """Why there is no BGP here; None where there is."""
        return self._silent

    @property
    def settled(self) -> bool:
        """Whether the neighbours are told all that they should be, and nothing else; so it is where nobody is."""
        return self.role.settled

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What was asked for and cannot be had, and why."""
        beyond = self.role.status().refused
        found = self._plan.refusals if self._plan is not None else ()
        return (*found, *(Refusal(f"the session with {format_address(a)}", why) for a, why in beyond.items()))

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View."""
        self._unflushed = True
        self._announce.update(ref, value)
        if ref.table in _TABLES and self._view.put(ref, value):
            self._dirty = True

    def flush(self, services: ServiceDelta) -> None:
        """Everything so far has been given: tells the speaker, if something it reads has changed."""
        self._unflushed = False
        self._announce.update_frontends(services)
        self._note_exclusion()
        self._tell_changes()

    def _tell_changes(self) -> None:
        if self._announce.flush() or self._dirty:
            self._dirty = False
            self._tell()

    def _note_exclusion(self) -> None:
        """A node that is excluded from now on drains first; one that was when we started has done so."""
        excluded = self._announce.excluded
        if excluded == self._excluded:
            return
        if excluded and self._excluded is False:
            self._announce.drain(False)
            _log.info("excluded: Service addresses go with GRACEFUL_SHUTDOWN for %.0f s, then not at all", DRAIN_S)
            self._draining = asyncio.get_running_loop().call_later(DRAIN_S, self._end_drain)
        elif self._draining is not None:
            self._draining.cancel()
            self._draining = None
        self._excluded = excluded

    def _end_drain(self) -> None:
        self._draining = None
        self._announce.drain(True)
        if not self._unflushed:
            self._tell_changes()

    def _tell(self) -> None:
        """Derives the speaker from all that is known. What that asks of the host is read, and is part of it at once."""
        plan = self._derive()
        if isinstance(plan, BgpPlan) and self._facts.serve(plan):
            plan = self._derive()
        self._look_again_later()
        if isinstance(plan, NoSpeaker):
            if plan is not self._silent:
                _log.warning("no BGP: %s", plan)
            self._silent, self._plan = plan, None
            self.role.set_intent(BgpIntent(speaker=None))
            return
        known = set(self._plan.refusals) if self._plan is not None else set()
        for refusal in set(plan.refusals) - known:
            _log.warning("%s: %s", refusal.what, refusal.why)
        self._silent, self._plan = None, plan
        self._set_gateways(plan)
        self.role.set_filter(plan.route_filter)
        self.role.set_intent(plan.intent)

    def _derive(self) -> BgpPlan | NoSpeaker:
        return derive_bgp(self._view.tables, self._node, self._announce.announcements.values(), self._facts.facts)

    def _look_again_later(self) -> None:
        if self._facts.polls and self._poll is None:
            self._poll = asyncio.get_running_loop().call_later(POLL_S, self._look_again)

    def _look_again(self) -> None:
        self._poll = None
        if self._facts.read():
            self._dirty = True
            if not self._unflushed:
                self._tell_changes()
        self._look_again_later()

    def _set_gateways(self, plan: BgpPlan) -> None:
        """Routes to peers that say by which gateway they are reached. They wait for nobody."""
        wanted = {route.key: route for route in map(gateway_route, plan.gateways.items())}
        changes = Changes()
        changes.objects.update(dict.fromkeys(self._gateways - wanted.keys()))
        changes.objects.update(wanted)
        if not self._gateways and not wanted:
            return
        self._gateways = frozenset(wanted)
        self._reconciler.want(changes)
        if not self._adopted:
            self._reconciler.distrust(prune=False)
            self._adopted = True
        self._applier.apply("ways to BGP peers")

    async def _follow_routes(self) -> None:
        async for delta in self.role.routes():
            self._take(delta)

    def _take(self, delta: RouteDelta) -> None:
        changes = Changes()
        for prefix, route in delta.put.items():
            one = learned_route(route)
            old = self._keys.get(prefix)
            if old is not None and old != one.key:
                changes.objects[old] = None
            self._keys[prefix] = one.key
            changes.objects[one.key] = one
        for prefix in delta.drop:
            if prefix in self._keys:
                changes.objects[self._keys.pop(prefix)] = None
        self._reconciler.want(changes)
        if not self._adopted or (delta.complete and not self._pruned):
            self._reconciler.distrust(prune=delta.complete)
            self._adopted, self._pruned = True, delta.complete
        self._applier.apply("BGP")

    async def _follow_kernel(self, events: AsyncIterator[KernelEvent]) -> None:
        """Undoes what others do to learned routes."""
        async for event in events:
            if isinstance(event, AddressChanged):
                self._host_changed()
            if isinstance(event, AddressChanged | LinkChanged | Overrun):
                self._follow_links()
            if self._adopted and self._notice(event) and self._repair is None:
                self._repair = asyncio.get_running_loop().call_later(GATHER_S, self._repair_routes)

    def _follow_links(self) -> None:
        if self._facts.wants_links and self._facts.read():
            self._tell()

    def _notice(self, event: KernelEvent) -> bool:
        """Whether there may be something to repair.

        Of routes that go with their device or its address the kernel tells nothing: only reading finds them.
        """
        match event:
            case RouteChanged(key=key):
                if not self._reconciler.wants(key):
                    return False
                self._reconciler.touch((key,))
                return True
            case LinkChanged(name=name, up=up, gone=gone):
                if up and not gone:
                    back = name in self._down
                    self._down.discard(name)
                    self._reread |= back
                    return back or self._reconciler.retry()
                if gone:
                    self._down.discard(name)
                else:
                    self._down.add(name)
                return False
            case NextHopChanged(gone=False) | NeighbourChanged() | NftChanged():
                return False
            case AddressChanged() | NextHopChanged() | Overrun():
                self._reread = True
                return True
            case _:
                assert_never(event)

    def _repair_routes(self) -> None:
        self._repair = None
        if self._reread:
            self._reread = False
            self._reconciler.distrust(prune=self._pruned)
        self._applier.apply("kernel changed")


def gateway_route(way: tuple[BgpPrefix, bytes]) -> Route:
    """The kernel's form of the way to a peer; it comes before anything that is learned."""
    prefix, gateway = way
    return Route(
        Prefix(Address(prefix.address), prefix.length), ROUTE_PROTOCOL_LEARNED, gateway=Address(gateway), metric=0
    )


def learned_route(route: LearnedRoute) -> Route:
    """The kernel's form of a learned route; several next hops share the traffic evenly."""
    destination = Prefix(Address(route.prefix.address), route.prefix.length)
    metric = 0 if destination.version == 6 and route.metric == NORMAL_METRIC else route.metric
    if len(route.next_hops) == 1:
        gateway = Address(route.next_hops[0])
        return Route(destination, ROUTE_PROTOCOL_LEARNED, gateway=gateway, metric=metric)
    hops = tuple(Hop(Address(hop), None) for hop in route.next_hops)
    return Route(destination, ROUTE_PROTOCOL_LEARNED, hops=hops, metric=metric)


def _gobgpd(settings: Settings) -> GobgpdSettings | None:
    """How to run gobgpd; None where somebody else does.

    Raises  ConfigError when there is no such program.
    """
    if settings.gobgpd == NO_GOBGPD:
        return None
    binary = settings.gobgpd or shutil.which("gobgpd") or ""
    if not binary or not os.access(binary, os.X_OK):
        raise ConfigError(f"--gobgpd: there is no program {binary or 'gobgpd'!r} (Debian package: gobgpd)")
    return GobgpdSettings(binary, settings.run_dir / "gobgp.sock", Path(settings.run_dir / "gobgpd.log"))
