"""How long a Service address at layer 2 is away when its owner fails, by packets of a client; RUNS times each way.

`python -m tests.bench.failover [RUNS] [KIND ...]`: the responder killed (kill -9), the owner's link down, the owner cut
off from the segment while its link is up, a planned hand-over. The client sends a packet every 5 ms; counted is the
time from the failure, or the last packet at the old node where it was planned, to the first packet at another node.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from birdpy.addresses import parse_address
from birdpy.l2.election import Standing
from birdpy.l2.protocol import Replace, Vip
from tests.birdpy.l2_world import VIP4, Lan, Node, lan
from tests.support.wait import eventually

RUNS = 100
PACE_S = 0.005
PATIENCE_S = 10.0
_ETH_P_IP = 0x0800


def kill(made: Lan, node: Node) -> None:
    os.kill(node.responder.pid, signal.SIGKILL)


def revive(made: Lan, node: Node) -> None:
    node.responder.kill()
    node.start()


def link_down(made: Lan, node: Node) -> None:
    made.switch.ip("link", "set", node.port, "down")


def link_up(made: Lan, node: Node) -> None:
    made.switch.ip("link", "set", node.port, "up")


def cut_off(made: Lan, node: Node) -> None:
    made.switch.ip("link", "set", node.port, "nomaster")


def join(made: Lan, node: Node) -> None:
    made.switch.ip("link", "set", node.port, "master", "br0")


def drain(made: Lan, node: Node) -> None:
    node.say(Replace(()))


def nothing(made: Lan, node: Node) -> None:
    pass


Step = Callable[[Lan, Node], None]
KINDS: dict[str, tuple[Step, Step]] = {
    "kill -9": (kill, revive),
    "link down": (link_down, link_up),
    "partition": (cut_off, join),
    "drain": (drain, nothing),
}


class Watcher:
    """Sends packets to the address, and sees where they come in."""

    def __init__(self, made: Lan) -> None:
        self._wires: dict[int, Node] = {}
        self._sockets: list[socket.socket] = []
        self._poll = select.poll()
        for node in made.nodes:
            with node.namespace.entered():
                wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
                wire.bind(("eth0", _ETH_P_IP))
            wire.setblocking(False)
            self._sockets.append(wire)
            self._wires[wire.fileno()] = node
            self._poll.register(wire, select.POLLIN)
        with made.client.namespace.entered():
            self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._by_number = {one.fileno(): one for one in self._sockets}

    def close(self) -> None:
        for one in (*self._sockets, self._sender):
            one.close()

    def forget(self) -> None:
        """What came in before and was not looked at counts no more."""
        for one in self._sockets:
            try:
                while True:
                    one.recv(2048)
            except BlockingIOError:
                continue

    def step(self) -> dict[Node, float]:
        """One packet sent; when each node got one of ours within the pace."""
        try:
            self._sender.sendto(b"?", (VIP4, 9))
        except OSError:
            pass
        seen: dict[Node, float] = {}
        end = time.monotonic() + PACE_S
        while (left_s := end - time.monotonic()) > 0:
            for number, _ in self._poll.poll(left_s * 1e3):
                packet, sender = self._by_number[number].recvfrom(2048)
                if packet[16:20] == parse_address(VIP4) and sender[2] == socket.PACKET_HOST:
                    seen[self._wires[number]] = time.monotonic()
        return seen


def rank(made: Lan, first: Node) -> None:
    """`first` is the best from now on, the others follow in turn."""
    at = made.nodes.index(first)
    for place, node in enumerate((*made.nodes[at:], *made.nodes[:at])):
        node.say(Replace((Vip(parse_address(VIP4), Standing(place, 1000 - place)),)))


def measure(made: Lan, watcher: Watcher, fail: Step, mend: Step, planned: bool) -> float:
    """One failure of whoever has the address, and its mending: how long it was away."""
    owner = next(node for node in made.nodes if node.owns(VIP4))
    watcher.forget()
    last = 0.0
    begin = time.monotonic()
    while time.monotonic() - begin < 0.2 or not last:
        last = watcher.step().get(owner, last)
    began = time.monotonic()
    fail(made, owner)
    away = PATIENCE_S
    while time.monotonic() - began < PATIENCE_S:
        seen = watcher.step()
        last = seen.pop(owner, last)
        if seen:
            away = min(seen.values()) - (last if planned else began)
            break
    mend(made, owner)
    taker = eventually(lambda: next((node for node in made.nodes if node is not owner and node.owns(VIP4)), None))
    rank(made, taker)
    eventually(lambda: taker.owns(VIP4) and not owner.owns(VIP4), within_s=20)
    owner_rejoined = eventually(lambda: owner.vip(VIP4) is not None, within_s=20)
    assert owner_rejoined
    return max(away, 0.0)


def main(runs: int = RUNS, *kinds: str) -> None:
    """Runs it for every kind of failure, or those named."""
    with tempfile.TemporaryDirectory() as directory, lan(3, Path(directory)) as made:
        made.start().contend(VIP4)
        watcher = Watcher(made)
        for kind in kinds or KINDS:
            fail, mend = KINDS[kind]
            times = sorted(measure(made, watcher, fail, mend, kind == "drain") for _ in range(runs))
            p99 = times[max(0, -(-len(times) * 99 // 100) - 1)]
            print(
                f"{kind}: median {times[len(times) // 2]:.3f} s, p99 {p99:.3f} s, longest {times[-1]:.3f} s of {runs}",
                flush=True,
            )
        watcher.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
