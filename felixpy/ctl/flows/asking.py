"""Asks the nodes for the flows that their rules told of, through the datastore.

In: a Store, which nodes, which flows; out: each node's answers as they come. The question lies under a lease, which is
revoked at the end; nodes that are followed put what is new under it, and stop when it is gone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing

from felixpy.ctl.asking import list_nodes, usual_timeout_s
from felixpy.ctl.node_text import why_silent
from felixpy.datastore.first import first_of
from felixpy.datastore.model import Lease, Store
from felixpy.flows.records import FlowsAnswer, FlowsQuestion
from felixpy.status.answers import ASK_TTL_S, Ask, answers_prefix, ask_key, parse, render


async def ask_flows(
    store: Store, names: Collection[str], question: FlowsQuestion, timeout_s: float | None = None
) -> AsyncGenerator[FlowsAnswer, None]:
    """Answers of the named nodes, or of all; a node that does not answer in time is `unread`.

    Without `follow` it ends when all have answered, or the time is over.
    """
    waiting = set(names) or await list_nodes(store)
    limit_s = usual_timeout_s(len(waiting)) if timeout_s is None else timeout_s
    lease = await store.lease(ASK_TTL_S)
    ask = _Ask(store, lease, tuple(sorted(names)), question)
    answers: asyncio.Queue[FlowsAnswer | None] = asyncio.Queue()

    async def listen() -> None:
        try:
            await first_of(_take_answers(store, ask.name, await ask.put(), answers.put_nowait), ask.renew())
        finally:
            answers.put_nowait(None)

    listening = asyncio.create_task(listen())
    try:
        end = asyncio.get_running_loop().time() + limit_s
        while waiting or question.follow:
            try:
                async with asyncio.timeout_at(end if waiting else None):
                    answer = await answers.get()
            except TimeoutError:
                known = await list_nodes(store) if names else None
                for silent in sorted(waiting):
                    yield FlowsAnswer(silent, unread=why_silent(silent, known))
                waiting.clear()
                continue
            if answer is None:
                await listening
                return
            waiting.discard(answer.node)
            yield answer
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await lease.close()


async def _take_answers(store: Store, question: str, revision: int, take: Callable[[FlowsAnswer], None]) -> None:
    """Every answer put after `revision`, for ever."""
    async with aclosing(store.watch([answers_prefix(question)], revision + 1)) as told:
        async for events in told:
            for event in events:
                if event.value is not None:
                    take(parse(event.value, FlowsAnswer))


class _Ask:
    """The question in the datastore, put anew where its lease was lost."""

    def __init__(self, store: Store, lease: Lease, nodes: tuple[str, ...], question: FlowsQuestion) -> None:
        self.name = secrets.token_hex(8)
        self._store = store
        self._lease = lease
        self._nodes = nodes
        self._question = question
        self._under = 0

    async def put(self) -> int:
        """Asks; the revision of the question."""
        self._under = self._lease.id
        ask = Ask(self._under, nodes=self._nodes, flows=self._question)
        return await self._store.put(ask_key(self.name), render(ask), ask.lease)

    async def renew(self) -> None:
        """Asks again under each new lease."""
        while True:
            await self._lease.replaced(self._under)
            await self.put()
