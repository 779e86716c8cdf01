"""Connections that outlive the one they were made with, through the whole agent: by packets of the same five-tuple."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agent.conftest import Scene
from tests.agent.connections import Client
from tests.agent.node import PORT, Node, Pod
from tests.support.wait import eventually

OURS = "/felixpy/resources"
ADDRESS, VIP = "10.65.0.9", "10.96.0.53"

MANY = 50
"""How often a question is asked that must be answered; each time is a tenth of a second."""


def connections(node: Node, protocol: str, destination: str) -> list[str]:
    """What the node's kernel tracks."""
    return node.namespace.run("conntrack", "-L", "-p", protocol, "-d", destination).splitlines()


@pytest.fixture
def guarded(scene: Scene) -> Scene:
    """Pods called `guarded` take TCP alone."""
    scene.node.policy("guard", "name == 'guarded'", ingress=[{"action": "Allow", "protocol": "TCP"}])
    return scene


def remove(pod: Pod) -> None:
    """The pod goes, with its endpoint."""
    pod.node.etcd.delete(pod.key)
    pod.node.pods.remove(pod)
    pod.close()


def follow(old: Pod, name: str) -> Pod:
    """Another pod with the address of `old`, which goes first; the node's rules for it hold when this returns."""
    remove(old)
    new = old.node.pod(name, ADDRESS)
    new.write()
    return new


def test_the_next_pod_with_an_address_is_not_reached_by_old_connections(guarded: Scene) -> None:
    node, a, b = guarded.node, guarded.a, guarded.b
    first = node.pod("first", ADDRESS)
    first.write()
    eventually(lambda: a.reaches(first))
    with Client(a.namespace, ADDRESS) as client, Client(a.namespace, b.addresses[0]) as bystander:
        assert (client.asks(MANY), bystander.asks(MANY)) == ("first", "b")
        others = connections(node, "tcp", b.addresses[0])
        second = follow(first, "guarded")
        eventually(lambda: a.reaches(second), what="TCP is allowed")
        assert client.asks() == "", "UDP is not"
        assert bystander.asks(MANY) == "b"
    assert others
    assert len(connections(node, "tcp", b.addresses[0])) == len(others), "connections of others go on"


def test_a_pod_that_went_while_the_agent_was_away(guarded: Scene) -> None:
    node, a = guarded.node, guarded.a
    first = node.pod("first", ADDRESS)
    first.write()
    eventually(lambda: a.reaches(first))
    with Client(a.namespace, ADDRESS) as client:
        assert client.asks(MANY) == "first"
        node.agent.stop()
        node.etcd.delete(first.key)
        node.agent.start()
        eventually(lambda: ADDRESS not in node.namespace.ip("route"), what="its route goes")
        second = follow(first, "guarded")
        eventually(lambda: a.reaches(second), what="TCP is allowed")
        assert client.asks() == "", "UDP is not"


def put_service(node: Node, *backends: str) -> None:
    """A UDP Service in front of addresses."""
    port = {"name": "", "protocol": "UDP", "port": PORT}
    meta = {"name": "dns", "namespace": "default"}
    slice_ = {
        "metadata": {**meta, "name": "dns-1", "labels": {"kubernetes.io/service-name": "dns"}},
        "endpoints": [{"addresses": [address]} for address in backends],
        "ports": [port],
    }
    service = {"metadata": meta, "spec": {"clusterIP": VIP, "ports": [port]}}
    node.etcd.put(f"{OURS}/core/v1/services/default/dns", service)
    node.etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/default/dns-1", slice_)


@pytest.fixture
def served(scene: Scene) -> Iterator[tuple[Scene, Pod, Client]]:
    """A client in pod a whose socket is with backend b of a Service; another pod c could serve as well."""
    c = scene.node.pod("c", ADDRESS)
    c.write()
    eventually(lambda: scene.a.reaches(c))
    put_service(scene.node, scene.b.addresses[0])
    with Client(scene.a.namespace, VIP) as client:
        eventually(lambda: client.asks() == "b", what="served by b")
        yield scene, c, client


def test_a_udp_client_moves_to_the_new_backend(served: tuple[Scene, Pod, Client]) -> None:
    scene, c, client = served
    put_service(scene.node, c.addresses[0])
    eventually(lambda: client.asks() == "c", what="served by c")


def test_a_udp_client_stays_while_its_backend_serves(served: tuple[Scene, Pod, Client]) -> None:
    scene, c, client = served
    put_service(scene.node, scene.b.addresses[0], c.addresses[0])
    eventually(lambda: c.addresses[0] in scene.node.nft("list", "map", "inet", "felixpy", "eps4"), what="both serve")
    assert client.asks(MANY) == "b"


def test_a_udp_client_moves_when_the_agent_was_away(served: tuple[Scene, Pod, Client]) -> None:
    scene, c, client = served
    scene.node.agent.stop()
    put_service(scene.node, c.addresses[0])
    scene.node.agent.start()
    eventually(lambda: client.asks() == "c", what="served by c")
