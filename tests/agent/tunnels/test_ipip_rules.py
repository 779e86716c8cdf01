"""What the rules make of IPIP (protocol 4), by packets made by hand: this kernel has no such tunnel, but all the rules.

The whole agent; packets of a node, of a stranger, and of a workload. With real tunnels: tests/uml.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.agent.node import Node, Pod, resource
from tests.support.netns import Namespace, link_namespaces
from tests.support.wait import eventually

HERE, PEER, STRANGER, POD = "192.0.2.1", "192.0.2.2", "192.0.2.3", "10.65.0.2"
IPIP, PLAIN = 4, 253
"""The latter is for experiments (RFC 3692), and carries what is to be heard after all else."""
INNER = bytes.fromhex("4500001400000000403b0000 0a400001 0a400002")


@dataclass
class Ground:
    """The node n1, a pod of it, and outside a host that is the node n2 (192.0.2.2) and a stranger (192.0.2.3)."""

    node: Node
    pod: Pod
    outside: Namespace

    def configure(self, **spec: object) -> None:
        self.node.put("felixconfigurations", resource("FelixConfiguration", "default", dict(spec)))


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with Node() as node, Namespace.create("o") as outside:
        here, there = [f"{HERE}/24"], [f"{PEER}/24", f"{STRANGER}/24"]
        link_namespaces(node.namespace, "eth0", outside, "eth0", left_addresses=here, right_addresses=there)
        outside.ip("route", "add", POD, "via", HERE)
        for name, address in (("n1", HERE), ("n2", PEER)):
            node.put("nodes", resource("Node", name, {"bgp": {"ipv4Address": f"{address}/24"}}))
        spec = {"cidr": "10.64.0.0/20", "ipipMode": "Always", "vxlanMode": "Never"}
        node.put("ippools", resource("IPPool", "pool", spec))
        pod = node.pod("a", POD)
        pod.write()
        node.agent.start()
        yield Ground(node, pod, outside)


def heard(source: Namespace, sources: tuple[str, ...], target: Namespace, address: str) -> set[tuple[str, int]]:
    """What arrives at an address of IPIP of these sources, and of the packets that follow, which nobody minds."""
    with target.entered():
        ears = {kind: socket.socket(socket.AF_INET, socket.SOCK_RAW, kind) for kind in (IPIP, PLAIN)}
    found: set[tuple[str, int]] = set()
    try:
        for one in sources:
            for kind in (IPIP, PLAIN):
                with source.entered(), socket.socket(socket.AF_INET, socket.SOCK_RAW, kind) as mouth:
                    mouth.bind((one, 0))
                    mouth.sendto(INNER, (address, 0))
        for kind in (PLAIN, IPIP):
            ears[kind].settimeout(1 if kind == PLAIN else 0.05)
            try:
                while (PLAIN, len(sources)) != (kind, len(found)):
                    _, (sender, _) = ears[kind].recvfrom(2048)
                    found.add((sender, kind))
            except TimeoutError:
                pass
    finally:
        for ear in ears.values():
            ear.close()
    return found


def test_what_no_node_sent_does_not_come_in(ground: Ground) -> None:
    def comes() -> set[tuple[str, int]]:
        return heard(ground.outside, (STRANGER, PEER), ground.node.namespace, HERE)

    plain = {(STRANGER, PLAIN), (PEER, PLAIN)}
    eventually(lambda: comes() == {*plain, (PEER, IPIP)}, within_s=20)
    ground.node.drop("nodes", "n2")
    eventually(lambda: comes() == plain, within_s=20, what="the node is none any more")
    ground.node.put("nodes", resource("Node", "n2", {"bgp": {"ipv4Address": f"{PEER}/24"}}))
    eventually(lambda: comes() == {*plain, (PEER, IPIP)}, within_s=20)
    ground.node.put("ippools", resource("IPPool", "pool", {"cidr": "10.64.0.0/20", "ipipMode": "Never"}))
    try:
        eventually(lambda: (STRANGER, IPIP) in comes(), within_s=20, what="without a tunnel it is nobody's business")
    finally:
        spec = {"cidr": "10.64.0.0/20", "ipipMode": "Always", "vxlanMode": "Never"}
        ground.node.put("ippools", resource("IPPool", "pool", spec))


def test_a_workload_does_not_go_round_its_policy_by_a_tunnel_of_its_own(ground: Ground) -> None:
    def leaves() -> set[tuple[str, int]]:
        return heard(ground.pod.namespace, (POD,), ground.outside, STRANGER)

    try:
        eventually(lambda: leaves() == {(POD, PLAIN)}, within_s=20)
        ground.configure(allowIPIPPacketsFromWorkloads=True)
        eventually(lambda: leaves() == {(POD, PLAIN), (POD, IPIP)}, within_s=20)
    finally:
        ground.configure()
    eventually(lambda: leaves() == {(POD, PLAIN)}, within_s=20)
