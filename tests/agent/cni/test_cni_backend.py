"""What the agent remembers saves reads, and may be old: a DEL takes what is true."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from felixpy.agent.node.facts import NodeFacts
from felixpy.agent.pods.cni_backend import AgentBackend
from felixpy.agent.pods.own_objects import ENDPOINTS, NAMESPACES, PODS
from felixpy.cni.plan import Attachment
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import Event
from felixpy.resources.kinds import Name
from ipam.engine import Allocator
from ipam.model import handle_key, node_owner, pool_key
from ipam.request import Request

OURS = Attachment("n1", "net", "c1", "eth0", "default", "web")
KEY = ENDPOINTS.key(OURS.endpoint).encode()


def now() -> datetime:
    return datetime.now(UTC)


def endpoint(container: str, note: str = "") -> bytes:
    """The stored endpoint of the pod, as of one container."""
    body = {"metadata": {"name": OURS.endpoint.name, "annotations": {"note": note}}, "spec": {"containerID": container}}
    return json.dumps(body).encode()


@dataclass
class World:
    """A datastore in memory in which container c1 holds an address."""

    store: MemoryStore
    backend: AgentBackend

    async def write(self, container: str, note: str = "", *, seen: bool = True) -> None:
        """Stores the endpoint; the agent hears of it, or not yet."""
        value = endpoint(container, note)
        revision = await self.store.put(KEY, value)
        if seen:
            self.backend.observe(Event(KEY, value, revision))

    async def left(self) -> tuple[bool, bool]:
        """Whether the endpoint, and the handle of c1, are still there."""
        handle = handle_key(OURS.handle).encode()
        return await self.store.get(KEY) is not None, await self.store.get(handle) is not None


@pytest.fixture
async def world() -> World:
    store = MemoryStore()
    pool = {"metadata": {"name": "pool"}, "spec": {"cidr": "10.64.0.0/26"}}
    await store.put(pool_key("pool").encode(), json.dumps(pool).encode())
    allocator = Allocator(IpamStore(store), node_owner("n1"), now=now, rng=random.Random(1))
    await allocator.assign(Request(OURS.handle, v4=1))
    return World(store, AgentBackend("n1", store, allocator, None, NodeFacts("n1"), now))  # type: ignore[arg-type]


@pytest.mark.parametrize("seen", [True, False])
async def test_endpoint_and_address_go_together(world: World, seen: bool) -> None:
    await world.write("c1", seen=seen)
    await world.backend.withdraw(OURS)
    assert await world.left() == (False, False)


async def test_what_changed_unseen_goes_too(world: World) -> None:
    await world.write("c1")
    await world.write("c1", "labels of somebody", seen=False)
    await world.backend.withdraw(OURS)
    assert await world.left() == (False, False)


@pytest.mark.parametrize("seen", [True, False])
async def test_another_containers_endpoint_stays(world: World, seen: bool) -> None:
    await world.write("c1")
    await world.write("c2", seen=seen)
    await world.backend.withdraw(OURS)
    assert await world.left() == (True, False)


async def test_what_is_gone_is_not_missed(world: World) -> None:
    await world.write("c1")
    await world.store.delete(KEY)
    await world.backend.withdraw(OURS)
    await world.backend.withdraw(OURS)
    assert await world.left() == (False, False)


POD_KEY = PODS.key(Name("default", "web")).encode()
NAMESPACE_KEY = NAMESPACES.key(Name("", "default")).encode()


def pod(node: str, **labels: str) -> bytes:
    """The Pod as it is stored."""
    return json.dumps({"metadata": {"labels": labels}, "spec": {"nodeName": node}}).encode()


async def test_a_pod_of_this_node_need_not_be_read(world: World) -> None:
    world.backend.observe(Event(POD_KEY, pod("n1", app="web"), 5))
    world.backend.observe(Event(NAMESPACE_KEY, b'{"metadata": {"labels": {"team": "blue"}}}', 6))
    facts = await world.backend.describe(OURS)
    assert (facts.labels, facts.namespace_labels) == ({"app": "web"}, {"team": "blue"})
    world.backend.observe(Event(POD_KEY, pod("n1", app="db"), 7))
    assert (await world.backend.describe(OURS)).labels == {"app": "db"}
    world.backend.observe(Event(POD_KEY, None, 8))
    assert (await world.backend.describe(OURS)).labels == {}


async def test_a_pod_that_the_watch_has_not_told_of_is_read(world: World) -> None:
    world.backend.observe(Event(POD_KEY, pod("n11", app="elsewhere"), 5))
    world.backend.observe(Event(POD_KEY, b"n1: no JSON", 6))
    await world.store.put(POD_KEY, pod("n1", app="web"))
    assert (await world.backend.describe(OURS)).labels == {"app": "web"}
