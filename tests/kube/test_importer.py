"""From the Kubernetes API into etcd, and a Service's address back, by the agent as people start it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.agent.node import CALICO, PROGRAM, resource
from tests.kube.api_server import ApiServer
from tests.support.etcd import Etcd, encode, free_port
from tests.support.process import Daemon
from tests.support.wait import eventually

EVENTS = "/api/v1/events"
PODS, SERVICES, NODES = "/api/v1/pods", "/api/v1/services", "/api/v1/nodes"
POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
KEPT = "/felixpy/resources/core/v1"

Json = dict[str, Any]


class Cluster:
    """An etcd, an API server, and a controller that imports; not yet started."""

    def __init__(self, directory: Path, etcd: Etcd, api: ApiServer) -> None:
        self.etcd, self.api = etcd, api
        self.config = directory / "kubeconfig"
        self.config.write_text(yaml.safe_dump(kubeconfig(api.url, token=api.token)))
        argv = [
            PROGRAM,
            "--etcd",
            etcd.url,
            "--node",
            "n1",
            "--roles",
            "controllers",
            "--run-dir",
            str(directory / "run"),
        ]
        self.agent = Daemon([*argv, "--kubernetes", str(self.config)], directory / "log")

    def kept(self, path: str) -> Json | None:
        """What etcd has of an object, by the end of its key."""
        value = self.etcd.get(path if path.startswith("/") else f"{KEPT}/{path}")
        return None if value is None else dict(json.loads(value))


def kubeconfig(url: str, **user: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user}],
    }


def pod(app: str, **spec: Any) -> Json:
    """A Pod with some of what only a kubelet reads."""
    meta = {"labels": {"app": app}, "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]}
    container = {"name": "c", "image": "nginx", "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 80}]}
    return {
        "metadata": meta,
        "spec": {"nodeName": "n1", "containers": [container], **spec},
        "status": {"phase": "Running"},
    }


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Etcd() as etcd:
        etcd.put(
            f"{CALICO}/clusterinformations/default",
            resource("ClusterInformation", "default", {"clusterGUID": "f" * 32, "datastoreReady": True}),
        )
        api = ApiServer(free_port())
        cluster = Cluster(tmp_path, etcd, api)
        try:
            yield cluster
        finally:
            cluster.agent.stop()
            api.stop()


@pytest.fixture
def running(cluster: Cluster) -> Cluster:
    """Both run, with one Pod that has been imported."""
    cluster.api.put(PODS, "first", pod("one"), "default")
    cluster.api.start()
    cluster.agent.start()
    eventually(lambda: cluster.kept("pods/default/first"), 20, what="the first Pod in etcd")
    return cluster


def test_objects_come_change_and_go_with_what_agents_read_of_them(running: Cluster) -> None:
    kept = running.kept("pods/default/first")
    assert kept is not None
    assert kept["spec"] == {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}
    assert kept["metadata"].keys() == {"name", "namespace", "uid", "labels", "annotations"}
    running.api.put(PODS, "first", pod("two"), "default")
    eventually(lambda: (now := running.kept("pods/default/first")) and now["metadata"]["labels"] == {"app": "two"})
    running.api.delete(PODS, "first", "default")
    eventually(lambda: running.kept("pods/default/first") is None)


def test_a_change_of_what_nobody_reads_writes_nothing(running: Cluster) -> None:
    def written() -> set[tuple[str, str]]:
        """Every Pod's key, and how often it was written."""
        whole = {"key": encode(f"{KEPT}/pods/"), "range_end": encode(f"{KEPT}/pods0")}
        return {(one["key"], one["version"]) for one in running.etcd.call("kv/range", whole)["kvs"]}

    before = written()
    running.api.put(PODS, "first", {**pod("one"), "status": {"phase": "Failed"}}, "default")
    running.api.put(PODS, "second", pod("two"), "default")
    eventually(lambda: running.kept("pods/default/second"))
    assert written() == {*before, (encode(f"{KEPT}/pods/default/second"), "1")}


def test_every_kind_that_agents_read_is_imported_and_pods_of_the_host_are_not(running: Cluster) -> None:
    policy = {"spec": {"podSelector": {"matchLabels": {"app": "one"}}, "policyTypes": ["Ingress"]}}
    running.api.put(POLICIES, "closed", policy, "default")
    running.api.put("/api/v1/namespaces", "default", {"metadata": {"labels": {"team": "a"}}})
    running.api.put(
        "/apis/metallb.io/v1beta1/ipaddresspools", "p", {"spec": {"addresses": ["10.9.0.0/24"]}}, "metallb-system"
    )
    running.api.put(PODS, "host", pod("host", hostNetwork=True), "default")
    running.api.put(PODS, "last", pod("last"), "default")
    eventually(lambda: running.kept("/felixpy/resources/networking.k8s.io/v1/networkpolicies/default/closed"))
    eventually(lambda: (kept := running.kept("namespaces/default")) and kept["metadata"]["labels"] == {"team": "a"})
    eventually(lambda: running.kept("/felixpy/resources/metallb.io/v1beta1/ipaddresspools/metallb-system/p"))
    eventually(lambda: running.kept("pods/default/last"))
    assert running.kept("pods/default/host") is None


def test_what_happened_while_nobody_watched_is_found_by_a_new_list(running: Cluster) -> None:
    running.agent.stop()
    running.api.delete(PODS, "first", "default")
    for number in range(8):  # more than one page
        running.api.put(PODS, f"late{number}", pod("late"), "default")
    running.agent.start()
    eventually(lambda: running.kept("pods/default/first") is None and running.kept("pods/default/late7"), 30)


@pytest.mark.parametrize("how", ["forgets", "stops"])
def test_a_server_that_forgets_or_stops_is_listed_anew(running: Cluster, how: str) -> None:
    if how == "stops":
        running.api.stop()
    running.api.delete(PODS, "first", "default")
    running.api.put(PODS, "second", pod("two"), "default")
    running.api.forget()
    if how == "stops":
        eventually(lambda: "the API server is away" in running.agent.tail(200), 10)
        running.api.start()
    eventually(lambda: running.kept("pods/default/first") is None and running.kept("pods/default/second"), 40)


def test_a_server_that_is_back_is_asked_for_what_came_since_and_not_for_all(running: Cluster) -> None:
    lists = running.api.lists.copy()
    running.api.stop()
    running.api.put(PODS, "second", pod("two"), "default")
    running.api.delete(PODS, "first", "default")
    eventually(lambda: "the API server is away" in running.agent.tail(200), 10)
    running.api.start()
    eventually(lambda: running.kept("pods/default/first") is None and running.kept("pods/default/second"), 40)
    assert running.api.lists[PODS] == lists[PODS]
    assert running.agent.tail(2000).count("the API server is away") == 1, "said once, not for each kind"


def test_what_a_person_wrote_stays_and_is_named(running: Cluster) -> None:
    mine = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mine", "labels": {"by": "hand"}}}
    running.etcd.put(f"{KEPT}/namespaces/mine", mine)
    running.api.put("/api/v1/namespaces", "mine", {"metadata": {"labels": {"by": "api"}}})
    eventually(lambda: f"not imported: {KEPT}/namespaces/mine" in running.agent.tail(200))
    assert running.kept("namespaces/mine") == mine
    running.api.delete("/api/v1/namespaces", "mine")
    running.api.put(PODS, "last", pod("last"), "default")
    eventually(lambda: running.kept("pods/default/last"))
    assert running.kept("namespaces/mine") == mine


def test_what_somebody_deletes_from_the_datastore_comes_back(running: Cluster) -> None:
    running.etcd.delete(f"{KEPT}/pods/default/first")
    eventually(lambda: running.kept("pods/default/first"))
    running.etcd.put(f"{KEPT}/pods/default/first", {**(running.kept("pods/default/first") or {}), "spec": {}})
    eventually(lambda: (kept := running.kept("pods/default/first")) and kept["spec"])


def test_a_service_s_address_is_told_to_the_api(running: Cluster) -> None:
    pool = {"spec": {"addresses": ["203.0.113.7/32"]}}
    running.api.put("/apis/metallb.io/v1beta1/ipaddresspools", "p", pool, "metallb-system")
    spec = {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]}  # fmt: skip
    running.api.put(SERVICES, "web", {"spec": spec}, "default")
    eventually(lambda: ingress(running) == [{"ip": "203.0.113.7"}], 20)
    running.api.put(SERVICES, "web", {"spec": {**spec, "type": "ClusterIP"}, "status": {}}, "default")
    running.api.put(PODS, "last", pod("last"), "default")
    eventually(lambda: running.kept("pods/default/last") and not ingress(running))


def test_who_announces_a_service_and_how_full_pools_are_is_told_to_the_api(running: Cluster) -> None:
    reports, pools = "/apis/metallb.io/v1beta1/servicel2statuses", "/apis/metallb.io/v1beta1/ipaddresspools"
    running.api.put(pools, "p", {"spec": {"addresses": ["203.0.113.0/30"]}}, "metallb-system")
    running.api.put(SERVICES, "web", {"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}, "default")
    running.api.put(reports, "of-metallb", {"status": {"node": "n9"}}, "default")
    count = {"assignedIPv4": 1, "availableIPv4": 3, "assignedIPv6": 0, "availableIPv6": 0}
    eventually(lambda: running.api.get(pools, "p", "metallb-system").get("status") == count, 20)

    status = {"node": "n1", "serviceName": "web", "serviceNamespace": "default", "interfaces": [{"name": "eth0"}]}
    body = {"metadata": {"name": "web.n1", "namespace": "default"}, "spec": {}, "status": status}
    key = "/felixpy/status/metallb.io/v1beta1/servicel2statuses/default/web.n1"
    running.etcd.put(key, body)
    eventually(lambda: running.api.get(reports, "web.n1", "default").get("status") == status, 20)
    assert running.api.get(reports, "web.n1", "default")["metadata"]["ownerReferences"][0]["uid"] == "uid-default/web"
    running.etcd.put(key, {**body, "status": {**status, "interfaces": []}})
    eventually(lambda: running.api.get(reports, "web.n1", "default")["status"]["interfaces"] == [])
    running.api.delete(reports, "web.n1", "default")
    eventually(lambda: running.api.get(reports, "web.n1", "default").get("status"), what="told again")
    running.etcd.delete(key)
    eventually(lambda: [one["metadata"]["name"] for one in running.api.all(reports)] == ["of-metallb"])


def test_an_address_that_another_controller_gave_stays(cluster: Cluster) -> None:
    """MetalLB's cluster, taken over: who had an address keeps it, though another Service is older."""
    pool = {"spec": {"addresses": ["203.0.113.0/29"]}}
    cluster.api.put("/apis/metallb.io/v1beta1/ipaddresspools", "p", pool, "metallb-system")
    spec = {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]}
    for name in ("a-old", "b-old", "c-old"):
        meta = {"creationTimestamp": "2020-01-01T00:00:00Z"}
        cluster.api.put(SERVICES, name, {"metadata": meta, "spec": spec}, "default")
    had = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]}}
    cluster.api.put(
        SERVICES,
        "web",
        {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": had},
        "default",
    )
    cluster.api.start()
    cluster.agent.start()
    eventually(lambda: all(ingress(cluster, name) for name in ("a-old", "b-old", "c-old")), 30)
    assert [one["ip"] for one in ingress(cluster) or ()] == ["203.0.113.1"]
    eventually(lambda: cluster.api.get(SERVICES, "web", "default")["metadata"]["annotations"] == {
        "metallb.io/ip-allocated-from-pool": "p", "felixpy.io/granted": "203.0.113.1"
    })  # fmt: skip
    eventually(lambda: (kept := cluster.kept("services/default/web")) and "status" not in kept, what="it is ours now")


def test_what_was_decided_on_a_service_is_told_to_the_api_as_events(running: Cluster) -> None:
    def told() -> set[tuple[str, str, str]]:
        """The reason, the message, and the uid of the Service that `kubectl describe` asks by."""
        events = (one for one in running.api.all(EVENTS) if one["involvedObject"]["name"] == "web")
        return {(one["reason"], one["message"], one["involvedObject"]["uid"]) for one in events}

    spec = {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]}  # fmt: skip
    running.api.denied.add("/api/v1/namespaces/denied/events")
    running.api.put(SERVICES, "web", {"spec": spec}, "denied")
    running.api.put(SERVICES, "web", {"spec": spec}, "default")
    refused = ("AllocationFailed", "there is no pool", "uid-default/web")
    eventually(lambda: told() == {refused}, 20)
    running.api.stop()
    pool = {"metadata": {"name": "q"}, "spec": {"addresses": ["203.0.113.7/32"]}}
    running.etcd.put("/felixpy/resources/metallb.io/v1beta1/ipaddresspools/metallb-system/q", pool)
    eventually(lambda: running.kept("/felixpy/grants/addresses/203.0.113.7"))
    running.api.start()
    granted = ("IPAllocated", "has 203.0.113.7 of pool q", "uid-default/web")
    eventually(lambda: told() == {refused, granted}, 30, what="what the API missed is told when it is back")


def ingress(cluster: Cluster, name: str = "web") -> list[Json] | None:
    status = cluster.api.get(SERVICES, name, "default").get("status", {})
    found: list[Json] | None = status.get("loadBalancer", {}).get("ingress")
    return found


def test_nodes_have_the_labels_of_both_and_a_node_that_is_gone_goes(running: Cluster) -> None:
    def labels() -> Json | None:
        node = running.kept(f"{CALICO}/nodes/n2")
        return None if node is None else dict(node["metadata"].get("labels", {}))

    node = resource("Node", "n2", {"bgp": {"ipv4Address": "10.0.0.2/24"}}, {"own": "1"})
    running.etcd.put(f"{CALICO}/nodes/n2", node)
    running.api.put(NODES, "n2", {"metadata": {"labels": {"zone": "a", "rack": "r1"}}})
    eventually(lambda: labels() == {"own": "1", "zone": "a", "rack": "r1"})
    running.api.put(NODES, "n2", {"metadata": {"labels": {"zone": "b"}}})
    eventually(lambda: labels() == {"own": "1", "zone": "b"})
    kept = running.kept(f"{CALICO}/nodes/n2")
    assert kept is not None
    reference = {"nodeName": "n2", "orchestrator": "k8s"}
    assert kept["spec"] == {**node["spec"], "orchRefs": [reference]}, "as Calico's own node refers to it"
    running.api.delete(NODES, "n2")
    eventually(lambda: labels() is None)


def test_a_node_that_is_gone_stays_while_its_agent_lives(running: Cluster) -> None:
    holder, kept = "/felixpy/holders/n3/agent", f"{CALICO}/nodes/n3"
    running.etcd.put(holder, {"host": "h3"})
    running.etcd.put(kept, resource("Node", "n3", {}, {"own": "1"}))
    running.api.put(NODES, "n3", {"metadata": {"labels": {"zone": "a"}}})
    eventually(lambda: (node := running.kept(kept)) and "zone" in node["metadata"]["labels"])
    running.api.delete(NODES, "n3")
    eventually(lambda: (node := running.kept(kept)) and node["metadata"]["labels"] == {"own": "1"})
    running.etcd.delete(holder)
    eventually(lambda: running.kept(kept) is None)


def test_a_custom_resource_that_is_not_there_stops_nothing(cluster: Cluster) -> None:
    cluster.api.absent.add("/apis/metallb.io/v1beta2/bgppeers")
    cluster.api.put(PODS, "first", pod("one"), "default")
    cluster.api.start()
    cluster.agent.start()
    eventually(lambda: cluster.kept("pods/default/first"), 20)


def test_a_server_that_denies_a_kind_which_every_api_has_takes_nothing_away(running: Cluster) -> None:
    running.api.put(SERVICES, "web", {"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.1"}}, "default")
    eventually(lambda: running.kept("services/default/web"))
    running.api.absent.add(PODS)
    running.api.stop()
    running.api.start()
    eventually(lambda: f"GET {PODS}: 404" in running.agent.tail(200), 20)
    running.api.delete(SERVICES, "web", "default")
    eventually(lambda: running.kept("services/default/web") is None, 40)
    assert running.kept("pods/default/first"), "what is denied is not known to be gone"


def test_a_service_that_is_made_anew_at_once_has_its_address_in_the_api(running: Cluster) -> None:
    pool = {"spec": {"addresses": ["203.0.113.7/32"]}}
    running.api.put("/apis/metallb.io/v1beta1/ipaddresspools", "p", pool, "metallb-system")
    spec = {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]}  # fmt: skip
    running.api.put(SERVICES, "web", {"spec": spec}, "default")
    eventually(lambda: ingress(running) == [{"ip": "203.0.113.7"}], 20)
    running.api.delete(SERVICES, "web", "default")
    running.api.put(SERVICES, "web", {"spec": spec}, "default")
    eventually(lambda: ingress(running) == [{"ip": "203.0.113.7"}], 20)


def test_a_kubeconfig_that_cannot_be_used_is_said_at_the_start(cluster: Cluster) -> None:
    cluster.config.write_text(
        yaml.safe_dump({**kubeconfig("https://x"), "users": [{"name": "u", "user": {"exec": {}}}]})
    )
    cluster.agent.start()
    eventually(lambda: not cluster.agent.running)
    assert "exec is not supported" in cluster.agent.tail()


def test_a_kubeconfig_that_is_renewed_while_it_runs_is_read_again(running: Cluster) -> None:
    running.api.stop()
    running.api.token = "renewed"
    running.api.start()
    eventually(lambda: ": 401: " in running.agent.tail(200), 30, what="the old token is refused")

    running.config.write_text(yaml.safe_dump(kubeconfig(running.api.url, token="renewed")))
    running.api.put(PODS, "later", pod("two"), "default")

    eventually(lambda: running.kept("pods/default/later"), 60, what="the new one is used")
