"""Host endpoints by packets: a node with an interface to the outside, a pod, and policies for the node itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agent.host_world import BGP, DENIED_S, HOST4, HOST6, OURS, OUT4, OUT6, POD4, SSH, VXLAN, World, make_world
from tests.agent.node import CALICO, PORT, Json, Node, resource
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import ask_udp, fate_of, tcp_ok
from tests.support.wait import eventually

KEPT = ("clusterinformations", "profiles/open", "tiers/default", "workloadendpoints")


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """One for the module."""
    with make_world() as made:
        yield made


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """Everything reaches everything; what the test writes goes when it ends."""
    eventually(lambda: shared.into_host() and shared.out_of_host() and shared.into_pod(), what="all is open")
    yield shared
    for key in shared.node.etcd.get_prefix(f"{CALICO}/"):
        if not key.removeprefix(f"{CALICO}/").startswith(KEPT):
            shared.node.etcd.delete(key)
    shared.node.etcd.delete_prefix(f"{OURS}/")


def test_an_interface_is_closed_but_for_failsafes_and_what_policy_allows(world: World) -> None:
    world.host("up", interfaceName="up0")
    eventually(lambda: not world.into_host() and not world.out_of_host(), what="closed both ways")
    assert not world.into_host(address=HOST6)
    assert world.into_host(SSH), "a failsafe port"
    assert world.into_host(SSH, HOST6)
    assert world.into_pod(), "what passes through is another matter"
    allow = {"action": "Allow", "protocol": "TCP", "destination": {"ports": [PORT]}}
    world.policy("web", types=["Ingress"], ingress=[allow])
    eventually(lambda: world.into_host() and world.into_host(address=HOST6), what="allowed in")
    assert not world.out_of_host()
    world.policy("web", types=["Egress"], egress=[allow])
    eventually(lambda: world.out_of_host() and not world.into_host(), what="allowed out")


def test_a_profile_decides_where_no_policy_does(world: World) -> None:
    world.host("up", profiles=("projectcalico-default-allow",), interfaceName="up0")
    world.policy("one", types=["Ingress"], ingress=[{"action": "Deny", "protocol": "TCP"}, {"action": "Pass"}])
    eventually(lambda: not world.into_host() and world.out_of_host())
    assert ask_udp(world.outside, HOST4, PORT) == "host"


@pytest.mark.parametrize(("open_port", "closed_port"), [(PORT, VXLAN), (VXLAN, PORT)])
def test_a_rule_may_name_a_port_of_a_host_endpoint(world: World, open_port: int, closed_port: int) -> None:
    """At the addresses that it is expected to have, as with Calico: an interface alone says none."""
    web = {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["web"]}}
    world.policy("web", types=["Ingress"], ingress=[web])
    ports = [{"name": "web", "port": open_port, "protocol": "TCP"}]
    world.host("up", interfaceName="up0", expectedIPs=[HOST4, HOST6], ports=ports)
    eventually(lambda: not world.into_host(closed_port), what=f"{closed_port} is closed")
    eventually(lambda: world.into_host(open_port), what=f"{open_port} is web")
    assert world.into_host(open_port, HOST6)
    assert not world.into_host(closed_port, HOST6)


@pytest.mark.parametrize(("source", "through"), [("notSelector", True), ("selector", False)])
def test_the_outside_is_not_among_those_that_a_selector_leaves_out(world: World, source: str, through: bool) -> None:
    """`notSelector` matches whoever its selector does not choose; a selector that negates chooses among endpoints."""
    text = "name == 'a'" if source == "notSelector" else "!(name == 'a')"
    rule = {"action": "Allow", "protocol": "TCP", "source": {source: text}}
    world.policy("some", types=["Ingress"], ingress=[rule])
    world.host("up", interfaceName="up0")
    eventually(lambda: not world.out_of_host(), what="it is governed")
    assert world.into_host() is through
    assert world.into_host(address=HOST6) is through


def test_an_endpoint_found_by_its_address(world: World) -> None:
    spare = "10.9.1.1"
    world.host("up", expectedIPs=[spare])
    world.policy("shut", types=["Ingress", "Egress"])
    world.node.namespace.ip("address", "add", f"{spare}/32", "dev", "up0")
    try:
        eventually(lambda: not world.into_host(), what="the address has come")
        world.host("up", expectedIPs=[spare], interfaceName="eth9")
        eventually(world.into_host, what="an endpoint that names another interface")
        world.host("up", expectedIPs=[HOST6])
        eventually(lambda: not world.into_host(), what="by another address")
    finally:
        world.node.namespace.ip("address", "del", f"{spare}/32", "dev", "up0")
    world.host("up", expectedIPs=[spare])
    eventually(world.into_host, what="the address has gone")


def test_what_is_closed_is_refused_where_the_configuration_says_so(world: World) -> None:
    host, outside = world.node.namespace, world.outside
    world.felix(nftablesFilterDenyAction="Reject", iptablesFilterDenyAction="Reject")
    world.host("up", interfaceName="up0")
    ways = ((outside, HOST4), (outside, HOST6), (host, OUT4), (host, OUT6))
    eventually(lambda: {fate_of(*way, PORT) for way in ways} == {"refused"})
    eventually(world.into_pod, what="what passes through is another matter")
    deny = {"action": "Deny", "protocol": "TCP", "destination": {"ports": [PORT]}}
    world.policy("through", types=["Ingress"], applyOnForward=True, ingress=[deny])
    eventually(lambda: fate_of(outside, POD4, PORT) == "refused", what="what passes through")
    world.policy("through", types=["Ingress"], applyOnForward=True, preDNAT=True, ingress=[deny])
    eventually(lambda: fate_of(outside, POD4, PORT) == "nothing", what="who is before translation cannot refuse")
    world.policy("through", types=["Ingress"], applyOnForward=True, doNotTrack=True, ingress=[deny])
    eventually(lambda: fate_of(outside, HOST4, PORT) == "nothing", what="nor who is before conntrack")


def test_all_interfaces_and_one_of_its_own(world: World) -> None:
    host = world.node.namespace
    world.host("all", interfaceName="*")
    eventually(lambda: not world.into_host() and not world.out_of_host(), what="closed")
    assert tcp_ok(host, "127.0.0.1", PORT), "loopback is none of them"
    assert tcp_ok(host, HOST4, PORT)
    assert tcp_ok(host, POD4, PORT), "the host reaches its pods"
    assert world.into_pod()
    world.host("up", profiles=("open",), interfaceName="up0")
    eventually(lambda: world.into_host() and world.out_of_host(), what="its own endpoint goes before")


def test_an_interface_that_is_renamed_and_one_that_comes(world: World) -> None:
    host = world.node.namespace
    world.host("late", interfaceName="late0")
    host.ip("link", "set", "up0", "down")
    host.ip("link", "set", "up0", "name", "late0")
    try:
        host.ip("link", "set", "late0", "up")
        host.ip("route", "replace", "default", "via", OUT4)
        eventually(lambda: world.into_host(SSH))
        assert not world.into_host(), "closed under its new name"
    finally:
        host.ip("link", "set", "late0", "down")
        host.ip("link", "set", "late0", "name", "up0")
        host.ip("link", "set", "up0", "up")
        host.ip("address", "add", f"{HOST6}/64", "dev", "up0", "nodad")
        host.ip("route", "replace", "default", "via", OUT4)
    eventually(world.into_host, what="another name, no endpoint")


def test_an_interface_that_goes_and_comes_back_and_has_another_name_for_a_while(world: World) -> None:
    host = world.node.namespace
    world.host("side", interfaceName="side0")

    def rename(old: str, new: str) -> None:
        for words in (("down",), ("name", new)):
            host.ip("link", "set", old, *words)
        host.ip("link", "set", new, "up")

    with Namespace.create("s") as side:

        def closed() -> bool:
            return tcp_ok(side, "10.9.7.1", SSH, wait_s=1) and not tcp_ok(side, "10.9.7.1", PORT, wait_s=DENIED_S)

        for _ in range(2):
            link_namespaces(
                host, "side0", side, "eth0", left_addresses=["10.9.7.1/24"], right_addresses=["10.9.7.2/24"]
            )
            assert not tcp_ok(side, "10.9.7.1", PORT, wait_s=DENIED_S), "closed from its first packet"
            eventually(closed, what="but for the failsafe ports")
            rename("side0", "other0")
            eventually(lambda: tcp_ok(side, "10.9.7.1", PORT, wait_s=DENIED_S), what="no endpoint has that name")
            rename("other0", "side0")
            eventually(closed, what="its own name, its own policy")
            host.ip("link", "delete", "side0")


def test_forwarded_traffic_is_judged_only_where_a_policy_says_so(world: World) -> None:
    world.host("up", profiles=("open",), interfaceName="up0")
    here = {"action": "Deny", "protocol": "TCP", "destination": {"ports": [VXLAN]}}
    deny = [{"action": "Deny", "destination": {"nets": [f"{POD4}/32"]}}, here, {"action": "Allow"}]
    world.policy("one", types=["Ingress"], ingress=deny)
    eventually(lambda: not world.into_host(VXLAN), what="it holds for the host")
    assert world.into_pod(), "not applied on forward"
    world.policy("one", types=["Ingress"], ingress=deny, applyOnForward=True)
    eventually(lambda: not world.into_pod() and world.into_host())
    out = [{"action": "Deny", "destination": {"nets": [f"{OUT4}/32"]}}, {"action": "Allow"}]
    world.policy("one", types=["Egress"], egress=out, applyOnForward=True)
    eventually(lambda: world.into_pod() and not tcp_ok(world.pod.namespace, OUT4, PORT, wait_s=DENIED_S))


def put_service(node: Node, vip: str, *backends: str) -> None:
    """A ClusterIP Service in front of addresses."""
    meta: Json = {"name": "web", "namespace": "default"}
    port = {"name": "", "protocol": "TCP", "port": PORT}
    service = {"metadata": meta, "spec": {"clusterIP": vip, "ports": [port]}}
    labels = {"kubernetes.io/service-name": "web"}
    slice_ = {
        "metadata": {**meta, "name": "web-1", "labels": labels},
        "endpoints": [{"addresses": [address]} for address in backends],
        "ports": [port],
    }
    node.etcd.put(f"{OURS}/core/v1/services/default/web", service)
    node.etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/default/web-1", slice_)


def test_pre_dnat_policy_sees_the_address_that_was_asked_for(world: World) -> None:
    vip = "10.96.0.1"
    put_service(world.node, vip, POD4)
    eventually(lambda: world.into_pod(vip), what="the Service answers")
    world.host("up", profiles=("open",), interfaceName="up0")
    deny = [{"action": "Deny", "destination": {"nets": [f"{vip}/32"]}}]
    world.policy("one", types=["Ingress"], ingress=deny, preDNAT=True, applyOnForward=True)
    eventually(lambda: not world.into_pod(vip), what="denied by the Service's address")
    assert world.into_pod(), "nothing else is"
    assert world.into_host()
    first = [{"action": "Allow", "destination": {"nets": [f"{vip}/32"]}}]
    world.policy("one", types=["Ingress"], ingress=first, preDNAT=True, applyOnForward=True)
    world.policy("two", types=["Ingress"], ingress=[{"action": "Deny"}], applyOnForward=True)
    eventually(lambda: world.into_pod(vip) and not world.into_pod(), what="allowed early, past the forward policy")


def test_egress_policy_sees_where_translated_traffic_goes(world: World) -> None:
    vip = "10.96.0.2"
    put_service(world.node, vip, OUT4)
    eventually(lambda: world.out_of_host(address=vip))
    world.host("up", interfaceName="up0")
    world.policy("one", types=["Egress"], egress=[{"action": "Allow", "destination": {"nets": ["10.96.0.0/24"]}}])
    eventually(lambda: not world.out_of_host() and not world.out_of_host(address=vip), what="by its own address")
    world.policy("one", types=["Egress"], egress=[{"action": "Allow", "destination": {"nets": [f"{OUT4}/32"]}}])
    eventually(lambda: world.out_of_host(address=vip))


def tracked(world: World) -> str:
    """What connection tracking of the node knows of UDP."""
    return world.node.namespace.run("conntrack", "-L", "-p", "udp")


def test_untracked_policy_leaves_connection_tracking_out_of_it(world: World) -> None:
    port = {"ports": [PORT]}
    into = [{"action": "Allow", "protocol": "UDP", "destination": port}]
    out = [{"action": "Allow", "protocol": "UDP", "source": port}]
    world.host("up", interfaceName="up0")
    eventually(lambda: ask_udp(world.outside, HOST4, PORT, wait_s=DENIED_S) is None)
    world.policy("one", types=["Ingress", "Egress"], ingress=into, egress=out, doNotTrack=True, applyOnForward=True)
    eventually(lambda: ask_udp(world.outside, HOST4, PORT, wait_s=DENIED_S) == "host", what="answered")
    world.node.namespace.run("conntrack", "-F")
    assert ask_udp(world.outside, HOST4, PORT) == "host"
    assert f"dport={PORT}" not in tracked(world)
    assert not world.into_host(), "everything else is as it was"
    assert world.into_host(SSH)
    world.policy("one", types=["Ingress"], ingress=[{"action": "Deny"}], doNotTrack=True, applyOnForward=True)
    eventually(lambda: not world.into_pod(), what="untracked policy judges all that comes in")


def test_the_datastore_is_kept_whatever_the_failsafes_are(world: World) -> None:
    world.felix(failsafeInboundHostPorts=[], failsafeOutboundHostPorts=[{"protocol": "tcp", "port": SSH}])
    world.host("all", interfaceName="*")
    world.policy("shut", types=["Ingress", "Egress"])
    eventually(lambda: not world.into_host(SSH) and not world.out_of_host(), what="no failsafe port in")
    assert world.out_of_host(SSH), "the one that is left"
    world.node.namespace.run("conntrack", "-F")
    world.felix(failsafeInboundHostPorts=[{"protocol": "TCP", "port": PORT, "net": f"{OUT4}/32"}])
    eventually(
        lambda: world.into_host() and not world.into_host(address=HOST6), what="the agent still hears of changes"
    )


def test_bgp_with_nodes_and_peers_is_kept(world: World) -> None:
    world.felix(failsafeInboundHostPorts=[], failsafeOutboundHostPorts=[])
    world.host("up", interfaceName="up0")
    eventually(lambda: not world.into_host(BGP) and not world.out_of_host(BGP))
    node = {"bgp": {"ipv4Address": f"{OUT4}/24"}}
    world.node.put("nodes", resource("Node", "other", node))
    eventually(lambda: world.into_host(BGP) and world.out_of_host(BGP), what="another node")
    assert ask_udp(world.outside, HOST4, VXLAN) == "host", "VXLAN of another node"
    assert ask_udp(world.outside, HOST6, VXLAN, wait_s=DENIED_S) is None
    assert not world.into_host(BGP, HOST6)
    peer = {"peerIP": OUT6, "asNumber": 64512}
    world.node.put("bgppeers", resource("BGPPeer", "tor", peer))
    eventually(lambda: world.into_host(BGP, HOST6), what="a peer")
    assert ask_udp(world.outside, HOST6, VXLAN, wait_s=DENIED_S) is None, "a peer is no node"
    assert not world.into_host()
    world.felix(failsafeInboundHostPorts=[], failsafeOutboundHostPorts=[], externalNodesList=[f"{HOST6}/64"])
    eventually(lambda: ask_udp(world.outside, HOST6, VXLAN, wait_s=DENIED_S) == "host", what="a node outside")
    world.felix(failsafeInboundHostPorts=[], failsafeOutboundHostPorts=[])
    eventually(lambda: ask_udp(world.outside, HOST6, VXLAN, wait_s=DENIED_S) is None, what="none any more")


def test_what_a_pod_may_send_its_host(world: World) -> None:
    assert not tcp_ok(world.pod.namespace, HOST4, PORT, wait_s=DENIED_S)
    world.felix(defaultEndpointToHostAction="Accept")
    eventually(lambda: tcp_ok(world.pod.namespace, HOST4, PORT, wait_s=DENIED_S))
    world.felix(defaultEndpointToHostAction="RETURN")
    world.host("all", interfaceName="*")
    eventually(lambda: not world.into_host())
    assert tcp_ok(world.pod.namespace, HOST4, PORT), "policies of host endpoints have no say in it"


def test_staged_policies_decide_nothing(world: World) -> None:
    world.host("up", profiles=("open",), interfaceName="up0")
    spec = {"tier": "default", "selector": "has(hep)", "types": ["Ingress"], "ingress": [{"action": "Deny"}]}
    world.node.put("stagedglobalnetworkpolicies", resource("StagedGlobalNetworkPolicy", "default.s", spec))
    world.policy("marker", types=["Egress"], egress=[{"action": "Allow"}])
    eventually(lambda: "gnp/default.marker" in world.node.nft("list", "ruleset"))
    assert world.into_host()


def test_a_restarted_agent_finds_all_of_it_in_place(world: World) -> None:
    node = world.node
    world.host("up", expectedIPs=[HOST4])
    world.host("all", interfaceName="*")
    udp = [{"action": "Allow", "protocol": "UDP"}]
    world.policy("raw", types=["Ingress", "Egress"], ingress=udp, egress=udp, doNotTrack=True, applyOnForward=True)
    world.policy("early", types=["Ingress"], ingress=[{"action": "Log"}], preDNAT=True, applyOnForward=True)
    world.policy("web", types=["Ingress"], ingress=[{"action": "Allow", "destination": {"nets": [f"{HOST4}/32"]}}])
    eventually(lambda: world.into_host() and not world.into_host(address=HOST6))
    node.agent.kill()
    before = node.log().count("in sync")
    node.agent.start()
    eventually(lambda: node.log().count("in sync") > before)
    world.policy("web", types=["Ingress"])
    eventually(lambda: not world.into_host(), what="the agent is at work again")
    assert "kernel, start" not in node.log().rpartition("in sync")[2], "there was nothing to do"


def test_a_flushed_chain_of_a_host_endpoint_is_back(world: World) -> None:
    world.host("up", interfaceName="up0")
    eventually(lambda: not world.into_host())
    world.node.nft("flush", "chain", "inet", "felixpy", "filter-input")
    eventually(lambda: not world.into_host())
    world.node.nft("flush", "map", "inet", "felixpy", "from-host-interface")
    eventually(lambda: not world.into_host())
