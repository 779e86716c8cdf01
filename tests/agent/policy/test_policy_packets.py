"""An etcd write changes what packets may do: policy, endpoints and sets, through the agent as people start it."""

from __future__ import annotations

import socket

import pytest

from tests.agent.conftest import Scene, Scenes
from tests.agent.node import PORT, Node, resource
from tests.support.packets import fate_of
from tests.support.sctp import reached_ports
from tests.support.wait import eventually

FROM_A = {"source": {"selector": "name == 'a'"}}


@pytest.fixture
def scene(scenes: Scenes) -> Scene:
    return scenes.renewed()


def test_a_policy_is_obeyed_and_so_is_its_change(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("flip", "name == 'b'", ingress=[{"action": "Deny", **FROM_A}])
    eventually(lambda: not a.reaches(b) and not a.reaches(b, 1), what="denied in both families")
    node.policy("flip", "name == 'b'", ingress=[{"action": "Allow", **FROM_A}])
    eventually(lambda: a.reaches(b) and a.reaches(b, 1), what="allowed in both families")
    node.policy("flip", "name == 'b'", ingress=[])
    eventually(lambda: not a.reaches(b), what="a policy without rules denies")
    node.drop("globalnetworkpolicies", "default.flip")
    eventually(lambda: a.reaches(b), what="without policy the profile decides")


def test_protocol_and_port(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    udp = {"action": "Allow", "protocol": "UDP", "destination": {"ports": [f"{PORT - 1}:{PORT + 1}"]}}
    node.policy("udp", "name == 'b'", ingress=[udp])
    eventually(lambda: a.asks("10.65.0.3") == "b" and not a.reaches(b), what="UDP passes, TCP does not")
    tcp = {"action": "Allow", "protocol": "TCP", "destination": {"ports": [1, PORT], "notPorts": [1]}}
    node.policy("udp", "name == 'b'", ingress=[tcp])
    eventually(lambda: a.asks("10.65.0.3") is None and a.reaches(b), what="TCP passes, UDP does not")


@pytest.mark.parametrize("backend", ["nftables", "iptables-legacy"])
def test_sctp_by_its_port(scenes: Scenes, backend: str) -> None:
    scene = scenes.renewed(backend)
    both = (PORT, PORT + 1)

    def reached(address: str) -> set[int]:
        return reached_ports(scene.a.namespace, scene.b.namespace, address, both)

    eventually(lambda: reached("10.65.0.3") == reached("fd65::3") == set(both), what="all is open")
    allow = {"action": "Allow", "protocol": "SCTP", "destination": {"ports": [PORT]}}
    scene.node.policy("sctp", "name == 'b'", ingress=[allow])
    eventually(lambda: reached("10.65.0.3") == reached("fd65::3") == {PORT})
    scene.node.policy("sctp", "name == 'b'", ingress=[{"action": "Allow", "protocol": "TCP"}])
    eventually(lambda: not reached("10.65.0.3") and not reached("fd65::3"))


def test_what_policies_deny_is_refused_where_the_configuration_says_so(scene: Scene) -> None:
    node, a = scene.node, scene.a
    ends = [(address, kind) for address in scene.b.addresses for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]

    def fates() -> set[str]:
        return {fate_of(a.namespace, address, PORT, kind) for address, kind in ends}

    node.namespace.sysctl(
        ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0
    )  # else a refusal in the same second is silence
    reject = {"nftablesFilterDenyAction": "Reject", "iptablesFilterDenyAction": "Reject"}
    node.put("felixconfigurations", resource("FelixConfiguration", "default", reject))
    node.policy("closed", "name == 'b'", ingress=[])
    eventually(lambda: fates() == {"refused"}, what="the end of the tier")
    node.policy("closed", "name == 'a'", types=["Egress"], egress=[{"action": "Deny"}])
    eventually(lambda: fates() == {"refused"}, what="a rule, at the sender")
    node.drop("globalnetworkpolicies", "default.closed")
    eventually(lambda: fates() == {"answered"}, what="the profile allows it")
    scene.b.write(profiles=())
    eventually(lambda: fates() == {"refused"}, what="no profile")
    assert fate_of(a.namespace, "10.65.0.1", PORT) != "answered"
    node.put("felixconfigurations", resource("FelixConfiguration", "default", {}))
    eventually(lambda: fates() == {"nothing"}, what="dropped")


def test_a_workload_gives_addresses_as_its_own_where_both_it_and_the_node_say_so(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    others = ("10.65.0.77", "10.65.0.78", "fd65::77")
    for address in others:
        a.namespace.add_address("lo", f"{address}/{128 if ':' in address else 32}")

    def heard(source: str) -> bool:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with b.namespace.entered():
            ear = socket.socket(family, socket.SOCK_DGRAM)
        with a.namespace.entered():
            mouth = socket.socket(family, socket.SOCK_DGRAM)
        with ear, mouth:
            ear.bind(("", 0))
            ear.settimeout(0.4)
            mouth.bind((source, 0))
            mouth.sendto(b"x", (b.addresses[family == socket.AF_INET6], ear.getsockname()[1]))
            try:
                return bool(ear.recv(9))
            except TimeoutError:
                return False

    try:
        eventually(lambda: heard("10.65.0.2") and heard("fd65::2"))
        a.write(allowSpoofedSourcePrefixes=["10.65.0.77/32", "fd65::/64"])
        assert not heard("10.65.0.77"), "the node says nothing"
        node.put("felixconfigurations", resource("FelixConfiguration", "default", {"workloadSourceSpoofing": "Any"}))
        eventually(lambda: heard("10.65.0.77") and heard("fd65::77"), what="both say so")
        assert not heard("10.65.0.78")
        a.write()
        eventually(lambda: not heard("10.65.0.77") and not heard("fd65::77"), what="the endpoint says nothing")
        eventually(lambda: heard("10.65.0.2"), what="its own address stays")
    finally:
        a.namespace.ip("address", "flush", "dev", "lo", "scope", "global")


def test_labels_move_a_pod_into_and_out_of_a_set(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("team", "name == 'b'", ingress=[{"action": "Allow", "source": {"selector": "team == 'red'"}}])
    eventually(lambda: not a.reaches(b))
    a.write({"team": "red"})
    eventually(lambda: a.reaches(b) and a.reaches(b, 1), what="labelled, both families")
    a.write({"team": "blue"})
    eventually(lambda: not a.reaches(b), what="labelled otherwise")


def test_tiers_pass_and_order(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.put("tiers", resource("Tier", "first", {"order": 10, "defaultAction": "Deny"}))
    spec = {"tier": "first", "order": 1, "selector": "name == 'b'", "types": ["Ingress"], "ingress": []}
    node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", "first.gate", spec))
    eventually(lambda: not a.reaches(b), what="the end of the first tier denies")
    spec["ingress"] = [{"action": "Pass"}]
    node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", "first.gate", spec))
    eventually(lambda: a.reaches(b), what="passed to the profile")
    node.policy("late", "name == 'b'", order=20, ingress=[{"action": "Deny"}])
    eventually(lambda: not a.reaches(b), what="passed to the default tier")
    node.policy("early", "name == 'b'", order=10, ingress=[{"action": "Allow"}])
    eventually(lambda: a.reaches(b), what="the lower order decides")
    node.put("tiers", resource("Tier", "first", {"order": 10, "defaultAction": "Pass"}))
    node.policy("early", "name == 'b'", order=30, ingress=[{"action": "Allow"}])
    eventually(lambda: not a.reaches(b), what="the order is changed")


def test_a_network_set_with_prefixes(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("nets", "name == 'b'", ingress=[{"action": "Allow", "source": {"selector": "kind == 'net'"}}])
    eventually(lambda: not a.reaches(b))
    spec = {"nets": ["10.65.0.0/24", "10.65.0.0/30", "fd65::/64"]}
    node.put("globalnetworksets", resource("GlobalNetworkSet", "nets", spec, {"kind": "net"}))
    eventually(lambda: a.reaches(b) and a.reaches(b, 1), what="prefixes that overlap")
    spec = {"nets": ["10.65.0.2/32"]}
    node.put("globalnetworksets", resource("GlobalNetworkSet", "nets", spec, {"kind": "net"}))
    eventually(lambda: a.reaches(b) and not a.reaches(b, 1), what="a single address is left")
    node.drop("globalnetworksets", "nets")
    eventually(lambda: not a.reaches(b))


def test_an_endpoint_comes_and_goes(scene: Scene) -> None:
    node, a = scene.node, scene.a
    late = node.pod("late", "10.65.0.9")
    assert not a.reaches(late), "an interface without endpoint is closed"
    late.write()
    eventually(lambda: a.reaches(late))
    node.etcd.delete(late.key)
    eventually(lambda: not a.reaches(late))
    assert "10.65.0.9" not in node.namespace.ip("route")
    assert late.device not in node.nft("list", "ruleset")


def test_an_endpoint_before_its_device(scene: Scene) -> None:
    node, a = scene.node, scene.a
    late = node.pod("late", "10.65.0.9")
    node.namespace.ip("link", "set", late.device, "down")
    node.namespace.ip("link", "set", late.device, "name", "cali-away")
    late.write()
    eventually(lambda: late.device in node.log(), what="the agent says that the device is missing")
    node.namespace.ip("link", "set", "cali-away", "name", late.device)
    node.namespace.ip("link", "set", late.device, "up")
    eventually(lambda: a.reaches(late))


def test_a_pod_cannot_take_anothers_address(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    a.namespace.ip("address", "add", "10.65.0.77/32", "dev", "eth0")
    before = node.nft("list", "chain", "inet", "felixpy", "raw-prerouting")
    assert "fib saddr" in before
    assert not a.namespace.succeeds("ping", "-nqc1", "-W0.5", "-I", "10.65.0.77", b.addresses[0])
    assert a.namespace.succeeds("ping", "-nqc1", "-W1", b.addresses[0])


def test_a_pod_reaches_its_host_only_as_told(scene: Scene) -> None:
    node, a = scene.node, scene.a
    node.namespace.add_address("lo", "10.9.9.9/32")
    assert not a.namespace.succeeds("ping", "-nqc1", "-W0.5", "10.9.9.9")
    assert node.namespace.succeeds("ping", "-nqc1", "-W1", a.addresses[0]), "the host reaches its pods"


def test_a_broken_object_is_named_once_and_harms_nothing(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    bad = resource("GlobalNetworkPolicy", "default.bad", {"selector": "name =", "order": 1})
    node.put("globalnetworkpolicies", bad)
    node.put("globalnetworkpolicies", {**bad, "metadata": {**bad["metadata"], "name": "default.worse"}, "spec": 7})
    node.etcd.put("/calico/resources/v3/projectcalico.org/tiers/odd", "not json")
    eventually(lambda: "default.worse" in node.log() and "tiers/odd" in node.log())
    assert "default.bad: spec.selector" in node.log()
    node.policy("flip", "name == 'b'", ingress=[{"action": "Deny"}])
    eventually(lambda: not a.reaches(b), what="other policies are obeyed")
    assert node.log().count("default.bad: ") == 1
    node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", "default.flip", {"selector": "name = 'b'"}))
    eventually(lambda: a.reaches(b), what="a policy that breaks counts as missing")


def test_what_is_another_object_than_its_key_says_is_no_policy(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    denies = resource("GlobalNetworkPolicy", "default.it", {"selector": "all()", "types": ["Ingress"], "order": 1})
    node.put("globalnetworkpolicies", denies)
    eventually(lambda: not a.reaches(b), what="an empty policy denies")
    for other in ({"kind": "NetworkSet"}, {"apiVersion": "networking.k8s.io/v1"}, {"metadata": {"name": "not-it"}}):
        node.etcd.put("/calico/resources/v3/projectcalico.org/globalnetworkpolicies/default.it", {**denies, **other})
        eventually(lambda: a.reaches(b), what="it counts as missing")
        field = next(iter(other)) if "metadata" not in other else "metadata.name"
        eventually(lambda field=field: f"globalnetworkpolicies/default.it: {field}: is " in node.log())  # type: ignore[misc]
        node.put("globalnetworkpolicies", denies)
        eventually(lambda: not a.reaches(b), what="the right one counts again")


def test_a_wrong_setting_is_named_and_the_others_hold(scene: Scene) -> None:
    node, a = scene.node, scene.a
    node.namespace.add_address("lo", "10.9.9.9/32")
    spec = {"interfacePrefix": "e", "vxlanPort": "4789", "defaultEndpointToHostAction": "Accept"}
    node.put("felixconfigurations", resource("FelixConfiguration", "default", spec))
    eventually(lambda: a.namespace.succeeds("ping", "-nqc1", "-W1", "10.9.9.9"), what="what is right holds")
    said = node.log()
    assert "one field counts as missing" in said
    assert "default: spec.interfacePrefix: 'e' begins the name of interfaces of the node itself (eth0)" in said
    assert "default: spec.vxlanPort: '4789' is no number from 1 to 65535" in said
    assert scene.a.reaches(scene.b), "pods are pods still"


def test_what_is_broken_and_deleted_is_broken_no_more(scene: Scene) -> None:
    node = scene.node
    odd = "/calico/resources/v3/projectcalico.org/nodes/"
    node.etcd.put(odd, "{}")
    eventually(lambda: f"{odd}: " in node.log())
    node.etcd.delete(odd)
    eventually(lambda: '"broken":0' in node.felixctl("status", "--local", "-o", "json").out.replace(" ", ""))


def test_an_empty_datastore_becomes_a_cluster() -> None:
    with Node(initialised=False) as node:
        node.agent = node.make_agent("--default-pool", "10.64.0.0/16,fd64::/48").start()
        eventually(lambda: len(node.etcd.get_prefix("/calico/resources/v3/projectcalico.org/ippools/")) == 2)
        tiers = node.etcd.get_prefix("/calico/resources/v3/projectcalico.org/tiers/")
        assert {key.rpartition("/")[2] for key in tiers} == {"default", "kube-admin", "kube-baseline"}
        eventually(lambda: "hook forward" in node.nft("list", "ruleset"))


def test_a_node_without_resource_gets_one() -> None:
    with Node() as node:
        node.namespace.ip("link", "add", "docker0", "type", "bridge")
        node.namespace.add_address("docker0", "172.17.0.1/16")
        node.namespace.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        node.namespace.ip("link", "set", "eth1", "up")
        node.namespace.add_address("eth0", "10.9.0.5/24")
        node.namespace.ip("route", "add", "default", "via", "10.9.0.1")
        node.agent.start()
        body = eventually(lambda: node.etcd.get("/calico/resources/v3/projectcalico.org/nodes/n1"))
        assert '"ipv4Address":"10.9.0.5/24"' in body
        assert "used towards the default route" in node.log()
        node.drop("nodes", "n1")
        eventually(lambda: node.etcd.get("/calico/resources/v3/projectcalico.org/nodes/n1"), what="while it runs")


def test_a_node_with_pools_forwards(node: Node) -> None:
    def forwards() -> list[str]:
        return node.namespace.run("sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding").split()

    node.namespace.sysctl(ipv4__ip_forward=0, ipv6__conf__all__forwarding=0)
    node.agent.start()
    node.put("ippools", resource("IPPool", "four", {"cidr": "10.64.0.0/16"}))
    eventually(lambda: forwards() == ["1", "0"])
    node.put("ippools", resource("IPPool", "six", {"cidr": "fd64::/48"}))
    eventually(lambda: forwards() == ["1", "1"])
    node.namespace.sysctl(ipv4__ip_forward=0, ipv6__conf__all__forwarding=0)
    eventually(lambda: forwards() == ["1", "1"], what="what somebody turned off is on again")


def test_settings_of_a_pods_device_that_somebody_changed_are_put_back(scene: Scene) -> None:
    ours = {"rp_filter": "0", "proxy_arp": "1", "forwarding": "1"}
    others = {name: "1" if value == "0" else "0" for name, value in ours.items()}

    def settings() -> dict[str, str]:
        root = f"/proc/sys/net/ipv4/conf/{scene.b.device}"
        return {name: scene.node.namespace.run("cat", f"{root}/{name}").strip() for name in ours}

    eventually(lambda: settings() == ours)
    for name, value in others.items():
        scene.node.namespace.sysctl(**{f"ipv4__conf__{scene.b.device}__{name}": value})
    eventually(lambda: settings() == ours)
    assert scene.a.reaches(scene.b, wait_s=3)
