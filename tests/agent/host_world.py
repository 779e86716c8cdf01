"""A node with an interface to the outside and a pod, for host endpoints and node ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.agent.node import PORT, Node, Pod, resource
from tests.support.etcd import Etcd
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import NameServer, tcp_ok

OURS = "/felixpy/resources"


HOST4, HOST6, OUT4, OUT6 = "10.9.0.1", "fd09::1", "10.9.0.2", "fd09::2"


POD4 = "10.65.0.2"


SSH, BGP, VXLAN = 22, 179, 4789


SERVED = (PORT, SSH, BGP, VXLAN)


DENIED_S = 0.25


@dataclass(frozen=True)
class World:
    """The node (10.9.0.1, fd09::1 on up0), the outside (.2), where its etcd is, and a pod."""

    node: Node
    outside: Namespace
    pod: Pod

    def into_host(self, port: int = PORT, address: str = HOST4) -> bool:
        """Whether the outside gets a TCP connection to the node."""
        return tcp_ok(self.outside, address, port, wait_s=DENIED_S)

    def out_of_host(self, port: int = PORT, address: str = OUT4) -> bool:
        """Whether the node gets a TCP connection to the outside."""
        return tcp_ok(self.node.namespace, address, port, wait_s=DENIED_S)

    def into_pod(self, address: str = POD4, port: int = PORT) -> bool:
        """Whether the outside gets a TCP connection through the node."""
        return tcp_ok(self.outside, address, port, wait_s=DENIED_S)

    def host(self, name: str, profiles: tuple[str, ...] = (), **spec: Any) -> None:
        """Writes a host endpoint of the node, labelled with its name."""
        body = {"node": self.node.name, "profiles": list(profiles), **spec}
        self.node.put("hostendpoints", resource("HostEndpoint", name, body, {"hep": name}))

    def policy(self, name: str, **spec: Any) -> None:
        """Writes a policy for every host endpoint."""
        self.node.policy(name, "has(hep)", **spec)

    def felix(self, **spec: Any) -> None:
        """Writes the FelixConfiguration."""
        self.node.put("felixconfigurations", resource("FelixConfiguration", "default", spec))


@contextmanager
def make_world() -> Iterator[World]:
    """Etcd is outside, on a port that is no failsafe."""
    outside = Namespace.create("o")
    try:
        with Etcd(outside, "0.0.0.0") as etcd, Node(etcd=etcd, etcd_address=OUT4) as node:
            link_namespaces(
                node.namespace, "up0", outside, "eth0",
                left_addresses=(f"{HOST4}/24", f"{HOST6}/64"), right_addresses=(f"{OUT4}/24", f"{OUT6}/64"),
            )  # fmt: skip
            outside.ip("route", "add", "10.65.0.0/24", "via", HOST4)
            outside.ip("route", "add", "10.96.0.0/24", "via", HOST4)
            node.namespace.ip("route", "add", "default", "via", OUT4)
            pod = node.pod("a", POD4)
            pod.write()
            with NameServer(node.namespace, "host", *SERVED), NameServer(outside, "out", *SERVED):
                node.agent.start()
                yield World(node, outside, pod)
    finally:
        outside.delete()
