"""A node and a ToR that falls silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.agent.node import Node, resource
from tests.birdpy.conftest import GOBGPD
from tests.support.frr import Frr, running_frr
from tests.support.netns import Namespace, link_namespaces
from tests.support.wait import eventually

THEIRS, BLOCK = "198.51.100.0/24", "10.64.9.0/26"


OURS = "/felixpy/resources/metallb.io"


LONG = {"holdTime": "1h", "keepaliveTime": "20m"}


FRR = f"""
router bgp 65000
 bgp router-id 10.97.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.97.0.1 remote-as 64512
 neighbor 10.97.0.1 timers 1200 3600
 neighbor 10.97.0.1 timers connect 2
 neighbor 10.97.0.1 bfd profile fast
 address-family ipv4 unicast
  network {THEIRS}
 exit-address-family
"""


BFDD = """
bfd
 profile fast
  transmit-interval {interval_ms}
  receive-interval {interval_ms}
  detect-multiplier 3
 exit
exit
"""


@dataclass
class Rack:
    """The node n1 (10.97.0.1) with the bgp role, and its ToR (10.97.0.2, AS 65000)."""

    node: Node
    tor: Namespace
    frr: Frr
    generation: int
    interval_ms: int

    def peer(self, **spec: Any) -> None:
        given = {"myASN": 64512, "peerASN": 65000, "peerAddress": "10.97.0.2", **spec}
        body = {"metadata": {"name": "tor", "namespace": "m"}, "spec": given}
        self.node.etcd.put(f"{OURS}/v1beta2/bgppeers/m/tor", body)

    def profile(self) -> None:
        both = {"receiveInterval": self.interval_ms, "transmitInterval": self.interval_ms}
        spec = {**both, "detectMultiplier": 3}
        body = {"metadata": {"name": "fast", "namespace": "m"}, "spec": spec}
        self.node.etcd.put(f"{OURS}/v1beta1/bfdprofiles/m/fast", body)

    def forget(self) -> None:
        self.node.etcd.delete(f"{OURS}/v1beta2/bgppeers/m/tor")
        self.node.etcd.delete(f"{OURS}/v1beta1/bfdprofiles/m/fast")
        eventually(lambda: self.bgp()["sessions"] == [])

    def bgp(self) -> Any:
        return self.node.felixctl("bgp", "-o", "json").json()["nodes"][0]["bgp"]

    def session(self) -> Any:
        (one,) = self.bgp()["sessions"]
        return one

    def has_route(self) -> bool:
        return "10.97.0.2" in self.node.namespace.ip("route", "show", THEIRS)

    def met(self) -> bool:
        """Whether either side has what the other told it."""
        return self.has_route() and BLOCK in self.frr.told_by(64512)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """No packet reaches the ToR or leaves it, and no device tells of it."""
        self.tor.run("nft", "add table netdev mute")
        for way in ("ingress", "egress"):
            chain = f"{{ type filter hook {way} device eth0 priority 0; policy drop; }}"
            self.tor.run("nft", f"add chain netdev mute {way} {chain}")
        try:
            yield
        finally:
            self.tor.run("nft", "delete table netdev mute")


@contextmanager
def rack_of(generation: int, interval_ms: int = 700) -> Iterator[Rack]:
    """The node with that version of GoBGP, and its ToR, which send BFD so often; no BGPPeer yet."""
    tor = Namespace.create("tor")
    try:
        with Node("bgp") as node:
            link_namespaces(
                node.namespace, "eth0", tor, "eth0",
                left_addresses=["10.97.0.1/24"], right_addresses=["10.97.0.2/24"],
            )  # fmt: skip
            node.put("nodes", resource("Node", "n1", {"bgp": {"ipv4Address": "10.97.0.1/24"}}))
            block = {"cidr": BLOCK, "affinity": "host:n1", "allocations": [0, *[None] * 63], "attributes": [{}]}
            node.etcd.put(f"/calico/ipam/v2/assignment/ipv4/block/{BLOCK.replace('/', '-')}", block)
            node.agent = node.make_agent("--gobgpd", GOBGPD[generation])
            node.agent.start()
            with running_frr(tor, FRR, BFDD.format(interval_ms=interval_ms)) as frr:
                yield Rack(node, tor, frr, generation, interval_ms)
    finally:
        tor.delete()
