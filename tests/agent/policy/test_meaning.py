"""What felixctl explain says is what packets do, with both back ends; `python -m tests.bench meaning` tries 10,000."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agent.cluster import ADDRESSES
from tests.agent.node import CALICO, PORT, Json, resource
from tests.agent.policy.meaning import VIP, Author, Scene, predict, try_world, two_nodes_with_pods
from tests.agent.probe import Probe, probe_all

WORLDS = {"nftables": 6, "iptables-legacy": 3}
SEEDS = [pytest.param(name, seed, id=f"{name}-{seed}") for name, count in WORLDS.items() for seed in range(count)]


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Two nodes whose agents were told which back end to use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FELIXPY_BACKEND", request.param)
        with two_nodes_with_pods() as found:
            yield found


@pytest.mark.parametrize(("scene", "seed"), SEEDS, indirect=["scene"], scope="module")
def test_packets_do_what_explain_says(scene: Scene, seed: int) -> None:
    outcome = try_world(scene, seed)
    assert not outcome.wrong, outcome.wrong


@pytest.mark.parametrize("scene", list(WORLDS), indirect=True)
def test_answers_to_what_is_not_tracked(scene: Scene) -> None:
    machines, node = scene.machines, scene.machines.n1
    for plural in ("globalnetworkpolicies", "networkpolicies", "hostendpoints"):
        machines.etcd.delete_prefix(f"{CALICO}/{plural}/")
    spec = {"node": "n2", "interfaceName": "eth0", "profiles": ["open"]}
    node.put("hostendpoints", resource("HostEndpoint", "n2", spec, {"host": "n2"}))
    fields: Json = {"applyOnForward": True, "doNotTrack": True, "order": 1}
    into: list[Json] = [{"action": "Allow", "protocol": one} for one in ("TCP", "UDP", "ICMP")]
    target, own = scene.pods[2].addresses[0], ADDRESSES["n2"]
    probes = [Probe("tcp", target, PORT), Probe("udp", target, PORT), Probe("icmp", target), Probe("icmp", own)]
    flows = [("p1", probe) for probe in probes[:3]] + [("n1", probe) for probe in probes]
    service = "p3", Probe("tcp", VIP, 80)

    def agree() -> set[bool]:
        assert machines.felixctl("status", "--wait").code == 0
        said = {flow: predict(scene.cluster(), *flow) for flow in flows}
        assert said == scene.try_flows(said)
        return set(said.values())

    try:
        node.policy("raw", "has(host)", ingress=into, **fields)
        assert agree() == {True, False}, "what TCP and ICMP answer belongs to no connection; UDP begins one"
        assert not predict(scene.cluster(), *service), "what comes back is not translated, where it is not tracked"
        assert not all(probe_all(scene.ends["p3"], [service[1]] * 16)), "from the other node's endpoint"
        node.policy("raw", "has(host)", types=["Ingress", "Egress"], ingress=into, egress=into, **fields)
        assert agree() == {True, False}, "what passes through meets no egress policy that is not tracked"
    finally:
        machines.etcd.delete_prefix(f"{CALICO}/hostendpoints/")
        machines.etcd.delete_prefix(f"{CALICO}/globalnetworkpolicies/")


@pytest.mark.parametrize("scene", ["iptables-legacy"], indirect=True)
def test_the_command_says_the_same(scene: Scene) -> None:
    author = Author(99)
    author.write(scene.machines, scene.pods)
    cluster = scene.cluster()
    for source, probe in [one for one in author.flows(scene) if one[1].kind == "tcp"][:4]:
        said = scene.machines.felixctl("explain", source, probe.address, f"tcp/{probe.port}")
        assert said.code == (0 if predict(cluster, source, probe) else 1), said.out + said.err


@pytest.mark.parametrize("scene", list(WORLDS), indirect=True)
def test_live_tells_what_was_counted(scene: Scene) -> None:
    node, p1, p2 = scene.machines.n1, scene.pods[0], scene.pods[1]
    for plural in ("globalnetworkpolicies", "networkpolicies"):
        scene.machines.etcd.delete_prefix(f"{CALICO}/{plural}/")
    node.policy("closed", "name == 'p2'", ingress=[{"action": "Deny", "protocol": "TCP"}, {"action": "Allow"}])
    assert scene.machines.felixctl("status", "--wait").code == 0

    def counted() -> int:
        said = scene.machines.felixctl("explain", "p1", p2.addresses[0], f"tcp/{PORT}", "--live", "-o", "json")
        (rule,) = (one for one in said.json()["counted"]["n1"] if "closed" in one["chain"])
        return int(rule["packets"])

    before = counted()
    assert not p1.reaches(p2)
    assert counted() > before
    lines = scene.machines.felixctl("explain", "p1", p2.addresses[0], f"tcp/{PORT}", "--live").out.splitlines()
    assert lines[-1].startswith("  n1: deny-in-gnp/default.closed-0: ")
