"""Two nodes on one link that share an etcd, for tests that ask all nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.agent.node import Node, Said, resource
from tests.support.etcd import Etcd
from tests.support.netns import link_namespaces
from tests.support.wait import eventually

ADDRESSES = {"n1": "10.98.0.1", "n2": "10.98.0.2"}


@dataclass(frozen=True)
class Cluster:
    """Nodes n1 (10.98.0.1) and n2 (10.98.0.2); etcd is on n1."""

    etcd: Etcd
    n1: Node
    n2: Node

    def felixctl(self, *arguments: str, node: Node | None = None) -> Said:
        """Runs felixctl on a node, n1 unless said."""
        return (node or self.n1).felixctl(*arguments)

    def start(self) -> None:
        """Starts both agents; they have read the datastore, and each holds its node's name, when it returns."""
        for node in (self.n1, self.n2):
            node.agent.start()
        for node in (self.n1, self.n2):
            eventually(lambda node=node: "in sync" in node.log())
            eventually(lambda node=node: self.etcd.get_prefix(f"/felixpy/holders/{node.name}/"), what="its name")


@contextmanager
def two_nodes(roles: str = "agent,bgp,controllers") -> Iterator[Cluster]:
    """The cluster, its agents not started; all of it goes at the end."""
    with Node(roles, "n1") as n1, Node(roles, "n2", False, n1.etcd, ADDRESSES["n1"]) as n2:
        here, there = (f"{ADDRESSES[node.name]}/24" for node in (n1, n2))
        link_namespaces(n1.namespace, "eth0", n2.namespace, "eth0", left_addresses=[here], right_addresses=[there])
        for node in (n1, n2):
            bgp = {"ipv4Address": f"{ADDRESSES[node.name]}/24"}
            node.put("nodes", resource("Node", node.name, {"bgp": bgp}))
        yield Cluster(n1.etcd, n1, n2)
