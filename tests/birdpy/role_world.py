"""The role as an agent runs it, a kernel of routes in memory, and a BIRD to learn from."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from birdpy.addresses import Prefix, parse_prefix
from birdpy.fib import LearnedRoute
from birdpy.gobgp.program import GobgpdSettings
from birdpy.intent import BgpIntent
from birdpy.process import listener_pid
from birdpy.speaker import BgpRole, RoleSettings
from tests.birdpy.conftest import GOBGPD, QUICK_BIRD, Router, announcing, session
from tests.support.wait import eventually_async

BLOCK = parse_prefix("10.64.1.0/26")


THEIRS = parse_prefix("10.64.2.0/26")


THEIR_OTHER = parse_prefix("10.64.2.64/26")


BIRD = """
router id 10.99.0.2;
protocol device {{ }}
protocol direct {{ ipv4; }}
protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}
protocol static {{ ipv4; {routes} }}
protocol bgp node1 {{
    local 10.99.0.2 as 64512;
    neighbor 10.99.0.1 as 64512;
    graceful restart on;
    {times}
    ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
}}
"""


def bird_config(*prefixes: Prefix) -> str:
    return BIRD.format(routes=" ".join(f"route {prefix} blackhole;" for prefix in prefixes), times=QUICK_BIRD)


@dataclass
class Kernel:
    """What a reader of the role's deltas would have in its kernel, and every prefix that it ever removed."""

    routes: dict[Prefix, LearnedRoute] = field(default_factory=dict)
    removed: list[Prefix] = field(default_factory=list)
    complete: bool = False

    async def follow(self, role: BgpRole) -> None:
        async for delta in role.routes():
            self.routes.update(delta.put)
            for prefix in delta.drop:
                self.routes.pop(prefix, None)
                self.removed.append(prefix)
            self.complete = delta.complete


def supervised(router: Router) -> RoleSettings:
    """gobgpd in the router's namespace, run by the role's own supervisor."""
    wrapper = router.directory / "gobgpd.sh"
    binary = GOBGPD[router.generation]
    wrapper.write_text(f'#!/bin/sh\nexec nsenter --net={router.namespace.path} -- {binary} "$@"\n')
    wrapper.chmod(0o755)
    log = router.directory / "gobgpd.log"
    return RoleSettings(router.socket_path, GobgpdSettings(str(wrapper), router.socket_path, log))


@asynccontextmanager
async def running(
    router: Router, intent: BgpIntent, settings: RoleSettings | None = None
) -> AsyncIterator[tuple[BgpRole, Kernel]]:
    """The role, carrying out `intent`; its gobgpd stays when the block ends."""
    role, kernel = BgpRole(settings or supervised(router)), Kernel()
    role.set_intent(intent)
    tasks = [asyncio.create_task(role.run()), asyncio.create_task(kernel.follow(role))]
    try:
        yield role, kernel
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def end_gobgpd(router: Router) -> None:
    pid = listener_pid(router.socket_path)
    if pid:
        os.kill(pid, signal.SIGKILL)


async def settled(kernel: Kernel, *prefixes: Prefix) -> None:
    """Waits until the kernel holds just these, and all is told."""

    async def probe() -> bool:
        assert (set(kernel.routes), kernel.complete) == (set(prefixes), True)
        return True

    await eventually_async(probe, within_s=30)


def intent_of(a: Router, b: Router, *prefixes: Prefix) -> BgpIntent:
    return BgpIntent(a.speaker(), {b.address: session(a, b)}, announcing(*prefixes))
