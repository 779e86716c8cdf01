"""Election and allocation together, on both Stores: one leads, nobody gets what another has, nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from felixpy.controllers import serve_controllers
from felixpy.controllers.allocation import WATCHED, Allocation
from felixpy.controllers.leader import lead
from felixpy.controllers.loadbalancer import LEADER_KEY, observe_events, settle_all
from felixpy.datastore import client
from felixpy.datastore.client import open_store
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import Expect, Store, TxnResult, Write
from felixpy.datastore.settings import EtcdSettings, parse_endpoints
from tests.controllers.world import GRANTS, Cluster, observe_all, take_leadership
from tests.support.etcd import Etcd
from tests.support.wait import eventually_async

KEY = b"/felixpy/leaders/test"


class HesitantStore(MemoryStore):
    """Lets others run before each transaction, as a network does."""

    async def transact(self, expect: Sequence[Expect], writes: Sequence[Write]) -> TxnResult:
        await asyncio.sleep(0)
        return await super().transact(expect, writes)


@pytest.fixture(params=["memory", "etcd"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield HesitantStore()
        return
    etcd: Etcd = request.getfixturevalue("etcd")
    etcd.delete_prefix("/")
    opened = open_store(EtcdSettings(parse_endpoints(etcd.url)))
    yield opened
    await opened.close()


@pytest.fixture
async def start() -> AsyncIterator[Callable[[Awaitable[None]], asyncio.Task[None]]]:
    """Runs coroutines in the background until the test ends."""
    tasks: list[asyncio.Task[None]] = []

    def begin(work: Awaitable[None]) -> asyncio.Task[None]:
        tasks.append(asyncio.ensure_future(work))
        return tasks[-1]

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Start = Callable[[Awaitable[None]], "asyncio.Task[None]"]


class Office:
    """Who leads now, as the works themselves say."""

    def __init__(self) -> None:
        self.leaders: list[str] = []
        self.fences: dict[str, Expect] = {}

    def work_of(self, node: str) -> Callable[[Expect], Awaitable[None]]:
        async def work(fence: Expect) -> None:
            self.leaders.append(node)
            self.fences[node] = fence
            try:
                await asyncio.Event().wait()
            finally:
                self.leaders.remove(node)

        return work

    async def one_leads(self) -> str | None:
        return self.leaders[0] if len(self.leaders) == 1 else None


async def test_one_of_several_leads_and_another_follows_when_it_ends(store: Store, start: Start) -> None:
    office = Office()
    tasks = {node: start(lead(store, KEY, node, office.work_of(node), 5)) for node in ("n1", "n2", "n3")}
    first = await eventually_async(office.one_leads)
    tasks[first].cancel()

    async def another_leads() -> bool:
        return len(office.leaders) == 1 and office.leaders[0] != first

    await eventually_async(another_leads)


async def test_whose_key_goes_stops_and_its_transactions_fail(store: Store, start: Start) -> None:
    office = Office()
    start(lead(store, KEY, "n1", office.work_of("n1"), 5))
    await eventually_async(office.one_leads)
    fence = office.fences["n1"]
    await store.put(KEY, b'{"node":"usurper"}')
    assert not (await store.transact([fence], [])).succeeded

    async def its_term_has_ended() -> bool:
        return not office.leaders or office.fences["n1"] != fence

    await eventually_async(its_term_has_ended)


async def test_a_failing_datastore_is_waited_for(start: Start) -> None:
    store, office = MemoryStore(), Office()
    start(lead(store, KEY, "n1", office.work_of("n1")))
    await eventually_async(office.one_leads)
    before = office.fences["n1"]
    store.drop_watches()

    async def leads_anew() -> bool:
        return office.leaders == ["n1"] and office.fences["n1"] != before

    await eventually_async(leads_anew)


async def test_services_are_served_by_whoever_leads(store: Store, start: Start) -> None:
    cluster = Cluster(store)
    await cluster.initialise()
    await cluster.put_pool("default", "203.0.113.0/28")
    tasks = {node: start(serve_controllers(store, node, 5)) for node in ("n1", "n2")}
    for number in range(4):
        await cluster.put_service(f"a/{number}")

    async def served(count: int) -> bool:
        return sorted(map(len, (await cluster.addresses()).values())) == [1] * count

    await eventually_async(lambda: served(4))
    leader = (await cluster.read(LEADER_KEY.decode()))[""]["node"]
    tasks[str(leader)].cancel()
    before = await cluster.addresses()
    await cluster.put_service("a/4")
    await cluster.delete_service("a/0")

    async def taken_over() -> bool:
        return set(await cluster.addresses()) == {"a/1", "a/2", "a/3", "a/4"}

    await eventually_async(taken_over)
    after = await cluster.addresses()
    assert {name: after[name] for name in ("a/1", "a/2", "a/3")} == {
        name: before[name] for name in ("a/1", "a/2", "a/3")
    }


async def test_nothing_is_given_before_everything_is_read(
    store: Store, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services come before grants, and every key is a page: halfway through, the lowest addresses look free."""
    monkeypatch.setattr(client, "PAGE_KEYS", 1)
    cluster = Cluster(store)
    await cluster.initialise()
    await cluster.put_pool("default", "203.0.113.0/28")
    held = {"a/0": "203.0.113.5", "a/1": "203.0.113.3"}
    for name, address in held.items():
        await cluster.put_service(name)
        await cluster.put(GRANTS + address, {"address": address, "services": [name], "pool": "default"})
    before = {pair.key: pair.mod_revision for pair in (await store.snapshot([GRANTS.encode()])).items}
    await cluster.put_service("a/new")
    start(serve_controllers(store, "n1", 5))

    async def served() -> bool:
        return (await cluster.addresses()).keys() == {"a/0", "a/1", "a/new"}

    await eventually_async(served)
    assert await cluster.addresses() == {name: [one] for name, one in (held | {"a/new": "203.0.113.0"}).items()}
    after = {pair.key: pair.mod_revision for pair in (await store.snapshot([GRANTS.encode()])).items}
    assert before.items() <= after.items(), "and what was granted is not written again"


async def run_controller(store: Store, fence: Expect, seed: int) -> None:
    """A controller that follows the watch but is now and then late."""
    jitter = random.Random(seed)
    allocation = Allocation()
    snapshot = await store.snapshot(WATCHED)
    for pair in snapshot.items:
        allocation.observe(pair.key, pair.value, pair.mod_revision)
    await settle_all(store, fence, allocation)
    async for events in store.watch(WATCHED, snapshot.revision + 1):
        if jitter.random() < 0.3:
            await asyncio.sleep(0.002)
        observe_events(allocation, events)
        await settle_all(store, fence, allocation)


async def test_two_controllers_that_both_believe_to_lead_never_give_twice(store: Store, start: Start) -> None:
    cluster = Cluster(store)
    await cluster.initialise()
    await cluster.put_pool("default", "203.0.113.0/27")
    fence = await take_leadership(store)
    tasks = [start(run_controller(store, fence, seed)) for seed in (1, 2)]
    jitter, names = random.Random(7), [f"a/{number}" for number in range(24)]
    alive: set[str] = set()
    for _ in range(150):
        name = jitter.choice(names)
        if name in alive and jitter.random() < 0.5:
            await cluster.delete_service(name)
            alive.discard(name)
        else:
            await cluster.put_service(name)
            alive.add(name)
        held = [service for services in (await cluster.grants()).values() for service in services]
        assert len(held) == len(set(held)), "a Service has two addresses"
        assert all(len(services) == 1 for services in (await cluster.grants()).values()), "an address was given twice"

    async def settled() -> bool:
        grants, addresses = await cluster.grants(), await cluster.addresses()
        if set(addresses) != alive or {name: [ip] for ip, (name,) in grants.items()} != addresses:
            return False
        return (await observe_all(store)).next_batch("") is None

    await eventually_async(settled, what="a third would find nothing to do")
    assert not [task for task in tasks if task.done()]


async def test_a_leader_s_key_without_a_lease_leads_nobody(store: Store, start: Start) -> None:
    cluster = Cluster(store)
    await cluster.initialise()
    await cluster.put_pool("default", "203.0.113.0/30")
    await store.put(LEADER_KEY, b'{"node":"gone"}')
    start(serve_controllers(store, "n1", 2))
    await cluster.put_service("a/1")

    async def served() -> bool:
        return bool((await cluster.addresses()).get("a/1"))

    await eventually_async(served)
