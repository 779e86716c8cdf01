"""Asks the nodes that are suspected of being dead, and tells who looks dead (calc/services/liveness.py decides).

In      events as they come, the View, and which sessions BGP lost. Out: who looks dead, each time that it changes.
        Nothing is asked, and nothing runs, while nobody is suspected. Who looked dead is left in the run directory, so
        that a restarted agent does not begin by trusting it.
Never   takes an endpoint away itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from felixpy.addresses import Address
from felixpy.calc.services.liveness import Liveness, Sign
from felixpy.datastore.model import Event
from felixpy.drivers.reach import find_reachable
from felixpy.resources.bgp_types import BgpConfiguration
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table

_log = logging.getLogger(__name__)

ROUND_S = 1.0
ANSWER_WITHIN_S = 0.9
BGP_PORT = 179
FILE_NAME = "dead-nodes"


class LivenessWatch:
    """`observe` and `update` as things come, `flush` when all of a batch has been given; `told` hears who is dead."""

    def __init__(
        self, node: str, run_dir: Path, group: asyncio.TaskGroup, told: Callable[[frozenset[str]], None]
    ) -> None:
        self._file = run_dir / FILE_NAME
        self._state = Liveness(node, _read_names(self._file))
        self._group = group
        self._told = told
        self._port = BGP_PORT
        self._asking = self._started = False
        self._dead: Mapping[str, Sign] = {}

    @property
    def dead(self) -> Mapping[str, Sign]:
        """Who looks dead, and what made us ask."""
        return self._dead

    def observe(self, event: Event) -> None:
        """Takes an event of any key."""
        self._state.observe(event.key, event.value is not None)

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes one change of the View."""
        self._state.update(ref, value)
        if ref.table is Table.BGP_CONFIGURATION and ref.name.name == "default":
            port = value.listen_port if isinstance(value, BgpConfiguration) else None
            self._port = port or BGP_PORT

    def put_lost(self, neighbours: frozenset[Address]) -> None:
        """Takes the neighbours whose BGP sessions are lost."""
        self._state.put_lost(neighbours)
        if self._started:
            self._state.flush()
            self._tell()
            self._ask_on()

    def flush(self) -> frozenset[str]:
        """Everything up to now has been given: who looks dead. Asks from now on whoever is to be asked."""
        self._started = True
        self._state.flush()
        self._look()
        self._ask_on()
        return frozenset(self._dead)

    def _ask_on(self) -> None:
        if self._state.has_suspects and not self._asking:
            self._asking = True
            self._group.create_task(self._ask())

    async def _ask(self) -> None:
        """Round after round, until nobody is suspected any more."""
        while self._state.has_suspects:
            asked = self._state.next_round()
            (_, answered) = await asyncio.gather(
                asyncio.sleep(ROUND_S), find_reachable(asked, self._port, ANSWER_WITHIN_S)
            )
            self._state.note(asked, answered)
            self._tell()
        self._asking = False

    def _tell(self) -> None:
        if self._look():
            self._told(frozenset(self._dead))

    def _look(self) -> bool:
        """Whether others look dead than before; says so, and leaves it for a restarted agent."""
        before, self._dead = self._dead, dict(self._state.dead)
        for node in sorted(self._dead.keys() - before.keys()):
            _log.warning("node %s looks dead: %s, and it does not answer", node, self._dead[node])
        for node in sorted(before.keys() - self._dead.keys()):
            _log.warning("node %s lives", node)
        if before.keys() == self._dead.keys():
            return False
        try:
            self._file.write_text("".join(f"{node}\n" for node in sorted(self._dead)))
        except OSError as error:
            _log.warning("who looks dead cannot be written down: %s", error)
        return True


def _read_names(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text(errors="replace").split())
    except OSError:
        return frozenset()
