"""What pods have left is given back, and nothing alive: through the whole agent, and by a clock that is ours."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from felixpy.agent.node.facts import NodeFacts
from felixpy.agent.pods.cni_backend import AgentBackend
from felixpy.agent.pods.sweeper import Sweeper, SweepTimes
from felixpy.cni.endpoint import PLACE_ANNOTATION
from felixpy.cni.leaks import Place
from felixpy.cni.plan import Attachment
from felixpy.cni.wirer import read_place
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import Event
from ipam.engine import Allocator
from ipam.model import node_owner, pool_key
from ipam.request import Request, pod_owner
from tests.agent.node import CALICO, Node, resource
from tests.agent.sandbox import Sandbox
from tests.support.netns import Namespace
from tests.support.packets import ping_ok
from tests.support.wait import eventually

HANDLES = "/calico/ipam/v2/handle/"
ENDPOINTS = f"{CALICO}/workloadendpoints/default/"


@pytest.fixture
def node() -> Iterator[Node]:
    """A node with a pool; its agent runs."""
    with Node() as made:
        made.namespace.add_address("lo", "10.98.0.1/32")
        made.put("ippools", resource("IPPool", "pool", {"cidr": "10.64.0.0/24"}))
        made.agent.start()
        yield made


def test_after_a_boot_what_was_before_it_goes_and_what_was_wired_since_stays(node: Node) -> None:
    with Namespace.create("s") as one, Namespace.create("s") as two:
        gone, again = Sandbox(node, "gone", one), Sandbox(node, "again", two)
        eventually(lambda: gone.call("ADD").exit_status == 0)
        (address,) = again.add()
        node.agent.kill()
        for key, value in node.etcd.get_prefix(ENDPOINTS).items():
            endpoint = json.loads(value)
            endpoint["metadata"]["annotations"][PLACE_ANNOTATION] = "another-boot/1"
            node.etcd.put(key, endpoint)
        one.ip("link", "del", "eth0")
        node.agent.start()
        eventually(lambda: list(node.etcd.get_prefix(HANDLES)) == [f"{HANDLES}net.{again.container}"])
        assert [key.removeprefix(ENDPOINTS) for key in node.etcd.get_prefix(ENDPOINTS)] == ["n1-cni-cagain-eth0"]
        eventually(lambda: ping_ok(node.namespace, address))
        eventually(lambda: "the machine was started anew" in node.log())


def test_a_device_that_is_missing_for_a_moment_costs_nothing(node: Node) -> None:
    with Namespace.create("s") as netns:
        sandbox = Sandbox(node, "a", netns)
        eventually(lambda: sandbox.call("ADD").exit_status == 0)
        node.agent.kill()
        node.namespace.ip("link", "set", "calica", "down")
        node.namespace.ip("link", "set", "calica", "name", "away")
        node.agent.start()
        eventually(lambda: "in sync" in node.log())
        eventually(lambda: sandbox.call("STATUS").exit_status == 0)
        assert len(node.etcd.get_prefix(HANDLES)) == 1
        assert len(node.etcd.get_prefix(ENDPOINTS)) == 1


@dataclass
class World:
    """The sweeper of node n1 over a datastore in memory; the time is what a test says."""

    store: MemoryStore
    allocator: Allocator
    backend: AgentBackend
    now: float = 0.0
    collected: list[Attachment] = field(default_factory=list)

    async def collect(self, attachment: Attachment) -> bool:
        self.collected.append(attachment)
        return True

    async def hold(self, container: str) -> str:
        """Gives the container an address without an endpoint; its handle."""
        handle = f"net.{container}"
        await self.allocator.assign(Request(handle, pod_owner("n1", "default", "", datetime.now(UTC)), v4=1))
        return handle

    def record(self, container: str, address: str, place: Place | None) -> None:
        """The endpoint of a container appears."""
        name = f"n1-cni-{container}-eth0"
        meta = {"name": name, "namespace": "default", "annotations": {"felixpy.io/network": "net"}}
        meta["annotations"] |= {PLACE_ANNOTATION: str(place)} if place else {}
        spec = {"node": "n1", "containerID": container, "endpoint": "eth0", "ipNetworks": [f"{address}/32"]}
        body = {"kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3", "metadata": meta, "spec": spec}
        self.backend.observe(Event(f"{ENDPOINTS}{name}".encode(), json.dumps(body).encode(), 7))

    async def handles(self) -> list[str]:
        found = await self.store.snapshot([HANDLES.encode()])
        return [pair.key.decode().removeprefix(HANDLES) for pair in found.items]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    store = MemoryStore()
    pool = {"metadata": {"name": "pool"}, "spec": {"cidr": "10.64.0.0/26"}}
    await store.put(pool_key("pool").encode(), json.dumps(pool).encode())
    allocator = Allocator(IpamStore(store), node_owner("n1"), now=lambda: datetime.now(UTC), rng=random.Random(1))
    await allocator.load()
    backend = AgentBackend("n1", store, allocator, None, NodeFacts("n1"), lambda: datetime.now(UTC))  # type: ignore[arg-type]
    yield World(store, allocator, backend)
    await store.close()


def sweeper(world: World) -> Sweeper:
    return Sweeper("n1", world.backend, world.allocator, world.collect, SweepTimes(grace_s=300), lambda: world.now)


async def test_an_address_without_endpoint_goes_after_its_grace(world: World) -> None:
    orphan, alive = await world.hold("orphan"), await world.hold("alive")
    world.record("alive", "10.64.0.1", read_place())
    swept = sweeper(world)
    await swept.look()
    world.now = 299
    await swept.look()
    assert set(await world.handles()) == {orphan, alive}
    world.now = 301
    await swept.look()
    assert await world.handles() == [alive]


async def test_an_address_that_came_into_use_in_between_stays(world: World) -> None:
    handle = await world.hold("late")
    swept = sweeper(world)
    await swept.look()
    world.record("late", "10.64.0.0", read_place())
    world.now = 301
    await swept.look()
    assert await world.handles() == [handle]


async def test_an_endpoint_without_device_goes_after_its_grace(world: World) -> None:
    world.record("missing", "10.64.0.5", read_place())
    world.record("elsewhere", "10.64.0.6", read_place()._replace(netns="1"))
    world.record("calicos", "10.64.0.7", None)
    swept = sweeper(world)
    for world.now in (0.0, 200.0):
        await swept.look()
        assert world.collected == []
    world.now = 300
    await swept.look()
    assert [one.container_id for one in world.collected] == ["missing"]


async def test_an_endpoint_of_another_boot_goes_at_once(world: World) -> None:
    world.record("before", "10.64.0.5", read_place()._replace(boot="another"))
    await sweeper(world).look()
    assert [one.container_id for one in world.collected] == ["before"]
