"""Fields of policies, one by one, by packets: two pods, the agent as people start it, and what is written to etcd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agent.conftest import Scene
from tests.agent.node import CALICO, PORT, Json, Node, Pod, resource
from tests.support.packets import ping_ok
from tests.support.wait import eventually

OURS = "/felixpy/resources"
KEPT = ("clusterinformations", "profiles/open", "tiers/default", "workloadendpoints")
B4, B6 = "10.65.0.3", "fd65::3"


@pytest.fixture(scope="module")
def shared() -> Iterator[Scene]:
    """One node and two pods for the module."""
    with Node() as node:
        a, b = node.pod("a", "10.65.0.2", "fd65::2"), node.pod("b", B4, B6)
        node.agent.start()
        yield Scene(node, a, b)


@pytest.fixture
def scene(shared: Scene) -> Iterator[Scene]:
    """The two pods reach each other; what the test writes goes when it ends."""
    shared.a.write()
    shared.b.write()
    eventually(lambda: shared.a.reaches(shared.b) and shared.a.reaches(shared.b, 1), what="a reaches b")
    yield shared
    for key in shared.node.etcd.get_prefix(f"{CALICO}/"):
        if not key.removeprefix(f"{CALICO}/").startswith(KEPT):
            shared.node.etcd.delete(key)
    shared.node.etcd.delete_prefix(f"{OURS}/")


def put_slice(node: Node, service: str, name: str, port: int, *addresses: str) -> None:
    """Writes an EndpointSlice of a Service in namespace default."""
    body: Json = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv6" if ":" in addresses[0] else "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": False}} for address in addresses],
        "ports": [{"name": "", "protocol": "TCP", "port": port}],
    }
    node.etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/default/{name}", body)


def test_a_service_as_source(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    clients = {"services": {"name": "clients", "namespace": "default"}}
    node.policy("svc", "name == 'b'", ingress=[{"action": "Allow", "source": clients}])
    eventually(lambda: not a.reaches(b), what="nothing is behind the Service")
    put_slice(node, "clients", "clients-1", 1, a.addresses[0])
    eventually(lambda: a.reaches(b) and not a.reaches(b, 1), what="behind it with one address, whatever the port")
    put_slice(node, "clients", "clients-2", 1, a.addresses[1])
    eventually(lambda: a.reaches(b, 1), what="and with the other, in another slice")
    node.etcd.delete(f"{OURS}/discovery.k8s.io/v1/endpointslices/default/clients-1")
    eventually(lambda: not a.reaches(b) and a.reaches(b, 1))


def test_a_service_as_destination(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    rule = {"action": "Allow", "destination": {"services": {"name": "web"}}}
    spec = {"tier": "default", "selector": "name == 'a'", "types": ["Egress"], "egress": [rule]}
    node.put("networkpolicies", resource("NetworkPolicy", "default.svc", spec, namespace="default"))
    eventually(lambda: not a.reaches(b))
    put_slice(node, "web", "web-1", PORT + 1, B4)
    put_slice(node, "web", "web-2", PORT, B6)
    eventually(lambda: a.reaches(b, 1), what="at the port that is served there")
    assert not a.reaches(b), "at another port"
    put_slice(node, "web", "web-1", PORT, B4)
    eventually(lambda: a.reaches(b))
    assert a.asks(B4) is None, "another protocol"


def test_nothing_stands_beside_services(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("good", "name == 'b'", order=1, ingress=[{"action": "Deny"}])
    eventually(lambda: not a.reaches(b))
    both = {"services": {"name": "web", "namespace": "default"}, "ports": [PORT]}
    node.policy("bad", "name == 'b'", order=0, ingress=[{"action": "Allow", "protocol": "TCP", "destination": both}])
    eventually(lambda: "default.bad: spec.ingress[0].destination.services" in node.log())
    assert not a.reaches(b)


@pytest.mark.parametrize(
    ("rule", "v4", "v6"),
    [
        ({"protocol": "ICMP", "icmp": {"type": 8, "code": 0}}, True, False),
        ({"protocol": "ICMP", "icmp": {"type": 0}}, False, False),
        ({"protocol": "ICMPv6", "icmp": {"type": 128}}, False, True),
        ({"protocol": "ICMP", "notICMP": {"type": 8}}, False, False),
        ({"protocol": 1}, True, False),
        ({"notProtocol": "ICMP"}, False, True),
        ({"ipVersion": 6}, False, True),
        ({"source": {"nets": ["10.65.0.0/24"]}}, True, False),
        ({"source": {"notNets": ["10.65.0.2/32", "fd65::9/128"]}}, False, True),
        ({"source": {"notSelector": "name == 'a'"}}, False, False),
        ({"source": {"selector": "global()"}}, True, False),
        ({"source": {"namespaceSelector": "global()", "selector": "kind == 'net'"}}, True, False),
    ],
    ids=str,
)
def test_what_a_rule_matches(scene: Scene, rule: dict[str, Any], v4: bool, v6: bool) -> None:
    node, a = scene.node, scene.a
    node.put("globalnetworksets", resource("GlobalNetworkSet", "n", {"nets": ["10.65.0.0/25"]}, {"kind": "net"}))
    node.policy("one", "name == 'b'", ingress=[{"action": "Allow", **rule}])
    eventually(lambda: "gnp/default.one" in node.judge("to", scene.b))
    got = tuple(ping_ok(a.namespace, to, wait_s=3 if passes else 0.4) for to, passes in ((B4, v4), (B6, v6)))
    assert got == (v4, v6)


K8S = {"projectcalico.org/orchestrator": "k8s"}
EVERYONE = {"namespaces": {}}


def put_admin(node: Node, plural: str, name: str, **spec: Any) -> None:
    """Writes one of Kubernetes' policies for administrators."""
    version = "v1alpha2" if plural == "clusternetworkpolicies" else "v1alpha1"
    body = {"metadata": {"name": name}, "spec": {"subject": EVERYONE, **spec}}
    node.etcd.put(f"{OURS}/policy.networking.k8s.io/{version}/{plural}/{name}", body)


def test_a_rules_annotations_are_its_comment(scene: Scene) -> None:
    annotations = {"ticket": "SEC-17", "why": 'a "quoted"\nreason'}
    rule = {"action": "Allow", "metadata": {"annotations": annotations}}
    scene.node.policy("noted", "name == 'b'", ingress=[rule])
    said = 'comment "GlobalNetworkPolicy default.noted ingress[0] ticket=SEC-17 why=a ?quoted??reason"'
    eventually(lambda: said in scene.node.nft("list", "table", "inet", "felixpy"))


def test_policies_for_administrators_frame_all_others(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    a.write(K8S)
    b.write(K8S)
    deny = {"action": "Deny", "from": [EVERYONE]}
    put_admin(node, "baselineadminnetworkpolicies", "default", ingress=[deny])
    eventually(lambda: not a.reaches(b), what="the baseline denies what nobody allows")
    node.policy("allow", "name == 'b'", ingress=[{"action": "Allow"}])
    eventually(lambda: a.reaches(b), what="a policy goes before it")
    tcp = {"tcp": {"destinationPort": {"number": PORT}}}
    put_admin(node, "clusternetworkpolicies", "no", tier="Admin", priority=10, ingress=[{**deny, "protocols": [tcp]}])
    eventually(lambda: not a.reaches(b), what="the administrator's goes before that")
    assert a.asks(B4, wait_s=3) == "b", "and says nothing of UDP"
    through = {"action": "Pass", "from": [EVERYONE]}
    put_admin(node, "adminnetworkpolicies", "yes", priority=9, ingress=[through])
    eventually(lambda: a.reaches(b), what="passed on by one that goes before")


def test_nodes_as_peers_of_an_administrators_policy(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    a.write(K8S)

    def put_peer(number: int, role: str) -> None:
        bgp = {"ipv4Address": f"10.65.0.{number}/24", "ipv6Address": f"fd65::{number}/64"}
        node.put("nodes", resource("Node", "other", {"bgp": bgp}, {"role": role}))

    rule = {
        "action": "Deny",
        "to": [{"nodes": {"matchExpressions": [{"key": "role", "operator": "In", "values": ["db"]}]}}],
    }
    put_admin(node, "clusternetworkpolicies", "no-db", tier="Admin", priority=1, egress=[rule])
    eventually(lambda: "no-db" in node.judge("from", a))
    assert a.reaches(b), "no node has the label"
    put_peer(3, "db")
    eventually(lambda: not a.reaches(b) and not a.reaches(b, 1), what="a node with the label has its address")
    put_peer(3, "web")
    eventually(lambda: a.reaches(b) and a.reaches(b, 1), what="another label")
    put_peer(9, "db")
    put_peer(3, "db")
    eventually(lambda: not a.reaches(b), what="labelled and addressed anew")
    put_peer(9, "db")
    eventually(lambda: a.reaches(b) and a.reaches(b, 1), what="another address")
    put_peer(3, "db")
    eventually(lambda: not a.reaches(b))
    node.drop("nodes", "other")
    eventually(lambda: a.reaches(b), what="the node is gone")


def test_a_kubernetes_policy(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    b.write({**K8S, "app": "web"})
    allow = {
        "from": [{"podSelector": {"matchLabels": {"team": "red"}}}],
        "ports": [{"port": PORT - 5, "endPort": PORT}],
    }
    spec: Json = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [allow]}
    key = f"{OURS}/networking.k8s.io/v1/networkpolicies/default/web"
    node.etcd.put(key, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    eventually(lambda: not a.reaches(b))
    a.write({**K8S, "team": "red"})
    eventually(lambda: a.reaches(b) and a.reaches(b, 1))
    assert a.asks(B4) is None, "a port without protocol is TCP"
    spec = {
        **spec,
        "policyTypes": [],
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.65.0.0/24", "except": ["10.65.0.2/32"]}}]}],
    }
    node.etcd.put(key, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    eventually(lambda: not a.reaches(b) and not a.reaches(b, 1))


def put_core(node: Node, plural: str, name: str, labels: dict[str, str], **body: Any) -> None:
    """Writes an object of Kubernetes' core group in (or as) namespace default."""
    namespace, _, own = name.rpartition("/")
    metadata = {"name": own, "labels": labels, **({"namespace": namespace} if namespace else {})}
    node.etcd.put(f"{OURS}/core/v1/{plural}/{name}", {"metadata": metadata, **body})


def run_by_kubernetes(pod: Pod) -> None:
    """Writes the endpoint as a CNI does for a Kubernetes pod, without labels of the pod."""
    body = json.loads(pod.node.etcd.get(pod.key) or "")
    body["spec"] |= {"orchestrator": "k8s", "pod": pod.name, "workload": "", "profiles": []}
    pod.node.etcd.put(pod.key, body)


def test_labels_of_pods_namespaces_and_service_accounts(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    put_core(node, "namespaces", "default", {"env": "test"})
    put_core(node, "pods", "default/a", {"team": "blue"}, spec={"serviceAccountName": "client"})
    run_by_kubernetes(a)
    node.policy("team", "name == 'b'", ingress=[{"action": "Allow", "source": {"selector": "team == 'red'"}}])
    eventually(lambda: not a.reaches(b))
    put_core(node, "pods", "default/a", {"team": "red"}, spec={"serviceAccountName": "client"})
    eventually(lambda: a.reaches(b) and a.reaches(b, 1), what="labelled anew, the endpoint as it was")
    by_role = {"serviceAccounts": {"selector": "role == 'reader'"}, "namespaceSelector": "env == 'test'"}
    node.policy("team", "name == 'b'", ingress=[{"action": "Allow", "source": by_role}])
    eventually(lambda: not a.reaches(b))
    put_core(node, "serviceaccounts", "default/client", {"role": "reader"})
    eventually(lambda: a.reaches(b), what="by the labels of its service account")
    put_core(node, "namespaces", "default", {"env": "production"})
    eventually(lambda: not a.reaches(b), what="by those of its namespace")
    by_name = {"serviceAccounts": {"names": ["client"]}, "namespaceSelector": "projectcalico.org/name == 'default'"}
    node.policy("team", "name == 'b'", ingress=[{"action": "Allow", "source": by_name}])
    eventually(lambda: a.reaches(b), what="by their names")
    spec = {"selector": "name == 'b'", "serviceAccountSelector": "all()", "types": ["Ingress"], "order": 1}
    node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", "default.who", spec))
    marker = {**spec, "serviceAccountSelector": "role == 'reader'", "selector": "all()", "types": ["Egress"]}
    node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", "default.what", marker))
    eventually(lambda: not a.reaches(b), what="a policy for endpoints of that service account")


def test_a_namespace_selector_where_the_namespaces_profile_is_stored_too(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.put("profiles", resource("Profile", "kns.default", {"ingress": [{"action": "Allow"}], "egress": []}))
    put_core(node, "namespaces", "default", {})
    a.write(K8S, ("kns.default",))
    b.write({**K8S, "app": "web"})
    eventually(lambda: not a.reaches(b), what="the stored profile's rules count: nothing leaves")
    node.put("profiles", resource("Profile", "kns.default", {"egress": [{"action": "Allow"}]}))
    team = {"namespaceSelector": {"matchLabels": {"team": "red"}}}
    spec: Json = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [team]}]}
    key = f"{OURS}/networking.k8s.io/v1/networkpolicies/default/web"
    node.etcd.put(key, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    eventually(lambda: "knp/default/web" in node.nft("list", "ruleset") and not a.reaches(b), what="no team")
    put_core(node, "namespaces", "default", {"team": "red"})
    eventually(lambda: a.reaches(b) and a.reaches(b, 1), what="by the namespace's label")
    put_core(node, "namespaces", "default", {})
    eventually(lambda: not a.reaches(b), what="the label is gone")
    named = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}
    spec["ingress"] = [{"from": [named]}]
    node.etcd.put(key, {"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
    eventually(lambda: a.reaches(b), what="by its name")


def test_log_writes_to_the_kernels_log_and_decides_nothing(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.policy("seen", "name == 'b'", ingress=[{"action": "Log", "protocol": "TCP"}, {"action": "Deny"}])
    eventually(lambda: 'log prefix "calico-packet: " level notice' in node.nft("list", "ruleset"))
    eventually(lambda: not a.reaches(b), what="the rule after it decides")
    node.put("felixconfigurations", resource("FelixConfiguration", "default", {"logPrefix": "mine"}))
    node.policy("seen", "name == 'b'", ingress=[{"action": "Log"}, {"action": "Allow"}])
    eventually(lambda: 'log prefix "mine: " level notice' in node.nft("list", "ruleset") and a.reaches(b))
    node.put("felixconfigurations", resource("FelixConfiguration", "default", {"logPrefix": "%k %p of %t"}))
    eventually(lambda: 'log prefix "gnp default.seen of default: "' in node.nft("list", "ruleset"))


def test_a_tier_of_staged_policies_only(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    node.put("tiers", resource("Tier", "first", {"order": 1, "defaultAction": "Deny"}))
    spec = {"tier": "first", "selector": "name == 'b'", "types": ["Ingress"], "ingress": [{"action": "Deny"}]}
    staged = resource("StagedGlobalNetworkPolicy", "first.s", {**spec, "stagedAction": "Set"})
    node.put("stagedglobalnetworkpolicies", staged)
    namespaced = resource("StagedNetworkPolicy", "first.s", {**spec, "stagedAction": "Set"}, namespace="default")
    node.put("stagednetworkpolicies", namespaced)
    kube = {"podSelector": {}, "stagedAction": "Set"}
    node.put(
        "stagedkubernetesnetworkpolicies", resource("StagedKubernetesNetworkPolicy", "s", kube, namespace="default")
    )
    node.policy("seen", "name == 'b'", types=["Egress"], egress=[{"action": "Allow"}])
    eventually(lambda: "gnp/default.seen" in node.judge("from", b))
    assert a.reaches(b), "staged policies decide nothing, and their tier does not end"
    node.put("globalnetworkpolicies", resource("GlobalNetworkPolicy", "first.e", {**spec, "ingress": []}))
    eventually(lambda: not a.reaches(b), what="one that is enforced makes the tier end")


def test_another_prefix_of_interfaces(scene: Scene) -> None:
    node, a, b = scene.node, scene.a, scene.b
    host = node.namespace
    stranger = node.pod("stranger", "10.65.0.44")
    host.ip("link", "set", stranger.device, "down")
    host.ip("link", "set", stranger.device, "name", "tap-s")
    host.ip("link", "set", "tap-s", "up")
    host.ip("route", "replace", "10.65.0.44", "dev", "tap-s")
    open_b = [{"action": "Allow"}]
    node.policy("open", "name == 'b'", ingress=open_b)
    eventually(lambda: stranger.reaches(b), what="no interface of a workload, nobody guards it")
    node.put("felixconfigurations", resource("FelixConfiguration", "node.n1", {"interfacePrefix": "tap,cali"}))
    eventually(lambda: not stranger.reaches(b), what="one of a workload without endpoint")
    assert a.reaches(b)
