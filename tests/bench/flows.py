"""What telling of packets costs: a flood of denied ones, established connections, and a policy flip amid it.

Each with reports of denied flows on and off (FelixConfiguration flowLogsFileEnabledForDenied), by turns on one node.
A packet's cost is that of sending it, since a veth's receiver is run by its sender.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from felixpy.drivers.netlink.nft.counters import NftCounters
from tests.agent.node import PORT, Node, Pod, resource
from tests.support.netns import Namespace
from tests.support.wait import eventually

PACKETS = 100_000
TURNS = 3
CAUSES = 1000
FLIPS = 20
_TICKS = os.sysconf("SC_CLK_TCK")
_FLOOD = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2])))
send, most = s.send, float(sys.argv[3])
end = time.monotonic() + most
while time.monotonic() < end:
    for _ in range(1000):
        send(b"?")
"""


def main() -> None:
    """Prints a row a turn."""
    with Node() as node:
        a, b = node.pod("a", "10.65.0.2"), node.pod("b", "10.65.0.3")
        a.write()
        b.write()
        node.agent.start()
        eventually(lambda: a.asks(b.addresses[0]) == "b", within_s=30)
        for turn in range(TURNS):
            for told in (True, False):
                _configure(node, told)
                _turn(node, a, b, f"{turn + 1} {'told' if told else 'not told'}")
        _scrape(node)


def _scrape(node: Node) -> None:
    """What a scrape asks of the kernel, where so many rules have denied something."""
    ingress = [{"action": "Deny", "protocol": "TCP", "destination": {"ports": [port + 1]}} for port in range(CAUSES)]
    node.policy("many", "name == 'b'", ingress=ingress)
    last = f"deny-in-gnp/default.many-{CAUSES - 1}"
    eventually(lambda: last in node.nft("list", "chains"), within_s=60)
    with node.namespace.entered():
        counters = NftCounters()
    begin = time.monotonic()
    found = counters.read(f"deny-in-gnp/default.many-{index}" for index in range(CAUSES))
    print(f"  counts of {len(found)} causes: {(time.monotonic() - begin) * 1e3:.1f} ms")
    counters.close()


def _configure(node: Node, told: bool) -> None:
    spec = {"flowLogsFileEnabledForDenied": told}
    node.put("felixconfigurations", resource("FelixConfiguration", "default", spec))
    eventually(
        lambda: ("group 176" in node.nft("list", "chain", "inet", "felixpy", "deny-in-no-profile-allows-it")) is told
    )


DENY_NINE = [{"action": "Deny", "protocol": "UDP", "destination": {"ports": [9]}}, {"action": "Allow"}]
DENY_ALL = [{"action": "Deny", "protocol": "UDP"}]


def _turn(node: Node, a: Pod, b: Pod, name: str) -> None:
    node.policy("flip", "name == 'b'", ingress=DENY_NINE)
    eventually(lambda: a.asks(b.addresses[0]) == "b")
    established = _send(a.namespace, b.addresses[0], PORT)
    before, begin = _cpu_s(node), time.monotonic()
    denied = _send(a.namespace, b.addresses[0], 9)
    agent = (_cpu_s(node) - before) / (time.monotonic() - begin)
    quiet = [_flip(node, a, b) for _ in range(FLIPS)]
    command = [sys.executable, "-I", "-S", "-c", _FLOOD, b.addresses[0], "9", "60"]
    flood = subprocess.Popen(a.namespace.enter_argv(command))
    try:
        amid = [_flip(node, a, b) for _ in range(FLIPS)]
    finally:
        flood.kill()
        flood.wait()
    print(
        f"  {name:12} a packet: established {established:5.2f} µs, denied {denied:5.2f} µs;"
        f" the agent meanwhile: {100 * agent:4.1f} % of a processor;"
        f" flip: {statistics.median(quiet):5.1f} ms, amid a flood {statistics.median(amid):5.1f} ms",
        flush=True,
    )


def _send(namespace: Namespace, address: str, port: int) -> float:
    """Microseconds a packet."""
    with namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((address, port))
        send, begin = sender.send, time.monotonic()
        for _ in range(PACKETS):
            send(b"?")
        return (time.monotonic() - begin) / PACKETS * 1e6


def _flip(node: Node, a: Pod, b: Pod) -> float:
    """Milliseconds from the write of a policy that allows to the first answer."""
    node.policy("flip", "name == 'b'", ingress=DENY_ALL)
    with a.namespace.entered():
        eventually(lambda: not _answers(b.addresses[0]))
        begin = time.monotonic()
        node.policy("flip", "name == 'b'", ingress=DENY_NINE)
        eventually(lambda: _answers(b.addresses[0]), every_s=0)
        return (time.monotonic() - begin) * 1e3


def _answers(address: str) -> bool:
    """Whether a new flow is answered at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect((address, PORT))
        asker.settimeout(0.001)
        asker.send(b"?")
        try:
            return bool(asker.recv(64))
        except TimeoutError:
            return False


def _cpu_s(node: Node) -> float:
    """Processor time of the agent so far."""
    fields = Path(f"/proc/{node.agent.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
