"""Nodes with a responder each and a client, all on one segment; the agent's part is played by `say`."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from birdpy.addresses import parse_address
from birdpy.l2.election import Standing
from birdpy.l2.program import responder_argv, responder_environment
from birdpy.l2.protocol import Ask, OwnedVip, Replace, Request, Status, Vip, parse_status, render_request
from tests.support.netns import Namespace, add_bridge, link_namespaces
from tests.support.process import Daemon
from tests.support.wait import eventually

VIP4, VIP6 = "10.9.0.100", "fd09::100"


class Station:
    """A host on the segment: 10.9.0.N and fd09::N on eth0."""

    def __init__(self, number: int, switch: Namespace) -> None:
        self.number, self.switch, self.port = number, switch, f"p{number}"
        self.namespace = Namespace.create("s")
        link_namespaces(
            switch,
            self.port,
            self.namespace,
            "eth0",
            right_addresses=[f"10.9.0.{number}/24", f"fd09::{number}/64"],
        )
        self.namespace.sysctl(ipv4__neigh__eth0__delay_first_probe_time=1, ipv4__ip_forward=0)

    @property
    def mac(self) -> str:
        with self.namespace.entered():
            return _device_mac("eth0")

    def neighbour(self, address: str) -> str:
        """The entry of `address` in the neighbour table, as `ip` shows it."""
        return self.namespace.ip("neigh", "show", address).strip()

    def ask(self, address: str) -> None:
        """Makes the kernel resolve the address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.namespace.entered(), socket.socket(family, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            try:
                one.sendto(b"?", (address, 9))
            except OSError:
                pass

    def resolves_to(self, address: str, other: Station) -> bool:
        """Whether the address is at `other`, when asked now."""
        self.ask(address)
        return other.mac in self.neighbour(address)


class Node(Station):
    """A host with a responder, not started."""

    def __init__(self, number: int, switch: Namespace, directory: Path) -> None:
        super().__init__(number, switch)
        self.socket_path = directory / f"n{number}.sock"
        self.responder = Daemon(
            responder_argv(self.socket_path),
            directory / f"n{number}.log",
            netns=self.namespace.name,
            env=responder_environment(),
        )

    def start(self) -> Node:
        self.responder.start().wait_ready(lambda: self.ask_status().pid == self.responder.pid)
        return self

    def say(self, request: Request) -> Status:
        """One request, and its answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.settimeout(5)
            one.connect(str(self.socket_path))
            one.sendall(render_request(request))
            return parse_status(one.makefile("rb").readline())

    def ask_status(self) -> Status:
        return self.say(Ask())

    def want(self, rank: int, *addresses: str, interfaces: Sequence[str] | None = None) -> Status:
        """Contends for these addresses and no others, as the one of this rank."""
        standing = Standing(rank, 1000 - rank)
        names = None if interfaces is None else tuple(interfaces)
        return self.say(Replace(tuple(Vip(parse_address(one), standing, names) for one in addresses)))

    def vip(self, address: str, interface: str = "eth0") -> OwnedVip | None:
        found = [one for one in self.ask_status().vips if (one.address, one.interface) == (address, interface)]
        return found[0] if found else None

    def owns(self, address: str) -> bool:
        one = self.vip(address)
        return one is not None and one.owns


class Lan:
    """A switch, nodes 1, 2, ... and a client (number 9)."""

    def __init__(self, nodes: int, directory: Path) -> None:
        self.switch = Namespace.create("w")
        self.nodes = [Node(number, self.switch, directory) for number in range(1, nodes + 1)]
        self.client = Station(9, self.switch)
        add_bridge(self.switch, "br0", [one.port for one in (*self.nodes, self.client)])

    def start(self) -> Lan:
        for node in self.nodes:
            node.start()
        return self

    def contend(self, *addresses: str) -> Lan:
        """All nodes contend, node 1 the best; returns when it owns."""
        for rank, node in enumerate(self.nodes):
            node.want(rank, *addresses)
        for address in addresses:
            eventually(lambda address=address: self.nodes[0].owns(address), what=f"node 1 owns {address}")
        return self

    def close(self) -> None:
        for node in self.nodes:
            node.responder.kill()
        for one in (*self.nodes, self.client):
            one.namespace.delete()
        self.switch.delete()


@contextmanager
def lan(nodes: int, directory: Path) -> Iterator[Lan]:
    made = Lan(nodes, directory)
    try:
        yield made
    finally:
        made.close()


def _device_mac(device: str) -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as one:
        one.bind((device, 0))
        return bytes(one.getsockname()[4]).hex(":")
