"""Services in the real kernel: packets from a client, from pods and from the node, over TCP and UDP, v4 and v6."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from felixpy.resources.service_types import Service
from tests.calc.service_world import (
    LOCAL,
    ME,
    OTHER,
    UDP,
    Change,
    backend,
    grant,
    service,
    service_of,
    slice_of,
)
from tests.dataplane.service_ground import BOTH, CLIENT, POD1, POD2, REMOTE, VIP, VIP6, Place, ServiceNode, ask, ask_one
from tests.support.packets import NameServer, ask_tcp
from tests.support.sctp import crc32c, send_inits
from tests.support.wait import eventually

CLUSTER_IP = "10.96.0.1"


@pytest.fixture
def services(place: Place) -> Iterator[ServiceNode]:
    made = ServiceNode(place.node)
    yield made
    made.close()


def vip(value: Service, *backends: tuple[str, str], protocol: int = 6) -> tuple[Change, ...]:
    """Service a/x on the VIP of each family, with `backends` as (address, node)."""
    slices = slice_of("a/1", "x", *(backend(address, node) for address, node in backends), protocol=protocol)
    return grant(VIP, "a/x"), grant(VIP6, "a/x"), service("a/x", value), slices


def test_connections_spread_over_all_backends_and_come_back(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(), (POD1, ME), (POD2, ME), (REMOTE, OTHER)))
    answers = ask(place.client, VIP, times=60)
    counts = {name: sum(answer.startswith(name) for answer in answers) for name in ("pod1", "pod2", "remote")}
    assert sum(counts.values()) == 60
    assert min(counts.values()) >= 8, counts


def test_cluster_policy_hides_the_client_and_local_policy_shows_it(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(), (POD1, ME)))
    assert ask_one(place.client, VIP) == "pod1 10.0.1.254"
    services.see(*vip(service_of(external_policy=LOCAL), (POD1, ME)))
    assert ask_one(place.client, VIP) == f"pod1 {CLIENT}"


def test_local_policy_serves_outside_from_this_node_only(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(external_policy=LOCAL), *BOTH))
    assert {answer.split()[0] for answer in ask(place.client, VIP, times=20)} == {"pod1"}
    assert {answer.split()[0] for answer in ask(place.pod2, VIP, times=40)} == {"pod1", "remote"}


def test_local_policy_without_a_local_backend_is_silent_outside_and_serves_inside(
    place: Place, services: ServiceNode
) -> None:
    services.see(*vip(service_of(external_policy=LOCAL), (REMOTE, OTHER)))
    assert ask_one(place.client, VIP, wait_s=0.5) == "silence"
    assert ask_one(place.pod1, VIP) == f"remote {POD1}"
    assert ask_one(place.node, VIP).startswith("remote ")


def test_without_any_backend_it_is_refused_from_everywhere(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of()))
    asked = {name: ask_one(getattr(place, name), VIP) for name in ("client", "pod1", "node")}
    assert asked == {"client": "refused", "pod1": "refused", "node": "refused"}


def test_without_any_backend_udp_is_refused_too(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(protocol=UDP)))
    asked = {name: ask_one(getattr(place, name), VIP, kind="udp") for name in ("client", "pod1", "node")}
    assert asked == {"client": "refused", "pod1": "refused", "node": "Operation not permitted"}


@pytest.mark.parametrize("address", [VIP, VIP6])
def test_a_port_that_no_service_has_is_refused(place: Place, services: ServiceNode, address: str) -> None:
    services.see(*vip(service_of(), *BOTH))
    asked = {name: ask_one(getattr(place, name), address, 443) for name in ("client", "pod1", "node")}
    assert asked == {"client": "refused", "pod1": "refused", "node": "refused"}


def test_a_service_at_the_node_s_own_address_leaves_its_other_ports_alone(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(), *BOTH))
    place.node.ip("address", "add", f"{VIP}/32", "dev", "lo")
    with NameServer(place.node, "sshd", 2222):
        assert set(ask(place.client, VIP, times=8)) != {"refused"}
        assert (ask_tcp(place.client, VIP, 2222) or "").split()[:1] == ["sshd"]
    assert ask_one(place.client, VIP6, 2222) == "refused", "an address that no host has"


def test_the_node_itself_reaches_local_and_remote_backends(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(), *BOTH))
    assert {answer.split()[0] for answer in ask(place.node, VIP, times=40)} == {"pod1", "remote"}


def test_a_pod_keeps_its_address_towards_a_service(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(), (REMOTE, OTHER)))
    assert ask_one(place.pod1, VIP) == f"remote {POD1}"


def test_a_backend_reaches_itself_through_its_service(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(), (POD1, ME)))
    assert ask_one(place.pod1, VIP) == "pod1 10.0.1.254"


def test_udp_is_balanced_too(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(protocol=UDP), *BOTH, protocol=UDP))
    assert set(ask(place.client, VIP, kind="udp", times=40)) == {"pod1", "remote"}


def test_ipv6_is_the_same_path(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(external_policy=LOCAL), ("fd00:1::1", ME), ("fd00:9::1", OTHER)))
    assert ask_one(place.client, VIP6) == "pod1 2001:db8:9::9"
    assert {answer.split()[0] for answer in ask(place.pod2, VIP6, times=40)} == {"pod1", "remote"}
    assert ask_one(place.client, VIP) == "refused", "no IPv4 backend"


def test_source_ranges_let_in_only_those_named(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(source_ranges="198.51.100.0/24", cluster=CLUSTER_IP), (POD1, ME)))
    assert ask_one(place.client, VIP, wait_s=0.5) == "silence"
    assert ask_one(place.client, CLUSTER_IP) == "pod1 10.0.1.254"
    services.see(*vip(service_of(source_ranges="198.51.100.0/24 192.0.2.0/28"), (POD1, ME)))
    assert ask_one(place.client, VIP) == "pod1 10.0.1.254"


def test_internal_policy_local_never_leaves_the_node(place: Place, services: ServiceNode) -> None:
    value = service_of("ClusterIP", cluster=CLUSTER_IP)
    local = replace(value, internal_policy=LOCAL)
    services.see(service("a/x", local), slice_of("a/1", "x", *(backend(*one) for one in BOTH)))
    assert {answer.split()[0] for answer in ask(place.pod2, CLUSTER_IP, times=20)} == {"pod1"}
    services.see(slice_of("a/1", "x", backend(REMOTE, OTHER)))
    assert ask_one(place.pod2, CLUSTER_IP, wait_s=0.5) == "silence"
    services.see(service("a/x", value))
    assert ask_one(place.pod2, CLUSTER_IP) == "remote 10.0.2.1"


@pytest.mark.parametrize(("address", "backends"), [(VIP, (POD1, REMOTE)), (VIP6, ("fd00:1::1", "fd00:9::1"))])
def test_with_client_affinity_one_client_stays_with_one_backend(
    place: Place, services: ServiceNode, address: str, backends: tuple[str, str]
) -> None:
    services.see(*vip(service_of(affinity_s=10800), *zip(backends, (ME, OTHER), strict=True)))
    (first,) = {answer.split()[0] for answer in ask(place.client, address, times=15)}
    there = {"pod1": (backends[1], OTHER), "remote": (backends[0], ME)}[first]
    services.see(*vip(service_of(affinity_s=10800), there))
    (second,) = {answer.split()[0] for answer in ask(place.client, address, times=15)}
    assert first != second


def test_clients_with_affinity_spread_over_the_backends(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(affinity_s=10800), *BOTH))
    for number in range(20, 36):
        place.client.ip("address", "replace", f"192.0.2.{number}/24", "dev", "eth0")
    answers = {ask_tcp(place.client, VIP, 80, source=f"192.0.2.{number}") for number in range(20, 36)}
    assert {answer.split()[0] for answer in answers if answer} == {"pod1", "remote"}


CLIENTS = tuple(f"192.0.2.{number}" for number in range(20, 36))


def where_clients_go(place: Place) -> list[str]:
    """The backend of each of 16 clients, in order."""
    for client in CLIENTS:
        place.client.ip("address", "replace", f"{client}/24", "dev", "eth0")
    return [(ask_tcp(place.client, VIP, 80, source=client) or "nobody").split()[0] for client in CLIENTS]


def test_clients_with_affinity_stay_when_a_backend_comes_and_move_when_theirs_goes(
    place: Place, services: ServiceNode
) -> None:
    services.see(*vip(service_of(affinity_s=10800), (POD1, ME)))
    assert set(where_clients_go(place)) == {"pod1"}
    services.see(*vip(service_of(affinity_s=10800), (POD1, ME), (POD2, ME), (REMOTE, OTHER)))
    assert set(where_clients_go(place)) == {"pod1"}, "by hash alone two of three would have moved"
    services.see(*vip(service_of(affinity_s=10800), (POD2, ME), (REMOTE, OTHER)))
    moved = where_clients_go(place)
    assert set(moved) == {"pod2", "remote"}
    services.see(*vip(service_of(affinity_s=10800), (POD1, ME), (POD2, ME), (REMOTE, OTHER)))
    assert where_clients_go(place) == moved, "one that is back is a new one"


def test_a_client_is_forgotten_when_it_was_away_for_the_timeout(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(affinity_s=1), (POD1, ME)))
    assert set(where_clients_go(place)) == {"pod1"}
    services.see(*vip(service_of(affinity_s=1), (POD1, ME), (POD2, ME)))
    eventually(lambda: set(where_clients_go(place)) == {"pod1", "pod2"}, every_s=1.5)


def test_all_frontends_of_a_service_know_its_clients(place: Place, services: ServiceNode) -> None:
    both = service_of(affinity_s=10800, cluster=CLUSTER_IP)
    services.see(*vip(both, (POD1, ME)))
    assert set(where_clients_go(place)) == {"pod1"}
    services.see(*vip(both, (POD1, ME), (POD2, ME), (REMOTE, OTHER)))
    answers = {(ask_tcp(place.client, CLUSTER_IP, 80, source=client) or "nobody").split()[0] for client in CLIENTS}
    assert answers == {"pod1"}


_SCTP_HEAR = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_RAW, 132) as heard:
    print("ready", flush=True)
    heard.settimeout(5)
    packet = heard.recv(2048)
print(socket.inet_ntoa(packet[12:16]), int.from_bytes(packet[22:24], "big"), packet[20:].hex())
"""


@pytest.mark.parametrize("affinity_s", [0, 60])
def test_sctp_is_led_to_a_backend_with_a_checksum_that_is_right(
    place: Place, services: ServiceNode, affinity_s: int
) -> None:
    services.see(*vip(service_of(protocol=132, affinity_s=affinity_s), (POD1, ME), protocol=132))
    argv = (sys.executable, "-I", "-S", "-c", _SCTP_HEAR)
    with place.pod1.popen(*argv, stdout=subprocess.PIPE) as hearing:
        assert hearing.stdout is not None
        hearing.stdout.readline()
        send_inits(place.client, VIP, (80,))
        source, port, packet = hearing.stdout.readline().split()
    assert (source, port) == ("10.0.1.254", "8080")
    raw = bytes.fromhex(packet)
    assert int.from_bytes(raw[8:12], "little") == crc32c(raw[:8] + bytes(4) + raw[12:])


def test_a_backend_that_goes_gets_no_new_connection(place: Place, services: ServiceNode) -> None:
    services.see(*vip(service_of(), (POD1, ME), (POD2, ME), (REMOTE, OTHER)))
    services.see(*vip(service_of(), (POD2, ME), (REMOTE, OTHER)))
    assert {answer.split()[0] for answer in ask(place.client, VIP, times=40)} == {"pod2", "remote"}


def test_when_the_service_goes_nothing_of_it_stays_in_the_kernel(place: Place, services: ServiceNode) -> None:
    before = services.driver.read()
    changes = vip(service_of(source_ranges="192.0.2.0/24"), *BOTH)
    services.see(*changes)
    services.see(*((ref, None) for ref, _ in changes))
    assert services.driver.read() == before
