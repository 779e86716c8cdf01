"""Fields of Services that decide whether anything is forwarded at all: packets through one node."""

from __future__ import annotations

from tests.agent.node import PORT, Node
from tests.support.packets import ask_tcp
from tests.support.wait import eventually

OURS, CLUSTER_IP, UNREADY_IP = "/felixpy/resources", "10.96.0.9", "10.96.0.10"
POD = "10.65.0.2"


def write(node: Node, name: str, *, ready: bool, **spec: object) -> None:
    """A Service with a port that is not the pod's, and the pod behind it."""
    meta = {"name": name, "namespace": "default"}
    body = {"ports": [{"port": 80, "targetPort": PORT, "protocol": "TCP"}], "selector": {"app": name}, **spec}
    node.etcd.put(f"{OURS}/core/v1/services/default/{name}", {"metadata": meta, "spec": body})
    labels = {"kubernetes.io/service-name": name}
    if spec["clusterIP"] == "None":
        labels["service.kubernetes.io/headless"] = ""
    conditions = {"ready": ready, "serving": ready, "terminating": False}
    slice_ = {
        "metadata": {**meta, "name": f"{name}-1", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [POD], "nodeName": "n1", "conditions": conditions}],
        "ports": [{"port": PORT, "protocol": "TCP"}],
    }
    node.etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/default/{name}-1", slice_)


def test_a_headless_service_is_steered_nowhere_and_one_that_publishes_unready_endpoints_is_served() -> None:
    with Node() as node:
        node.pod("web", POD).write()
        client = node.pod("client", "10.65.0.10")
        client.write()
        write(node, "headless", ready=True, type="ClusterIP", clusterIP="None", clusterIPs=["None"])
        hidden = {"type": "ClusterIP", "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP]}
        write(node, "hidden", ready=False, **hidden)
        shown = {"type": "ClusterIP", "clusterIP": UNREADY_IP, "clusterIPs": [UNREADY_IP]}
        write(node, "shown", ready=False, publishNotReadyAddresses=True, **shown)
        node.agent.start()

        def answer(address: str, port: int = 80) -> str:
            return (ask_tcp(client.namespace, address, port, wait_s=0.5) or "nobody").partition(" ")[0]

        eventually(lambda: answer(UNREADY_IP) == "web", within_s=20)
        assert answer(CLUSTER_IP) == "nobody", "the same endpoint, but the Service does not publish it"
        eventually(lambda: answer(POD, PORT) == "web", what="the pod is reached by itself, at its own port")
        assert answer(POD) == "nobody"
        frontends = node.namespace.run("nft", "list", "map", "inet", "felixpy", "svc4")
        assert frontends.count("goto svc-pick") == 1, "of three Services one leads anywhere"
