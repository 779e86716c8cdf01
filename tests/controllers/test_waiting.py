"""Who waits for an address: a release wakes the first of each class, and nobody who could have it is passed over."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from felixpy.controllers.allocation import Allocation
from felixpy.controllers.loadbalancer import settle_all
from felixpy.controllers.waiting import Waiting
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import Expect
from felixpy.resources.kinds import Name
from tests.controllers.world import SERVICES, STATUS, Cluster, observe_all, take_leadership

_NAMES = st.sampled_from([f"a/{number}" for number in range(1, 8)])
_specs = st.fixed_dictionaries(
    {},
    optional={
        "loadBalancerIP": st.just("203.0.113.1"),
        "ports": st.sampled_from([[{"port": 80}], [{"port": 443}]]),
        "created": st.sampled_from(["2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"]),
    },
)
_annotations = st.fixed_dictionaries({}, optional={"allow-shared-ip": st.sampled_from(["k", "l"])})
_steps = st.tuples(_NAMES, st.one_of(st.none(), st.tuples(_specs, _annotations), st.tuples(_specs, _annotations)))


class World:
    """A controller and a pool of two addresses, for seven Services."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.cluster = Cluster(self.store)

    async def start(self) -> None:
        await self.cluster.initialise()
        await self.cluster.put_pool("one", "203.0.113.1/32", "203.0.113.9/32")
        self.fence: Expect = await take_leadership(self.store)
        self.allocation: Allocation = await observe_all(self.store)

    async def tell(self, *names: str) -> None:
        """The controller is told of these Services at once, and does what is due."""
        for name in names:
            pair = await self.store.get(f"{SERVICES}{name}".encode())
            value, revision = (pair.value, pair.mod_revision) if pair else (None, self.store.revision)
            self.allocation.observe(f"{SERVICES}{name}".encode(), value, revision)
        await settle_all(self.store, self.fence, self.allocation)


async def _play(rounds: list[list[tuple[str, tuple[dict[str, object], dict[str, str]] | None]]]) -> None:
    world = World()
    await world.start()
    for steps in rounds:
        for name, wish in steps:
            if wish is None:
                await world.cluster.delete_service(name)
            else:
                await world.cluster.put_service(name, annotations=wish[1], **wish[0])  # type: ignore[arg-type]
        await world.tell(*(name for name, _ in steps))
        assert (await observe_all(world.store)).next_batch("") is None, "a new controller would change something"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(_steps, min_size=1, max_size=5), max_size=8))
def test_nobody_who_waits_is_passed_over(
    rounds: list[list[tuple[str, tuple[dict[str, object], dict[str, str]] | None]]],
) -> None:
    asyncio.run(_play(rounds))


async def test_who_leaves_in_the_moment_of_a_release_passes_its_turn_on() -> None:
    world = World()
    await world.start()
    names = [f"a/{number}" for number in range(1, 6)]
    for name in names:
        await world.cluster.put_service(name)
        await world.tell(name)
    await world.cluster.delete_service("a/1")
    await world.cluster.delete_service("a/3")
    await world.tell("a/3", "a/1")
    assert await world.cluster.grants() == {"203.0.113.1": ["a/4"], "203.0.113.9": ["a/2"]}


async def test_all_of_a_class_are_told_what_has_become_otherwise() -> None:
    world = World()
    await world.start()
    wish = {"loadBalancerIP": "203.0.113.1"}
    await world.cluster.put_service("a/1", **wish)
    await world.tell("a/1")
    for name in ("a/2", "a/3", "a/4"):
        await world.cluster.put_service(name, annotations={"allow-shared-ip": "k"}, **wish)
        await world.tell(name)
    await world.cluster.put_service("a/1", annotations={"allow-shared-ip": "k"}, **wish)
    await world.tell("a/1")
    said = await world.cluster.read(STATUS)
    assert {said[name]["conditions"][0]["reason"] for name in ("a/2", "a/3", "a/4")} == {"PORT_TAKEN"}  # type: ignore[index]


def test_a_class_is_served_by_age_and_then_by_name() -> None:
    waiting = Waiting()
    for name, created in (("c", "1"), ("a", "2"), ("b", "1")):
        waiting.join(Name("n", name), created, "kind", "words")
    waiting.join(Name("n", "c"), "3", "kind", "words")
    served = []
    while (first := waiting.first_of("kind")) is not None:
        served.append(first.name)
        waiting.leave(first)
    assert served == ["b", "a", "c"]
    assert waiting.firsts() == []
