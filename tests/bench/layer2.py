"""How fast Service addresses at layer 2 are answered for, and how long they are away when their owner dies.

`python -m tests.bench layer2`: answers to who-has while both processors are busy; fail-over, from the kill of the
owner's responder to the first announcement of the next one, by packets (failover.py has all kinds); the cost of many
addresses with two deputies; then answers while the owner's agent starts again and loads ENDPOINTS endpoints.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from birdpy.addresses import parse_address
from birdpy.l2.election import Standing
from birdpy.l2.packets import ARP_ETHERTYPE, Assertion, parse_frame
from birdpy.l2.protocol import Replace, Vip
from tests.agent.node import CALICO, resource
from tests.agent.services.layer2_world import make_world, owns, responder
from tests.birdpy.l2_world import VIP4, Lan, Node, lan
from tests.support.netns import Namespace
from tests.support.wait import eventually

QUESTIONS = 2000
FAIL_OVERS = 10
ADDRESSES = (1, 100, 1000)
OBSERVED_S = 10.0
ENDPOINTS = 50_000
TAKEN_OVER = "layer 2: the responder"
FLOODS, FLOOD_S, FLOOD_ANSWERS = (1_000, 10_000, 30_000), 10.0, 500
TICK_HZ = os.sysconf("SC_CLK_TCK")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, lan(3, Path(directory)) as made:
        made.start().contend(VIP4)
        client = made.client.namespace
        measure_answers(client, "idle")
        with busy_processors():
            measure_answers(client, "both processors busy")
        measure_fail_over(made)
        for count in ADDRESSES:
            measure_cost(made, count)
        measure_flood(made)
    measure_loading()


def measure_answers(client: Namespace, words: str, enough: Callable[[int], bool] = QUESTIONS.__le__) -> None:
    """The time from a question to its answer, seen by the client; so many questions that it is `enough`."""
    with client.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP_ETHERTYPE))
    with wire:
        wire.bind(("eth0", ARP_ETHERTYPE))
        wire.settimeout(1.0)
        mac = wire.getsockname()[4]
        question = b"\xff" * 6 + mac + bytes.fromhex("0806" "0001080006040001") + mac  # fmt: skip
        question += parse_address("10.9.0.9") + bytes(6) + parse_address(VIP4) + bytes(18)
        times: list[float] = []
        while not enough(len(times)):
            begin = time.perf_counter()
            wire.send(question)
            while True:
                heard = parse_frame(wire.recv(2048))
                if isinstance(heard, Assertion) and heard.address == parse_address(VIP4):
                    break
            times.append((time.perf_counter() - begin) * 1e3)
            time.sleep(0.001)
    times.sort()
    p50, p99, most = times[len(times) // 2], times[len(times) * 99 // 100], times[-1]
    print(f"answer to who-has, {words}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {most:.2f} ms of {len(times)}")


def measure_loading() -> None:
    """Two nodes with agents: the owner's is killed, and reads a cluster of many endpoints when it is back."""
    with make_world() as world:
        try:
            world.put_slices("n1", "n2")
            world.advertise(ipAddressPools=["default"])
            world.etcd.put_all(endpoints())
            for node in world.nodes.values():
                node.agent.start()
            owner, _ = world.order(VIP4)
            eventually(lambda: owns(owner, VIP4), within_s=120)
            owner.agent.kill()
            begin, known = time.monotonic(), owner.log().count(TAKEN_OVER)
            owner.agent.start()

            def loaded(asked: int) -> bool:
                return asked >= QUESTIONS and asked % 100 == 0 and owner.log().count(TAKEN_OVER) > known

            measure_answers(world.client, f"while the owner's agent starts and loads {ENDPOINTS} endpoints", loaded)
            print(f"  it was back after {time.monotonic() - begin:.1f} s at most")
        finally:
            for node in world.nodes.values():
                os.kill(responder(node), signal.SIGKILL)


def endpoints() -> Iterator[tuple[bytes, bytes]]:
    """Those of another node, as etcd has them."""
    for number in range(ENDPOINTS):
        name = f"n9-cni-p{number}-eth0"
        spec = {
            "node": "n9",
            "orchestrator": "cni",
            "workload": f"p{number}",
            "endpoint": "eth0",
            "interfaceName": f"cali{number}",
            "ipNetworks": [f"{ip_address(0x0A800000 + number)}/32"],
            "profiles": ["open"],
        }
        one = resource("WorkloadEndpoint", name, spec, {"app": f"a{number % 50}"}, "default")
        yield f"{CALICO}/workloadendpoints/default/{name}".encode(), json.dumps(one).encode()


@contextmanager
def busy_processors() -> Iterator[None]:
    """Twice as many busy processes as there are processors."""
    argv = [sys.executable, "-S", "-c", "import signal\nsignal.alarm(120)\nwhile True: pass"]
    processes = [subprocess.Popen(argv) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure_fail_over(made: Lan) -> None:
    """From the kill of the owner's responder to the next owner's announcement."""
    times = []
    first, second, third = made.nodes
    for _ in range(FAIL_OVERS):
        made.contend(VIP4)
        with made.client.namespace.entered():
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP_ETHERTYPE))
        with wire:
            wire.bind(("eth0", ARP_ETHERTYPE))
            wire.settimeout(10.0)
            os.kill(first.responder.pid, signal.SIGKILL)
            begin = time.monotonic()
            while True:
                heard = parse_frame(wire.recv(2048))
                if isinstance(heard, Assertion) and heard.mac.hex(":") in (second.mac, third.mac):
                    break
            times.append(time.monotonic() - begin)
        first.responder.kill()
        first.start()
        eventually(lambda: second.owns(VIP4) or third.owns(VIP4))
    print(
        f"fail-over after kill -9: median {statistics.median(times):.2f} s, longest {max(times):.2f} s of {FAIL_OVERS}"
    )


def measure_cost(made: Lan, count: int) -> None:
    """Processor time and probes with `count` addresses, all of one owner, and two deputies."""
    vips = [parse_address(f"10.9.{number >> 8}.{number & 255}") for number in range(256, 256 + count)]
    for rank, node in enumerate(made.nodes):
        node.say(Replace(tuple(Vip(one, Standing(rank, 1000 - rank)) for one in vips)))
    eventually(lambda: sum(one.owns for one in made.nodes[0].ask_status().vips) == count, within_s=30)
    time.sleep(8)
    before, probes = [cpu_s(node) for node in made.nodes], probed(made)
    time.sleep(OBSERVED_S)
    used = [(cpu_s(node) - one) / OBSERVED_S * 100 for node, one in zip(made.nodes, before, strict=True)]
    sent = (probed(made) - probes) / OBSERVED_S
    shares = ", ".join(f"{one:.1f}" for one in used)
    print(f"{count} addresses: {sent:.0f} probes/s in all; processor share of owner and deputies: {shares} %")


FLOOD = """
import socket, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
mac = wire.getsockname()[4]
head = b"\\xff" * 6 + mac + bytes.fromhex("0806" "0001080006040001") + mac + bytes((10, 9, 0, 8)) + bytes(6)
print("begins", flush=True)
begin, sent, per_s, last_s = time.monotonic(), 0, int(sys.argv[1]), float(sys.argv[2])
while (now := time.monotonic() - begin) < last_s:
    while sent < now * per_s:
        wire.send(head + bytes((10, 8, sent >> 8 & 255, sent & 255)) + bytes(18))
        sent += 1
    time.sleep(0.001)
"""


def measure_flood(made: Lan) -> None:
    """Answers, and processor time of the owner, while somebody asks for addresses of nobody."""
    made.contend(VIP4)
    for per_s in FLOODS:
        argv = [sys.executable, "-S", "-c", FLOOD, str(per_s), str(FLOOD_S)]
        with made.client.namespace.entered(), subprocess.Popen(argv, stdout=subprocess.PIPE) as flood:
            assert flood.stdout is not None
            flood.stdout.readline()
            owner, begin = made.nodes[0], time.monotonic()
            before = cpu_s(owner)
            measure_answers(made.client.namespace, f"{per_s} other questions a second", FLOOD_ANSWERS.__le__)
            used = (cpu_s(owner) - before) / (time.monotonic() - begin) * 100
            print(f"  processor share of the owner: {used:.1f} %")
            flood.wait()


def probed(made: Lan) -> int:
    return sum(one.probes for node in made.nodes for one in node.ask_status().interfaces)


def cpu_s(node: Node) -> float:
    """Processor time of the node's responder so far."""
    fields = Path(f"/proc/{node.responder.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK_HZ
