"""Services with addresses of Calico's IPPools: recorded as Calico's own controller records them, and found again."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime

import pytest

from felixpy.addresses import parse_address, parse_prefix
from felixpy.controllers.allocation import WATCHED
from felixpy.controllers.calico_holdings import make_handle
from felixpy.controllers.loadbalancer import serve_load_balancer, settle_all
from felixpy.ctl.applying.moves import derive_moves
from felixpy.datastore.client import open_store
from felixpy.datastore.ipam_store import IpamStore
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import Expect, Store
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from felixpy.resources.kinds import Name
from ipam import addresses as ipam_addresses
from ipam.codec import parse_block, parse_handle
from ipam.engine import Allocator
from ipam.model import LOAD_BALANCER, Use, affinity_key, block_key, handle_key
from ipam.request import Request
from tests.controllers.world import GRANTS, POOLS, Cluster, observe_all, run_once, take_leadership
from tests.support.etcd import Etcd
from tests.support.wait import eventually_async

IP_POOLS = "/calico/resources/v3/projectcalico.org/ippools/"
RESERVATIONS = "/calico/resources/v3/projectcalico.org/ipreservations/"
CONTROLLERS = "/calico/resources/v3/projectcalico.org/kubecontrollersconfigurations/"
BLOCK = ipam_addresses.Prefix(ipam_addresses.Address(parse_prefix("203.0.113.0/28").address), 28)
HANDLE = "lb-gq7tFkUs5e5s4JLiHs8oSpqCXqxW3et5tXdnLacg"


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def fence(store: MemoryStore) -> Expect:
    return await take_leadership(store)


@pytest.fixture
async def cluster(store: MemoryStore) -> Cluster:
    made = Cluster(store)
    await made.initialise()
    await put_ip_pool(made, "lb", "203.0.113.0/28")
    return made


async def put_ip_pool(cluster: Cluster, name: str, cidr: str, **spec: object) -> None:
    body = {"cidr": cidr, "blockSize": 28, "allowedUses": ["LoadBalancer"], **spec}
    await cluster.put(IP_POOLS + name, {"metadata": {"name": name}, "spec": body})


def calico(**annotations: list[str]) -> dict[str, dict[str, str]]:
    return {"calico": {f"projectcalico.org/{word}": json.dumps(value) for word, value in annotations.items()}}


async def recorded(store: Store) -> dict[str, str]:
    """Address → `namespace/service` and handle, as the block says."""
    pair = await store.get(block_key(BLOCK).encode())
    if pair is None:
        return {}
    block = parse_block(pair.value)
    assert block.affinity == "virtual:load-balancer"
    found = {}
    for ordinal in range(block.cidr.size):
        attribute = block.attribute_of(ordinal)
        if attribute is not None:
            who = f"{attribute.owner['namespace']}/{attribute.owner['service']}"
            found[ipam_addresses.format_address(block.cidr.nth(ordinal))] = f"{who} {attribute.holder}"
    return found


def test_the_handle_is_calico_s() -> None:
    """As `printf web-default-uid-1 | openssl dgst -sha256 -binary | base64` has it, without what is no letter."""
    assert make_handle(Name("default", "web"), "UID-1") == HANDLE


async def test_an_address_is_recorded_in_calico_s_own_form(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("default/web", uid="uid-1")
    await run_once(store, fence)
    assert await cluster.read(GRANTS) == {
        "203.0.113.0": {"address": "203.0.113.0", "services": ["default/web"], "pool": "ippools/lb"}
    }
    assert await recorded(store) == {"203.0.113.0": f"default/web {HANDLE}"}
    handle = await store.get(handle_key(HANDLE).encode())
    assert handle is not None
    assert parse_handle(handle.value).blocks == {BLOCK: 1}
    assert await store.get(affinity_key(LOAD_BALANCER, BLOCK).encode()) is not None
    revision = store.revision
    await run_once(store, fence)
    assert store.revision == revision, "a restart writes nothing"


async def test_what_is_given_back_is_given_back_there_too(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    running = asyncio.create_task(serve_load_balancer(store, fence))
    try:
        await cluster.put_service("default/web", uid="uid-1")
        await eventually_async(lambda: holds(store, {"203.0.113.0": f"default/web {HANDLE}"}))
        await cluster.put_service("default/web", uid="uid-1", loadBalancerIP="203.0.113.3")
        await eventually_async(lambda: holds(store, {"203.0.113.3": f"default/web {HANDLE}"}))
        await cluster.delete_service("default/web")
        await eventually_async(lambda: holds(store, {}))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert await cluster.grants() == {}
    assert await store.get(handle_key(HANDLE).encode()) is None


async def holds(store: Store, wanted: dict[str, str]) -> bool:
    return await recorded(store) == wanted


async def test_pools_and_addresses_are_asked_for_by_calico_s_annotations(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await put_ip_pool(cluster, "manual", "198.51.100.0/28", assignmentMode="Manual")
    await cluster.put_service("a/1", annotations={}, **calico(ipv4pools=["manual"]))
    await cluster.put_service("a/2", **calico(ipv4pools=["198.51.100.0/28"]))
    await cluster.put_service("a/3", **calico(loadBalancerIPs=["203.0.113.9"]))
    await cluster.put_service("a/4")
    await cluster.put_service("a/5", **calico(ipv4pools=["unknown"]))
    await run_once(store, fence)
    assert await cluster.addresses() == {
        "a/1": ["198.51.100.0"],
        "a/2": ["198.51.100.1"],
        "a/3": ["203.0.113.9"],
        "a/4": ["203.0.113.0"],
        "a/5": [],
    }


async def test_a_reserved_address_is_for_those_who_ask_for_it(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("a/1")
    await run_once(store, fence)
    reserved = {"spec": {"reservedCIDRs": ["203.0.113.0/30", "203.0.113.5/32", "2001:db8::/64"]}}
    await cluster.put(RESERVATIONS + "lb", {"metadata": {"name": "lb"}, **reserved})
    await cluster.put_service("a/2")
    await cluster.put_service("a/3")
    await cluster.put_service("a/4", loadBalancerIP="203.0.113.2")
    await run_once(store, fence)
    assert await cluster.addresses() == {
        "a/1": ["203.0.113.0"],
        "a/2": ["203.0.113.4"],
        "a/3": ["203.0.113.6"],
        "a/4": ["203.0.113.2"],
    }, "who holds one keeps it"
    await cluster.put(RESERVATIONS + "lb", {"metadata": {"name": "lb"}, "spec": {"reservedCIDRs": ["203.0.0.0/16"]}})
    await cluster.put_service("a/5")
    await run_once(store, fence)
    assert await cluster.reason("a/5") == "FULL"
    await cluster.delete(RESERVATIONS + "lb")
    await run_once(store, fence)
    assert (await cluster.addresses())["a/5"] == ["203.0.113.1"]


async def test_where_only_requests_are_served_others_get_nothing_of_calico_s(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("a/1")
    await run_once(store, fence)
    spec = {"controllers": {"loadBalancer": {"assignIPs": "RequestedServicesOnly"}}}
    await cluster.put(CONTROLLERS + "default", {"metadata": {"name": "default"}, "spec": spec})
    await cluster.put_service("a/2")
    await cluster.put_service("a/3", loadBalancerClass="calico")
    await cluster.put_service("a/4", **calico(ipv4pools=["lb"]))
    await cluster.put_service("a/5", loadBalancerIP="203.0.113.9")
    await run_once(store, fence)
    assert await cluster.addresses() == {
        "a/1": ["203.0.113.0"],
        "a/2": [],
        "a/3": ["203.0.113.1"],
        "a/4": ["203.0.113.2"],
        "a/5": ["203.0.113.9"],
    }, "who holds one keeps it"
    assert await cluster.reason("a/2") == "NOT_ASKED"
    await cluster.put_pool("metallb", "192.0.2.0/28")
    await run_once(store, fence)
    assert (await cluster.addresses())["a/2"] == ["192.0.2.0"], "MetalLB's pools are for all"


async def test_a_pool_that_cannot_be_read_moves_nobody(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("a/1")
    await run_once(store, fence)
    await cluster.put_pool("metallb", "192.0.2.0/28")
    await put_ip_pool(cluster, "lb", "203.0.113.0/bad")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/1": ["203.0.113.0"]}
    assert await cluster.reason("a/1") == "POOL_UNREADABLE"


async def test_the_last_pool_goes_and_then_its_holder(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_service("a/1")
    await run_once(store, fence)
    await cluster.delete(IP_POOLS + "lb")
    await run_once(store, fence)
    assert await cluster.grants() == {"203.0.113.0": ["a/1"]}, "nothing else is to be had"
    await cluster.delete_service("a/1")
    await run_once(store, fence)
    assert (await cluster.grants(), await recorded(store)) == ({}, {})


async def test_a_change_of_the_address_asked_for_is_one_exchange(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("default/web", uid="uid-1")
    await run_once(store, fence)
    before = store.revision
    await cluster.put_service("default/web", uid="uid-1", loadBalancerIP="203.0.113.5")
    await run_once(store, fence)
    assert await recorded(store) == {"203.0.113.5": f"default/web {HANDLE}"}
    assert await cluster.addresses() == {"default/web": ["203.0.113.5"]}
    assert store.revision == before + 2, "the Service, and all that came of it"


async def test_nobody_shares_an_address_of_calico_s(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    for name, port in (("a/1", 80), ("a/2", 443)):
        await cluster.put_service(name, annotations={"allow-shared-ip": "k"}, ports=[{"port": port}])
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/1": ["203.0.113.0"], "a/2": ["203.0.113.1"]}


async def test_its_class_is_served_from_its_pools_alone(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    await cluster.put_pool("metallb", "192.0.2.0/28")
    await cluster.put_service("a/1", loadBalancerClass="calico")
    await cluster.put_service("a/2", loadBalancerClass="other")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/1": ["203.0.113.0"]}


async def test_what_calico_s_controller_recorded_is_kept(store: MemoryStore, fence: Expect, cluster: Cluster) -> None:
    theirs = Allocator(IpamStore(store), LOAD_BALANCER, now=lambda: datetime.now(UTC), rng=random.Random(1))
    owner = {"service": "web", "namespace": "default", "type": "LoadBalancer"}
    wanted = ipam_addresses.Address(parse_address("203.0.113.7"))
    await theirs.assign(Request(HANDLE, owner, addresses=(wanted,), use=Use.LOAD_BALANCER))
    stranger = ipam_addresses.Address(parse_address("203.0.113.0"))
    await theirs.assign(Request("somebody", {"node": "n1"}, addresses=(stranger,), use=Use.LOAD_BALANCER))
    await cluster.put_service("default/web", uid="uid-1")
    await cluster.put_service("default/new", uid="uid-2")
    await run_once(store, fence)
    assert await cluster.addresses() == {"default/web": ["203.0.113.7"], "default/new": ["203.0.113.1"]}
    await cluster.delete_service("default/web")
    await run_once(store, fence)
    assert set(await recorded_addresses(store)) == {"203.0.113.0", "203.0.113.1"}


async def recorded_addresses(store: Store) -> list[str]:
    pair = await store.get(block_key(BLOCK).encode())
    assert pair is not None
    block = parse_block(pair.value)
    held = (ordinal for ordinal in range(block.cidr.size) if block.attribute_of(ordinal) is not None)
    return [ipam_addresses.format_address(block.cidr.nth(ordinal)) for ordinal in held]


async def test_a_pool_of_each_kind_for_one_address_is_refused_with_both_names(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_pool("vips", "203.0.113.0/24")
    running = await run_once(store, fence)
    await cluster.put_service("a/1")
    running = await run_once(store, fence)
    assert running.overlapping == {"ippools/lb": "vips"}
    assert await cluster.grants() == {"203.0.113.0": ["a/1"]}
    assert (await cluster.read(GRANTS))["203.0.113.0"]["pool"] == "vips"
    await cluster.delete(POOLS + "vips")


async def test_a_service_that_changed_meanwhile_gets_nothing(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("a/1")
    allocation = await observe_all(store)
    await cluster.delete_service("a/1")
    await settle_all(store, fence, allocation)
    assert (await cluster.grants(), await store.get(block_key(BLOCK).encode())) == ({}, None)


async def test_a_real_etcd_takes_it_in_one_transaction(etcd: Etcd) -> None:
    etcd.delete_prefix("/")
    store = open_store(EtcdSettings(parse_endpoints(etcd.url)))
    running: asyncio.Task[None] | None = None
    try:
        cluster = Cluster(store)
        await cluster.initialise()
        await put_ip_pool(cluster, "lb", "203.0.113.0/28")
        running = asyncio.create_task(serve_load_balancer(store, await take_leadership(store)))
        await cluster.put_service("default/web", uid="uid-1")
        await eventually_async(lambda: holds(store, {"203.0.113.0": f"default/web {HANDLE}"}))
        keys = (block_key(BLOCK), handle_key(HANDLE), f"{GRANTS}203.0.113.0")
        pairs = [await store.get(key.encode()) for key in keys]
        assert len({pair.mod_revision for pair in pairs if pair is not None}) == 1, "all at one revision"
        await cluster.put_service("default/web", uid="uid-1", loadBalancerIP="203.0.113.3")
        await eventually_async(lambda: holds(store, {"203.0.113.3": f"default/web {HANDLE}"}))
        await cluster.delete_service("default/web")
        await eventually_async(lambda: holds(store, {}))
        assert await cluster.grants() == {}
    finally:
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await store.close()


async def test_what_a_change_of_such_a_pool_would_move_is_said_before(
    store: MemoryStore, fence: Expect, cluster: Cluster
) -> None:
    await cluster.put_service("a/1")
    await run_once(store, fence)
    pairs = (await store.snapshot(WATCHED)).items
    spec = {"cidr": "198.51.100.0/28", "blockSize": 28, "allowedUses": ["LoadBalancer"]}
    body = json.dumps({"metadata": {"name": "lb"}, "spec": spec}).encode()
    (move,) = derive_moves(pairs, {IP_POOLS + "lb": body})
    assert str(move) == "Service a/1: 203.0.113.0 → 198.51.100.0"
    await put_ip_pool(cluster, "lb", "198.51.100.0/28")
    await run_once(store, fence)
    assert await cluster.addresses() == {"a/1": ["198.51.100.0"]}
    assert await recorded(store) == {}, "the old block has nobody any more"
