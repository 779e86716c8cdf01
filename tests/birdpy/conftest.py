"""Routers of a test: one namespace each on one link, with gobgpd (3 or 4), BIRD or FRR in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from birdpy.addresses import Prefix, parse_address
from birdpy.fib import Fib, LearnedRoute
from birdpy.gobgp.client import GobgpClient
from birdpy.gobgp.driver import GobgpDriver
from birdpy.gobgp.plan import AddNeighbor, RemoveNeighbor, Withdraw, plan
from birdpy.gobgp.program import ENVIRONMENT
from birdpy.gobgp.watch import watch
from birdpy.intent import (
    Advertisement,
    BgpIntent,
    GracefulRestart,
    Neighbor,
    Policy,
    Speaker,
)
from birdpy.process import listener_pid
from tests.support.netns import Namespace
from tests.support.process import Daemon
from tests.support.wait import eventually_async

ROOT = Path(__file__).parents[2]
GOBGPD = {3: "/usr/bin/gobgpd", 4: str(ROOT / "build/gobgpd")}
QUICK_RESTART = GracefulRestart(restart_time_s=20, deferral_time_s=2)
QUICK_BIRD = "connect delay time 1; connect retry time 1; error wait time 1, 2;"
"""For a BIRD that connects: GoBGP 3 takes five to nine seconds to do so, BIRD with its own times five."""


@dataclass
class Router:
    """A namespace with one address per family on the common link, and the daemons started in it."""

    number: int
    namespace: Namespace
    directory: Path
    generation: int = 4
    gobgpd: Daemon | None = None
    others: list[Daemon] = field(default_factory=list)

    @property
    def text(self) -> str:
        return f"10.99.0.{self.number}"

    @property
    def address(self) -> bytes:
        return parse_address(self.text)

    @property
    def address6(self) -> bytes:
        return parse_address(f"fd99::{self.number:x}")

    @property
    def socket_path(self) -> Path:
        return self.directory / "gobgp.sock"

    def speaker(self, asn: int = 64512) -> Speaker:
        return Speaker(asn, self.address)

    def start_gobgpd(self) -> Daemon:
        self.socket_path.unlink(missing_ok=True)
        log = self.directory / "gobgpd.log"
        extra = ["--metrics-path="] if self.generation == 4 else []
        self.gobgpd = Daemon(
            [GOBGPD[self.generation], f"--api-hosts=unix://{self.socket_path}", "--pprof-disable", "-p", *extra],
            log,
            netns=self.namespace.name,
            env=ENVIRONMENT,
        ).start()
        return self.gobgpd.wait_ready(lambda: listener_pid(self.socket_path))

    def start_bird(self, config: str) -> Daemon:
        path = self.directory / "bird.conf"
        path.write_text(config)
        argv = ["bird", "-f", "-c", str(path), "-s", str(self.directory / "bird.ctl"), "-P", str(self.directory / "p")]
        bird = Daemon(argv, self.directory / "bird.log", netns=self.namespace.name).start()
        self.others.append(bird)
        return bird.wait_ready(lambda: (self.directory / "bird.ctl").exists())

    def birdc(self, *words: str) -> str:
        return self.namespace.run("birdc", "-s", self.directory / "bird.ctl", *words)

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[GobgpDriver]:
        client = await eventually_async(lambda: GobgpClient.connect(self.socket_path))
        try:
            driver = GobgpDriver(client)
            await driver.read()
            yield driver
        finally:
            await client.close()

    def stop(self) -> None:
        for daemon in [*self.others, *([self.gobgpd] if self.gobgpd else [])]:
            daemon.kill()
        self.others.clear()
        self.gobgpd = None


async def make_so(driver: GobgpDriver, intent: BgpIntent, restarting: bool = False) -> list[str]:
    """Applies `intent`; what was done, in words. Fails on the first error."""
    operations = plan(intent, driver.actual, driver.client.wire.generation)
    outcomes = await driver.apply(operations, restarting)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return [operation.describe() for operation in operations]


def session(local: Router, remote: Router, asn: int = 64512, **settings: object) -> Neighbor:
    """`local`'s neighbour `remote`; the router with the lower number waits for the other.

    The first one is the one under test, the others are of version 4, which connects in two seconds.
    """
    return Neighbor(
        remote.address,
        asn,
        source=local.address,
        passive=local.number < remote.number,
        connect_retry_s=2,
        graceful_restart=QUICK_RESTART,
        **settings,  # type: ignore[arg-type]
    )


def build_link(directory: Path, count: int) -> tuple[Namespace, list[Router]]:
    """Routers 1 to `count` on one link, and the namespace of the switch between them."""
    switch = Namespace.create("bgps")
    routers: list[Router] = []
    try:
        switch.ip("link", "add", "br0", "type", "bridge", "forward_delay", "0")
        switch.ip("link", "set", "br0", "up")
        for number in range(1, count + 1):
            namespace = Namespace.create("bgpr")
            routers.append(Router(number, namespace, directory / f"r{number}"))
            routers[-1].directory.mkdir()
            namespace.ip("link", "add", "eth0", "type", "veth", "peer", "name", f"p{number}", "netns", switch.name)
            switch.ip("link", "set", f"p{number}", "master", "br0", "up")
            namespace.add_address("eth0", f"10.99.0.{number}/24", f"fd99::{number:x}/64")
    except BaseException:
        remove_link(switch, routers)
        raise
    return switch, routers


def remove_link(switch: Namespace, routers: list[Router]) -> None:
    """Ends what runs in them, and removes them."""
    for router in routers:
        router.stop()
        router.namespace.delete()
    switch.delete()


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Router]]:
    """Four routers on one link; whatever runs in them ends with the module."""
    switch, routers = build_link(tmp_path_factory.mktemp("bgp"), 4)
    yield routers
    remove_link(switch, routers)


@pytest.fixture(params=[4, 3], ids=["v4", "v3"])
def routers(link: list[Router], request: pytest.FixtureRequest) -> Iterator[list[Router]]:
    """The four routers, without daemons; the first one is set to one version of GoBGP, the others are of version 4."""
    for router in link:
        router.generation = 4
    link[0].generation = request.param
    yield link
    for router in link:
        router.stop()


def announcing(*prefixes: Prefix) -> dict[Prefix, Advertisement]:
    """Plain advertisements."""
    return {prefix: Advertisement(prefix) for prefix in prefixes}


async def all_up(*drivers: GobgpDriver) -> bool:
    """Whether every session of every driver is up, and there is one."""
    found = [one for driver in drivers for one in (await driver.read_sessions()).values()]
    return bool(found) and all(one.established for one in found)


async def established(*drivers: GobgpDriver) -> None:
    """Waits until every session of every driver is up."""
    await eventually_async(lambda: all_up(*drivers), within_s=25, what="every session is up")


async def learned(driver: GobgpDriver) -> dict[Prefix, LearnedRoute]:
    """What a snapshot tells now."""
    fib = Fib()
    fib.resync()
    async with asyncio.timeout(40), aclosing(watch(driver.client)) as batches:
        async for batch in batches:
            fib.update(batch.events)
            if batch.snapshot_end:
                break
    return fib.routes


@pytest.fixture
def routers4(link: list[Router]) -> Iterator[list[Router]]:
    """As `routers`, for version 4 alone: where the version makes no difference."""
    for router in link:
        router.generation = 4
    yield link
    for router in link:
        router.stop()


@dataclass
class Star:
    """Router `a`, of either version, with sessions to `b` and `c`, which have none with each other; one driver each."""

    a: Router
    b: Router
    c: Router
    drivers: tuple[GobgpDriver, GobgpDriver, GobgpDriver]

    def intent(self, router: Router, *prefixes: Prefix, policy: Policy | None = None) -> BgpIntent:
        """What a router of the star is, with these advertised."""
        others = [self.b, self.c] if router is self.a else [self.a]
        neighbors = {other.address: session(router, other, versions=(4, 6)) for other in others}
        return BgpIntent(router.speaker(), neighbors, announcing(*prefixes), policy or Policy())

    async def apply(self, intent: BgpIntent) -> list[str]:
        """Makes `a` so; what was done, in words. Sessions that end with it begin anew at once."""
        done = await make_so(self.drivers[0], intent)
        for router, driver in zip((self.b, self.c), self.drivers[1:], strict=True):
            if f"gobgp neighbor del {router.text}" in done:
                await meet_anew(driver)
        return done


@pytest.fixture(scope="module", params=[4, 3], ids=["v4", "v3"])
def star_routers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Router]]:
    """Three routers whose gobgpds run for the whole module, so that their sessions need not come up for each test."""
    switch, routers = build_link(tmp_path_factory.mktemp("star"), 3)
    try:
        routers[0].generation = request.param
        for router in routers:
            router.start_gobgpd()
        yield routers
    finally:
        remove_link(switch, routers)


@pytest.fixture
async def star(star_routers: list[Router]) -> AsyncIterator[Star]:
    """The star with its sessions up, and no advertisement or policy left of an earlier test."""
    a, b, c = star_routers
    async with a.driver() as first, b.driver() as second, c.driver() as third:
        star = Star(a, b, c, (first, second, third))
        for router, driver in ((c, third), (b, second), (a, first)):
            own = await own_prefixes(driver) if driver.actual.speaker else ()
            await driver.apply([Withdraw(own)] if own else [])
            done = await make_so(driver, star.intent(router))
        for driver in (second, third):
            if not await all_up(driver) or any(" del " in words or " update " in words for words in done):
                await meet_anew(driver)
        await established(first, second, third)
        for driver in star.drivers:
            await sees(driver, {})
        yield star


async def meet_anew(driver: GobgpDriver) -> None:
    """Begins its sessions anew: after one that ended, GoBGP would wait for five seconds (fsm.go, holdtimeIdle)."""
    neighbors = tuple(driver.actual.neighbors.values())
    for one in (*(RemoveNeighbor(it.address) for it in neighbors), *map(AddNeighbor, neighbors)):
        (outcome,) = await driver.apply([one])
        assert outcome.error is None


async def own_prefixes(driver: GobgpDriver) -> tuple[Prefix, ...]:
    """What gobgpd announces of its own, whoever told it to."""
    found: list[Prefix] = []
    async with asyncio.timeout(40), aclosing(watch(driver.client)) as batches:
        async for batch in batches:
            found += batch.own
            if batch.snapshot_end:
                break
    return tuple(found)


async def sees(driver: GobgpDriver, expected: dict[Prefix, tuple[bytes, ...]]) -> None:
    """Waits until the driver's gobgpd has learned exactly these, by these next hops."""

    async def probe() -> bool:
        found = {prefix: route.next_hops for prefix, route in (await learned(driver)).items()}
        assert found == expected
        return True

    await eventually_async(probe, within_s=20)


def generation(driver: GobgpDriver) -> int:
    return driver.client.wire.generation


def hosts(count: int) -> tuple[Advertisement, ...]:
    return tuple(Advertisement(Prefix((0x0A640000 + number).to_bytes(4, "big"), 32)) for number in range(count))
