"""A node's own tunnel addresses: taken, moved and given back together with its Node."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from felixpy.addresses import format_address
from felixpy.agent.clock import utc_now
from felixpy.agent.routing.tunnels import TunnelAddresses
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import Expect, KeyValue, TxnResult, Write
from felixpy.resources.codec import Decoder
from felixpy.resources.tables import Decoded
from ipam.codec import parse_block
from ipam.engine import Allocator
from ipam.model import node_owner
from tests.agent.node import CALICO, Json, resource
from tests.support.wait import eventually_async

NODE_KEY = f"{CALICO}/nodes/n1".encode()


class BusyStore(MemoryStore):
    """A store where somebody labels the Node right after it was read, `busy` times."""

    busy = 0

    async def get(self, key: bytes) -> KeyValue | None:
        pair = await super().get(key)
        if pair is not None and self.busy:
            self.busy -= 1
            node = json.loads(pair.value)
            node["metadata"].setdefault("labels", {})[f"busy{self.busy}"] = "yes"
            await self.put(key, json.dumps(node).encode())
        return pair

    transactions: int = 0

    async def transact(self, expect: Sequence[Expect], writes: Sequence[Write]) -> TxnResult:
        self.transactions += bool(writes)
        return await super().transact(expect, writes)


class World:
    """One node's addresses over a store; what is written reaches it as the syncer would bring it."""

    def __init__(self) -> None:
        self.store = BusyStore()
        allocator = Allocator(IpamStore(self.store), node_owner("n1"), now=utc_now, rng=random.Random(1))
        self.allocator = allocator
        self.addresses = TunnelAddresses("n1", self.store, allocator)
        self.decoder = Decoder("n1")

    async def write(self, plural: str, name: str, body: Json | None) -> None:
        key = f"{CALICO}/{plural}/{name}".encode()
        if body is None:
            await self.store.delete(key)
        else:
            await self.store.put(key, json.dumps(body).encode())
        await self.tell()

    async def pool(self, name: str, cidr: str, **spec: object) -> None:
        await self.write("ippools", name, resource("IPPool", name, {"cidr": cidr, "blockSize": 26, **spec}))

    async def node(self, **spec: object) -> None:
        await self.write("nodes", "n1", resource("Node", "n1", spec, {"rack": "a"}))

    async def tell(self) -> None:
        """All that is stored, as a snapshot."""
        for pair in (await self.store.snapshot([b"/calico/"])).items:
            self.allocator.observe(pair.key.decode(), pair.value, pair.mod_revision)
            decoded = self.decoder.decode(pair.key, pair.value)
            if isinstance(decoded, Decoded):
                self.addresses.update(decoded.ref, decoded.value)
        self.addresses.flush()

    async def spec(self) -> Json:
        pair = await self.store.get(NODE_KEY)
        assert pair is not None
        spec: Json = json.loads(pair.value)["spec"]
        return spec

    async def held(self) -> list[str]:
        """Every address that a block says is held."""
        blocks = (await self.store.snapshot([b"/calico/ipam/v2/assignment/"])).items
        found = []
        for pair in blocks:
            block = parse_block(pair.value)
            found += [
                format_address(block.cidr.nth(ordinal))
                for ordinal in range(block.cidr.size)
                if (attribute := block.attribute_of(ordinal)) is not None and attribute.released_at is None
            ]
        return sorted(found)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    task = asyncio.create_task(made.addresses.serve())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_address_is_held_and_said_together(world: World) -> None:
    await world.pool("a", "10.0.0.0/24", vxlanMode="Always")
    await world.node(bgp={"ipv4Address": "192.0.2.1/24"}, orchRefs=[{"nodeName": "n1"}])
    await eventually_async(world.held)
    spec = await world.spec()
    assert [spec["ipv4VXLANTunnelAddr"]] == await world.held()
    assert spec["vxlanTunnelMACAddr"] == "66:40:b3:ea:b6:3f"
    assert spec["orchRefs"] == [{"nodeName": "n1"}]


async def test_ipips_address_lies_in_the_bgp_part(world: World) -> None:
    await world.pool("a", "10.0.0.0/24", ipipMode="CrossSubnet")
    await world.node()
    await eventually_async(world.held)
    assert (await world.spec())["bgp"] == {"ipv4IPIPTunnelAddr": (await world.held())[0]}


async def test_a_restart_writes_nothing(world: World) -> None:
    await world.pool("a", "10.0.0.0/24", vxlanMode="Always")
    await world.node()
    await eventually_async(world.held)
    await world.tell()
    again = TunnelAddresses("n1", world.store, world.allocator)
    before = world.store.transactions
    task = asyncio.create_task(again.serve())
    world.addresses, old = again, world.addresses
    await world.tell()
    await eventually_async(lambda: _settled(again))
    assert world.store.transactions == before
    assert old is not again
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _settled(addresses: TunnelAddresses) -> bool:
    return addresses.settled


async def test_another_pool_means_another_address_and_the_old_one_is_given_back(world: World) -> None:
    await world.pool("a", "10.0.0.0/24", vxlanMode="Always")
    await world.node()
    await eventually_async(world.held)
    await world.tell()
    await world.pool("b", "10.1.0.0/24", vxlanMode="Always")
    await world.pool("a", "10.0.0.0/24", vxlanMode="Never")

    async def moved() -> bool:
        return all(one.startswith("10.1.0.") for one in await world.held()) and bool(await world.held())

    await eventually_async(moved)
    assert [(await world.spec())["ipv4VXLANTunnelAddr"]] == await world.held()


async def test_without_such_a_pool_nothing_is_held(world: World) -> None:
    await world.pool("a", "10.0.0.0/24", vxlanMode="Always")
    await world.node(vxlanTunnelMACAddr="02:00:00:00:00:01")
    await eventually_async(world.held)
    await world.tell()
    await world.pool("a", "10.0.0.0/24", vxlanMode="Always", nodeSelector="rack == 'b'")

    async def free() -> bool:
        return not await world.held()

    await eventually_async(free)
    assert await world.spec() == {"vxlanTunnelMACAddr": "02:00:00:00:00:01"}, "what somebody wrote stays"


async def test_what_others_write_into_the_node_meanwhile_survives(world: World) -> None:
    world.store.busy = 2
    await world.pool("a", "10.0.0.0/24", vxlanMode="Always")
    await world.node()
    await eventually_async(world.held)
    pair = await world.store.get(NODE_KEY)
    assert pair is not None
    assert json.loads(pair.value)["metadata"]["labels"] == {"rack": "a", "busy1": "yes", "busy0": "yes"}


async def test_an_exhausted_pool_is_tried_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.pool("a", "10.0.0.0/24", vxlanMode="Always", disabled=False, allowedUses=["Tunnel"])
    await world.write("ipreservations", "all", resource("IPReservation", "all", {"reservedCIDRs": ["10.0.0.0/24"]}))
    await world.node()

    async def said() -> bool:
        return "tunnel addresses are not as they should be" in caplog.text

    await eventually_async(said)
    await world.pool("b", "10.1.0.0/24", vxlanMode="Always")
    await eventually_async(world.held)


async def test_a_frozen_datastore_is_not_written(world: World) -> None:
    world.addresses.frozen = True
    await world.pool("a", "10.0.0.0/24", vxlanMode="Always")
    await world.node()
    before = world.store.transactions
    for _ in range(20):
        await asyncio.sleep(0)
    assert (world.store.transactions, await world.held()) == (before, [])
    world.addresses.frozen = False
    await eventually_async(world.held)
