"""Two nodes and a client on one segment, for Service addresses at layer 2."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from birdpy.l2.protocol import Ask, Status, parse_status, render_request
from birdpy.process import listener_pid
from felixpy.addresses import parse_address
from felixpy.calc.announcing.layer2 import score_node
from tests.agent.node import PORT, Node, resource
from tests.support.etcd import Etcd
from tests.support.netns import Namespace, add_bridge, link_namespaces
from tests.support.packets import ask_tcp

VIP, VIP6 = "10.9.0.100", "fd09::100"


OURS = "/felixpy/resources"


L2_KEY = f"{OURS}/metallb.io/v1beta1/l2advertisements/metallb-system/default"


SLICE_KEY = f"{OURS}/discovery.k8s.io/v1/endpointslices/default"


BULK_PORT = 9090


PODS = {"n1": ("10.65.0.2", "fd65::2"), "n2": ("10.65.1.2", "fd65:1::2")}


@dataclass
class World:
    """Nodes n1 and n2 with a pod each, a client, and etcd on a machine of its own. A Service of policy Local."""

    switch: Namespace
    client: Namespace
    machine: Namespace
    etcd: Etcd
    nodes: dict[str, Node]

    def order(self, address: str = VIP) -> tuple[Node, Node]:
        """The better node for the address, and the other."""
        first, second = sorted(self.nodes, key=lambda name: score_node(name, parse_address(address), 0), reverse=True)
        return self.nodes[first], self.nodes[second]

    def put_slices(self, *names: str) -> None:
        """The endpoints that are ready are those on these nodes."""
        for family, index in (("IPv4", 0), ("IPv6", 1)):
            endpoints = [
                {"addresses": [PODS[name][index]], "nodeName": name, "conditions": {"ready": True}} for name in names
            ]
            body: dict[str, Any] = {
                "metadata": {
                    "name": f"web-{family.lower()}",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": family,
                "endpoints": endpoints,
                "ports": [
                    {"name": "web", "protocol": "TCP", "port": PORT},
                    {"name": "bulk", "protocol": "TCP", "port": BULK_PORT},
                ],
            }
            self.etcd.put(f"{SLICE_KEY}/web-{family.lower()}", body)

    def advertise(self, **spec: object) -> None:
        """Writes the one L2Advertisement."""
        self.etcd.put(L2_KEY, {"metadata": {"name": "default", "namespace": "metallb-system"}, "spec": spec})

    def label(self, node: Node, **labels: str) -> None:
        """Gives a node these labels and no others."""
        bgp = {"ipv4Address": f"10.9.0.{node.name[1:]}/24"}
        node.put("nodes", resource("Node", node.name, {"bgp": bgp}, labels))

    def answers(self, address: str = VIP, wait_s: float = 0.5) -> str | None:
        """The pod that answers the client at the address."""
        said = ask_tcp(self.client, address, 80, wait_s=wait_s)
        return said.split()[0] if said else None

    def resolves(self, address: str = VIP) -> str:
        """The neighbour entry after the client has asked anew."""
        self.client.ip("neigh", "flush", "to", address)
        self.answers(address)
        return self.client.ip("neigh", "show", address)


def status_of(node: Node) -> Status:
    """What the node's responder says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.settimeout(5)
        one.connect(str(node.run_dir / "l2.sock"))
        one.sendall(render_request(Ask()))
        return parse_status(one.makefile("rb").readline())


def owns(node: Node, address: str = VIP) -> bool:
    return any(one.owns for one in status_of(node).vips if one.address == address)


def responder(node: Node) -> int:
    return listener_pid(node.run_dir / "l2.sock")


def build(switch: Namespace, client: Namespace, machine: Namespace, etcd: Etcd) -> World:
    nodes = {
        name: Node("agent", name, index == 1, etcd, "10.9.0.8") for index, name in enumerate(("n1", "n2"), start=1)
    }
    world = World(switch, client, machine, etcd, nodes)
    for number, namespace in ((1, nodes["n1"].namespace), (2, nodes["n2"].namespace), (8, machine), (9, client)):
        addresses = [f"10.9.0.{number}/24", f"fd09::{number}/64"]
        link_namespaces(switch, f"p{number}", namespace, "eth0", right_addresses=addresses)
    add_bridge(switch, "br0", ["p1", "p2", "p8", "p9"])
    service = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIPs": ["10.96.0.1", "fd96::1"],
            "externalTrafficPolicy": "Local",
            "ports": [
                {"name": "web", "port": 80, "protocol": "TCP"},
                {"name": "bulk", "port": BULK_PORT, "protocol": "TCP"},
            ],
        },
    }
    etcd.put(f"{OURS}/core/v1/services/default/web", service)
    for address in (VIP, VIP6):
        grant = {"address": address, "services": ["default/web"], "pool": "default"}
        etcd.put(f"/felixpy/grants/addresses/{address}", grant)
    for number, (name, node) in enumerate(nodes.items(), start=1):
        node.put("nodes", resource("Node", name, {"bgp": {"ipv4Address": f"10.9.0.{number}/24"}}))
        node.pod(name, *PODS[name]).write()
    return world


@contextmanager
def make_world() -> Iterator[World]:
    """No agent runs yet."""
    with (
        Namespace.create("w") as switch,
        Namespace.create("c") as client,
        Namespace.create("e") as machine,
        Etcd(machine, "0.0.0.0") as etcd,
    ):
        world = build(switch, client, machine, etcd)
        try:
            yield world
        finally:
            for node in world.nodes.values():
                node.close()
