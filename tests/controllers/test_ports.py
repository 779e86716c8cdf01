"""Which Services get ports of the nodes, which they keep, and that nobody gets another's."""

from __future__ import annotations

import asyncio
from collections.abc import Sized

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.controllers.batch import MOST_OPERATIONS
from felixpy.controllers.nodeports import LEADER_KEY, serve_node_ports, settle_ports
from felixpy.controllers.ports import RANGE, WATCHED, PortAllocation
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import Expect, Store
from tests.controllers.world import SERVICES, Cluster
from tests.support.wait import eventually_async

PORTS = "/felixpy/grants/ports/"


async def made() -> tuple[MemoryStore, Cluster, Expect]:
    store = MemoryStore()
    cluster = Cluster(store)
    await cluster.initialise()
    return store, cluster, Expect(LEADER_KEY, await store.put(LEADER_KEY, b"{}"))


async def observe_all(store: Store) -> PortAllocation:
    ports = PortAllocation()
    for pair in (await store.snapshot(WATCHED)).items:
        ports.observe(pair.key, pair.value, pair.mod_revision)
    return ports


async def run_once(store: Store, fence: Expect) -> PortAllocation:
    ports = await observe_all(store)
    assert await settle_ports(store, fence, ports)
    return ports


async def granted(cluster: Cluster) -> dict[str, dict[str, int]]:
    """By Service: what for, and which port."""
    found: dict[str, dict[str, int]] = {}
    for body in (await cluster.read(PORTS)).values():
        for use in body["uses"]:  # type: ignore[attr-defined]
            assert use not in found.get(str(body["service"]), {}), "two ports for one use"
            found.setdefault(str(body["service"]), {})[use] = int(str(body["port"]))
    return found


def port(number: int, protocol: str = "TCP", node_port: int = 0) -> dict[str, object]:
    return {"name": f"{protocol}-{number}".lower(), "port": number, "protocol": protocol, "nodePort": node_port}


async def test_each_port_gets_one_and_both_protocols_of_a_number_the_same() -> None:
    store, cluster, fence = await made()
    await cluster.put_service(
        "a/x", type="NodePort", ports=[port(53), port(53, "UDP"), port(80), port(443, "TCP", 31443)]
    )
    await run_once(store, fence)
    ports = (await granted(cluster))["a/x"]
    assert set(ports) == {"TCP/53", "UDP/53", "TCP/80"}, "the one that it names needs no grant"
    assert ports["TCP/53"] == ports["UDP/53"] != ports["TCP/80"]
    assert all(one in RANGE for one in ports.values())


async def test_of_services_that_are_gone_nothing_is_kept() -> None:
    store, cluster, fence = await made()
    ports = await observe_all(store)
    before = sizes(ports)
    for number in range(5):
        key = f"{SERVICES}a/{number}".encode()
        for there in (True, False):
            await (cluster.put_service(f"a/{number}", type="NodePort") if there else store.delete(key))
            now = await store.snapshot([key])
            ports.observe(key, now.items[0].value if there else None, now.revision)
            assert await settle_ports(store, fence, ports)
    assert sizes(ports) == before


def sizes(ports: PortAllocation) -> dict[str, int]:
    return {name: len(held) for name, held in vars(ports).items() if isinstance(held, Sized)}


@pytest.mark.parametrize(
    ("spec", "uses"),
    [
        ({"type": "LoadBalancer"}, {"TCP/80"}),
        ({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}, set()),
        ({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}, {"TCP/80", "health"}),
        ({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}, {"TCP/80"}),
        ({"type": "NodePort", "externalTrafficPolicy": "Local"}, {"TCP/80"}),
        ({"type": "ClusterIP"}, set()),
    ],
)
async def test_who_gets_ports(spec: dict[str, object], uses: set[str]) -> None:
    store, cluster, fence = await made()
    await cluster.put_service("a/x", **spec)
    await run_once(store, fence)
    assert set((await granted(cluster)).get("a/x", {})) == uses


async def test_what_was_given_stays_and_goes_with_the_service() -> None:
    store, cluster, fence = await made()
    await cluster.put_service("a/x", type="NodePort")
    await run_once(store, fence)
    before = await granted(cluster)
    await cluster.put_service("a/x", type="NodePort", ports=[port(80), port(80, "UDP"), port(8080)])
    await run_once(store, fence)
    after = await granted(cluster)
    assert after["a/x"]["TCP/80"] == after["a/x"]["UDP/80"] == before["a/x"]["TCP/80"]
    revision = store.revision
    await run_once(store, fence)
    assert store.revision == revision, "a restart writes nothing"
    await cluster.delete_service("a/x")
    await run_once(store, fence)
    assert await granted(cluster) == {}
    await cluster.put_service("a/x", type="NodePort")
    await run_once(store, fence)
    assert await granted(cluster) == before, "one that comes back has its port again"


async def test_a_port_that_is_named_is_given_to_nobody_and_a_full_range_serves_the_rest() -> None:
    store, cluster, fence = await made()
    free = list(RANGE)[-2:]
    ports = [port(number, "TCP", taken) for number, taken in enumerate(list(RANGE)[:-2], 1)]
    await cluster.put_service("a/all", type="NodePort", ports=ports)
    for name in ("b/1", "b/2", "b/3"):
        await cluster.put_service(name, type="NodePort")
    running = await run_once(store, fence)
    held = await granted(cluster)
    assert sorted(one for uses in held.values() for one in uses.values()) == free
    assert len(running.waiting) == 1
    (late,) = running.waiting
    other = next(iter(held))
    await cluster.delete_service(other)
    running.observe((SERVICES + other).encode(), None, store.revision)
    assert await settle_ports(store, fence, running)
    assert str(late) in await granted(cluster)


async def test_a_service_of_any_number_of_ports_fits_in_transactions_and_so_does_its_end() -> None:
    store, cluster, fence = await made()
    many = [port(number) for number in range(1, 301)]
    for name in (*(f"a/{number}" for number in range(80)), "b/many", "c/last"):
        await cluster.put_service(name, type="NodePort", **({"ports": many} if name == "b/many" else {}))
    for left in (381, 81):
        ports = await observe_all(store)
        while (batch := ports.next_batch()) is not None:
            assert max(len(batch.expect) + 1, len(batch.writes)) <= MOST_OPERATIONS
            done = await store.transact([fence, *batch.expect], batch.writes)
            assert done.succeeded
            ports.settle(batch, done.revision)
        assert len(await cluster.read(PORTS)) == left
        await cluster.delete_service("b/many")


async def test_the_running_controller_follows_and_outlives_a_refusal() -> None:
    store, cluster, fence = await made()
    running = asyncio.create_task(serve_node_ports(store, fence))
    try:
        for number in range(20):
            await cluster.put_service(f"a/{number}", type="NodePort")
        await eventually_async(lambda: _count(cluster, 20))
        await cluster.put("/felixpy/grants/ports/30000", {"port": 30000, "service": "a/gone", "uses": ["TCP/1"]})
        await cluster.delete_service("a/3")
        await eventually_async(lambda: _count(cluster, 19), what="what belongs to nobody goes too")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _count(cluster: Cluster, wanted: int) -> bool:
    return len(await cluster.read(PORTS)) == wanted


_steps = st.lists(
    st.tuples(
        st.sampled_from(["a/1", "a/2", "b/3"]),
        st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {"type": st.sampled_from(["NodePort", "LoadBalancer", "ClusterIP"])},
                optional={
                    "externalTrafficPolicy": st.sampled_from(["Local", "Cluster"]),
                    "ports": st.sampled_from([[port(80)], [port(80), port(80, "UDP")], [port(80, "TCP", 30080)]]),
                },
            ),
        ),
    ),
    max_size=12,
)


async def _follow(steps: list[tuple[str, dict[str, object] | None]]) -> None:
    store, cluster, fence = await made()
    running = await observe_all(store)
    for name, spec in steps:
        await (cluster.delete_service(name) if spec is None else cluster.put_service(name, **spec))
        pair = await store.get((SERVICES + name).encode())
        running.observe((SERVICES + name).encode(), pair.value if pair else None, store.revision)
        assert await settle_ports(store, fence, running)
        assert (await observe_all(store)).next_batch() is None, "a new controller would change something"
        by_port = await cluster.read(PORTS)
        assert all(str(body["port"]) == key for key, body in by_port.items())


@settings(max_examples=150, deadline=None)
@given(_steps)
def test_the_state_alone_decides(steps: list[tuple[str, dict[str, object] | None]]) -> None:
    asyncio.run(_follow(steps))
