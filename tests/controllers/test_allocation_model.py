"""Allocation as a state machine against a model of dicts: leaders that crash at any write, come late, or are two.

The model knows nothing of how an address is chosen. It says who may hold which, that nobody moves without a cause, and
that nobody waits while something is to be had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from felixpy.controllers.allocation import WATCHED, Allocation
from felixpy.controllers.leader import LeadershipLost
from felixpy.controllers.loadbalancer import LEADER_KEY, observe_events, settle_all
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import Event, Expect, TxnResult, Write
from tests.controllers.world import Cluster, observe_all

POOLS = {
    "one": ["203.0.113.1/32"],
    "two": ["198.51.100.0/32", "2001:db8::/127"],
    "big": ["192.0.2.0/30", "2001:db8:1::/126"],
}


class Crash(Exception):
    """The leader's process is killed."""


class FragileStore(MemoryStore):
    """Kills whoever writes, right before or right after the write takes place, when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.crash_in: int | None = None
        self.after = False

    async def transact(self, expect: Sequence[Expect], writes: Sequence[Write]) -> TxnResult:
        if self.crash_in is None:
            return await super().transact(expect, writes)
        self.crash_in -= 1
        if self.crash_in >= 0:
            return await super().transact(expect, writes)
        self.crash_in = None
        if self.after:
            await super().transact(expect, writes)
        raise Crash


@dataclass
class Model:
    """What people wrote, and who held what when all was settled."""

    pools: dict[str, dict[str, object]] = field(default_factory=dict)
    services: dict[str, dict[str, object]] = field(default_factory=dict)
    settled: dict[str, frozenset[str]] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    pools_changed: bool = False

    def addresses(self, pool: str) -> list[str]:
        nets = [ip_network(text) for text in POOLS[pool]]
        return [str(one) for net in nets for one in net]

    def may_have(self, name: str, address: str) -> bool:
        """Whether some pool that is for the Service has the address, and it is not another one that was asked for."""
        spec = self.services[name]
        if spec.get("ip") not in (None, address):
            return False
        return any(address in self.addresses(pool) for pool in self.eligible(name))

    def eligible(self, name: str) -> list[str]:
        spec = self.services[name]
        return [
            pool
            for pool, options in self.pools.items()
            if options["namespaces"] in (None, name.partition("/")[0]) and spec.get("pool") in (None, pool)
        ]

    def may_share(self, one: str, other: str) -> bool:
        mine, theirs = self.services[one], self.services[other]
        return bool(mine["key"]) and mine["key"] == theirs["key"] and mine["port"] != theirs["port"]

    def is_free(self, name: str, address: str, holders: Mapping[str, list[str]]) -> bool:
        others = [one for one in holders.get(address, []) if one != name]
        return all(one in self.services and self.may_share(name, one) for one in others)


@dataclass
class Leader:
    """A controller with its own, possibly late, knowledge."""

    allocation: Allocation
    fence: Expect
    seen: int
    alive: bool = True


class AllocationMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = FragileStore()
        self.cluster = Cluster(self.store)
        self.model = Model()
        self.leaders: list[Leader] = []
        self.log: list[Event] = []

    def run(self, work: object) -> object:
        return asyncio.run(work)  # type: ignore[arg-type]

    @initialize()
    def begin(self) -> None:
        self.run(self.cluster.initialise())
        self.elect()

    @rule(usurps=st.booleans())
    def elect(self, usurps: bool = True) -> None:
        """A new leader, which the one before does not know yet; or one more that believes to lead."""

        async def work() -> None:
            fence = self.leaders[-1].fence if self.leaders else None
            if usurps or fence is None:
                fence = Expect(LEADER_KEY, await self.store.put(LEADER_KEY, b"{}"))
            self.leaders = [*self.leaders[-1:], Leader(await observe_all(self.store), fence, self.store.revision)]

        self.run(work())

    @rule(
        name=st.sampled_from(["a/1", "a/2", "a/3", "b/4"]),
        key=st.sampled_from(["", "k", "k", "j"]),
        port=st.sampled_from([80, 443]),
        ip=st.sampled_from([None, None, None, "203.0.113.1", "192.0.2.2"]),
        pool=st.sampled_from([None, None, "one", "big"]),
        dual=st.booleans(),
    )
    def put_service(self, name: str, key: str, port: int, ip: str | None, pool: str | None, dual: bool) -> None:
        annotations = {"allow-shared-ip": key} if key else {}
        annotations |= {"address-pool": pool} if pool else {}
        spec: dict[str, object] = {"ports": [{"port": port}]}
        spec |= {"loadBalancerIP": ip} if ip else {}
        spec |= {"ipFamilyPolicy": "PreferDualStack"} if dual and not ip else {}
        self.model.services[name] = {"key": key, "port": port, "ip": ip, "pool": pool, "dual": dual and not ip}
        self.model.touched.add(name)
        self.run(self.cluster.put_service(name, annotations=annotations, **spec))

    @precondition(lambda self: self.model.services)
    @rule(data=st.data())
    def drop_service(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.services)))
        del self.model.services[name]
        self.model.touched.add(name)
        self.run(self.cluster.delete_service(name))

    @rule(name=st.sampled_from(sorted(POOLS)), namespaces=st.sampled_from([None, None, "a"]))
    def put_pool(self, name: str, namespaces: str | None) -> None:
        self.model.pools[name] = {"namespaces": namespaces}
        self.model.pools_changed = True
        allocation = {"serviceAllocation": {"namespaces": [namespaces]}} if namespaces else {}
        self.run(self.cluster.put_pool(name, *POOLS[name], **allocation))

    @precondition(lambda self: self.model.pools)
    @rule(data=st.data())
    def drop_pool(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.pools)))
        del self.model.pools[name]
        self.model.pools_changed = True
        self.run(self.cluster.delete(f"/felixpy/resources/metallb.io/v1beta1/ipaddresspools/metallb-system/{name}"))

    @rule(
        which=st.integers(0, 1),
        crash=st.one_of(st.none(), st.integers(0, 3)),
        after=st.booleans(),
        late=st.sampled_from([0, 0, 1, 2]),
    )
    def work(self, which: int, crash: int | None, after: bool, late: int) -> None:
        """A leader hears of what it has not yet, but for the `late` last, and does what is due; or dies at a write."""
        leader = self.leaders[which % len(self.leaders)]
        self.store.crash_in, self.store.after = crash, after

        async def work() -> None:
            observe_events(leader.allocation, await self._events(leader, late))
            await settle_all(self.store, leader.fence, leader.allocation)

        try:
            self.run(work())
        except (Crash, LeadershipLost):
            self.leaders.remove(leader)
        finally:
            self.store.crash_in = None
        if not self.leaders:
            self.elect()

    async def _events(self, leader: Leader, late: int) -> list[Event]:
        """Those that it has not heard of, less the last revisions."""
        first, last = leader.seen + 1, max(leader.seen, self.store.revision - late)
        leader.seen = last
        watching = self.store.watch(WATCHED, first)
        events: list[Event] = []
        try:
            while True:
                async with asyncio.timeout(0.001):
                    events += await anext(watching)
        except TimeoutError:
            return [event for event in events if event.mod_revision <= last]
        finally:
            await watching.aclose()

    @rule()
    def settle(self) -> None:
        """A leader that nobody disturbs does all that is due; then the model is asked."""
        self.elect()

        async def work() -> None:
            leader = self.leaders[-1]
            await settle_all(self.store, leader.fence, leader.allocation)
            assert (await observe_all(self.store)).next_batch("") is None

        self.run(work())
        self._judge()

    def _judge(self) -> None:
        model, holders = self.model, self._holders()
        held: dict[str, set[str]] = {}
        for address, names in holders.items():
            for name in names:
                held.setdefault(name, set()).add(address)
        assert held.keys() <= model.services.keys(), "somebody who is gone holds an address"
        for name, spec in model.services.items():
            mine = held.get(name, set())
            allowed = {one for one in mine if model.may_have(name, one)}
            before = model.settled.get(name, frozenset())
            stayed = name not in model.touched and not model.pools_changed and before
            assert not stayed or before <= mine, f"{name} moved from {before} to {mine} without a cause"
            if not mine or not allowed:
                free = [
                    address
                    for pool in model.eligible(name)
                    for address in model.addresses(pool)
                    if ip_address(address).version == 4
                    and spec["ip"] in (None, address)
                    and model.is_free(name, address, holders)
                ]
                assert not free, f"{name} has {mine}, and {free} are free"
        model.settled = {name: frozenset(mine) for name, mine in held.items()}
        model.touched.clear()
        model.pools_changed = False

    def _holders(self) -> dict[str, list[str]]:
        return dict(self.run(self.cluster.grants()))  # type: ignore[call-overload]

    @invariant()
    def nobody_holds_two_of_a_family_and_status_is_what_is_granted(self) -> None:
        holders = self._holders()
        families = [(name, ":" in address) for address, names in holders.items() for name in names]
        assert len(families) == len(set(families))
        said = self.run(self.cluster.addresses())
        assert {name: sorted(some) for name, some in said.items() if some} == {  # type: ignore[attr-defined]
            name: sorted(address for address, names in holders.items() if name in names)
            for name in {name for names in holders.values() for name in names}
        }

    @invariant()
    def only_those_share_who_may_or_did_when_they_last_were_written(self) -> None:
        for names in self._holders().values():
            for one in names:
                for other in names:
                    known = {one, other} <= self.model.services.keys()
                    if one < other and known and not {one, other} & self.model.touched:
                        assert self.model.may_share(one, other), f"{one} and {other} share and may not"


TestAllocation = AllocationMachine.TestCase
TestAllocation.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
