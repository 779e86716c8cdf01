"""What rules do to packets can be read with `felixctl flows`: which tier, policy and rule, whose packet it was."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.conftest import Scene, Scenes
from tests.agent.node import PORT, PROGRAM, Node, Pod, resource
from tests.agent.pages import fetch
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import tcp_ok
from tests.support.wait import eventually

FELIXCTL = PROGRAM.with_name("felixctl")
FROM_A = {"source": {"selector": "name == 'a'"}}


@pytest.fixture(params=["nftables", "iptables-legacy"])
def backend(request: pytest.FixtureRequest) -> str:
    """What the agent is told to use."""
    return str(request.param)


@pytest.fixture
def scene(request: pytest.FixtureRequest, scenes: Scenes) -> Scene:
    """With the back end of the test, where it has one."""
    return scenes.renewed(*(request.getfixturevalue(name) for name in ("backend",) if name in request.fixturenames))


def flows(node: Node, *arguments: str) -> list[dict[str, Any]]:
    """What `felixctl flows` prints, as JSON."""
    said = node.felixctl("flows", "--node", node.name, "-o", "json", *arguments)
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def causes(node: Node, *arguments: str) -> set[str]:
    """Who decided, in words."""
    return {flow["by"] for flow in flows(node, *arguments)}


def configure(node: Node, **spec: Any) -> None:
    node.put("felixconfigurations", resource("FelixConfiguration", "default", spec))


def test_a_denied_packet_is_told_with_its_rule_and_names(backend: str, scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    rules = [{"action": "Allow", "protocol": "UDP"}, {"action": "Deny", "protocol": "TCP", **FROM_A}]
    node.policy("flip", "name == 'b'", ingress=rules)
    eventually(lambda: not a.reaches(b) and not a.reaches(b, 1), what="denied in both families")

    def by_policy() -> list[dict[str, Any]]:
        return [flow for flow in flows(node, "--denied", "--pod", "a") if "policy" in flow]

    eventually(lambda: len(by_policy()) == 2, what="a flow for each family")
    for flow, address in zip(by_policy(), (0, 1), strict=True):
        told = {
            "verdict": "denied",
            "direction": "ingress",
            "tier": "default",
            "policy": "GlobalNetworkPolicy default.flip",
            "field": "spec.ingress[1]",
            "endpoint": "default/b",
            "protocol": 6,
            "destinationPort": PORT,
            "source": {**pod(a, address), "node": "n1"},
            "destination": {**pod(b, address), "node": "n1"},
        }
        assert {name: flow[name] for name in told} == told
        assert flow["packets"] >= 1
        assert explained(node, a.addresses[address], b.addresses[address]) == "spec.ingress[1]", "explain agrees"


def test_a_flow_keeps_the_name_of_its_time(backend: str, scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("shut", "name == 'b'", ingress=[{"action": "Deny", "protocol": "UDP"}])

    def told() -> dict[str, int]:
        """How often each source was told of."""
        found = [flow for flow in flows(node, "--denied", "--address", a.addresses[0]) if flow["protocol"] == 17]
        return {flow["source"].get("name", ""): flow["packets"] for flow in found}

    eventually(lambda: a.asks(b.addresses[0]) is None and "a" in told())
    catch_up(node, a, b.addresses[1])
    before = told()["a"]
    node.etcd.delete(a.key)
    heir = node.pod("heir", a.addresses[0])
    heir.write()
    assert node.felixctl("status", "n1", "--wait").code == 0
    node.namespace.ip("route", "replace", f"{a.addresses[0]}/32", "dev", heir.device)
    eventually(lambda: heir.asks(b.addresses[0]) is None and "heir" in told(), within_s=20)
    assert told()["a"] == before, "and what was told of its predecessor is still the predecessor's"
    assert {flow["source"]["name"] for flow in flows(node, "--denied", "--pod", "a")} == {"a"}


def test_nodes_services_and_network_sets_keep_the_name_of_their_time_too(backend: str, scene: Scene) -> None:
    node, a = scene.node, scene.a
    deny = {"types": ["Egress"], "egress": [{"action": "Deny", "protocol": "UDP"}, {"action": "Allow"}]}
    node.policy("shut", "name == 'a'", **deny)
    node.namespace.ip("route", "add", "10.77.0.0/16", "dev", scene.b.device)
    targets = {"node": "10.77.0.1", "Service": "10.77.0.2", "network set": "10.77.0.3"}

    def name(number: int) -> None:
        """Gives each address to somebody of that number, and takes it from others."""
        other = 3 - number
        for one in (number, other):
            here = one == number
            bgp = {"ipv4Address": f"{targets['node'] if here else f'10.77.1.{one}'}/24"}
            node.put("nodes", resource("Node", f"x{one}", {"bgp": bgp}))
            nets = [targets["network set"] + "/32", "10.77.2.0/24"] if here else ["10.77.2.0/24"]
            node.put("globalnetworksets", resource("GlobalNetworkSet", f"x{one}", {"nets": nets}))
            vip = targets["Service"] if here else f"10.77.3.{one}"
            port = {"name": "", "port": 80, "protocol": "TCP"}
            body = {
                "metadata": {"name": f"x{one}", "namespace": "default"},
                "spec": {"clusterIP": vip, "ports": [port]},
            }
            node.etcd.put(f"/felixpy/resources/core/v1/services/default/x{one}", body)

    def told(address: str) -> dict[str, int]:
        found = [flow for flow in flows(node, "--address", address) if flow["protocol"] == 17]
        return {flow["destination"].get("name", ""): flow["packets"] for flow in found}

    name(1)
    for address in targets.values():
        eventually(
            lambda address=address: a.asks(address) is None and "x1" in told(address), what=f"{address} is told of"
        )
    catch_up(node, a, "10.77.9.9")
    before = {address: told(address)["x1"] for address in targets.values()}
    name(2)
    assert node.felixctl("status", "n1", "--wait").code == 0
    for address in targets.values():
        eventually(
            lambda address=address: a.asks(address) is None and "x2" in told(address), what=f"{address} is told of"
        )
        assert told(address)["x1"] == before[address], "what was told of is still the former holder's"


def catch_up(node: Node, pod: Pod, address: str) -> None:
    """All that went before is counted once this is told: a denied packet of the pod's to an address of its own."""
    eventually(lambda: pod.asks(address) is None and flows(node, "--denied", "--address", address))


def explained(node: Node, source: str, destination: str) -> str:
    """The field of the rule that decides, as explain says."""
    (flow,) = node.felixctl("explain", source, destination, f"tcp/{PORT}", "-o", "json").json()["flows"]
    return str(flow["nodes"][-1]["statements"][-1]["field"])


def pod(one: Pod, address: int) -> dict[str, str]:
    return {"address": one.addresses[address], "kind": "pod", "namespace": "default", "name": one.name}


def test_every_way_to_die_has_its_name(backend: str, scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.namespace.add_address("lo", "10.9.9.9/32")
    nobody = node.pod("nobody", "10.65.0.9")
    node.namespace.ip("route", "add", "10.65.0.9/32", "dev", nobody.device)
    node.namespace.ip("route", "add", "10.96.0.0/24", "dev", nobody.device)
    a.namespace.ip("address", "add", "10.65.0.77/32", "dev", "eth0")
    put_service(node, "none", "10.96.0.1")
    put_service(node, "elsewhere", "10.96.0.2", "n2", internalTrafficPolicy="Local")
    put_service(node, "ours", "10.96.0.3", "n1", type="LoadBalancer", loadBalancerSourceRanges=["198.51.100.0/24"])
    grant = {"address": "203.0.113.1", "pool": "p", "services": ["default/ours"]}
    node.etcd.put("/felixpy/grants/addresses/203.0.113.1", grant)
    node.put("tiers", resource("Tier", "first", {"order": 10, "defaultAction": "Deny"}))
    gate = {"tier": "first", "order": 1, "selector": "name == 'b'", "types": ["Ingress"]}
    node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", "first.gate", gate))
    b.write(profiles=())

    def send() -> set[str]:
        a.reaches(b)
        b.reaches(a)
        a.reaches(nobody)
        nobody.reaches(a)
        a.namespace.succeeds("ping", "-nqc1", "-W0.2", "10.9.9.9")
        a.namespace.succeeds("ping", "-nqc1", "-W0.2", "-I", "10.65.0.77", b.addresses[0])
        send_stray_segment(b, a)
        send_udp(a, b.addresses[0], 4789)
        ask(a, "10.96.0.1", 80)
        ask(a, "10.96.0.1", 81)
        ask(a, "10.96.0.2", 80)
        ask(a, "203.0.113.1", 80)
        return causes(node, "--denied")

    wanted = {
        "end of tier first",
        "no profile allows it",
        "interface without endpoint",
        "workload to its host",
        "source address of another",
        "what belongs to no connection",
        "VXLAN of a workload",
        "no endpoint",
        "no such port",
        "no endpoint of the Service on this node",
        "source not allowed",
    }
    missing = set(wanted)

    def all_told() -> bool:
        missing.difference_update(send())
        return not missing

    try:
        eventually(all_told, within_s=60)
    finally:
        assert not missing
    spoofed = next(flow for flow in flows(node) if flow["by"] == "source address of another")
    assert (spoofed["source"]["name"], spoofed["source"]["address"]) == ("a", "10.65.0.77")
    refused = next(flow for flow in flows(node) if flow["by"] == "no endpoint")
    assert (refused["verdict"], refused["destination"]["kind"]) == ("refused", "Service")


def put_service(node: Node, name: str, address: str, backend_at: str = "", **spec: Any) -> None:
    """A Service at port 80; with a node, one endpoint there."""
    core, discovery = "/felixpy/resources/core/v1", "/felixpy/resources/discovery.k8s.io/v1"
    meta = {"name": name, "namespace": "default"}
    port = {"port": 80, "protocol": "TCP"}
    body = {"clusterIP": address, "clusterIPs": [address], "ports": [port], **spec}
    node.etcd.put(f"{core}/services/default/{name}", {"metadata": meta, "spec": body})
    if backend_at:
        labels = {"kubernetes.io/service-name": name}
        ready = {"addresses": ["10.65.0.3"], "nodeName": backend_at, "conditions": {"ready": True}}
        group = {"addressType": "IPv4", "ports": [{"port": PORT, "protocol": "TCP"}], "endpoints": [ready]}
        node.etcd.put(f"{discovery}/endpointslices/default/{name}", {"metadata": {**meta, "labels": labels}, **group})


def ask(one: Pod, address: str, port: int) -> None:
    one.namespace.succeeds("timeout", "0.2", "bash", "-c", f"echo > /dev/tcp/{address}/{port}")


def send_udp(one: Pod, address: str, port: int) -> None:
    with one.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"?", (address, port))


def send_stray_segment(source: Pod, destination: Pod) -> None:
    """A TCP segment with flags that no connection begins with: conntrack finds it invalid."""
    head = (40000).to_bytes(2, "big") + PORT.to_bytes(2, "big") + bytes(8) + bytes([0x50, 0x03]) + bytes(6)
    with source.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.sendto(head, (destination.addresses[0], 0))


def test_allowed_and_logged_flows_on_request(backend: str, scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("open", "name == 'b'", ingress=[{"action": "Log", "protocol": "TCP"}, {"action": "Allow"}])
    eventually(lambda: a.reaches(b) and "GlobalNetworkPolicy default.open spec.ingress[0]" in causes(node, "--logged"))
    assert causes(node, "--allowed") == set()
    configure(node, flowLogsFileEnabledForAllowed=True)

    def told() -> set[str]:
        a.reaches(b)
        return causes(node, "--allowed")

    eventually(lambda: told() == {"GlobalNetworkPolicy default.open spec.ingress[1]", "Profile open spec.egress[0]"})
    configure(node, flowLogsFileEnabledForAllowed=False, flowLogsFileEnabledForDenied=False)
    node.policy("open", "name == 'b'", ingress=[{"action": "Deny", "protocol": "TCP"}])
    denied = "GlobalNetworkPolicy default.open spec.ingress[0]"
    eventually(lambda: not a.reaches(b))
    assert denied not in causes(node, "--denied")
    configure(node)
    eventually(lambda: not a.reaches(b) and denied in causes(node, "--denied"), what="told unless said otherwise")


def test_a_flood_is_counted_in_full_and_told_of_in_part(backend: str, scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    configure(node, prometheusMetricsEnabled=True)
    node.policy("closed", "name == 'b'", ingress=[{"action": "Deny", "protocol": "UDP"}])
    eventually(lambda: a.asks(b.addresses[0]) is None and causes(node, "--denied"), what="denied and told")
    before = counted(node, "GlobalNetworkPolicy default.closed")
    send_many(a, b.addresses[0], FLOOD)
    after = eventually(
        lambda: (now := counted(node, "GlobalNetworkPolicy default.closed")) >= before + FLOOD and now,
        what="every packet is counted",
    )
    assert after < before + 2 * FLOOD
    told = [one for one in flows(node, "--denied", "--pod", "b") if one.get("policy")]
    assert 0 < sum(one["packets"] for one in told) < FLOOD / 10, told
    node.policy("closed", "name == 'b'", ingress=[{"action": "Allow", "protocol": "UDP"}])
    eventually(lambda: a.asks(b.addresses[0]) == "b", what="the agent goes on")


FLOOD = 50_000


def send_many(one: Pod, address: str, count: int) -> None:
    with one.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((address, PORT))
        for _ in range(count):
            sender.send(b"?")


def counted(node: Node, policy: str) -> float:
    """What Prometheus reads of the packets that a policy denied."""
    page = fetch(node, "/metrics")
    assert page is not None
    samples = [one for family in text_string_to_metric_families(page.body) for one in family.samples]
    return sum(one.value for one in samples if one.name == "calico_denied_packets" and one.labels["policy"] == policy)


def test_a_restarted_agent_tells_on_with_the_kernels_counts(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    configure(node, prometheusMetricsEnabled=True)
    node.policy("closed", "name == 'b'", ingress=[{"action": "Deny", "protocol": "UDP"}])
    eventually(lambda: a.asks(b.addresses[0]) is None and causes(node, "--denied"))
    send_many(a, b.addresses[0], 100)
    rules = node.nft("--stateless", "list", "ruleset")
    node.agent.stop()
    send_many(a, b.addresses[0], 100)
    node.agent.start()
    eventually(lambda: fetch(node, "/metrics") is not None)
    assert flows(node) == []
    a.asks(b.addresses[0])
    eventually(lambda: causes(node, "--denied") == {"GlobalNetworkPolicy default.closed spec.ingress[0]"})
    assert counted(node, "GlobalNetworkPolicy default.closed") > 200
    assert node.nft("--stateless", "list", "ruleset") == rules


@contextmanager
def following(node: Node) -> Iterator[subprocess.Popen[str]]:
    """`felixctl flows -f` on the node; ended in any case."""
    words = [FELIXCTL, "--etcd", "http://127.0.0.1:2379", "flows", "-f", "--denied", "--node", "n1"]
    process = node.namespace.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_one_who_follows_is_told_what_is_new_and_leaves_nothing_behind(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("closed", "name == 'b'", ingress=[{"action": "Deny", "protocol": "UDP"}])
    eventually(lambda: a.asks(b.addresses[0]) is None)
    lines: list[str] = []

    def told(address: int, wanted: str) -> str:
        """The line that tells of what `a` asks at an address of `b`, as often as it takes."""

        def line() -> str | None:
            a.asks(b.addresses[address])
            return next((one for one in lines if wanted in one), None)

        return eventually(line)

    with following(node) as process:
        assert process.stdout is not None
        reader = Thread(target=lambda output=process.stdout: lines.extend(iter(output.readline, "")))
        reader.start()
        first = told(0, "n1 denied default/a (10.65.0.2) → default/b (10.65.0.3) udp/8080")
        assert first.rstrip().endswith(
            "ingress of default/b, tier default: GlobalNetworkPolicy default.closed spec.ingress[0]"
        )
        told(1, "default/a (fd65::2) → default/b (fd65::3)")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        reader.join(20)
    eventually(lambda: not node.etcd.get_prefix("/felixpy/answers/") and not node.etcd.get_prefix("/felixpy/ask/"))


def test_who_stops_reading_flows_is_told_nothing_more(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("closed", "name == 'b'", ingress=[{"action": "Deny", "protocol": "UDP"}])
    eventually(lambda: a.asks(b.addresses[0]) is None)
    with following(node) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        eventually(lambda: (a.asks(b.addresses[1]), process.poll())[1] is not None, what="it ends")
        assert process.stderr.read() == ""
        assert process.returncode == 1
    eventually(lambda: not node.etcd.get_prefix("/felixpy/answers/") and not node.etcd.get_prefix("/felixpy/ask/"))


def test_flows_without_etcd(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("closed", "name == 'b'", ingress=[{"action": "Deny", "protocol": "UDP"}])
    eventually(lambda: a.asks(b.addresses[0]) is None)
    told = node.felixctl("flows", "--local", "--run-dir", str(node.run_dir), "--denied")
    assert "GlobalNetworkPolicy default.closed spec.ingress[0]" in told.out


def test_a_staged_policy_says_what_it_would_have_done_to_what_passed(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    configure(node, flowLogsFileEnabledForAllowed=True)
    spec = {"tier": "default", "order": 1, "selector": "name == 'b'", "types": ["Ingress"]}
    staged = {**spec, "ingress": [{"action": "Deny", "protocol": "TCP", **FROM_A}, {"action": "Allow"}]}
    node.put("stagedglobalnetworkpolicies", resource("StagedGlobalNetworkPolicy", "default.next", staged))

    def told() -> list[dict[str, Any]]:
        assert a.reaches(b)
        assert a.asks(b.addresses[0], wait_s=3) == "b"
        return flows(node, "--allowed", "--pod", "b")

    found = eventually(lambda: [one for one in told() if one["protocol"] == 6 and one["direction"] == "ingress"])
    assert found[0]["staged"] == {
        "verdict": "denied",
        "by": "tier default: StagedGlobalNetworkPolicy next spec.ingress[0] denies",
        "rule": "{action: Deny, protocol: TCP, source: {selector: name == 'a'}}",
    }
    otherwise = flows(node, "--staged")
    assert {one["protocol"] for one in otherwise} == {6}
    assert all("staged" not in one for one in told() if one["protocol"] == 17)
    assert "default.next" not in node.nft("list", "ruleset"), "a staged policy is in no kernel"


def test_a_name_of_any_length_is_told_in_full_before_and_after_a_restart(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    name = "default." + "x" * 200
    deny = {
        "tier": "default",
        "order": 1,
        "selector": "name == 'b'",
        "ingress": [{"action": "Deny", "protocol": "UDP"}],
    }
    node.put("networkpolicies", resource("NetworkPolicy", name, deny, namespace="default"))
    by = f"NetworkPolicy default/{name} spec.ingress[0]"
    eventually(lambda: a.asks(b.addresses[0]) is None and by in causes(node))
    node.agent.stop()
    node.agent.start()
    eventually(lambda: a.asks(b.addresses[0]) is None and by in causes(node))


def test_policies_of_hosts_say_their_stage_and_rule(backend: str, scene: Scene) -> None:
    node, a = scene.node, scene.a
    outside = Namespace.create("o")
    with outside:
        link_namespaces(
            node.namespace, "eth9", outside, "eth0", left_addresses=["192.0.2.1/24"], right_addresses=["192.0.2.9/24"]
        )
        outside.ip("route", "add", "10.65.0.0/24", "via", "192.0.2.1")
        host = {"node": "n1", "interfaceName": "eth9", "expectedIPs": ["192.0.2.1"]}
        node.put("hostendpoints", resource("HostEndpoint", "uplink", host, {"kind": "uplink"}))
        spec = {
            "tier": "default",
            "order": 1,
            "selector": "kind == 'uplink'",
            "types": ["Ingress"],
            "applyOnForward": True,
        }
        for name, stage, port in (("raw", "doNotTrack", 1111), ("before", "preDNAT", 2222), ("through", "", 3333)):
            match = {"action": "Deny", "protocol": "TCP", "destination": {"ports": [port]}}
            ingress = [match] if stage == "preDNAT" else [match, {"action": "Pass"}]
            policy = {**spec, **({stage: True} if stage else {}), "ingress": ingress}
            node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", f"default.{name}", policy))

        def told() -> dict[int, tuple[str, str, str, str]]:
            for port in (1111, 2222, 3333):
                tcp_ok(outside, a.addresses[0], port, wait_s=0.2)
            found = [one for one in flows(node, "--denied", "--address", "192.0.2.9") if "policy" in one]
            return {
                one["destinationPort"]: (one["policy"], one["field"], one.get("stage", ""), one["endpoint"])
                for one in found
            }

        wanted = {
            1111: ("GlobalNetworkPolicy default.raw", "spec.ingress[0]", "untracked", "host endpoint uplink"),
            2222: ("GlobalNetworkPolicy default.before", "spec.ingress[0]", "pre-dnat", "host endpoint uplink"),
            3333: ("GlobalNetworkPolicy default.through", "spec.ingress[0]", "", "host endpoint uplink"),
        }
        eventually(lambda: told() == wanted, within_s=20)
