"""Node ports in the real kernel, through nftables and both iptables: who is answered by whom, and seen as whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from felixpy.addresses import parse_prefix
from felixpy.drivers.backend import find_programs
from felixpy.drivers.iptables import IptablesDriver, Variant
from felixpy.drivers.netlink.nft.driver import NftDriver
from felixpy.resources.service_types import Service
from tests.calc.service_world import LOCAL, ME, OTHER, UDP, Change, backend, grant, service, service_of, slice_of
from tests.dataplane.service_ground import BOTH, CLIENT, POD1, REMOTE, VIP, Place, ServiceNode, ask, ask_one
from tests.support.packets import NameServer

PORT = 30080
NODE, NODE6 = "192.0.2.254", "2001:db8:9::fe"
TOWARDS_POD1 = "10.0.1.254"


@pytest.fixture(params=["nftables", *Variant])
def make_driver(place: Place, request: pytest.FixtureRequest) -> Callable[[], NftDriver | IptablesDriver]:
    if request.param == "nftables":
        return NftDriver
    programs = find_programs(request.param)
    assert programs is not None
    return lambda: IptablesDriver(programs)


@pytest.fixture
def services(place: Place, make_driver: Callable[[], NftDriver | IptablesDriver]) -> Iterator[ServiceNode]:
    made = ServiceNode(place.node, make_driver)
    yield made
    made.close()


def port_of(value: Service, *backends: tuple[str, str], protocol: int = 6) -> tuple[Change, ...]:
    """Service a/x, with `backends` as (address, node)."""
    slices = slice_of("a/1", "x", *(backend(address, node) for address, node in backends), protocol=protocol)
    return service("a/x", value), slices


def node_port(**values: object) -> Service:
    return service_of("NodePort", node_port=PORT, **values)  # type: ignore[arg-type]


def names(answers: list[str]) -> set[str]:
    return {answer.split()[0] for answer in answers}


def test_every_address_of_the_node_leads_to_all_backends(place: Place, services: ServiceNode) -> None:
    services.see(*port_of(node_port(), *BOTH))
    assert names(ask(place.client, NODE, PORT, times=30)) == {"pod1", "remote"}
    assert names(ask(place.client, "10.0.9.254", PORT, times=30)) == {"pod1", "remote"}
    assert names(ask(place.pod2, NODE, PORT, times=30)) == {"pod1", "remote"}
    assert names(ask(place.node, NODE, PORT, times=30)) == {"pod1", "remote"}


def test_policy_cluster_hides_the_client_and_local_shows_it(place: Place, services: ServiceNode) -> None:
    services.see(*port_of(node_port(), (POD1, ME)))
    assert ask_one(place.client, NODE, PORT) == f"pod1 {TOWARDS_POD1}"
    services.see(*port_of(node_port(external_policy=LOCAL), (POD1, ME)))
    assert ask_one(place.client, NODE, PORT) == f"pod1 {CLIENT}"


def test_policy_local_serves_outside_from_this_node_and_inside_from_all(place: Place, services: ServiceNode) -> None:
    services.see(*port_of(node_port(external_policy=LOCAL), *BOTH))
    assert names(ask(place.client, NODE, PORT, times=15)) == {"pod1"}
    assert names(ask(place.pod2, NODE, PORT, times=30)) == {"pod1", "remote"}
    services.see(*port_of(node_port(external_policy=LOCAL), (REMOTE, OTHER)))
    assert ask_one(place.client, NODE, PORT, wait_s=0.5) == "silence"
    assert names(ask(place.pod1, NODE, PORT)) == names(ask(place.node, NODE, PORT)) == {"remote"}


def test_without_endpoints_it_is_refused(place: Place, services: ServiceNode) -> None:
    services.see(*port_of(node_port()))
    assert [ask_one(one, NODE, PORT) for one in (place.client, place.pod1, place.node)] == ["refused"] * 3
    services.see(*port_of(node_port(protocol=UDP), protocol=UDP))
    assert ask_one(place.client, NODE, PORT, "udp") == "refused"


def test_udp_and_the_other_family_are_the_same_path(place: Place, services: ServiceNode) -> None:
    services.see(*port_of(node_port(protocol=UDP), *BOTH, protocol=UDP))
    assert set(ask(place.client, NODE, PORT, "udp", times=30)) == {"pod1", "remote"}
    services.see(*port_of(node_port(external_policy=LOCAL), ("fd00:1::1", ME), ("fd00:9::1", OTHER)))
    assert ask_one(place.client, NODE6, PORT) == "pod1 2001:db8:9::9"
    assert names(ask(place.pod2, NODE6, PORT, times=30)) == names(ask(place.node, NODE6, PORT, times=30))
    assert ask_one(place.client, NODE, PORT) == "refused", "no IPv4 backend"


def test_loopback_and_other_ports_are_left_alone(place: Place, services: ServiceNode) -> None:
    services.see(*port_of(node_port(), (POD1, ME)))
    with NameServer(place.node, "sshd", 2222):
        assert names([ask_one(place.client, NODE, 2222)]) == {"sshd"}
        assert names([ask_one(place.node, NODE, 2222)]) == {"sshd"}
    with NameServer(place.node, "own", PORT):
        assert names([ask_one(place.node, "127.0.0.1", PORT)]) == {"own"}


def test_what_passes_through_to_a_node_port_of_another_host_is_none_of_ours(
    place: Place, services: ServiceNode
) -> None:
    services.see(*port_of(node_port(), (POD1, ME)))
    with NameServer(place.client, "far", PORT):
        assert ask_one(place.pod2, CLIENT, PORT).startswith("far")
        assert ask_one(place.node, CLIENT, PORT).startswith("far")


def test_one_client_stays_with_one_backend_where_the_service_asks(place: Place, services: ServiceNode) -> None:
    services.see(*port_of(node_port(affinity_s=10800), *BOTH))
    assert len(names(ask(place.client, NODE, PORT, times=12))) == 1


def test_a_backend_reaches_itself(place: Place, services: ServiceNode) -> None:
    services.see(*port_of(node_port(), (POD1, ME)))
    assert ask_one(place.pod1, NODE, PORT) == f"pod1 {TOWARDS_POD1}"


def test_source_ranges_are_for_the_granted_address_only(place: Place, services: ServiceNode) -> None:
    value = service_of(node_port=PORT, source_ranges="198.51.100.0/24")
    services.see(grant(VIP, "a/x"), *port_of(value, (POD1, ME)))
    assert ask_one(place.client, VIP, wait_s=0.5) == "silence"
    assert ask_one(place.client, NODE, PORT) == f"pod1 {TOWARDS_POD1}"


def test_when_the_service_goes_nothing_of_it_stays(place: Place, services: ServiceNode) -> None:
    before = services.driver.read()
    changes = port_of(node_port(external_policy=LOCAL), *BOTH)
    services.see(*changes)
    assert services.driver.read() != before
    services.see(*((ref, None) for ref, _ in changes))
    assert services.driver.read() == before


def test_addresses_that_have_node_ports_can_be_chosen(
    place: Place, make_driver: Callable[[], NftDriver | IptablesDriver]
) -> None:
    chosen = ServiceNode(place.node, make_driver, (parse_prefix("192.0.2.0/24"),))
    try:
        chosen.see(*port_of(node_port(), (POD1, ME), ("fd00:1::1", ME)))
        assert ask_one(place.client, NODE, PORT) == f"pod1 {TOWARDS_POD1}"
        assert ask_one(place.client, "10.0.9.254", PORT) == "refused", "the node itself refuses: nobody listens"
        assert ask_one(place.client, NODE6, PORT) == "refused", "no IPv6 address is among them"
    finally:
        chosen.close()
