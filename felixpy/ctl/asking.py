"""Asks the nodes how they stand, through the datastore.

In: a Store, which nodes, which details, how long; out: a Survey, in which a node that did not answer is None. The
question and all answers lie under one lease, which is revoked at the end. A node has answered once every role that it
is known to have has.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from felixpy.ctl.foreign import foreign_nodes
from felixpy.datastore.model import Lease, Store
from felixpy.resources.kinds import ASK_PREFIX, BY_TYPE, CALICO, HOLDERS_PREFIX
from felixpy.status.answers import (
    ASK_TTL_S,
    Ask,
    NodeStatus,
    Want,
    answers_prefix,
    ask_key,
    merge_answers,
    parse,
    render,
)
from felixpy.status.problems import find_unprogrammed, missing_roles

TIMEOUT_S = 3.0
"""How long a node may take to answer, where nobody says otherwise and the cluster is small."""
ANSWERS_PER_S = 500
"""How fast one etcd takes answers at the least; a larger cluster gets more time (measured: tests/bench/status.py)."""
WAIT_TIMEOUT_S = 30.0
ASK_AGAIN_S = 0.2
NODES = BY_TYPE[CALICO, "Node"]


@dataclass(frozen=True, slots=True)
class Survey:
    """What the nodes said, by name, None for those that did not; asked at `revision`.

    `known`: where a node was asked for by name and did not answer, all that there are.
    """

    revision: int
    nodes: Mapping[str, NodeStatus | None]
    known: frozenset[str] | None = None


async def survey(
    store: Store,
    names: Collection[str] = (),
    want: Collection[Want] = (),
    timeout_s: float | None = None,
    services: Collection[str] = (),
    chains: Collection[str] = (),
) -> Survey:
    """Asks the named nodes, or all; returns when all have answered, or the time (None: what is usual) is over.

    Missing a cluster without Node resources does not say whom to wait for: the time is then waited in full.
    """
    expected = set(names) or await list_nodes(store)
    limit_s = usual_timeout_s(len(expected)) if timeout_s is None else timeout_s
    lease = await store.lease(ASK_TTL_S)
    try:
        ask = Ask(lease.id, tuple(want), tuple(sorted(names)), tuple(services), chains=tuple(sorted(chains)))
        found = await _ask(store, lease, expected, ask, limit_s)
        if names and None in found.nodes.values():
            return replace(found, known=frozenset(await list_nodes(store)))
        return found
    finally:
        await lease.close()


def usual_timeout_s(nodes: int) -> float:
    """How long to wait for so many nodes."""
    return TIMEOUT_S + nodes / ANSWERS_PER_S


async def survey_programmed(
    store: Store, names: Collection[str], timeout_s: float = WAIT_TIMEOUT_S
) -> tuple[Survey, bool]:
    """Asks again and again until every node has all that was in the datastore at the start, or the time is over.

    Shape   the last survey, and whether they have.
    """
    end = time.monotonic() + timeout_s
    wanted = (await store.snapshot([ASK_PREFIX.encode()])).revision
    usual_s = usual_timeout_s(len(names) or len(await list_nodes(store)))
    while True:
        found = await survey(store, names, (), min(usual_s, max(end - time.monotonic(), 0.1)))
        done = is_programmed(found, wanted)
        if done or time.monotonic() + ASK_AGAIN_S >= end:
            return found, done
        await asyncio.sleep(ASK_AGAIN_S)


def is_programmed(found: Survey, revision: int) -> bool:
    """Whether every node has answered and has everything up to `revision`; not if there is no node at all."""
    statuses = found.nodes.values()
    return bool(statuses) and all(one is not None and not find_unprogrammed(one, revision) for one in statuses)


async def list_nodes(store: Store) -> set[str]:
    """The names of the cluster's nodes, but for those that run Calico's Felix, which answers nobody.

    A node without its resource counts while an agent holds its name.
    """
    snapshot = await store.snapshot([NODES.prefix.encode(), HOLDERS_PREFIX.encode()])
    keys = [pair.key.decode("utf-8", "replace") for pair in snapshot.items]
    held = {key.removeprefix(HOLDERS_PREFIX).partition("/")[0] for key in keys if key.startswith(HOLDERS_PREFIX)}
    names = (NODES.parse_name(key) for key in keys)
    return held.union(name.name for name in names if name is not None).difference(await foreign_nodes(store))


async def _ask(store: Store, lease: Lease, expected: Collection[str], ask: Ask, timeout_s: float) -> Survey:
    question = secrets.token_hex(8)
    revision = await store.put(ask_key(question), render(ask), lease.id)
    collected: dict[str, list[NodeStatus]] = {}
    waiting = set(expected)
    try:
        async with asyncio.timeout(timeout_s), aclosing(store.watch([answers_prefix(question)], revision + 1)) as told:
            async for events in told:
                for event in events:
                    if event.value is not None:
                        _take(parse(event.value, NodeStatus), collected, waiting)
                if expected and not waiting:
                    break
    except TimeoutError:
        pass
    names = sorted({*expected, *collected})
    answers = {name: merge_answers(collected[name]) if name in collected else None for name in names}
    return Survey(revision, answers)


def _take(status: NodeStatus, collected: dict[str, list[NodeStatus]], waiting: set[str]) -> None:
    answers = collected.setdefault(status.node, [])
    answers.append(status)
    if not missing_roles(merge_answers(answers)):
        waiting.discard(status.node)
