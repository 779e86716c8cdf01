"""Clients that stay with their backend do so while the agent restarts, in both back ends."""

from __future__ import annotations

import pytest

from tests.agent.node import PORT, Node
from tests.support.packets import ask_tcp
from tests.support.wait import eventually

OURS, CLUSTER_IP = "/felixpy/resources", "10.96.0.9"
BACKENDS = {"a": "10.65.0.2", "b": "10.65.0.3", "c": "10.65.0.4"}
CLIENTS = ("10.65.0.10", "10.65.0.11", "10.65.0.12", "10.65.0.13")


def write_service(node: Node, *backends: str) -> None:
    """Service web with these pods behind it."""
    meta = {"name": "web", "namespace": "default"}
    spec = {
        "clusterIP": CLUSTER_IP,
        "clusterIPs": [CLUSTER_IP],
        "ports": [{"port": 80, "protocol": "TCP"}],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
    }
    node.etcd.put(f"{OURS}/core/v1/services/default/web", {"metadata": meta, "spec": spec})
    slice_ = {
        "metadata": {**meta, "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": [BACKENDS[one]], "nodeName": "n1"} for one in backends],
        "ports": [{"port": PORT, "protocol": "TCP"}],
    }
    node.etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/default/web-1", slice_)


@pytest.mark.parametrize("backend", ["nftables", "iptables-legacy"])
def test_clients_stay_where_they_are_while_backends_come_and_the_agent_restarts(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FELIXPY_BACKEND", backend)
    with Node() as node:
        for name, address in BACKENDS.items():
            node.pod(name, address).write()
        clients = [node.pod(f"client{number}", address) for number, address in enumerate(CLIENTS)]
        for client in clients:
            client.write()
        write_service(node, "a")
        node.agent.start()

        def goes_to() -> set[str]:
            asked = (ask_tcp(client.namespace, CLUSTER_IP, 80, wait_s=0.5) or "" for client in clients)
            return {answer.partition(" ")[0] for answer in asked}

        eventually(lambda: goes_to() == {"a"}, within_s=20)
        node.agent.kill()
        write_service(node, "a", "b", "c")
        node.agent.start()
        rules = {"nftables": ("nft", "list", "ruleset")}.get(backend, (f"{backend}-save",))
        eventually(lambda: f"{BACKENDS['b']}:{PORT}" in node.namespace.run(*rules), within_s=20)
        assert goes_to() == {"a"}, "b and c are there now, and all these clients are known"
        write_service(node, "b", "c")
        eventually(lambda: goes_to() == {"b", "c"})
        assert "repair" not in node.log(), "what the kernel learns is nobody's change of our rules"
