"""What is learned comes back when others take it away; what is told stops with the node, and goes to whom it is for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agent.cluster import ADDRESSES, Cluster, two_nodes
from tests.agent.node import resource
from tests.support.wait import eventually

BLOCK, VIP = "10.64.9.0/26", "172.30.0.1"
OURS = "/felixpy/resources"
METALLB = f"{OURS}/metallb.io/v1beta1"


@pytest.fixture(scope="module")
def built() -> Iterator[Cluster]:
    """Two nodes that speak BGP; n2 has a block."""
    with two_nodes("bgp") as made:
        block = {"cidr": BLOCK, "affinity": "host:n2", "allocations": [0, *[None] * 63], "attributes": [{}]}
        made.etcd.put(f"/calico/ipam/v2/assignment/ipv4/block/{BLOCK.replace('/', '-')}", block)
        made.start()
        yield made


@pytest.fixture
def cluster(built: Cluster) -> Cluster:
    """n1 has learned the block."""
    eventually(lambda: learned(built), within_s=40, what="n1 learns the block")
    return built


def learned(cluster: Cluster, prefix: str = BLOCK) -> str:
    """What n1 has learned, as `ip` shows it."""
    return cluster.n1.namespace.ip("route", "show", "proto", "177", prefix)


@pytest.mark.parametrize(
    "damage",
    [
        [("route", "del", BLOCK, "proto", "177")],
        [("nexthop", "flush", "proto", "177")],
        [("route", "replace", BLOCK, "dev", "lo", "proto", "177", "metric", "1024")],
        [("link", "set", "eth0", "down"), ("link", "set", "eth0", "up")],
        [("address", "flush", "dev", "eth0"), ("address", "add", f"{ADDRESSES['n1']}/24", "dev", "eth0")],
    ],
    ids=["delete", "flush", "replace", "link flap", "address flap"],
)
def test_a_learned_route_that_was_lost_comes_back(cluster: Cluster, damage: list[tuple[str, ...]]) -> None:
    right = learned(cluster)
    assert ADDRESSES["n2"] in right
    for command in damage:
        cluster.n1.namespace.ip(*command)
    eventually(lambda: learned(cluster) == right, within_s=10, what="the route is as before")


def test_without_nexthop_objects_routes_name_their_gateways_and_status_says_why(cluster: Cluster) -> None:
    node = cluster.n1
    right = learned(cluster)
    assert "nhid" in right
    for flags, plain in ((("--nexthops", "none"), "not wanted (--nexthops none)"), ((), "")):
        node.agent.kill()
        node.agent = node.make_agent(*flags)
        node.agent.start()
        eventually(lambda plain=plain: ("nhid" in learned(cluster)) is not bool(plain), within_s=20)
        assert f"via {ADDRESSES['n2']} dev eth0" in learned(cluster)
        eventually(lambda plain=plain: bool(node.namespace.ip("nexthop")) is not bool(plain), within_s=20)
        if plain:
            node.namespace.ip("route", "flush", "proto", "177")
            eventually(lambda: f"via {ADDRESSES['n2']} dev eth0" in learned(cluster))
        said = cluster.felixctl("bgp", "-o", "json").json()["nodes"]
        assert [one["bgp"]["plain"] for one in said if one["node"] == "n1"] == [plain]
    eventually(lambda: learned(cluster) == right, within_s=20)


def peers_up(cluster: Cluster) -> bool:
    """Whether the session that the BGPPeer asks for is up: the one of the mesh, which it replaces, was until now."""
    said = cluster.felixctl("bgp", "-o", "json").json()["nodes"]
    sessions = [one for node in said for one in node["bgp"]["sessions"]]
    return all(one["established"] for one in sessions) and any(one["askedBy"] == ["n2"] for one in sessions)


@pytest.mark.parametrize("restart", [False, True], ids=["running", "away"])
def test_a_node_without_its_resource_announces_nothing_more(cluster: Cluster, restart: bool) -> None:
    cluster.n1.put("bgppeers", resource("BGPPeer", "n2", {"node": "n1", "peerIP": ADDRESSES["n2"], "asNumber": 64512}))
    eventually(lambda: peers_up(cluster), within_s=30, every_s=0.5, what="n1 peers with n2 whether it is a node or not")
    cluster.n2.agent.kill()
    cluster.n2.agent = cluster.n2.make_agent("--node-address", "cidr=192.0.2.0/24")  # so that it makes no Node
    if not restart:
        cluster.n2.agent.start()
        eventually(lambda: peers_up(cluster), within_s=30, every_s=0.5)
    assert learned(cluster)
    cluster.n2.drop("nodes", "n2")
    if restart:
        assert learned(cluster)
        cluster.n2.agent.start()
    eventually(lambda: not learned(cluster), within_s=15, what="n2 is silent")

    def says_why() -> bool:
        said = cluster.felixctl("status")
        assert "n2: BGP: this node: there is no Node resource of this node's name" in said.out + said.err
        return said.code == 1

    eventually(says_why, within_s=10)
    cluster.n2.put("nodes", resource("Node", "n2", {"bgp": {"ipv4Address": f"{ADDRESSES['n2']}/24"}}))
    eventually(lambda: learned(cluster), within_s=30, what="n2 is back")


def test_a_service_address_goes_to_the_peers_that_are_named_and_waits_for_its_communities(cluster: Cluster) -> None:
    put = cluster.etcd.put
    put_service(cluster)
    eventually(lambda: learned(cluster, VIP), within_s=30, what="without advertisements everybody is told")
    advertise(cluster, peers=["nobody"])
    eventually(lambda: not learned(cluster, VIP), within_s=30, what="n1 is not named")
    advertise(cluster, peers=["to-n1"])
    eventually(lambda: learned(cluster, VIP), within_s=30, what="n1 is named")
    advertise(cluster, peers=["to-n1"], communities=["quiet"])
    eventually(lambda: not learned(cluster, VIP), within_s=30, what="nobody knows what quiet is")
    aliases = {"communities": [{"name": "quiet", "value": "64512:7"}]}
    put(f"{METALLB}/communities/m/names", {"metadata": {"name": "names", "namespace": "m"}, "spec": aliases})
    eventually(lambda: learned(cluster, VIP), within_s=30, what="quiet has a number")


def test_a_floating_address_is_told_to_the_other_nodes_while_its_workload_is_here(cluster: Cluster) -> None:
    node, floating = cluster.n2, "192.0.2.9"
    node.put("felixconfigurations", resource("FelixConfiguration", "default", {"floatingIPs": "Enabled"}))
    spec = {
        "node": "n2",
        "orchestrator": "cni",
        "interfaceName": "cali1",
        "ipNetworks": ["10.64.9.1/32"],
        "ipNATs": [{"internalIP": "10.64.9.1", "externalIP": floating}],
    }
    node.put("workloadendpoints", resource("WorkloadEndpoint", "n2-cni-w-eth0", spec, namespace="default"))
    pool = {"cidr": "192.0.2.0/24", "ipipMode": "Never", "vxlanMode": "Never", "nodeSelector": "!all()"}
    node.put("ippools", resource("IPPool", "floating", pool))
    eventually(lambda: ADDRESSES["n2"] in learned(cluster, floating), within_s=30)
    node.drop("workloadendpoints", "default/n2-cni-w-eth0")
    eventually(lambda: not learned(cluster, floating), within_s=30)


def test_the_local_pref_of_an_advertisement_reaches_other_nodes(cluster: Cluster) -> None:
    """A node takes the metric from a local_pref that comes before the normal one."""
    put_service(cluster)
    eventually(lambda: learned(cluster, VIP), within_s=30)
    advertise(cluster, peers=["to-n1"], localPref=2**31 - 1 - 500)
    eventually(lambda: "metric 500" in learned(cluster, VIP), within_s=30)


def put_service(cluster: Cluster) -> None:
    """A Service of n2 with an address, advertised to everybody, and the peer `to-n1`."""
    cluster.etcd.delete_prefix(f"{METALLB}/bgpadvertisements/")
    put = cluster.etcd.put
    cluster.n2.put(
        "bgppeers", resource("BGPPeer", "to-n1", {"node": "n2", "peerIP": ADDRESSES["n1"], "asNumber": 64512})
    )
    ports = [{"port": 80, "protocol": "TCP"}]
    spec = {"type": "LoadBalancer", "ports": ports, "externalTrafficPolicy": "Local"}
    put(f"{OURS}/core/v1/services/a/web", {"metadata": {"name": "web", "namespace": "a"}, "spec": spec})
    meta = {"name": "web-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "web"}}
    endpoints = [{"addresses": ["10.64.9.1"], "nodeName": "n2", "conditions": {"ready": True}}]
    slices = f"{OURS}/discovery.k8s.io/v1/endpointslices/a"
    put(f"{slices}/web-1", {"metadata": meta, "endpoints": endpoints, "ports": ports})
    put(f"/felixpy/grants/addresses/{VIP}", {"address": VIP, "services": ["a/web"], "pool": "p"})


def advertise(cluster: Cluster, **spec: object) -> None:
    """Writes the one BGPAdvertisement."""
    body = {"metadata": {"name": "one", "namespace": "m"}, "spec": spec}
    cluster.etcd.put(f"{METALLB}/bgpadvertisements/m/one", body)
