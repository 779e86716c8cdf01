"""Host endpoints on iptables: what they do to packets is what they do with nftables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.agent.host_world import OURS, OUT4, POD4, World, make_world
from tests.agent.node import PORT
from tests.agent.policy import test_host_endpoints as scenarios
from tests.agent.services import test_node_ports as node_ports
from tests.support.wait import eventually

LEGACY = (
    scenarios.test_an_interface_is_closed_but_for_failsafes_and_what_policy_allows,
    scenarios.test_a_profile_decides_where_no_policy_does,
    scenarios.test_an_endpoint_found_by_its_address,
    scenarios.test_what_is_closed_is_refused_where_the_configuration_says_so,
    scenarios.test_all_interfaces_and_one_of_its_own,
    scenarios.test_an_interface_that_goes_and_comes_back_and_has_another_name_for_a_while,
    scenarios.test_forwarded_traffic_is_judged_only_where_a_policy_says_so,
    scenarios.test_pre_dnat_policy_sees_the_address_that_was_asked_for,
    scenarios.test_egress_policy_sees_where_translated_traffic_goes,
    scenarios.test_untracked_policy_leaves_connection_tracking_out_of_it,
    scenarios.test_the_datastore_is_kept_whatever_the_failsafes_are,
    scenarios.test_bgp_with_nodes_and_peers_is_kept,
    scenarios.test_what_a_pod_may_send_its_host,
)
NFT = (
    scenarios.test_an_interface_is_closed_but_for_failsafes_and_what_policy_allows,
    scenarios.test_all_interfaces_and_one_of_its_own,
    scenarios.test_forwarded_traffic_is_judged_only_where_a_policy_says_so,
    scenarios.test_pre_dnat_policy_sees_the_address_that_was_asked_for,
    scenarios.test_egress_policy_sees_where_translated_traffic_goes,
    scenarios.test_untracked_policy_leaves_connection_tracking_out_of_it,
    scenarios.test_what_a_pod_may_send_its_host,
)
TRIED = [(name, one) for name, some in (("iptables-legacy", LEGACY), ("iptables-nft", NFT)) for one in some]
world = scenarios.world


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[World]:
    """One for each variant, whose agent is told to use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FELIXPY_BACKEND", request.param)
        with make_world() as made:
            yield made
            assert f"packet rules by {request.param}: asked for" in made.node.log()


@pytest.mark.parametrize(
    ("shared", "scenario"),
    TRIED,
    indirect=["shared"],
    scope="module",
    ids=lambda one: getattr(one, "__name__", one).removeprefix("test_"),
)
def test_host(scenario: Callable[[World], None], world: World) -> None:
    scenario(world)


@pytest.mark.parametrize("shared", ["iptables-legacy", "iptables-nft"], indirect=True, scope="module")
def test_what_a_host_endpoint_lets_in_does_not_come_to_the_rules_of_others_unless_it_is_to_return(world: World) -> None:
    rule = ("INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    host, program = world.node.namespace, os.environ["FELIXPY_BACKEND"]
    allow = {"action": "Allow", "protocol": "TCP", "destination": {"ports": [PORT]}}
    world.policy("web", types=["Ingress"], ingress=[allow])
    world.host("up", interfaceName="up0")
    eventually(lambda: not world.out_of_host() and world.into_host(), what="it is governed")
    host.run(program, "-A", *rule)
    try:
        eventually(world.into_host, what="it does not come to the rule")
        world.felix(iptablesFilterAllowAction="Return")
        eventually(lambda: not world.into_host(), what="the host's own rules decide")
    finally:
        host.run(program, "-D", *rule)


@pytest.mark.parametrize("shared", ["iptables-legacy", "iptables-nft"], indirect=True, scope="module")
def test_what_goes_on_to_endpoints_elsewhere_passes_where_all_else_is_dropped(world: World) -> None:
    host, program = world.node.namespace, os.environ["FELIXPY_BACKEND"]
    host.run(program, "-P", "FORWARD", "DROP")
    try:
        node_ports.write(world)
        key = f"{OURS}/discovery.k8s.io/v1/endpointslices/default/web-1"
        world.node.etcd.put(key, (world.node.etcd.get(key) or "").replace(POD4, OUT4))
        eventually(lambda: node_ports.into_port(world), what="in by the device that it goes out of")
        eventually(world.into_pod, what="to a pod")
        world.felix(iptablesFilterAllowAction="Return")
        eventually(
            lambda: not node_ports.into_port(world) and not world.into_pod(), what="the host's own policy decides"
        )
    finally:
        host.run(program, "-P", "FORWARD", "ACCEPT")
