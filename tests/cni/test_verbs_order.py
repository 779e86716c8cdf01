"""What the verbs do by themselves, between the runtime's calls: nobody else is at work here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from felixpy.cni.errors import CniError, Code
from felixpy.cni.pending import PendingDeletes
from felixpy.cni.plan import Attachment
from felixpy.cni.verbs import Verbs
from felixpy.cni.wire import Request
from tests.cni.conftest import NETWORK, DictBackend
from tests.support.netns import Namespace

ATTACHMENT = Attachment("n1", NETWORK, "c1", "eth0")
CONFIG = json.dumps({"cniVersion": "1.1.0", "name": NETWORK}).encode()


class World:
    """Verbs over a backend in dictionaries, in the node's namespace."""

    def __init__(self, namespace: Namespace, pod: Namespace, directory: Path) -> None:
        self.backend = DictBackend(namespace)
        self.verbs = Verbs("n1", self.backend, PendingDeletes(directory))
        self._pod = pod

    async def call(self, verb: str) -> bytes:
        """A call that must succeed; its output."""
        request = Request(verb, "c1", str(self._pod.path), "eth0", config=CONFIG)
        with self._pod.path.open() as netns:
            answer = await self.verbs.answer(request, netns.fileno())
        assert answer.exit_status == 0, answer.output
        return answer.output


@pytest.fixture
async def world(make_namespace: Callable[..., Namespace], tmp_path: Path) -> AsyncIterator[World]:
    node, pod = make_namespace("n"), make_namespace("p")
    node.add_address("lo", "10.9.0.1/32")
    with node.entered():
        made = World(node, pod, tmp_path)
        yield made
        made.verbs.close()


async def test_an_add_does_first_what_was_kept_of_its_interface(world: World) -> None:
    first = await world.call("ADD")
    world.backend.reachable = False
    await world.call("DEL")
    assert len(world.backend.held) == 1
    world.backend.reachable = True
    assert await world.call("ADD") != first, "the kept DEL gave the first address back"
    assert await world.verbs.replay_pending() == 0
    assert len(world.backend.held) == 1, "and does not come again"


async def test_a_kept_del_that_an_add_has_done_is_not_done_again(world: World) -> None:
    await world.call("ADD")
    world.backend.reachable = False
    await world.call("DEL")
    world.backend.reachable = True
    await asyncio.gather(world.call("ADD"), world.verbs.replay_pending())
    assert len(world.backend.held) == 1


async def test_what_is_kept_counts_until_it_is_done(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await world.call("ADD")
    world.backend.reachable = False
    await world.call("DEL")
    for _ in range(3):
        assert await world.verbs.replay_pending() == 1
    assert caplog.text.count("kept DELs have to wait") == 1, "a log is not filled by waiting"
    world.backend.reachable = True
    assert await world.verbs.replay_pending() == 0
    assert world.backend.held == {}


async def test_only_what_has_no_device_is_collected(world: World) -> None:
    await world.call("ADD")
    assert not await world.verbs.collect(ATTACHMENT)
    assert len(world.backend.held) == 1
    world.backend.namespace.ip("link", "del", ATTACHMENT.host_device)
    assert await world.verbs.collect(ATTACHMENT)
    assert (world.backend.held, world.backend.endpoints) == ({}, {})


async def test_an_add_waits_a_little_for_the_agent(world: World) -> None:
    world.backend.unready = CniError(Code.NOT_AVAILABLE, "the datastore has not been read")
    adding = asyncio.create_task(world.call("ADD"))
    await asyncio.sleep(0)
    assert world.backend.held == {}
    world.backend.unready = None
    await adding
    assert len(world.backend.held) == 1
