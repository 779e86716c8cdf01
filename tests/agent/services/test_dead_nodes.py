"""Endpoints of a node that died are used by nobody, though nobody marks them; those of one whose agent ended are.

n1 forwards; n2, a machine of its own, first loses its agent and then its link.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator

import pytest

from birdpy.process import listener_pid
from felixpy.calc.services.liveness import SILENCES
from tests.agent.cluster import Cluster, two_nodes
from tests.agent.pages import fetch
from tests.support.wait import eventually

OURS = "/felixpy/resources"
POD1, POD2 = "10.64.1.1", "10.64.2.1"
NOTICED_S = 30.0
"""The lease runs out after 8 s, and a few rounds follow."""


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with two_nodes(request.param) as made:
        ports = [{"port": 80, "protocol": "TCP"}]
        spec = {"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": ports}
        meta = {"name": "web", "namespace": "a"}
        made.etcd.put(f"{OURS}/core/v1/services/a/web", {"metadata": meta, "spec": spec})
        write_endpoints(made, POD1, POD2)
        made.n1.agent = made.n1.make_agent("--metrics", ":9091")
        made.start()
        yield made


def write_endpoints(cluster: Cluster, *addresses: str) -> None:
    endpoints = [
        {"addresses": [one], "nodeName": "n1" if one == POD1 else "n2", "conditions": {"ready": True}}
        for one in addresses
    ]
    meta = {"name": "web-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "web"}}
    body = {"metadata": meta, "endpoints": endpoints, "ports": [{"port": 8080, "protocol": "TCP"}]}
    cluster.etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/a/web-1", body)


def used(cluster: Cluster) -> set[str]:
    """The endpoints that the kernel of n1 sends connections to."""
    return set(re.findall(r": (\S+) \. 8080", cluster.n1.nft("list", "map", "inet", "felixpy", "eps4")))


def established(cluster: Cluster) -> bool:
    """Whether n1 has its session with n2."""
    said = json.loads(cluster.felixctl("status", "n1", "-o", "json").out)
    return any(one["established"] for one in said["bgp"]["sessions"])


def echoes(cluster: Cluster) -> int:
    """How often n2 was asked whether it is there."""
    icmp = [line.split() for line in cluster.n2.namespace.run("cat", "/proc/net/snmp").splitlines() if "Icmp:" in line]
    return int(dict(zip(*icmp[:2], strict=True))["InEchos"])


@pytest.mark.parametrize("cluster", ["agent"], indirect=True)
def test_the_endpoints_of_a_node_go_when_it_dies_and_not_when_its_agent_ends(cluster: Cluster) -> None:
    eventually(lambda: used(cluster) == {POD1, POD2})
    cluster.n2.agent.kill()
    before = echoes(cluster)
    eventually(lambda: echoes(cluster) > before + SILENCES, within_s=NOTICED_S, what="n2 is asked")
    assert used(cluster) == {POD1, POD2}, "it answers"

    cluster.n2.namespace.ip("link", "set", "eth0", "down")
    eventually(lambda: used(cluster) == {POD1}, within_s=NOTICED_S, what="n2 is silent")
    said = cluster.felixctl("svc", "a/web").out
    assert "looks dead to n1: no agent holds its name, and it does not answer" in said
    assert "endpoints on n2 are used only where no other node has any" in cluster.felixctl("explain", "10.96.0.1").out

    cluster.n1.agent.kill()
    cluster.n1.agent.start()
    eventually(lambda: cluster.n1.log().count("in sync") == 2)
    assert used(cluster) == {POD1}, "a restart begins where it ended"

    write_endpoints(cluster, POD2)
    eventually(lambda: used(cluster) == {POD2}, what="where there are no others they are used")
    write_endpoints(cluster, POD1, POD2)
    eventually(lambda: used(cluster) == {POD1})

    cluster.n2.namespace.ip("link", "set", "eth0", "up")
    eventually(lambda: used(cluster) == {POD1, POD2}, what="n2 answers again, though its agent is away")


def silence(cluster: Cluster) -> None:
    """n2 hears neither echo requests nor its neighbours, and its gobgpd ends."""
    deaf = "type filter hook input priority -300; ip protocol icmp drop; tcp dport 179 drop; tcp sport 179 drop;"
    cluster.n2.namespace.run("nft", "-f", "-", stdin=f"table ip cut {{\nchain in {{\n{deaf}\n}}\n}}\n")
    os.kill(listener_pid(cluster.n2.run_dir / "gobgp.sock"), signal.SIGKILL)


@pytest.mark.parametrize("cluster", ["agent,bgp"], indirect=True)
def test_a_node_that_dies_while_etcd_is_away_is_noticed_all_the_same(cluster: Cluster) -> None:
    eventually(lambda: used(cluster) == {POD1, POD2})
    eventually(lambda: established(cluster), within_s=40)
    cluster.etcd.kill()
    try:
        silence(cluster)
        eventually(lambda: used(cluster) == {POD1}, within_s=NOTICED_S, what="n2 is silent")
        page = fetch(cluster.n1, "/metrics")
        assert page is not None
        assert 'felixpy_dead_node{node="n2",reason="its BGP session is lost"} 1.0' in page.body
    finally:
        cluster.etcd.start()
    cluster.n2.namespace.run("nft", "delete", "table", "ip", "cut")
    eventually(lambda: used(cluster) == {POD1, POD2}, within_s=2 * NOTICED_S, what="it answers")


@pytest.mark.parametrize("cluster", ["agent,bgp"], indirect=True)
def test_a_node_that_bgp_lost_and_that_does_not_answer_is_dead_while_its_lease_lives(cluster: Cluster) -> None:
    """Its way to etcd is another than ours to it."""
    eventually(lambda: used(cluster) == {POD1, POD2})
    eventually(lambda: established(cluster), within_s=40)
    silence(cluster)
    eventually(lambda: used(cluster) == {POD1}, within_s=NOTICED_S, what="n2 is silent")
    assert "looks dead to n1: its BGP session is lost" in cluster.felixctl("svc", "a/web").out
    assert cluster.etcd.get("/felixpy/holders/n2/agent"), "and nobody else says so"
    cluster.n2.namespace.run("nft", "delete", "table", "ip", "cut")
    eventually(lambda: used(cluster) == {POD1, POD2}, within_s=NOTICED_S, what="it answers")
