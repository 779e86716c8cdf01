"""What nodes that are gone have left goes, when it has been left for a while; what lives, or comes back, stays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from felixpy.controllers import collector, serve_controllers
from felixpy.controllers.collector import Collector, CollectTimes
from felixpy.controllers.leader import LeadershipLost
from felixpy.datastore.client import open_store
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import Expect, Store
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from ipam.addresses import format_address, parse_address
from ipam.audit import audit
from ipam.engine import Allocator
from ipam.model import node_owner
from ipam.request import Request, Tunnel, pod_handle, pod_owner, tunnel_request
from tests.controllers.world import Cluster
from tests.support.etcd import Etcd
from tests.support.wait import eventually_async

CALICO = "/calico/resources/v3/projectcalico.org/"
NODES, ENDPOINTS = f"{CALICO}nodes/", f"{CALICO}workloadendpoints/default/"
PODS, HOLDERS = "/felixpy/resources/core/v1/pods/default/", "/felixpy/holders/"
BLOCKS, CLAIMS = "/calico/ipam/v2/assignment/", "/calico/ipam/v2/host/"
GRACE_S = 900.0


@pytest.fixture(params=["memory", "etcd"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    etcd: Etcd = request.getfixturevalue("etcd")
    etcd.delete_prefix("/")
    client = open_store(EtcdSettings(parse_endpoints(etcd.url)))
    yield client
    await client.close()


class World(Cluster):
    """Nodes with pods, and a collector whose clock is ours."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.now = 0.0
        self.fence = Expect(collector.LEADER_KEY, 0)

    async def begin(self) -> None:
        await self.initialise()
        await self.put(
            f"{CALICO}ippools/p", {"metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/24", "blockSize": 26}}
        )
        self.fence = Expect(collector.LEADER_KEY, await self.store.put(collector.LEADER_KEY, b"{}"))
        self.collector = Collector(self.store, self.fence, CollectTimes(300, GRACE_S), lambda: self.now)

    def allocator(self, node: str) -> Allocator:
        return Allocator(IpamStore(self.store), node_owner(node), now=lambda: datetime.now(UTC), rng=random.Random(1))

    async def join(self, node: str) -> None:
        await self.put(NODES + node, {"metadata": {"name": node}, "spec": {}})

    async def leave(self, node: str) -> None:
        await self.delete(NODES + node)

    async def run(self, node: str, pod: str, address: str = "", container: str = "", endpoint: bool = True) -> str:
        """A pod of a node, with its address and (unless said otherwise) its endpoint; its address."""
        request = Request(
            handle_id=pod_handle("net", container or f"c{pod}"),
            owner=pod_owner(node, "default", pod, datetime.now(UTC)),
            v4=0 if address else 1,
            addresses=(parse_address(address),) if address else (),
        )
        got = format_address((await self.allocator(node).assign(request)).addresses[0].address)
        spec = {"node": node, "orchestrator": "k8s", "pod": pod, "endpoint": "eth0", "interfaceName": f"cali{pod}"}
        if endpoint:
            await self.put(self.endpoint(node, pod), {"metadata": {}, "spec": {**spec, "ipNetworks": [f"{got}/32"]}})
        return got

    def endpoint(self, node: str, pod: str) -> str:
        return f"{ENDPOINTS}{node.replace('-', '--')}-k8s-{pod}-eth0"

    async def look_twice(self) -> None:
        """Two looks as far apart as is needed."""
        await self.collector.look()
        self.now += GRACE_S
        await self.collector.look()

    async def handles(self) -> set[str]:
        return set(await self.read("/calico/ipam/v2/handle/"))

    async def is_clean(self) -> bool:
        found = await self.store.snapshot([b"/calico/"])
        return audit({pair.key.decode(): pair.value for pair in found.items}).is_clean


@pytest.fixture
async def world(store: Store) -> World:
    """node-1 with pod a and a tunnel, node-2 with pod b; both alive."""
    world = World(store)
    await world.begin()
    for node, pod in (("node-1", "a"), ("node-2", "b")):
        await world.join(node)
        await world.run(node, pod)
    await world.allocator("node-1").assign(tunnel_request("node-1", Tunnel.VXLAN))
    return world


async def test_a_deleted_nodes_addresses_endpoints_and_blocks_go(world: World) -> None:
    await world.leave("node-1")
    await world.collector.look()
    assert "net.ca" in await world.handles(), "not at once"
    world.now += GRACE_S
    await world.collector.look()
    assert await world.handles() == {"net.cb"}
    assert list(await world.read(ENDPOINTS)) == ["node--2-k8s-b-eth0"]
    assert {key.partition("/")[0] for key in await world.read(CLAIMS)} == {"node-2"}
    assert len(await world.read(BLOCKS)) == 1
    assert await world.is_clean()


async def test_what_lives_stays(world: World) -> None:
    before = await world.handles()
    await world.look_twice()
    assert await world.handles() == before
    assert len(await world.read(ENDPOINTS)) == 2


async def test_a_node_that_comes_back_in_time_keeps_all(world: World) -> None:
    await world.leave("node-1")
    await world.collector.look()
    world.now += GRACE_S / 2
    await world.join("node-1")
    await world.collector.look()
    await world.leave("node-1")
    world.now += GRACE_S / 2
    await world.collector.look()
    assert "net.ca" in await world.handles(), "it is counted anew"


async def test_a_node_that_comes_back_between_look_and_release_keeps_all(world: World) -> None:
    await world.leave("node-1")
    await world.collector.look()
    world.now += GRACE_S
    snapshot = world.store.snapshot

    async def late(*arguments: object) -> object:
        found = await snapshot(*arguments)  # type: ignore[arg-type]
        await world.join("node-1")
        return found

    world.store.snapshot = late  # type: ignore[method-assign, assignment]
    await world.collector.look()
    assert "net.ca" in await world.handles()
    assert len(await world.read(ENDPOINTS)) == 2


async def test_a_node_whose_agent_lives_is_not_gone(world: World) -> None:
    await world.leave("node-1")
    await world.put(f"{HOLDERS}node-1/agent", {})
    await world.look_twice()
    assert "net.ca" in await world.handles()


async def test_a_pod_that_is_still_of_its_node_keeps_its_address(world: World) -> None:
    await world.put(PODS + "a", {"metadata": {"name": "a"}, "spec": {"nodeName": "node-1"}})
    await world.leave("node-1")
    await world.look_twice()
    assert await world.handles() == {"net.ca", "net.cb"}
    assert len(await world.read(ENDPOINTS)) == 2
    assert {key.partition("/")[0] for key in await world.read(CLAIMS)} == {"node-1", "node-2"}


async def test_what_calico_keeps_for_a_machine_that_is_off_stays(world: World) -> None:
    owner = pod_owner("node-1", "default", "virt-launcher-m", datetime.now(UTC))
    await world.allocator("node-1").assign(Request("k8s-pod-network.vmi.default.m", owner, v4=1))
    await world.leave("node-1")
    await world.look_twice()
    assert await world.handles() == {"k8s-pod-network.vmi.default.m", "net.cb"}


async def test_of_a_pod_that_moved_the_old_address_goes_and_the_new_one_stays(world: World) -> None:
    await world.put(PODS + "a", {"metadata": {"name": "a"}, "spec": {"nodeName": "node-2"}})
    await world.run("node-2", "a", container="moved")
    await world.leave("node-1")
    await world.look_twice()
    assert await world.handles() == {"net.cb", "net.moved"}
    assert sorted(await world.read(ENDPOINTS)) == ["node--2-k8s-a-eth0", "node--2-k8s-b-eth0"]
    assert await world.is_clean()


async def test_an_address_that_was_given_anew_stays(world: World) -> None:
    address = await world.run("node-1", "fixed")
    await world.leave("node-1")
    await world.collector.look()
    await world.allocator("node-2").release("net.cfixed")
    await world.run("node-2", "fixed", address)
    world.now += GRACE_S
    await world.collector.look()
    assert await world.handles() == {"net.cb", "net.cfixed"}
    assert "node--2-k8s-fixed-eth0" in await world.read(ENDPOINTS)


async def test_what_others_borrowed_of_a_gone_nodes_block_stays(world: World) -> None:
    (first,) = (await world.read(f"{CLAIMS}node-1/ipv4/block/")).keys()
    borrowed = first.partition("-")[0].rpartition(".")[0] + "." + str(int(first.split(".")[3].partition("-")[0]) + 60)
    await world.run("node-2", "c", borrowed)
    await world.leave("node-1")
    await world.look_twice()
    assert await world.handles() == {"net.cb", "net.cc"}
    assert (await world.read(f"{BLOCKS}ipv4/block/"))[first]["affinity"] is None
    assert await world.is_clean()


async def test_what_a_live_node_borrowed_and_lost_goes_and_what_it_uses_stays(world: World) -> None:
    (first,) = (await world.read(f"{CLAIMS}node-1/ipv4/block/")).keys()
    base = first.partition("-")[0].rpartition(".")[0]
    low = int(first.split(".")[3].partition("-")[0])
    await world.run("node-2", "lost", f"{base}.{low + 50}", endpoint=False)
    await world.run("node-2", "used", f"{base}.{low + 51}")
    await world.look_twice()
    assert "net.clost" not in await world.handles()
    assert "net.cused" in await world.handles()


async def test_a_gone_node_is_no_longer_said_to_be_ours(world: World) -> None:
    await world.put("/felixpy/nodes/node-1", {})
    await world.put("/felixpy/nodes/node-2", {})
    await world.put("/felixpy/nodes/node-3", {})
    await world.put(f"{HOLDERS}node-3/agent", {"host": "x"})
    await world.leave("node-1")
    await world.collector.look()
    assert set(await world.read("/felixpy/nodes/")) == {"node-2", "node-3"}


async def test_nothing_goes_while_the_datastore_is_not_ready(world: World) -> None:
    await world.leave("node-1")
    await world.initialise(ready=False)
    await world.look_twice()
    assert "net.ca" in await world.handles()


async def test_who_leads_no_longer_gives_nothing_back(world: World) -> None:
    await world.leave("node-1")
    await world.collector.look()
    world.now += GRACE_S
    await world.store.put(collector.LEADER_KEY, b'{"node":"usurper"}')
    with pytest.raises(LeadershipLost):
        await world.collector.look()
    assert "net.ca" in await world.handles()


async def test_the_elected_one_collects(world: World) -> None:
    await world.delete(collector.LEADER_KEY.decode())
    await world.leave("node-1")
    task = asyncio.ensure_future(serve_controllers(world.store, "node-2", 5, CollectTimes(0.05, 0.1)))

    async def only_b() -> bool:
        return await world.handles() == {"net.cb"}

    try:
        await eventually_async(only_b)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
