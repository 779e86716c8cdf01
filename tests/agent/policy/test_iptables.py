"""The agent on iptables, both variants: what an etcd write does to packets is what it does with nftables."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from felixpy.agent.agent import LOOK_AGAIN_S
from tests.agent.conftest import Scene, Scenes
from tests.agent.connections import Client
from tests.agent.node import Node, Pod, resource
from tests.agent.policy import test_conntrack as conntrack
from tests.agent.policy import test_policy_packets as scenarios
from tests.agent.policy.test_conntrack import served
from tests.support.packets import FlowMeter
from tests.support.wait import eventually

__all__ = ["served"]

LEGACY = [
    scenarios.test_a_policy_is_obeyed_and_so_is_its_change,
    scenarios.test_protocol_and_port,
    scenarios.test_labels_move_a_pod_into_and_out_of_a_set,
    scenarios.test_tiers_pass_and_order,
    scenarios.test_a_network_set_with_prefixes,
    scenarios.test_a_workload_gives_addresses_as_its_own_where_both_it_and_the_node_say_so,
    scenarios.test_what_policies_deny_is_refused_where_the_configuration_says_so,
    scenarios.test_a_pod_reaches_its_host_only_as_told,
    scenarios.test_an_endpoint_before_its_device,
]
NFT = [
    scenarios.test_a_policy_is_obeyed_and_so_is_its_change,
    scenarios.test_labels_move_a_pod_into_and_out_of_a_set,
    scenarios.test_a_network_set_with_prefixes,
]


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the agent is told to use."""
    monkeypatch.setenv("FELIXPY_BACKEND", request.param)
    return str(request.param)


@pytest.mark.parametrize(
    ("backend", "scenario"),
    [*(("iptables-legacy", one) for one in LEGACY), *(("iptables-nft", one) for one in NFT)],
    indirect=["backend"],
    ids=lambda one: getattr(one, "__name__", one).removeprefix("test_"),
)
def test_policy(backend: str, scenario: Callable[[Scene], None], scenes: Scenes) -> None:
    scene = scenes.renewed(backend)
    scenario(scene)
    assert f"packet rules by {backend}: asked for" in scene.node.log()
    assert "felixpy" not in scene.node.nft("list", "tables")


@pytest.mark.parametrize("backend", ["iptables-legacy"], indirect=True)
def test_a_udp_client_moves_to_the_new_backend(backend: str, served: tuple[Scene, Pod, Client]) -> None:
    conntrack.test_a_udp_client_moves_to_the_new_backend(served)


def test_an_agent_takes_over_from_the_other_back_end(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = node.pod("a", "10.65.0.2"), node.pod("b", "10.65.0.3")
    a.write()
    b.write()
    node.policy("closed", "name == 'b'", ingress=[{"action": "Allow", "protocol": "UDP"}])
    held = {
        "nftables": lambda: "table inet felixpy" in node.nft("list", "tables"),
        "iptables-nft": lambda: ":fpx-" in node.namespace.run("iptables-nft-save"),
        "iptables-legacy": lambda: ":fpx-" in node.namespace.run("iptables-legacy-save"),
    }
    for backend in ("iptables-legacy", "nftables", "iptables-nft", "iptables-legacy", "nftables"):
        monkeypatch.setenv("FELIXPY_BACKEND", backend)
        node.agent = node.make_agent().start()
        eventually(lambda now=backend: [one for one, has in held.items() if has()] == [now], what=backend)
        eventually(lambda: a.asks("10.65.0.3") == "b", what="routes come after rules")
        assert not a.reaches(b)
        node.agent.stop()
    assert node.namespace.run("ipset", "list", "-n") == ""


@pytest.mark.parametrize("backend", ["iptables-legacy", "iptables-nft"], indirect=True)
def test_what_is_allowed_passes_where_all_else_is_dropped_unless_it_is_to_return(backend: str, scenes: Scenes) -> None:
    scene = scenes.renewed(backend)
    node, a, b = scene.node, scene.a, scene.b
    programs = {0: backend, 1: backend.replace("ip", "ip6", 1)}
    try:
        for program in programs.values():
            node.namespace.run(program, "-P", "FORWARD", "DROP")
        eventually(lambda: a.reaches(b) and a.reaches(b, 1), what="as on a host with Docker")
        node.namespace.run(backend, "-I", "FORWARD", "1", "-s", a.addresses[0], "-j", "DROP")
        eventually(lambda: not a.reaches(b) and a.reaches(b, 1), what="what others deny is denied")
        node.namespace.run(backend, "-D", "FORWARD", "-s", a.addresses[0], "-j", "DROP")
        node.policy("closed", "name == 'b'", ingress=[])
        eventually(lambda: not a.reaches(b), what="policy")
        node.drop("globalnetworkpolicies", "default.closed")
        eventually(lambda: a.reaches(b), what="without policy")
        spec = {"iptablesFilterAllowAction": "Return"}
        node.put("felixconfigurations", resource("FelixConfiguration", "default", spec))
        eventually(lambda: not a.reaches(b) and not a.reaches(b, 1), what="the host's own policy decides")
    finally:
        for program in programs.values():
            node.namespace.run(program, "-P", "FORWARD", "ACCEPT")


@pytest.mark.parametrize("backend", ["iptables-legacy"], indirect=True)
def test_a_restart_changes_nothing_and_repairs_what_was_done_meanwhile(
    backend: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("closed", "name == 'b'", ingress=[{"action": "Allow", "protocol": "UDP"}])
    eventually(lambda: not a.reaches(b))
    node.namespace.run("iptables-legacy", "-A", "INPUT", "-s", "203.0.113.1", "-j", "DROP")
    saved = save_rules(node)
    node.agent.stop()
    assert not a.reaches(b), "the rules stay"
    node.agent.start()
    eventually(lambda: node.log().count("kernel, start") == 2)
    assert save_rules(node) == saved
    node.agent.stop()
    node.namespace.run("iptables-legacy", "-F", "FORWARD")
    assert a.reaches(b)
    node.agent.start()
    eventually(lambda: not a.reaches(b), what="the jump is back")
    assert save_rules(node) == saved


@pytest.mark.parametrize("backend", ["iptables-legacy", "iptables-nft"], indirect=True)
def test_a_killed_agent_loses_no_packet(backend: str, scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("closed", "name == 'b'", ingress=[{"action": "Allow", "protocol": "UDP"}])
    eventually(lambda: not a.reaches(b))
    with FlowMeter(a.namespace, b.namespace, b.addresses[0]) as flow:
        node.agent.kill()
        node.agent.start()
        eventually(lambda: node.log().count("kernel, start") == 2)
        assert not a.reaches(b)
        report = flow.stop()
    assert (report.sent > 300, report.lost) == (True, 0)


@pytest.mark.parametrize("backend", ["iptables-legacy", "iptables-nft"], indirect=True)
def test_what_others_did_is_found_by_looking(backend: str, scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("closed", "name == 'b'", ingress=[])
    eventually(lambda: not a.reaches(b))
    node.namespace.run(backend, "-I", "FORWARD", "1", "-j", "ACCEPT")
    eventually(
        lambda: node.namespace.run(backend, "-S", "FORWARD").splitlines()[1] != "-A FORWARD -j ACCEPT",
        within_s=3 * LOOK_AGAIN_S,
        what="our rule comes first again",
    )
    assert not a.reaches(b)


def save_rules(node: Node) -> list[str]:
    """All rules, of ours and of others, without counters."""
    lines = node.namespace.run("iptables-legacy-save").splitlines()
    return sorted(line.partition(" [")[0] for line in lines if not line.startswith("#"))
