"""A follower has every key and every change, and starts anew where history is no longer kept."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from felixpy.datastore import client
from felixpy.datastore.client import EtcdStore
from felixpy.datastore.follow import Turn, follow
from felixpy.datastore.memory import MemoryStore

AnyStore = EtcdStore | MemoryStore


class State:
    """What a follower knows."""

    def __init__(self) -> None:
        self.keys: dict[bytes, bytes] = {}

    def take(self, turn: Turn) -> None:
        if turn.anew:
            self.keys.clear()
        for event in turn.events:
            self.keys.pop(event.key, None)
            if event.value is not None:
                self.keys[event.key] = event.value


async def test_the_state_comes_first_and_then_each_change(store: AnyStore) -> None:
    await store.put(b"/t/a", b"1")
    state = State()
    async with asyncio.timeout(40), aclosing(follow(store, [b"/t/"], "keys")) as turns:
        while not (turn := await anext(turns)).whole:
            state.take(turn)
        assert state.keys == {b"/t/a": b"1"}
        await store.delete(b"/t/a")
        await store.put(b"/t/b", b"2")
        while state.keys != {b"/t/b": b"2"}:
            state.take(turn := await anext(turns))
            assert turn.whole
            assert not turn.anew


async def test_nothing_is_a_state_too(store: AnyStore) -> None:
    async with asyncio.timeout(40), aclosing(follow(store, [b"/t/"], "keys")) as turns:
        first = await anext(turns)
        assert first == Turn((), anew=True, whole=False)
        assert (await anext(turns)).whole


async def test_a_follower_that_is_too_slow_for_the_history_reads_anew(store: AnyStore) -> None:
    """What went meanwhile is gone for it, although no event said so."""
    await store.put(b"/t/a", b"1")
    state = State()
    async with asyncio.timeout(40), aclosing(follow(store, [b"/t/"], "keys")) as turns:
        while not (turn := await anext(turns)).whole:
            state.take(turn)
        await store.delete(b"/t/a")
        await store.compact(await store.put(b"/t/b", b"2"))
        state.take(turn := await anext(turns))
        assert turn.anew
        assert state.keys == {b"/t/b": b"2"}


async def test_only_the_end_of_many_pages_is_a_state(store: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE_KEYS", 2)
    for number in range(5):
        await store.put(b"/t/%d" % number, b"")
    state = State()
    async with asyncio.timeout(40), aclosing(follow(store, [b"/t/"], "keys")) as turns:
        while not (turn := await anext(turns)).whole:
            state.take(turn)
            assert turn.anew == (len(state.keys) <= 2 or isinstance(store, MemoryStore))
    assert len(state.keys) == 5
