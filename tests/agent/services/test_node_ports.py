"""Node ports and health checks through the whole agent: what an etcd write does to packets from outside."""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.agent.connections import Client
from tests.agent.host_world import HOST4, HOST6, OURS, OUT4, POD4, World
from tests.agent.node import PORT, Node, Pod, resource
from tests.agent.policy.test_host_endpoints import shared, world
from tests.support.netns import Namespace
from tests.support.packets import tcp_ok
from tests.support.wait import eventually

__all__ = ["shared", "world"]

NODE_PORT, HEALTH_PORT = 30080, 31000

_GET = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=2)
connection.request("GET", "/")
answer = connection.getresponse()
print(answer.status, answer.getheader("X-Load-Balancing-Endpoint-Weight"), answer.read().decode())
"""


def write(world: World, *, node_port: int = NODE_PORT, protocol: str = "TCP", ready: bool = True, **spec: Any) -> None:
    """Service web with the pod behind it."""
    etcd, meta = world.node.etcd, {"name": "web", "namespace": "default"}
    port = {"name": "web", "protocol": protocol, "port": 80, "nodePort": node_port}
    body = {"type": "NodePort", "ports": [port], **spec}
    etcd.put(f"{OURS}/core/v1/services/default/web", {"metadata": meta, "spec": body})
    slice_ = {
        "metadata": {**meta, "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": [POD4], "nodeName": world.node.name, "conditions": {"ready": ready}}],
        "ports": [{"name": "web", "protocol": protocol, "port": PORT}],
    }
    etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/default/web-1", slice_)


def into_port(world: World, address: str = HOST4) -> bool:
    """Whether the outside gets a TCP connection to the node port."""
    return tcp_ok(world.outside, address, NODE_PORT, wait_s=0.25)


def test_a_node_port_leads_to_the_pod_and_leaves_the_host_alone(world: World) -> None:
    assert not into_port(world)
    write(world)
    eventually(lambda: into_port(world), what="the node port is there")
    assert tcp_ok(world.node.namespace, HOST4, NODE_PORT), "from the node itself"
    assert tcp_ok(world.pod.namespace, HOST4, NODE_PORT), "from the pod that is behind it"
    assert world.into_host()
    assert not into_port(world, HOST6), "there is no IPv6 endpoint"
    world.node.etcd.delete_prefix(f"{OURS}/core/v1/services/")
    eventually(lambda: not into_port(world), what="the node port is gone")


def test_a_granted_port_is_as_good(world: World) -> None:
    write(world, node_port=0)
    grant = {"port": NODE_PORT, "service": "default/web", "uses": ["TCP/80"]}
    world.node.etcd.put(f"/felixpy/grants/ports/{NODE_PORT}", grant)
    eventually(lambda: into_port(world))
    world.node.etcd.delete(f"/felixpy/grants/ports/{NODE_PORT}")
    eventually(lambda: not into_port(world))


def test_policies_before_translation_see_the_node_port_and_others_what_passes_through(world: World) -> None:
    write(world)
    eventually(lambda: into_port(world))
    world.host("up", interfaceName="up0")
    eventually(lambda: not world.into_host(), what="the host is closed")
    assert into_port(world), "what passes through is another matter"
    deny = {"action": "Deny", "protocol": "TCP", "destination": {"ports": [NODE_PORT]}}
    world.policy("before", types=["Ingress"], preDNAT=True, applyOnForward=True, ingress=[deny])
    eventually(lambda: not into_port(world), what="denied before translation")
    assert world.into_pod(), "of its own port nothing is said"
    pod_port = {**deny, "destination": {"ports": [PORT]}}
    world.policy("before", types=["Ingress"], applyOnForward=True, ingress=[pod_port, {"action": "Allow"}])
    eventually(lambda: not world.into_pod() and not into_port(world), what="denied after translation")


def test_the_pod_s_policy_sees_the_client_with_policy_local(world: World) -> None:
    write(world, externalTrafficPolicy="Local")
    only = {"action": "Allow", "protocol": "TCP", "source": {"nets": [f"{OUT4}/32"]}}
    world.node.policy("client", "name == 'a'", ingress=[only])
    eventually(lambda: into_port(world), what="the client is let in by its own address")
    only["source"] = {"nets": ["10.99.0.0/16"]}
    world.node.policy("client", "name == 'a'", ingress=[only])
    eventually(lambda: not into_port(world), what="and kept out by it")


def test_a_udp_client_of_a_node_port_moves_when_its_backend_goes(world: World) -> None:
    other = world.node.pod("other", "10.65.0.9")
    other.write()
    write(world, protocol="UDP")
    with Client(world.outside, HOST4, NODE_PORT) as client:
        eventually(lambda: client.asks() == "a", what="served by a")
        key = f"{OURS}/discovery.k8s.io/v1/endpointslices/default/web-1"
        world.node.etcd.put(key, (world.node.etcd.get(key) or "").replace(POD4, "10.65.0.9"))
        eventually(lambda: client.asks() == "other", what="served by the other")
    world.node.etcd.delete(other.key)
    world.node.pods.remove(other)
    other.close()


def checked(world: World) -> tuple[int, str, Any]:
    """Status, weight and body of the health check, as a balancer outside gets them; 0 where nobody listens."""
    return get(world.outside, HOST4)


def get(source: Namespace, address: str) -> tuple[int, str, Any]:
    """The same, asked of an address."""
    done = source.run(sys.executable, "-I", "-S", "-c", _GET, address, str(HEALTH_PORT), check=False)
    if not done:
        return 0, "", None
    status, weight, body = done.split(" ", 2)
    return int(status), weight, json.loads(body)


def test_the_health_check_follows_the_endpoints_of_this_node(world: World) -> None:
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT}
    write(world, **local)
    service = {"namespace": "default", "name": "web"}
    well = {"service": service, "localEndpoints": 1, "serviceProxyHealthy": True}
    eventually(lambda: checked(world) == (200, "1", well), what="one endpoint is ready")
    write(world, ready=False, **local)
    eventually(lambda: checked(world) == (503, "0", {**well, "localEndpoints": 0}), what="none is ready")
    write(world, **{**local, "externalTrafficPolicy": "Cluster"})
    eventually(lambda: checked(world)[0] == 0, what="every node serves, nobody asks")


def test_the_health_check_listens_where_node_ports_are() -> None:
    """At the addresses that were chosen, as they come and go."""
    with Node() as node:
        for address in ("10.9.0.1", "10.8.0.1", "fd09::1", "fd08::1"):
            node.namespace.add_address("lo", Pod.prefix(address))
        node.agent = node.make_agent("--node-port-addresses", "10.9.0.0/24,fd09::/64")
        spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT}
        body = {"metadata": {"name": "web", "namespace": "default"}, "spec": {**spec, "ports": [{"port": 80}]}}
        node.etcd.put(f"{OURS}/core/v1/services/default/web", body)
        node.agent.start()

        def listens() -> set[str]:
            asked = ("10.9.0.1", "10.9.0.2", "10.8.0.1", "fd09::1", "fd08::1", "127.0.0.1")
            return {address for address in asked if get(node.namespace, address)[0]}

        eventually(lambda: listens() == {"10.9.0.1", "fd09::1"}, within_s=20)
        node.namespace.add_address("lo", "10.9.0.2/32")
        node.namespace.ip("address", "del", "10.9.0.1/32", "dev", "lo")
        eventually(lambda: listens() == {"10.9.0.2", "fd09::1"})
        node.etcd.delete(f"{OURS}/core/v1/services/default/web")
        eventually(lambda: listens() == set())


def test_primary_addresses_are_those_that_the_node_s_node_names() -> None:
    """Node ports and health checks follow them, and are at no other address."""
    with Node() as node:
        for address in ("10.9.0.1", "10.8.0.1", "fd09::1", "fd08::1"):
            node.namespace.add_address("lo", Pod.prefix(address))

        def name_addresses(four: str, six: str) -> None:
            node.put("nodes", resource("Node", node.name, {"bgp": {"ipv4Address": four, "ipv6Address": six}}))

        def served() -> set[str]:
            """Where both the health check and the node port answer, or one of them."""
            asked = ("10.9.0.1", "10.8.0.1", "fd09::1", "fd08::1")
            ports = {f"port of {one}" for one in asked if tcp_ok(node.namespace, one, NODE_PORT, wait_s=0.25)}
            return ports | {f"check of {one}" for one in asked if get(node.namespace, one)[0]}

        name_addresses("10.9.0.1/24", "fd09::1/64")
        pod = node.pod("a", "10.65.0.2", "fd65::2")
        pod.write()
        node.agent = node.make_agent("--node-port-addresses", "primary")
        ports = [{"name": "web", "port": 80, "nodePort": NODE_PORT}]
        spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT}
        meta = {"name": "web", "namespace": "default"}
        both = {**spec, "ipFamilies": ["IPv4", "IPv6"], "ports": ports}
        node.etcd.put(f"{OURS}/core/v1/services/default/web", {"metadata": meta, "spec": both})
        for family, address in (("IPv4", "10.65.0.2"), ("IPv6", "fd65::2")):
            name = f"web-{family.lower()}"
            slice_ = {
                "metadata": {**meta, "name": name, "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": family,
                "endpoints": [{"addresses": [address], "nodeName": node.name, "conditions": {"ready": True}}],
                "ports": [{"name": "web", "port": PORT}],
            }
            node.etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/default/{name}", slice_)
        node.agent.start()
        first = {f"{what} of {one}" for what in ("port", "check") for one in ("10.9.0.1", "fd09::1")}
        eventually(lambda: served() == first, within_s=20)
        name_addresses("10.8.0.1/24", "fd08::1/64")
        eventually(lambda: served() == {one.replace("09", "08").replace("9.0", "8.0") for one in first})
