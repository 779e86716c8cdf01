"""Service addresses through the roles of one process, in order: withdrawn, programmed, announced.

The order is calc/announcing/gate.py's; this module feeds the roles.

In      what Services ask for, batch by batch, and word from the roles that the kernel or gobgpd is further than before.
Out     each role fed with what it may know by now. A withdrawal that nobody carries out holds up the kernel for
        WITHDRAWN_WITHIN_S. Where the process has one of the roles only, the other may be another's (apart.py); where
        none has the agent role, somebody else programs the kernel, and addresses are announced as they are asked for.
Never   decides what is served, or announced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from felixpy.calc.announcing.gate import Gate
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.calc.services.frontends import Frontend

if TYPE_CHECKING:
    from felixpy.agent.agent import AgentRole
    from felixpy.agent.routing.role import RoutingRole
    from felixpy.agent.services.apart import ServedDoor, ServedElsewhere
    from felixpy.agent.services.layer2 import Layer2Role

WITHDRAWN_WITHIN_S = 5.0
_NOTHING = ServiceDelta()


class Serving:
    """`flush` once a batch has been given to the roles; `look` when a role says that something came to pass.

    `applied` is told up to which revision all has been done.
    """

    def __init__(self, applied: Callable[[int], None]) -> None:
        self.agent: AgentRole | None = None
        self.layer2: Layer2Role | None = None
        self.routing: RoutingRole | None = None
        self.door: ServedDoor | None = None
        self.elsewhere: ServedElsewhere | None = None
        self._applied = applied
        self._gate = Gate()
        self._revision = 0
        self._turn = self._withdrawn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._busy = self._failing = self._owing = self._doubting = False

    def flush(self, revision: int, services: ServiceDelta) -> None:
        """Everything up to `revision` has been given."""
        self._turn += 1
        self._revision = max(self._revision, revision)
        ending = _ending(services)
        if self.routing is not None:
            self.routing.update_routed(ending)
        gone = self._gate.take(services, self._turn)
        if gone or ending:
            self._announce(gone)
        if self._is_withdrawn():
            self._withdrawn = self._turn
        released = self._gate.release(self._withdrawn)
        if self.agent is not None:
            self._busy = True
            try:
                self.agent.flush(revision, replace(released, health=services.health))
            finally:
                self._busy = False
        if self.routing is not None:
            self.routing.update_routed(services)
        self._finish(always=True)
        self._watch_withdrawals()

    def look(self) -> None:
        """The kernel holds something that it did not, or a withdrawal has been carried out."""
        if self._busy or not self._turn:
            return
        if self._gate.ending and self._is_withdrawn():
            self._release(self._turn)
        self._finish()

    def doubt(self, frontends: Collection[Frontend] | None) -> None:
        """Another process says that the kernel holds these frontends otherwise than before; None: any of them."""
        if frontends is None:
            self._doubting = True
        else:
            self._gate.doubt(frontends)
        self.look()

    def _release(self, withdrawn: int) -> None:
        self._withdrawn = withdrawn
        released = self._gate.release(withdrawn)
        if self.agent is not None and released:
            self._busy = True
            try:
                self.agent.program(released)
            finally:
                self._busy = False

    def _finish(self, always: bool = False) -> None:
        """Tells those who announce what the kernel holds now; not before it was first read."""
        self._owing = self._owing or always
        if not self._knows_kernel():
            return
        failing = self.agent is not None and self.agent.dataplane.fails_to_serve
        admitted = self._gate.admit(self._holds, everything=failing or self._failing or self._doubting)
        self._failing, self._doubting = failing, False
        if self._owing or admitted:
            self._owing = False
            self._announce(admitted)
        if self.door is not None:
            self.door.begin()
        if self.elsewhere is not None and self._is_withdrawn():
            self.elsewhere.withdrawn()
        if not self._gate.ending:
            self._applied(self._revision)

    def _knows_kernel(self) -> bool:
        if self.agent is not None:
            return self.agent.dataplane.started
        return self.elsewhere is None or self.elsewhere.started

    def _holds(self, frontend: Frontend) -> bool | None:
        if self.agent is not None:
            return self.agent.dataplane.holds_frontend(frontend)
        return True if self.elsewhere is None else self.elsewhere.holds(frontend)

    def _announce(self, services: ServiceDelta) -> None:
        if self.door is not None:
            self.door.flush(services)
        if self.layer2 is not None:
            self.layer2.flush(services)
        if self.routing is not None:
            self.routing.flush(services)

    def _is_withdrawn(self) -> bool:
        roles = (self.layer2, self.routing, self.door)
        return all(role is None or role.settled for role in roles)

    def _watch_withdrawals(self) -> None:
        if self._timer is None and self._gate.ending:
            self._timer = asyncio.get_running_loop().call_later(WITHDRAWN_WITHIN_S, self._give_up, self._turn)

    def _give_up(self, turn: int) -> None:
        """What should have been withdrawn by `turn` ends now, whoever still announces it."""
        self._timer = None
        self._release(max(turn, self._withdrawn))
        self._finish()
        self._watch_withdrawals()


def _ending(services: ServiceDelta) -> ServiceDelta:
    """What takes no connection from outside any more: told before the kernel ceases to serve it."""
    return ServiceDelta({one: intent for one, intent in services.puts.items() if not intent.outside}, services.drops)
