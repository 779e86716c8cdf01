"""Tells those who follow this node's flows, through the datastore, as long as their question stands there.

In: questions, and the flows as they change; out: one put a second and question at the most, under the asker's lease,
and none while nothing changes. A question that is withdrawn, or whose lease is gone, is followed no more; what a
datastore that is away does not take is told with what comes next.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from felixpy.agent.flows.watch import FlowWatch
from felixpy.datastore.model import DatastoreError, Store, Unavailable
from felixpy.flows.records import FlowsQuestion
from felixpy.status.answers import Ask, answer_key, render

PAUSE_S = 1.0
MOST_FOLLOWED = 16
"""Questions at a time; the oldest is followed no more."""
_log = logging.getLogger(__name__)


class FlowFollowers:
    """The questions that are followed on this node."""

    def __init__(self, store: Store, node: str, flows: FlowWatch) -> None:
        self._store = store
        self._node = node
        self._flows = flows
        self._asked: dict[str, tuple[Ask, FlowsQuestion]] = {}
        self._told: dict[str, int] = {}

    async def answer(self, name: str, ask: Ask, question: FlowsQuestion) -> None:
        """The first answer; one who follows gets more."""
        if question.follow:
            while len(self._asked) >= MOST_FOLLOWED:
                self.drop(next(iter(self._asked)))
            self._asked[name] = ask, question
        await self._tell(name, ask, question, 0)

    def drop(self, name: str) -> None:
        """The question is withdrawn."""
        self._asked.pop(name, None)
        self._told.pop(name, None)

    async def serve(self) -> NoReturn:
        """Tells until cancelled."""
        while True:
            await self._flows.changed.wait()
            self._flows.changed.clear()
            for name, (ask, question) in tuple(self._asked.items()):
                if self._flows.table.change > self._told.get(name, 0):
                    await self._tell(name, ask, question, self._told.get(name, 0))
            await asyncio.sleep(PAUSE_S)

    async def _tell(self, name: str, ask: Ask, question: FlowsQuestion, after: int) -> None:
        change = self._flows.table.change
        answer = await self._flows.answer(question, after)
        if name in self._asked:
            self._told[name] = change
            if after and not answer.flows:
                return
        try:
            await self._store.put(answer_key(name, self._node, ("agent",)), render(answer), ask.lease)
        except Unavailable as error:
            if name in self._asked:
                self._told[name] = after
            _log.debug("flows are told later: %s", error)
        except DatastoreError as error:
            self.drop(name)
            _log.debug("nobody waits for flows any more: %s", error)
