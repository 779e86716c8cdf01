"""Whether a Service address at layer 2 stays where it is while etcd is away, and is taken over all the same.

`python -m tests.bench outage`, or `python -m tests.bench.outage [MINUTES]` (10): two whole agents and a client that
connects five times a second. etcd is killed; after so long agent and responder of the owner are, too. Counted are
connections by the node that took them, frames of the client's that nobody answered, and the time to the other node.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter

from tests.agent.services.layer2_world import World, make_world, owns, responder
from tests.support.wait import eventually

MINUTES = 10.0
PACE_S = 0.2
WAIT_S = 2.0


def measure(world: World, minutes: float) -> None:
    for node in world.nodes.values():
        node.agent.start()
    world.put_slices("n1", "n2")
    world.advertise(ipAddressPools=["default"])
    first, second = world.order()
    eventually(lambda: owns(first) and not owns(second), within_s=30)
    world.etcd.kill()
    seen: Counter[str | None] = Counter()
    end = time.monotonic() + minutes * 60
    while time.monotonic() < end:
        world.client.ip("neigh", "flush", "all")
        seen[world.answers(wait_s=WAIT_S)] += 1
        time.sleep(PACE_S)
    others = {name: count for name, count in seen.items() if name not in (first.name, None)}
    print(f"{minutes:g} minutes without etcd: {seen[first.name]} connections to the owner", end="")
    print(f", {sum(others.values())} to another, {seen[None]} to nobody")
    begin = time.monotonic()
    first.agent.kill()
    os.kill(responder(first), signal.SIGKILL)
    eventually(lambda: world.answers() == second.name, within_s=10)
    print(f"  then the owner killed: the other node answers after {time.monotonic() - begin:.2f} s")


def main(minutes: float = MINUTES) -> None:
    with make_world() as world:
        measure(world, minutes)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
