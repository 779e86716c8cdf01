"""Connections in the real kernel: what is named is forgotten, in either direction and family, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from felixpy.addresses import Address, parse_address
from felixpy.dataplane.stale_flows import Forget
from felixpy.drivers.netlink.conntrack import NEEDLES, Conntrack
from felixpy.drivers.netlink.socket import in_namespace
from tests.calc.service_world import UDP, at, on_node, to
from tests.support.netns import Namespace

POD, OTHER_POD, CLIENT = "10.65.0.2", "10.65.0.3", "192.0.2.9"
VIP = "203.0.113.1"


@pytest.fixture
def conntrack(namespace: Namespace) -> Iterator[Conntrack]:
    with in_namespace(namespace.path, Conntrack) as made:
        yield made


def track(
    namespace: Namespace, source: str, destination: str, port: int, *, to: str = "", masked: str = "", tcp: bool = False
) -> None:
    """A connection from port `port` to port 53, translated where said."""
    words = ["-p", "tcp" if tcp else "udp", "-s", source, "-d", destination, "--sport", str(port), "--dport", "53"]
    words += ["--state", "ESTABLISHED"] if tcp else []
    words += ["-g", to] if to else []
    words += ["-n", masked] if masked else []
    namespace.run("conntrack", "-I", "-t", "100", *words)


def left(namespace: Namespace) -> set[int]:
    """The source ports of the connections that there are."""
    lines = namespace.run("conntrack", "-L").splitlines()
    return {int(line.split("sport=")[1].split()[0]) for line in lines}


def addresses(*texts: str) -> frozenset[Address]:
    return frozenset(map(parse_address, texts))


def test_an_address_is_forgotten_in_every_place(namespace: Namespace, conntrack: Conntrack) -> None:
    track(namespace, POD, CLIENT, 1)
    track(namespace, CLIENT, POD, 2, tcp=True)
    track(namespace, CLIENT, VIP, 3, to=f"{POD}:5353")
    track(namespace, CLIENT, OTHER_POD, 4, masked=POD)
    track(namespace, CLIENT, OTHER_POD, 5, tcp=True)
    track(namespace, CLIENT, VIP, 6, to=f"{OTHER_POD}:5353")
    assert conntrack.forget(Forget(addresses(POD))) == 4
    assert left(namespace) == {5, 6}


def test_the_other_family(namespace: Namespace, conntrack: Conntrack) -> None:
    track(namespace, "fd65::2", "fd65::3", 1, tcp=True)
    track(namespace, "fd65::4", "fd65::3", 2, tcp=True)
    assert conntrack.forget(Forget(addresses("fd65::2"))) == 1
    assert left(namespace) == {2}


def test_many_addresses_at_once(namespace: Namespace, conntrack: Conntrack) -> None:
    pods = [f"10.65.1.{number}" for number in range(NEEDLES + 1)]
    for port, pod in enumerate((*pods, POD), 1):
        track(namespace, pod, CLIENT, port)
    assert conntrack.forget(Forget(addresses(*pods))) == len(pods)
    assert left(namespace) == {len(pods) + 1}


def test_a_frontend_keeps_the_connections_of_its_backends(namespace: Namespace, conntrack: Conntrack) -> None:
    track(namespace, CLIENT, VIP, 1, to=f"{POD}:5353")
    track(namespace, CLIENT, VIP, 2, to=f"{OTHER_POD}:5353")
    track(namespace, CLIENT, VIP, 3, to=f"{OTHER_POD}:5354")
    track(namespace, CLIENT, VIP, 4)
    track(namespace, CLIENT, VIP, 5, to=f"{POD}:5353", tcp=True)
    track(namespace, CLIENT, "203.0.113.2", 6, to=f"{POD}:5353")
    kept = frozenset({to(OTHER_POD, 5353)})
    assert conntrack.forget(Forget(udp={at(VIP, 53, UDP): kept})) == 3
    assert left(namespace) == {2, 5, 6}
    assert conntrack.forget(Forget(udp={at(VIP, 54, UDP): frozenset()})) == 0


@pytest.mark.parametrize(("version", "own", "pod"), [(4, VIP, POD), (6, "2001:db8::1", "fd65::2")])
def test_a_node_port_is_of_every_address(
    namespace: Namespace, conntrack: Conntrack, version: int, own: str, pod: str
) -> None:
    source = CLIENT if version == 4 else "2001:db8::9"
    track(namespace, source, own, 1, to=f"{pod}:5353" if version == 4 else f"[{pod}]:5353")
    assert conntrack.forget(Forget(udp={on_node(54, UDP, version): frozenset()})) == 0
    assert conntrack.forget(Forget(udp={on_node(53, UDP, version): frozenset({to(pod, 5353)})})) == 0
    assert conntrack.forget(Forget(udp={on_node(53, UDP, version): frozenset()})) == 1


def test_nothing_to_forget_asks_nothing(namespace: Namespace, conntrack: Conntrack) -> None:
    track(namespace, POD, CLIENT, 1)
    conntrack.close()
    assert conntrack.forget(Forget()) == 0
    assert left(namespace) == {1}
