"""A session that names a link and no address, with FRR at the other end: no address of either family on the link.

The whole agent with gobgpd 4, fed through etcd; both families over one session, packets of pods both ways.
"""

from __future__ import annotations

import os
import signal
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

BLOCKS = {"ipv4": "10.64.9.0/26", "ipv6": "fd64:9::/122"}
POD = ("10.64.9.1", "fd64:9::1")
OUTSIDE = ("192.0.2.1", "2001:db8:2::1")
PEERS = "/felixpy/resources/metallb.io/v1beta2/bgppeers/m"

FRR = """
router bgp 65000
 bgp router-id 192.0.2.1
 no bgp ebgp-requires-policy
 neighbor eth0 interface remote-as external
 address-family ipv4 unicast
  network 192.0.2.1/32
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:2::1/128
  neighbor eth0 activate
 exit-address-family
"""


@dataclass
class Rack:
    """The node n1, whose eth0 has link-local addresses alone, and its ToR."""

    node: Node
    tor: Namespace
    frr: Frr
    gobgpd: int = 4

    def run_agent(self, gobgpd: int) -> None:
        """Ends the agent and its gobgpd where they run, and starts it with this version."""
        self.node.agent.stop()
        if pid := listener_pid(self.node.run_dir / "gobgp.sock"):
            os.kill(pid, signal.SIGKILL)
        self.gobgpd = gobgpd
        self.node.agent = self.node.make_agent("--gobgpd", GOBGPD[gobgpd])
        self.node.agent.start()

    def peer(self, name: str = "tor", **spec: Any) -> None:
        given = {"myASN": 64512, "dynamicASN": "external", "interface": "eth0", **spec}
        self.node.etcd.put(f"{PEERS}/{name}", {"metadata": {"name": name, "namespace": "m"}, "spec": given})

    def bgp(self) -> Any:
        (status,) = self.node.felixctl("bgp", "-o", "json").json()["nodes"]
        return status["bgp"]

    def refusals(self) -> dict[str, str]:
        return {one["operation"]: one["error"] for one in self.bgp()["refusals"]}

    def told(self) -> set[str]:
        """What the ToR has heard of the node."""
        return self.frr.told_by(64512)

    def routes(self) -> list[str]:
        """The node's learned routes."""
        shown = [self.node.namespace.ip(family, "route", "show", "proto", "177") for family in ("-4", "-6")]
        return [line for text in shown for line in text.splitlines()]

    def has_routes(self) -> bool:
        return len(self.routes()) == 2

    def pings(self) -> bool:
        """Whether packets pass both ways in both families, between an address behind the ToR and the pod."""
        ways = zip(POD, OUTSIDE, strict=True)
        return all(self.tor.succeeds("ping", "-c1", "-W1", "-I", outside, pod) for pod, outside in ways)


@pytest.fixture(scope="module")
def built() -> Iterator[Rack]:
    """The agent does not run yet."""
    tor = Namespace.create("tor")
    try:
        with Node("agent,bgp") as node:
            link_namespaces(node.namespace, "eth0", tor, "eth0")
            tor.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
            tor.add_address("lo", "192.0.2.1/32", "2001:db8:2::1/128")
            node.namespace.add_address("lo", "10.97.0.1/32", "fd97::1/128")
            bgp = {"ipv4Address": "10.97.0.1/32", "ipv6Address": "fd97::1/128"}
            node.put("nodes", resource("Node", "n1", {"bgp": bgp}))
            for family, cidr in BLOCKS.items():
                allocations = [None, 0, *[None] * 62]
                block = {"cidr": cidr, "affinity": "host:n1", "allocations": allocations, "attributes": [{}]}
                node.etcd.put(f"/calico/ipam/v2/assignment/{family}/block/{cidr.replace('/', '-')}", block)
            node.pod("web", *POD).write()
            with running_frr(tor, FRR) as frr:
                yield Rack(node, tor, frr)
    finally:
        tor.delete()


@pytest.fixture
def rack(built: Rack) -> Rack:
    """The agent runs with gobgpd 4, and the session is up."""
    if not built.node.agent.running or built.gobgpd == 3:
        built.run_agent(4)
    built.peer()
    eventually(lambda: built.has_routes() and built.pings(), within_s=40, what="the session is up")
    return built


def test_one_session_over_a_bare_link_carries_both_families(rack: Rack) -> None:
    assert all("via" in one and "fe80::" in one and "dev eth0" in one for one in map(resolved(rack), rack.routes()))
    eventually(lambda: rack.told() == set(BLOCKS.values()), within_s=10)
    (session,) = rack.bgp()["sessions"]
    assert session["address"].startswith("fe80::")
    assert session["address"].endswith("%eth0")
    assert rack.refusals() == {}


def test_a_restarted_agent_goes_on_with_the_session(rack: Rack) -> None:
    before = rack.frr.sessions()
    assert list(before) == ["eth0"]
    rack.node.agent.kill()
    rack.node.nft("add table netdev mute")
    rack.node.nft("add chain netdev mute in { type filter hook ingress device eth0 priority 0; }")
    rack.node.nft("add rule netdev mute in icmpv6 type nd-router-advert drop")
    rack.node.agent.start()
    eventually(lambda: rack.bgp()["phase"] == "live", within_s=40)
    assert rack.refusals() == {}, "without having heard the router again"
    assert rack.frr.sessions() == before
    rack.node.nft("delete table netdev mute")
    assert rack.pings()


def test_a_link_that_loses_its_carrier_ends_the_session_at_once_and_gets_it_back(rack: Rack) -> None:
    rack.tor.ip("link", "set", "eth0", "down")
    eventually(lambda: rack.routes() == [], within_s=15)
    assert "no router is heard on eth0" in eventually(lambda: rack.refusals().get("BGPPeer.metallb.io m/tor"))
    rack.tor.ip("link", "set", "eth0", "up")
    eventually(rack.pings, within_s=40)


def test_a_neighbour_with_another_address_is_found_anew(rack: Rack) -> None:
    before = rack.bgp()["sessions"][0]["address"]
    rack.tor.ip("link", "set", "eth0", "down")
    rack.tor.ip("link", "set", "eth0", "address", "02:00:00:00:00:77")
    rack.tor.ip("link", "set", "eth0", "up")
    eventually(rack.pings, within_s=40)
    (session,) = rack.bgp()["sessions"]
    assert session["address"] == "fe80::ff:fe00:77%eth0" != before


def test_what_does_not_go_with_a_link_is_named(rack: Rack) -> None:
    rack.peer(ebgpMultiHop=True)
    eventually(lambda: rack.refusals() == {"BGPPeer.metallb.io m/tor": "ebgpMultiHop: not with interface"})
    eventually(lambda: rack.routes() == [], within_s=15)


def test_the_session_ends_with_its_peer(rack: Rack) -> None:
    rack.node.etcd.delete(f"{PEERS}/tor")
    eventually(lambda: rack.routes() == [] and rack.told() == set(), within_s=15)
    assert rack.bgp()["sessions"] == []


def test_gobgp_3_refuses_it_by_name(rack: Rack) -> None:
    rack.run_agent(3)
    eventually(
        lambda: any("GoBGP 3 has no sessions over a link" in why for why in rack.refusals().values()), within_s=30
    )


def resolved(rack: Rack) -> Any:
    """A route with what its nexthop object says."""

    def resolve(route: str) -> str:
        words = route.split()
        number = words[words.index("nhid") + 1]
        return rack.node.namespace.ip("nexthop", "show", "id", number)

    return resolve
