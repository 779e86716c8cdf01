"""User and password, with tokens that expire after two seconds."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator

import pytest

from felixpy.datastore.model import ConnectReason, Event, Unavailable
from tests.datastore.world import opened
from tests.support.etcd import Etcd
from tests.support.wait import eventually_async, until


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An etcd where `felix` may use /t/ and nothing else."""
    server = Etcd()
    server.daemon.argv.append("--auth-token-ttl=2")
    with server:
        for command in (
            "user add root --new-user-password=rootpass",
            "user grant-role root root",
            "role add felix",
            "role grant-permission felix --prefix=true readwrite /t/",
            "user add felix --new-user-password=secret",
            "user grant-role felix felix",
            "auth enable",
        ):
            subprocess.run(["etcdctl", "--endpoints", server.url, *command.split()], check=True, capture_output=True)
        yield server.url


async def test_the_right_password(url: str) -> None:
    async with opened(url, username="felix", password="secret") as store:
        await store.put(b"/t/a", b"1")
        snapshot = await store.snapshot([b"/t/"])
        assert [pair.value for pair in snapshot.items] == [b"1"]


@pytest.mark.parametrize(
    ("user", "key", "reason"),
    [
        ({"username": "felix", "password": "wrong"}, b"/t/a", ConnectReason.AUTH),
        ({}, b"/t/a", ConnectReason.AUTH),
        ({"username": "felix", "password": "secret"}, b"/elsewhere", ConnectReason.PERMISSION),
    ],
)
async def test_refusals(url: str, user: dict[str, str], key: bytes, reason: ConnectReason) -> None:
    async with opened(url, **user) as store:
        with pytest.raises(Unavailable) as failed:
            await store.get(key)
        assert failed.value.reason is reason


async def test_a_watch_of_what_the_user_may_not_read(url: str) -> None:
    async with opened(url, username="felix", password="secret") as store:
        with pytest.raises(Unavailable, match="from /t/ to /u0") as failed:
            await anext(store.watch([b"/t/", b"/u/"], 1))
        assert failed.value.reason is ConnectReason.PERMISSION


async def test_calls_and_watches_outlive_their_token(url: str) -> None:
    async with opened(url, username="felix", password="secret") as store:
        start = await store.put(b"/t/a", b"0")
        watched: list[Event] = []

        async def watch() -> None:
            async for events in store.watch([b"/t/"], start):
                watched.extend(events)

        watching = asyncio.create_task(watch())
        await eventually_async(lambda: token_expired(url, store._connection._token))
        last = await store.put(b"/t/a", b"1")
        assert await anext(store.watch([b"/t/"], last)) == (Event(b"/t/a", b"1", last),)
        await until(lambda: Event(b"/t/a", b"1", last) in watched)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_watch_that_starts_with_an_expired_token(url: str) -> None:
    async with opened(url, username="felix", password="secret") as store:
        start = await store.put(b"/t/a", b"0")
        await eventually_async(lambda: token_expired(url, store._connection._token))
        assert await anext(store.watch([b"/t/"], start)) == (Event(b"/t/a", b"0", start),)


async def token_expired(url: str, token: str | None) -> bool:
    """Whether etcd no longer takes a token."""
    async with opened(url, username="felix", password="no longer known") as store:
        store._connection._token = token
        try:
            await store.get(b"/t/a")
        except Unavailable as error:
            return error.reason is ConnectReason.AUTH
        await asyncio.sleep(2.5)
        return False
