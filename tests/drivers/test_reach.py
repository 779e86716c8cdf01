"""Who answers at all: by echo, and by TCP where echo is not answered; with real hosts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from felixpy.addresses import parse_address
from felixpy.drivers.reach import find_reachable
from tests.support.netns import Namespace, link_namespaces

PORT = 179
THERE, NOBODY = ("192.0.2.2", "2001:db8::2"), ("192.0.2.9", "2001:db8::9")


@dataclass
class Hosts:
    """Who asks, who is asked, and the port that it listens at."""

    here: Namespace
    there: Namespace
    listener: socket.socket

    def reached(self, **addresses: str) -> frozenset[str]:
        asked = {name: (parse_address(one),) for name, one in addresses.items()}
        with self.here.entered():
            return asyncio.run(find_reachable(asked, PORT, 2.0))

    def connections(self) -> int:
        """How many have come since it was last asked."""
        found = 0
        while True:
            try:
                self.listener.accept()[0].close()
            except BlockingIOError:
                return found
            found += 1


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Namespace.create("h") as here, Namespace.create("t") as there:
        mine = ["192.0.2.1/24", "2001:db8::1/64"]
        theirs = [f"{THERE[0]}/24", f"{THERE[1]}/64"]
        link_namespaces(here, "eth0", there, "eth0", left_addresses=mine, right_addresses=theirs)
        with there.entered():
            listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        listener.setblocking(False)
        with listener:
            yield Hosts(here, there, listener)


@pytest.mark.parametrize("version", [0, 1], ids=["IPv4", "IPv6"])
def test_who_answers_an_echo_is_not_connected_to(hosts: Hosts, version: int) -> None:
    """gobgpd would take it for the neighbour's own connection."""
    assert hosts.reached(there=THERE[version], nobody=NOBODY[version]) == {"there"}
    assert hosts.connections() == 0


@pytest.mark.parametrize("version", [0, 1], ids=["IPv4", "IPv6"])
def test_who_answers_no_echo_is_asked_by_tcp_and_a_refusal_is_an_answer(hosts: Hosts, version: int) -> None:
    hosts.there.run("sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1", "net.ipv6.icmp.echo_ignore_all=1")
    assert hosts.reached(there=THERE[version]) == {"there"}
    assert hosts.connections() == 1
    hosts.listener.close()
    assert hosts.reached(there=THERE[version], nobody=NOBODY[version]) == {"there"}
