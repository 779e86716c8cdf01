"""Services through iptables, both variants: the same packets, answered the same, as through nftables."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from felixpy.drivers.backend import find_programs
from felixpy.drivers.iptables import IptablesDriver, Variant
from tests.dataplane import test_service_packets as scenarios
from tests.dataplane.service_ground import Place, ServiceNode

SCENARIOS = [
    scenarios.test_connections_spread_over_all_backends_and_come_back,
    scenarios.test_cluster_policy_hides_the_client_and_local_policy_shows_it,
    scenarios.test_local_policy_serves_outside_from_this_node_only,
    scenarios.test_local_policy_without_a_local_backend_is_silent_outside_and_serves_inside,
    scenarios.test_without_any_backend_it_is_refused_from_everywhere,
    scenarios.test_without_any_backend_udp_is_refused_too,
    scenarios.test_the_node_itself_reaches_local_and_remote_backends,
    scenarios.test_a_pod_keeps_its_address_towards_a_service,
    scenarios.test_a_backend_reaches_itself_through_its_service,
    scenarios.test_udp_is_balanced_too,
    scenarios.test_ipv6_is_the_same_path,
    scenarios.test_source_ranges_let_in_only_those_named,
    scenarios.test_internal_policy_local_never_leaves_the_node,
    scenarios.test_clients_with_affinity_spread_over_the_backends,
    scenarios.test_clients_with_affinity_stay_when_a_backend_comes_and_move_when_theirs_goes,
    scenarios.test_a_client_is_forgotten_when_it_was_away_for_the_timeout,
    scenarios.test_all_frontends_of_a_service_know_its_clients,
    scenarios.test_a_backend_that_goes_gets_no_new_connection,
    scenarios.test_when_the_service_goes_nothing_of_it_stays_in_the_kernel,
]


@pytest.fixture(params=list(Variant))
def services(place: Place, request: pytest.FixtureRequest) -> Iterator[ServiceNode]:
    """A refusal comes after routing here, where a redirect would use up the client's share of ICMP errors."""
    programs = find_programs(request.param)
    assert programs is not None
    place.node.sysctl(**{f"ipv4__conf__{device}__send_redirects": 0 for device in ("all", "eth0")})
    made = ServiceNode(place.node, lambda: IptablesDriver(programs))
    yield made
    made.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__.removeprefix("test_"))
def test_services(scenario: Callable[[Place, ServiceNode], None], place: Place, services: ServiceNode) -> None:
    scenario(place, services)


@pytest.mark.parametrize(
    ("address", "backends"),
    [
        (scenarios.VIP, (scenarios.POD1, scenarios.REMOTE)),
        (scenarios.VIP6, ("fd00:1::1", "fd00:9::1")),
    ],
)
def test_with_client_affinity_one_client_stays_with_one_backend(
    place: Place, services: ServiceNode, address: str, backends: tuple[str, str]
) -> None:
    scenarios.test_with_client_affinity_one_client_stays_with_one_backend(place, services, address, backends)


def test_sctp_is_led_to_a_backend_with_a_checksum_that_is_right(place: Place, services: ServiceNode) -> None:
    scenarios.test_sctp_is_led_to_a_backend_with_a_checksum_that_is_right(place, services, 0)


@pytest.mark.parametrize("address", [scenarios.VIP, scenarios.VIP6])
def test_a_port_that_no_service_has_is_refused(place: Place, services: ServiceNode, address: str) -> None:
    scenarios.test_a_port_that_no_service_has_is_refused(place, services, address)
