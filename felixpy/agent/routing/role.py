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
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from birdpy.gobgp.program import GobgpdSettings
from birdpy.intent import BgpIntent
from birdpy.link_routers import LinkRouters
from birdpy.speaker import BgpRole, RoleSettings
from felixpy.addresses import format_address
from felixpy.agent.routing.facts import POLL_S, HostReader
from felixpy.agent.routing.learned import LearnedTable
from felixpy.agent.settings import ConfigError, Settings
from felixpy.calc.announcing.announce import AnnounceCalc
from felixpy.calc.bgp.peers import Refusal
from felixpy.calc.bgp.scene import NoSpeaker, Scene, derive_scene
from felixpy.calc.bgp.speaker import BgpPlan, derive_plan, reannounce
from felixpy.calc.bgp.workloads import SelectedWorkloads
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.drivers.netlink.monitor import (
    AddressChanged,
    KernelEvent,
    LinkChanged,
    Overrun,
    watch_kernel,
)
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
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


class RoutingRole:
    """Starts its tasks in `group`; fed by whoever reads the syncer."""

    def __init__(
        self,
        settings: Settings,
        group: asyncio.TaskGroup,
        host_changed: Callable[[], None] = lambda: None,
        carried_out: Callable[[], None] = lambda: None,
        went_down: Callable[[frozenset[bytes]], None] = lambda down: None,
    ) -> None:
        self._host_changed = host_changed
        self._node = settings.node
        self._view = View()
        self._announce = AnnounceCalc(settings.node)
        self._dirty = True
        self._silent: NoSpeaker | None = None
        self._plan: BgpPlan | None = None
        self.learned = LearnedTable(settings.nexthop_objects)
        self._unflushed = False
        self._excluded: bool | None = None
        self._drain_s = settings.bgp_drain_s
        self._draining: asyncio.TimerHandle | None = None
        self._routers = LinkRouters(self._read_facts)
        self._facts = HostReader(settings.secrets_dir, self.learned.driver.read_subnets, self._routers)
        self._workloads = SelectedWorkloads(settings.node)
        self._scene: Scene | NoSpeaker | None = None
        self._poll: asyncio.TimerHandle | None = None
        self.role = BgpRole(
            RoleSettings(
                socket_path=settings.run_dir / "gobgp.sock",
                gobgpd=_gobgpd(settings),
                forwarding_survived=self.learned.survived,
            ),
            carried_out=carried_out,
            went_down=went_down,
            found=self._routers.remember,
        )
        group.create_task(self.role.run())
        group.create_task(self._follow_routes())
        group.create_task(self._follow_kernel(watch_kernel({self.learned.driver.port_id})))

    @property
    def announce(self) -> AnnounceCalc:
        """What is announced, and what is not."""
        return self._announce

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
        if self._silent is NoSpeaker.NO_NODE:
            return (Refusal("this node", f"{self._silent}, so the others do not know it"),)
        beyond = self.role.status().refused
        found = self._plan.refusals if self._plan is not None else ()
        sessions = (Refusal(f"the session with {format_address(a)}", why) for a, why in beyond.items())
        return (*found, *_unknown_communities(self._announce), *sessions)

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View."""
        self._unflushed = True
        self._announce.update(ref, value)
        known = ref.table in _TABLES and self._view.put(ref, value)
        if self._workloads.update(ref, value) or known:
            self._dirty, self._scene = True, None

    def update_routed(self, services: ServiceDelta) -> None:
        """Takes in what Services ask for, for the addresses that nobody granted.

        What ends is given before the kernel is asked, the rest after; nobody waits for either to be done.
        """
        self._announce.update_routed(services)

    def flush(self, services: ServiceDelta) -> None:
        """Everything so far has been given: tells the speaker, if something it reads has changed."""
        self._unflushed = False
        self._announce.update_frontends(services)
        self._note_exclusion()
        self._tell_changes()

    def _tell_changes(self) -> None:
        delta = self._announce.flush()
        if not delta and not self._dirty:
            return
        plan = reannounce(self._plan, delta) if self._plan is not None and not self._dirty else None
        self._dirty = False
        if plan is not None:
            self._take(plan)
        else:
            self._tell()

    def _note_exclusion(self) -> None:
        """A node that is excluded from now on drains first; one that was when we started has done so."""
        excluded = self._announce.excluded
        if excluded == self._excluded:
            return
        if excluded and self._excluded is False and self._drain_s:
            self._announce.drain(False)
            words = "excluded: Service addresses go with GRACEFUL_SHUTDOWN for %.0f s, then not at all"
            _log.info(words, self._drain_s)
            self._draining = asyncio.get_running_loop().call_later(self._drain_s, self._end_drain)
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
        self._take(plan)

    def _take(self, plan: BgpPlan) -> None:
        self._silent, self._plan = None, plan
        self.learned.put_ways(plan.gateways, plan.local_addresses)
        self.role.set_filter(plan.route_filter)
        self.role.set_intent(plan.intent)

    def _derive(self) -> BgpPlan | NoSpeaker:
        """What resources and the host say is derived anew only when they changed."""
        if self._scene is None or (isinstance(self._scene, Scene) and self._scene.facts is not self._facts.facts):
            self._scene = derive_scene(self._view.tables, self._node, self._facts.facts, self._workloads.addresses)
        if isinstance(self._scene, NoSpeaker):
            return self._scene
        return derive_plan(self._scene, self._announce.announcements.values(), self._announce.hidden)

    def _look_again_later(self) -> None:
        if self._facts.polls and self._poll is None:
            self._poll = asyncio.get_running_loop().call_later(POLL_S, self._look_again)

    def _look_again(self) -> None:
        self._poll = None
        self._read_facts()
        self._look_again_later()

    def _read_facts(self) -> None:
        """Reads the host again; what differs is told at once, unless the View is half way to its next state."""
        if self._facts.read():
            self._dirty = True
            if not self._unflushed:
                self._tell_changes()

    async def _follow_routes(self) -> None:
        async for delta in self.role.routes():
            self.learned.take(delta)

    async def _follow_kernel(self, events: AsyncIterator[KernelEvent]) -> None:
        """Undoes what others do to learned routes."""
        async for event in events:
            if isinstance(event, AddressChanged):
                self._host_changed()
            if isinstance(event, AddressChanged | LinkChanged | Overrun) and self._facts.wants_links:
                self._read_facts()
            if isinstance(event, LinkChanged | Overrun):
                self._routers.look()
            self.learned.notice(event)


def _unknown_communities(announce: AnnounceCalc) -> Iterator[Refusal]:
    for name, words in announce.unknown.items():
        why = f"communities: no Community gives {', '.join(words)} a number: nothing is announced by it"
        yield Refusal(f"BGPAdvertisement {name}", why)


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
