"""What is left at an FRR of a node that parts from it: nothing, though FRR waits for who restarts (RFC 4724, RFC 8538);
and of one that does restart, as another router or after another program: all.

The whole agent with gobgpd 4 and 3, fed through etcd, told by felixctl.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from birdpy.process import listener_pid
from tests.agent.node import Node, resource
from tests.birdpy.conftest import GOBGPD
from tests.support.frr import Frr, running_frr
from tests.support.netns import Namespace, link_namespaces
from tests.support.wait import eventually

BLOCK, BLOCK6, THEIRS = "10.64.9.0/26", "fd64:9::/122", "198.51.100.0/24"
BGP = {"ipv4Address": "10.97.0.1/24", "ipv6Address": "fd97::1/64"}
FRR = """
router bgp 65000
 bgp router-id 10.97.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart stalepath-time 3600
 neighbor 10.97.0.1 remote-as 64512
 neighbor 10.97.0.1 timers connect 1
 neighbor fd97::1 remote-as 64512
 neighbor fd97::1 timers connect 1
 address-family ipv4 unicast
  no neighbor fd97::1 activate
  network 198.51.100.0/24
 exit-address-family
 address-family ipv6 unicast
  neighbor fd97::1 activate
 exit-address-family
"""


@dataclass
class Rack:
    """The node n1 (10.97.0.1) with the bgp role, and its ToR (10.97.0.2, AS 65000)."""

    node: Node
    frr: Frr
    generation: int

    def told(self) -> set[str]:
        """What the ToR has of the node, be it stale."""
        return self.frr.told_by(64512)

    def is_settled(self) -> bool:
        """Nothing is stale: who ends a session before that loses what is (RFC 4724 §4.2)."""
        return self.frr.told_by(64512, stale=False) == {BLOCK, BLOCK6}

    def peer(self, name: str, address: str, **spec: Any) -> None:
        self.node.put("bgppeers", resource("BGPPeer", name, {"peerIP": address, "asNumber": 65000, **spec}))

    def learned(self) -> str:
        return self.node.namespace.ip("-4", "route", "show", "proto", "177", THEIRS)


@pytest.fixture(scope="module", params=[4, 3], ids=["v4", "v3"])
def built(request: pytest.FixtureRequest) -> Iterator[Rack]:
    tor = Namespace.create("tor")
    try:
        with Node("bgp") as node:
            link_namespaces(
                node.namespace, "eth0", tor, "eth0",
                left_addresses=["10.97.0.1/24", "fd97::1/64"], right_addresses=["10.97.0.2/24", "fd97::2/64"],
            )  # fmt: skip
            for family, cidr in (("ipv4", BLOCK), ("ipv6", BLOCK6)):
                block = {"cidr": cidr, "affinity": "host:n1", "allocations": [0, *[None] * 63], "attributes": [{}]}
                node.etcd.put(f"/calico/ipam/v2/assignment/{family}/block/{cidr.replace('/', '-')}", block)
            node.agent = node.make_agent("--gobgpd", GOBGPD[request.param])
            node.agent.start()
            with running_frr(tor, FRR) as frr:
                yield Rack(node, frr, request.param)
    finally:
        tor.delete()


@pytest.fixture
def rack(built: Rack) -> Rack:
    """Both sessions are up, and each has told its family."""
    built.node.put("nodes", resource("Node", "n1", {"bgp": BGP}))
    built.peer("tor", "10.97.0.2")
    built.peer("tor6", "fd97::2")
    eventually(lambda: built.is_settled() and built.learned(), within_s=40)
    return built


def test_a_peer_that_is_deleted_keeps_nothing_of_the_node(rack: Rack) -> None:
    """GoBGP 4 says that it is for good (a hard reset, RFC 8538 §3.1); version 3 cannot, and FRR waits for it."""
    assert rack.node.felixctl("delete", "bgppeer", "tor").code == 0
    eventually(lambda: not rack.learned(), within_s=20)
    kept = set() if rack.generation == 4 else {BLOCK}
    eventually(lambda: rack.told() == {BLOCK6} | kept, within_s=20, what="the other session stays")


def test_a_node_that_is_deleted_leaves_nothing(rack: Rack) -> None:
    rack.node.drop("nodes", "n1")
    eventually(lambda: not rack.told(), within_s=20)
    eventually(lambda: not rack.learned(), within_s=20)


def test_what_ends_a_session_only_to_begin_it_anew_takes_nothing_away(rack: Rack) -> None:
    """Against which the others prove something: FRR keeps what it was told where the session merely ends."""
    before = rack.frr.sessions()
    pid = listener_pid(rack.node.run_dir / "gobgp.sock")
    assert pid > 1
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: sum(rack.frr.sessions().values()) != sum(before.values()), every_s=0.1, what="it has ended")
    assert rack.told() == {BLOCK, BLOCK6}
    eventually(lambda: len(after := rack.frr.sessions()) == 2 and min(after.values()) > 1, within_s=40)
    assert rack.told() == {BLOCK, BLOCK6}


def test_a_node_that_becomes_another_router_loses_no_route_meanwhile(rack: Rack) -> None:
    """Its gobgpd is replaced for that; FRR waits for it, as it does for a restart, and so does the node for FRR."""
    lost: list[tuple[set[str], str]] = []

    def is_known_as(router_id: str) -> bool:
        if (seen := (rack.told(), rack.learned()))[0] != {BLOCK, BLOCK6} or not seen[1]:
            lost.append(seen)
        return rack.frr.router_ids() == {router_id} and len(rack.frr.sessions()) == 2

    assert is_known_as("10.97.0.1")
    spec = {"myASN": 64512, "peerASN": 65000, "peerAddress": "10.97.0.2", "routerID": "10.9.9.9"}
    key = "/felixpy/resources/metallb.io/v1beta2/bgppeers/m/tor"
    rack.node.etcd.put(key, {"metadata": {"name": "tor", "namespace": "m"}, "spec": spec})
    try:
        eventually(lambda: is_known_as("10.9.9.9") and rack.is_settled(), within_s=40)
    finally:
        rack.node.etcd.delete(key)
    eventually(lambda: is_known_as("10.97.0.1"), within_s=40)
    assert not lost


def test_a_port_that_somebody_else_listens_at_is_named_and_taken_once_it_is_free(rack: Rack) -> None:
    if rack.generation == 3:
        return  # it says the same, and is asked again as seldom
    pid = listener_pid(rack.node.run_dir / "gobgp.sock")
    assert pid > 1
    rack.node.agent.stop()
    os.kill(pid, signal.SIGKILL)
    with rack.node.namespace.entered():
        other = eventually(lambda: socket.create_server(("10.97.0.1", 179)), what="gobgpd has left it")
    with other:
        rack.node.agent.start()
        eventually(lambda: "address already in use" in rack.node.felixctl("bgp").err, within_s=20)
        assert "gobgpd has 0 of 2 prefixes" in rack.node.felixctl("status").err
    eventually(lambda: len(rack.frr.sessions()) == 2 and rack.told() == {BLOCK, BLOCK6}, within_s=40)
    assert rack.node.felixctl("bgp").code == 0
