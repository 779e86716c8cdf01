"""The nodes say how they stand, and felixctl how well that is: asked through etcd, and on the node itself."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.cluster import Cluster, two_nodes
from tests.agent.node import CALICO, Json, Said, resource
from tests.support.wait import eventually

CLUSTER = f"{CALICO}/clusterinformations/default"
BAD = resource("GlobalNetworkPolicy", "default.bad", {"selector": "name =", "order": 1})


@pytest.fixture(scope="module")
def both() -> Iterator[Cluster]:
    """Both nodes run and their BGP session is up; a test leaves them so."""
    with two_nodes() as cluster:
        cluster.start()
        eventually(lambda: cluster.felixctl("status").code == 0, within_s=30, every_s=0.5, what="all is well")
        yield cluster


@pytest.fixture
def lone() -> Iterator[Cluster]:
    """Both nodes run, without BGP; a test may break them."""
    with two_nodes("agent") as cluster:
        cluster.start()
        yield cluster


def test_all_is_well(both: Cluster) -> None:
    said = both.felixctl("status")
    assert (said.code, said.err) == (0, "")
    head, first, second = said.out.splitlines()
    assert head.split()[:3] == ["NODE", "ROLES", "REVISION"]
    assert first.split()[:2] == ["n1", "agent,bgp,controllers"]
    assert all("1/1" in line for line in (first, second)), said.out
    assert sum("leads the controllers" in line for line in (first, second)) == 1
    assert both.etcd.get_prefix("/felixpy/a") == {}, "questions and answers are gone"


def test_one_node_in_full_and_as_json(both: Cluster) -> None:
    said = both.felixctl("status", "n2")
    assert said.code == 0
    assert "1 of 1 sessions up" in said.out
    assert "10.98.0.1   n1" in said.out
    asked = both.felixctl("status", "n2", "-o", "json").json()
    assert (asked["node"], asked["answered"], asked["problems"]) == ("n2", True, [])
    assert asked["bgp"]["sessions"][0]["address"] == "10.98.0.1"
    assert {node["node"] for node in both.felixctl("status", "-o", "json").json()["nodes"]} == {"n1", "n2"}


def test_a_broken_object_is_named_with_the_nodes_that_see_it(both: Cluster) -> None:
    both.n1.put("globalnetworkpolicies", BAD)
    said = both.felixctl("status")
    assert said.code == 1
    assert f"n1, n2: counts as missing: {CALICO}/globalnetworkpolicies/default.bad: spec.selector: " in said.err
    assert both.felixctl("status", "--wait").code == 0, "it holds nothing else back"
    both.n1.drop("globalnetworkpolicies", "default.bad")
    assert both.felixctl("status").code == 0


def test_what_the_kernel_refuses_is_named(both: Cluster) -> None:
    late = both.n2.pod("late", "10.65.0.9")
    both.n2.namespace.ip("link", "set", late.device, "name", "cali-away")
    late.write()
    said = both.felixctl("status")
    assert said.code == 1
    assert f"n2: kernel: not done: ip route replace 10.65.0.9/32 dev {late.device}" in said.err
    assert "n1: " not in said.err
    waited = both.felixctl("status", "--wait", "--timeout", "1")
    assert waited.code == 1, "it never came"
    both.n2.namespace.ip("link", "set", "cali-away", "name", late.device)
    both.n2.namespace.ip("link", "set", late.device, "up")
    assert both.felixctl("status", "--wait").code == 0
    both.etcd.delete(late.key)


def test_wait_returns_when_the_policy_is_in_the_kernel(both: Cluster) -> None:
    pod = both.n2.pod("b", "10.65.0.3")
    pod.write()
    assert both.felixctl("status", "--wait").code == 0
    both.n2.policy("closed", "name == 'b'", ingress=[])
    assert both.felixctl("status", "--wait").code == 0
    assert "default.closed" in both.n2.nft("list", "ruleset")


BGP_STATUSES = "/felixpy/status/metallb.io/v1beta1/servicebgpstatuses/"
SERVICE = """
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: vips, namespace: metallb-system}
spec: {addresses: [172.25.1.0-172.25.1.3], avoidBuggyIPs: true}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: greedy}
spec: {type: LoadBalancer, loadBalancerIP: 172.25.9.9, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.65.0.3], nodeName: n1, conditions: {ready: true}}]
"""
LOCAL = "no endpoint is ready on this node, and the traffic policy is Local"


def test_who_announces_a_service_and_who_does_not_and_why(both: Cluster, tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(SERVICE)
    applied = both.felixctl("apply", "-f", str(tmp_path / "service.yaml"))
    assert applied.code == 0, applied.err
    taught = "172.25.1.1/32   10.98.0.1 (n1)   10.98.0.1 (n1)   eth0"
    learned = eventually(lambda: [line for line in _routes(both, "n2") if taught in line])
    assert learned[0].split()[-2:] == ["has", "it"]
    lines = [" ".join(line.split()) for line in both.felixctl("lb").out.splitlines()]
    assert "1/3" in lines[1], "the pool, without its .0"
    assert f"default/web 172.25.1.1 vips n1 - n2: {LOCAL}" in lines
    refused = next(line for line in lines if line.startswith("default/greedy"))
    assert "refused: 172.25.9.9: the address is in no pool" in refused
    tree = both.felixctl("lb", "-o", "json").json()
    assert tree["pools"] == [{"name": "vips", "used": 1, "size": 3}]
    assert next(one for one in tree["services"] if one["address"])["silent"] == [{"reason": LOCAL, "nodes": ["n2"]}]
    assert f"172.25.1.1/32   {LOCAL}" in "\n".join(_routes(both, "n2"))
    told = [line for line in _routes(both, "n1") if "172.25.1.1/32   a Service address with endpoints" in line]
    assert [line.endswith("10.98.0.2 (n2)") for line in told] == [True]


def test_a_service_in_full_and_where_it_is_served(both: Cluster, tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(SERVICE)
    both.felixctl("apply", "-f", str(tmp_path / "service.yaml"))
    eventually(lambda: "172.25.1.1" in both.felixctl("svc").out, what="it has an address")
    rows = {line.split()[0]: line.split() for line in both.felixctl("svc").out.splitlines()}
    assert rows["default/web"][-1] == "ok"
    assert "no address: 172.25.9.9: the address is in no pool" in " ".join(rows["default/greedy"])
    said = eventually(lambda: _in_kernels(both), what="served by both nodes")
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines[0] == "Service default/web: ok"
    assert f"172.25.1.1 tcp/80 grant 1 outside, 1 inside n1 n2: {LOCAL}" in lines
    assert "10.65.0.3 8080 n1 ready" in lines
    assert "announced by BGP from n1" in lines
    assert f"not from n2: {LOCAL}" in lines
    tree = both.felixctl("svc", "default/web", "-o", "json").json()["services"][0]
    assert tree["frontends"][0]["nodes"] == {"n1": {"outside": 1, "inside": 1}}
    missing = both.felixctl("svc", "default/greedy")
    assert (missing.code, missing.out.splitlines()[0].partition(": ")[0]) == (1, "Service default/greedy")


def test_who_tells_which_peers_of_a_service(both: Cluster, tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(SERVICE)
    both.felixctl("apply", "-f", str(tmp_path / "service.yaml"))
    wanted = {"node": "n1", "serviceName": "web", "serviceNamespace": "default", "peers": ["10.98.0.2"]}

    def told() -> list[object]:
        items = both.felixctl("get", "servicebgpstatuses", "-o", "json").json()["items"]
        return [one["status"] for one in items]

    eventually(lambda: told() == [wanted], what="n1 tells the other node, and says so")
    assert set(both.etcd.get_prefix(BGP_STATUSES)) == {f"{BGP_STATUSES}default/web.n1"}
    both.felixctl("delete", "svc", "web")
    eventually(lambda: told() == [], what="it goes with what it tells of")


def test_a_service_is_told_of_what_another_has(both: Cluster, tmp_path: Path) -> None:
    rivals = "".join(
        f"""---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{type: NodePort, clusterIP: 10.97.0.9, ports: [{{port: 80, nodePort: 30999}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [10.65.0.3], nodeName: n1}}]
"""
        for name in ("first", "second")
    )
    (tmp_path / "rivals.yaml").write_text(rivals)
    both.felixctl("apply", "-f", str(tmp_path / "rivals.yaml"))
    said = both.felixctl("svc", "second")
    assert said.code == 1
    assert "10.97.0.9 tcp/80: Service default/first has it" in said.out.splitlines()[0]
    assert "every node tcp/30999: Service default/first has it" in said.out.splitlines()[0]
    assert both.felixctl("svc", "first").out.startswith("Service default/first: ok")
    both.felixctl("delete", "-f", str(tmp_path / "rivals.yaml"))


def _in_kernels(cluster: Cluster) -> str:
    said = cluster.felixctl("svc", "web").out
    return said if "announced by BGP from n1" in said else ""


def test_an_address_alone_is_explained(both: Cluster, tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(SERVICE)
    both.felixctl("apply", "-f", str(tmp_path / "service.yaml"))
    eventually(lambda: _in_kernels(both), what="it is announced")
    held = [" ".join(line.split()) for line in both.felixctl("explain", "172.25.1.1").out.splitlines()]
    assert held[0] == "172.25.1.1: default/web (granted from pool vips)"
    assert f"172.25.1.1 tcp/80 1 outside, 1 inside n1 n2: {LOCAL}" in held
    assert held[-2:] == ["announced by BGP from n1", f"not from n2: {LOCAL}"]
    assert both.felixctl("explain", "web").out == both.felixctl("explain", "172.25.1.1").out
    free = both.felixctl("explain", "172.25.1.2").out.split()
    assert " ".join(free) == "172.25.1.2: no Service has it it is of pool vips, and free"
    assert both.felixctl("explain", "198.51.100.1").code == 2


def _routes(cluster: Cluster, node: str) -> list[str]:
    return cluster.felixctl("bgp", "routes", node).out.splitlines()


def test_sessions_of_all_nodes(both: Cluster) -> None:
    said = both.felixctl("bgp")
    assert said.code == 0
    rows = [line.split()[:7] for line in said.out.splitlines()[1:]]
    assert rows == [
        ["n1", "10.98.0.2", "n2", "the", "mesh", "64512", "Established"],
        ["n2", "10.98.0.1", "n1", "the", "mesh", "64512", "Established"],
    ]


def test_who_asked_for_a_session_and_what_the_other_side_says(both: Cluster) -> None:
    spec = {"node": "n1", "peerIP": "10.98.0.2", "asNumber": 64512}
    both.n1.put("bgppeers", resource("BGPPeer", "own", spec))

    def all_up() -> Said | None:
        found = both.felixctl("bgp")
        return found if " own " in found.out and found.code == 0 else None

    said = eventually(all_up, within_s=30, every_s=0.5)
    (line,) = [line.split() for line in said.out.splitlines() if line.startswith("n1 ")]
    other = both.felixctl("bgp", "-o", "json").json()["nodes"][1]["bgp"]["sessions"][0]
    assert line[-2] == str(other["accepted"])
    both.n1.drop("bgppeers", "own")
    eventually(lambda: " own " not in both.felixctl("bgp").out and both.felixctl("bgp").code == 0, 30, 0.5)


def test_a_node_status_is_written_as_calico_writes_it(both: Cluster, tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(SERVICE)
    both.felixctl("apply", "-f", str(tmp_path / "service.yaml"))
    key = f"{CALICO}/caliconodestatuses/of-n2"
    spec = {"node": "n2", "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 1}
    written = resource("CalicoNodeStatus", "of-n2", spec)
    written["metadata"]["annotations"] = {"kept": "yes"}
    both.n1.put("caliconodestatuses", written)

    def status(name: str = "of-n2") -> Json:
        value = both.etcd.get(f"{CALICO}/caliconodestatuses/{name}")
        found: Json = json.loads(value or "{}")
        assert value is None or found["metadata"].get("annotations", {"kept": "yes"}) == {"kept": "yes"}
        return dict(found.get("status", {}))

    first = eventually(lambda: status().get("lastUpdated"))
    daemon = status()["agent"]["birdV4"]
    assert (daemon["state"], daemon["version"][:6], daemon["routerID"]) == ("Ready", "GoBGP ", "10.98.0.2")
    bgp = status()["bgp"]
    assert (bgp["numberEstablishedV4"], bgp["numberNotEstablishedV4"]) == (1, 0)
    assert {"peerIP": "10.98.0.1", "type": "nodeMesh", "state": "Established"}.items() <= bgp["peersV4"][0].items()
    route = {"type": "FIB", "destination": "172.25.1.1/32", "gateway": "10.98.0.1", "interface": "eth0"}
    eventually(lambda: [one for one in status()["routes"].get("routesV4", []) if route.items() <= one.items()])
    assert next(one for one in status()["routes"]["routesV4"] if route.items() <= one.items())["learnedFrom"] == {
        "sourceType": "NodeMesh",
        "peerIP": "10.98.0.1",
    }
    eventually(lambda: status()["lastUpdated"] != first, what="it is written again")
    both.n1.put("caliconodestatuses", resource("CalicoNodeStatus", "once", {**spec, "updatePeriodSeconds": 0}))
    eventually(lambda: status("once").get("bgp"))
    both.n1.drop("caliconodestatuses", "of-n2")
    both.n1.put("caliconodestatuses", resource("CalicoNodeStatus", "other", {**spec, "classes": ["Agent"]}))
    eventually(lambda: status("other").get("agent"))
    assert both.etcd.get(key) is None, "what is deleted stays so"
    assert status("other")["bgp"] == {}


def test_a_session_that_is_down_is_a_problem(both: Cluster) -> None:
    both.n1.put("bgppeers", resource("BGPPeer", "nowhere", {"peerIP": "10.98.0.77", "asNumber": 65001, "node": "n1"}))
    said = eventually(lambda: (found := both.felixctl("bgp")) and "nowhere" in found.out and found)
    assert said.code == 1
    assert "n1: the session with 10.98.0.77 is " in said.err
    assert "n1: BGP: the session with 10.98.0.77 (AS 65001) is " in both.felixctl("status").err
    assert both.felixctl("status", "--wait").code == 0, "what is in etcd is done all the same"
    both.n1.drop("bgppeers", "nowhere")
    eventually(lambda: both.felixctl("status").code == 0)


def test_waiting_for_a_node_that_is_not_there_fails(both: Cluster) -> None:
    said = both.felixctl("status", "n3", "--wait", "--timeout", "0.5")
    assert said.code == 1
    assert said.err == "n3: there is no such node; there are: n1, n2\n"


def test_a_killed_agent_does_not_answer(lone: Cluster) -> None:
    lone.n2.agent.kill()
    said = lone.felixctl("status", "--timeout", "4")
    assert said.code == 1
    assert "n2: no answer (frozen, down or unreachable; on the node: felixctl status --local)" in said.err
    assert "n1: " not in said.err
    nodes = {node["node"]: node["answered"] for node in lone.felixctl("status", "-o", "json").json()["nodes"]}
    assert nodes == {"n1": True, "n2": False}
    local = lone.felixctl("status", "--local", node=lone.n2)
    assert local.code == 1
    assert "no process of felixpy answers" in local.err


def test_a_process_tells_of_itself_while_etcd_hangs(both: Cluster) -> None:
    os.kill(both.etcd.daemon.pid, signal.SIGSTOP)
    try:
        local = both.felixctl("status", "--local", node=both.n1)
        assert local.out.startswith("node:"), local.err
    finally:
        os.kill(both.etcd.daemon.pid, signal.SIGCONT)
    eventually(lambda: both.felixctl("status").code == 0, within_s=30, every_s=0.5, what="all is well again")


def test_a_role_that_died_beside_another_is_missed(lone: Cluster) -> None:
    bgp = lone.n2.make_agent("--roles", "bgp")
    bgp.start()
    try:
        eventually(lambda: lone.felixctl("status", "n2").out.count("agent, bgp"), every_s=0.3)
        lone.n2.agent.kill()
        said = lone.felixctl("status", "--timeout", "4")
        assert said.code == 1
        assert "n2: role agent ran here and does not answer" in said.err
    finally:
        bgp.stop()


def test_another_cluster_is_obeyed_only_when_accepted(lone: Cluster) -> None:
    assert lone.felixctl("accept-cluster").code == 1, "there is nothing to accept"
    kept = json.loads(lone.etcd.get(CLUSTER) or "")
    kept["spec"]["clusterGUID"] = "0" * 32
    lone.etcd.put(CLUSTER, kept)
    eventually(lambda: all("another cluster" in node.log() for node in (lone.n1, lone.n2)))
    assert lone.felixctl("status", "--timeout", "0.5").err.count("no answer") == 1, "both, in one line"
    local = lone.felixctl("status", "--local", node=lone.n2)
    assert local.code == 1
    assert "datastore: frozen: the datastore holds another cluster" in local.out
    accepted = lone.felixctl("accept-cluster", node=lone.n2)
    assert (accepted.code, accepted.out) == (0, "n2 (agent): accepted\n")
    assert lone.felixctl("status", "n2", "--wait").code == 0
    assert lone.felixctl("status", "--local", node=lone.n2).code == 0
    assert lone.felixctl("status", "n1", "--timeout", "0.5").code == 1


def test_the_control_socket_is_roots_and_refuses_in_words(both: Cluster) -> None:
    path = both.n1.run_dir / "agent.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "there is no operation" in _ask(both, b'{"op": "dance"}')["error"]
    assert "cannot be read" in _ask(both, b"dance")["error"]


def _ask(cluster: Cluster, line: bytes) -> dict[str, str]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(cluster.n1.run_dir / "agent.sock"))
        connection.sendall(line + b"\n")
        with connection.makefile() as lines:
            return dict(json.loads(lines.readline()))


def test_ports_and_figures_of_the_elected_one(both: Cluster) -> None:
    service = {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}
    key = "/felixpy/resources/core/v1/services/default/ported"
    both.etcd.put(key, {"metadata": {"name": "ported", "namespace": "default"}, "spec": service})
    line = eventually(lambda: _line_of(both.felixctl("svc").out, "default/ported"), what="it has a port")
    port = line.split()[4].removeprefix("80:").removesuffix("/tcp")
    assert 30000 <= int(port) <= 32767
    eventually(lambda: port in both.n2.nft("list", "map", "inet", "felixpy", "nport-noep4"), what="nodes serve it")
    both.etcd.delete(key)
    eventually(lambda: both.etcd.get(f"/felixpy/grants/ports/{port}") is None, what="it is given back")


def _line_of(text: str, name: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(name) and ":" in line), "")
