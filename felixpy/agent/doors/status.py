"""The status of one process, composed of what its roles say of themselves.

In: the roles of the process, the syncer's state, what of the datastore is broken; out: NodeStatus. Changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import cache
from itertools import chain, islice, starmap
from typing import TYPE_CHECKING

from felixpy.agent.kernel.answers import read_kernel
from felixpy.agent.routing.answers import read_bgp
from felixpy.agent.services.answers import read_layer2, read_served
from felixpy.agent.services.apart import known_roles
from felixpy.agent.settings import Role, Settings
from felixpy.datastore.model import DatastoreError, Store
from felixpy.datastore.syncer import Phase, Syncer
from felixpy.resources.foreign_json import decode_or_none
from felixpy.resources.resource import Broken
from felixpy.status.answers import FAILURES_SHOWN, BrokenResource, ChainCount, DeadNode, NodeStatus, Want

if TYPE_CHECKING:
    from felixpy.agent.agent import AgentRole
    from felixpy.agent.routing.role import RoutingRole
    from felixpy.agent.services.layer2 import Layer2Role
    from felixpy.agent.services.liveness import LivenessWatch

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
            expected_roles=known_roles(self._settings),
            broken=sum(map(len, self._broken.values())),
            broken_resources=tuple(
                BrokenResource(one.key, one.field, one.why, one.in_part)
                for one in islice(chain.from_iterable(self._broken.values()), FAILURES_SHOWN)
            ),
            kernel=read_kernel(self.agent, want) if self.agent is not None else None,
            bgp=await read_bgp(self.routing, want) if self.routing is not None else None,
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
    async def _cni(agent: AgentRole) -> str | None:
        unready = await agent.backend.find_unready()
        return None if unready is None else str(unready)

    async def _leads(self) -> bool:
        from felixpy.controllers.leader import Leader
        from felixpy.controllers.loadbalancer import LEADER_KEY

        if self._syncer.state.phase is not Phase.IN_SYNC:
            return False
        try:
            async with asyncio.timeout(LEADER_TIMEOUT_S):
                pair = await self._store.get(LEADER_KEY)
        except (TimeoutError, DatastoreError):
            return False
        leader = decode_or_none(pair.value, Leader) if pair is not None else None
        return leader is not None and leader.node == self._settings.node


@cache
def _own_version() -> str:
    from importlib.metadata import version  # slow to load, and no start-up waits for it

    return version("felixpy")
