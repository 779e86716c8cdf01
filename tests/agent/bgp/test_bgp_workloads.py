"""A workload that peers with its node: a BIRD in a pod, at the address that every node has for its workloads.

The whole agent with gobgpd 4 and 3, fed through etcd; what the pod teaches is reached by packets, policy included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.agent.node import Node, Pod, resource
from tests.birdpy.conftest import GOBGPD
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import tcp_ok
from tests.support.process import Daemon
from tests.support.wait import eventually

PEERING4, PEERING6 = "169.254.0.179", "fd12:3456:789a::1"
BEHIND4, BEHIND6 = "10.123.0.1", "fd23::1"
NET4, NET6, OTHER = "10.123.0.0/26", "fd23::/64", "10.124.0.0/24"
ROUTER = {"role": "router"}

BIRD = f"""
router id 10.65.0.2;
protocol device {{ }}
protocol static {{ ipv4; route {NET4} blackhole; route {OTHER} blackhole; }}
protocol static {{ ipv6; route {NET6} blackhole; }}
protocol bgp node {{ local 10.65.0.2 as 65001; neighbor {PEERING4} as 64512; multihop;
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv4 {{ import all; export where source = RTS_STATIC; }}; }}
protocol bgp node6 {{ local fd65::2 as 65001; neighbor {PEERING6} as 64512; multihop;
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv6 {{ import all; export where source = RTS_STATIC; }}; }}
"""
TOR = """
router id 10.96.0.2;
protocol device { }
protocol kernel { ipv4 { export all; }; }
protocol bgp node { local 10.96.0.2 as 65000; neighbor 10.96.0.1 as 64512;
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv4 { import all; export none; }; }
"""


@dataclass
class Rack:
    """The node n1, a pod with a BIRD in it and addresses behind it, and another pod."""

    node: Node
    router: Pod
    other: Pod
    directory: Path

    def birdc(self, *words: str) -> str:
        return self.router.namespace.run("birdc", "-s", self.directory / "bird.ctl", *words)

    def bgp(self) -> Any:
        return self.node.felixctl("bgp", "-o", "json").json()["nodes"][0]["bgp"]

    def sessions(self) -> dict[str, bool]:
        return {one["address"]: one["established"] for one in self.bgp()["sessions"]}

    def routes(self) -> set[str]:
        """What the kernel has of what BGP taught, by prefix."""
        shown = [self.node.namespace.ip(family, "route", "show", "proto", "177") for family in ("-4", "-6")]
        return {line.split()[0] for text in shown for line in text.splitlines()} - {"local"}

    def reaches_behind(self) -> bool:
        return all(tcp_ok(self.other.namespace, address, 8080, wait_s=0.3) for address in (BEHIND4, BEHIND6))

    def peer(self, **spec: Any) -> None:
        given = {"localWorkloadSelector": "role == 'router'", "asNumber": 65001, "filters": ["child"], **spec}
        self.node.put("bgppeers", resource("BGPPeer", "pods", given))


@pytest.fixture(scope="module", params=[4, 3], ids=["v4", "v3"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    directory = tmp_path_factory.mktemp("pod")
    with Node("agent,bgp") as node:
        node.namespace.add_address("lo", "10.97.0.1/32", "fd97::1/128")
        bgp = {"ipv4Address": "10.97.0.1/32", "ipv6Address": "fd97::1/128"}
        node.put("nodes", resource("Node", "n1", {"bgp": bgp}))
        peering = {"localWorkloadPeeringIPV4": PEERING4, "localWorkloadPeeringIPV6": PEERING6}
        node.put("bgpconfigurations", resource("BGPConfiguration", "default", peering))
        accept = {"action": "Accept", "matchOperator": "In"}
        reject: list[dict[str, Any]] = [{"action": "Reject"}]
        rules = {
            "importV4": [{**accept, "cidr": NET4}, *reject],
            "importV6": [{**accept, "cidr": NET6}, *reject],
            "exportV4": reject,
            "exportV6": reject,
        }
        node.put("bgpfilters", resource("BGPFilter", "child", rules))
        router, other = node.pod("router", "10.65.0.2", "fd65::2"), node.pod("other", "10.65.0.3", "fd65::3")
        router.write(ROUTER)
        other.write()
        router.namespace.add_address("lo", f"{BEHIND4}/32", f"{BEHIND6}/128")
        node.agent = node.make_agent("--gobgpd", GOBGPD[request.param])
        node.agent.start()
        (directory / "bird.conf").write_text(BIRD)
        argv = ["bird", "-f", "-c", str(directory / "bird.conf"), "-s", str(directory / "bird.ctl")]
        bird = Daemon([*argv, "-P", str(directory / "pid")], directory / "bird.log", netns=router.namespace.name)
        try:
            bird.start()
            yield Rack(node, router, other, directory)
        finally:
            bird.kill()


@pytest.fixture
def rack(built: Rack) -> Rack:
    """The pod peers with its node, which has learned no more than the filter accepts."""
    built.peer()
    built.router.write(ROUTER)
    eventually(lambda: built.routes() == {NET4, NET6}, within_s=40)
    eventually(built.reaches_behind, within_s=10)
    return built


def test_a_pod_teaches_its_node_what_is_behind_it(rack: Rack) -> None:
    assert rack.sessions() == {"10.65.0.2": True, "fd65::2": True}
    assert "10.97" not in rack.birdc("show", "route")


def test_what_is_behind_it_is_under_its_policy(rack: Rack) -> None:
    rack.node.policy("closed", "role == 'router'")
    eventually(lambda: not tcp_ok(rack.other.namespace, BEHIND4, 8080, wait_s=0.3))
    rack.node.drop("globalnetworkpolicies", "default.closed")
    eventually(rack.reaches_behind)


def test_a_restarted_agent_finds_all_of_it_as_it_was(rack: Rack) -> None:
    def up_since() -> list[str]:
        """The time of each session, as BIRD tells it."""
        return [line.split()[4] for line in rack.birdc("show", "protocols").splitlines() if "Established" in line]

    before = up_since()
    rack.node.agent.stop()
    rack.node.agent.start()
    eventually(lambda: rack.bgp()["phase"] == "live", within_s=40)
    assert up_since() == before
    assert rack.routes() == {NET4, NET6}
    assert rack.reaches_behind()


def test_a_pod_that_is_selected_no_more_has_no_session(rack: Rack) -> None:
    rack.router.write({"role": "web"})
    eventually(lambda: rack.routes() == set() and rack.sessions() == {}, within_s=20)
    assert PEERING4 not in rack.node.namespace.ip("route", "show", "type", "local", "table", "all")


def test_one_of_another_as_is_refused_and_nobody_waits_for_it(rack: Rack) -> None:
    rack.peer(asNumber=65002)
    eventually(lambda: rack.routes() == set() and set(rack.sessions().values()) == {False}, within_s=20)
    rack.node.drop("bgppeers", "pods")
    eventually(lambda: rack.sessions() == {}, within_s=20)


@contextmanager
def top_of_rack(rack: Rack) -> Iterator[Namespace]:
    """A BIRD of AS 65000 at 10.96.0.2, which puts into its kernel what the node tells it."""
    with Namespace.create("tor") as tor:
        link_namespaces(
            rack.node.namespace, "eth0", tor, "eth0",
            left_addresses=["10.96.0.1/24"], right_addresses=["10.96.0.2/24"],
        )  # fmt: skip
        (rack.directory / "tor.conf").write_text(TOR)
        argv = ["bird", "-f", "-c", str(rack.directory / "tor.conf"), "-s", str(rack.directory / "tor.ctl")]
        bird = Daemon([*argv, "-P", str(rack.directory / "tor.pid")], rack.directory / "tor.log", netns=tor.name)
        try:
            bird.start()
            yield tor
        finally:
            bird.kill()


def test_what_it_taught_goes_on_to_the_tor_where_a_filter_accepts_it(rack: Rack) -> None:
    def told(tor: Namespace) -> str:
        return tor.run("birdc", "-s", rack.directory / "tor.ctl", "show", "route", "all")

    rack.peer()
    spec = {"peerIP": "10.96.0.2", "asNumber": 65000, "sourceAddress": "None", "filters": ["up"]}
    accept = {"exportV4": [{"action": "Accept", "cidr": "10.123.0.0/16", "matchOperator": "In"}]}
    try:
        with top_of_rack(rack) as tor:
            rack.node.put("bgpfilters", resource("BGPFilter", "up", {}))
            rack.node.put("bgppeers", resource("BGPPeer", "tor", spec))
            eventually(lambda: rack.routes() == {NET4, NET6} and rack.sessions().get("10.96.0.2"), within_s=40)
            assert "BGP.as_path" not in told(tor), "nobody is a transit who was not asked to be one"
            rack.node.put("bgpfilters", resource("BGPFilter", "up", accept))
            eventually(lambda: "BGP.as_path: 64512 65001" in told(tor), within_s=40)
            eventually(lambda: tcp_ok(tor, BEHIND4, 8080, wait_s=0.3), what="packets follow")
            rack.node.put("bgpfilters", resource("BGPFilter", "up", {}))
            eventually(lambda: "BGP.as_path" not in told(tor), within_s=40, what="and it is taken back")
    finally:
        for plural, name in (("bgppeers", "tor"), ("bgppeers", "pods"), ("bgpfilters", "up")):
            rack.node.drop(plural, name)
