"""This process's answers to those who ask through the datastore how it stands.

In: questions as events; out: NodeStatus, one put per question under the asker's lease. Questions that come while one is
answered wait, each once; one that is withdrawn meanwhile is forgotten. A question counts as answered only after
everything up to it has been applied.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from felixpy.agent.doors.status import StatusReader
from felixpy.agent.settings import Settings
from felixpy.datastore.model import DatastoreError, Event, Store
from felixpy.status.answers import Ask, answer_key, parse, parse_ask_key, render

if TYPE_CHECKING:
    from felixpy.agent.flows.followers import FlowFollowers

_log = logging.getLogger(__name__)


class Answers:
    """Answers questions for one process: `observe` each event, `flush` once a batch has been applied, and `serve`."""

    def __init__(self, store: Store, reader: StatusReader, settings: Settings) -> None:
        self._store = store
        self._reader = reader
        self._settings = settings
        self.followers: FlowFollowers | None = None
        self._asked: dict[str, Ask] = {}
        self._applied = asyncio.Event()

    def observe(self, event: Event) -> None:
        """Takes note of a question, or of its withdrawal."""
        question = parse_ask_key(event.key)
        if question is None:
            return
        self._asked.pop(question, None)
        if self.followers is not None:
            self.followers.drop(question)
        if event.value is None:
            return
        try:
            ask = parse(event.value, Ask)
        except ValueError as error:
            _log.warning("a question that cannot be read: %s: %s", question, error)
            return
        if not ask.nodes or self._settings.node in ask.nodes:
            self._asked[question] = ask

    def flush(self, revision: int) -> None:
        """Everything up to `revision` has been applied, all questions so far with it."""
        self._reader.revision = max(self._reader.revision, revision)
        if self._asked:
            self._applied.set()

    async def serve(self) -> NoReturn:
        """Answers until cancelled."""
        while True:
            await self._applied.wait()
            self._applied.clear()
            while self._asked:
                question = next(iter(self._asked))
                await self._answer(question, self._asked.pop(question))

    async def _answer(self, question: str, ask: Ask) -> None:
        if ask.flows is not None:
            if self.followers is not None:
                await self.followers.answer(question, ask, ask.flows)
            return
        status = await self._reader.read(ask.want, ask.services, ask.chains)
        key = answer_key(question, status.node, status.roles)
        try:
            await self._store.put(key, render(status), ask.lease)
        except DatastoreError as error:
            _log.debug("nobody waits for an answer any more: %s", error)
