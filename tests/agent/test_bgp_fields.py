"""Fields of BGPPeer, BGPConfiguration and Node that make a session another one, as a BIRD at its other end has it.

The whole agent with gobgpd 4, fed through etcd. There is a router for each field, and all sessions come up at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.agent.node import Node, resource
from tests.birdpy.conftest import GOBGPD
from tests.support.netns import Namespace, add_bridge, link_namespaces
from tests.support.process import Daemon
from tests.support.wait import eventually

OWN, PORT = 64700, 1790
BLOCK, LOOPED, FORBIDDEN = "10.64.9.0/26", "198.51.100.0/24", "203.0.113.0/24"


@dataclass(frozen=True)
class Side:
    """A router's side of a session: which AS it takes us for, what it tells, and what else is said of it."""

    asn: int = OWN
    tells: str = "none"
    words: str = ""


FIELDS: dict[str, tuple[dict[str, Any], Side]] = {
    "plain": ({}, Side()),
    "other": ({"localASNumber": 64999}, Side(asn=64999)),
    "near": ({"ttlSecurity": 1}, Side(words="ttl security on;")),
    "far": ({"ttlSecurity": 1}, Side(words="multihop 9;")),
    "loop": ({"numAllowedLocalASNumbers": 1}, Side(tells="filter looped")),
    "none": ({}, Side(tells="filter forbidden")),
    "slow": ({"keepaliveTime": "60s"}, Side()),
    "port": ({"peerIP": "10.97.0.9:1179"}, Side(words="local port 1179;")),
}
"""What a BGPPeer says, and its router has to."""
ADDRESS = {name: f"10.97.0.{number}" for number, name in enumerate(FIELDS, start=2)}


def bird_config(name: str, side: Side) -> str:
    return f"""
router id {ADDRESS[name]};
protocol device {{ }}
protocol static {{ ipv4; route {LOOPED} blackhole; route {FORBIDDEN} blackhole; }}
filter looped {{ if net = {LOOPED} then {{ bgp_path.prepend({OWN}); accept; }} reject; }}
filter forbidden {{ if net = {FORBIDDEN} then {{ bgp_path.prepend({OWN}); accept; }} reject; }}
protocol bgp node {{ local {ADDRESS[name]} as 65000; neighbor 10.97.0.1 as {side.asn}; passive on; hold time 240;
  {side.words} ipv4 {{ import all; export {side.tells}; }}; }}
"""


@dataclass
class Rack:
    """The node n1 (10.97.0.1) and its routers."""

    node: Node
    routers: dict[str, Namespace]
    directory: Path

    def birdc(self, name: str, *words: str) -> str:
        return self.routers[name].run("birdc", "-s", self.directory / f"{name}.ctl", *words)

    def up(self) -> set[str]:
        """The routers that have a session."""
        return {name for name in self.routers if "Established" in self.says(name)}

    def says(self, name: str) -> str:
        """All that a router says of its session."""
        return self.birdc(name, "show", "protocols", "all", "node")

    def path(self, name: str) -> str:
        """The AS path by which a router was taught the node's block."""
        return self.birdc(name, "show", "route", "all").partition("BGP.as_path: ")[2].partition("\n")[0]


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    directory = tmp_path_factory.mktemp("routers")
    with ExitStack() as stack:
        switch = stack.enter_context(Namespace.create("sw"))
        node = stack.enter_context(Node("bgp"))
        link_namespaces(node.namespace, "eth0", switch, "n1", left_addresses=["10.97.0.1/24"])
        routers = {name: stack.enter_context(Namespace.create("r")) for name in FIELDS}
        for name, router in routers.items():
            link_namespaces(router, "eth0", switch, name, left_addresses=[f"{ADDRESS[name]}/24"])
        add_bridge(switch, "br0", ["n1", *routers])
        node.put("nodes", resource("Node", "n1", {"bgp": {"ipv4Address": "10.97.0.1/24", "asNumber": OWN}}))
        own = {"listenPort": PORT, "bindMode": "NodeIP"}
        node.put("bgpconfigurations", resource("BGPConfiguration", "node.n1", own))
        block = {"cidr": BLOCK, "affinity": "host:n1", "allocations": [0, *[None] * 63], "attributes": [{}]}
        node.etcd.put(f"/calico/ipam/v2/assignment/ipv4/block/{BLOCK.replace('/', '-')}", block)
        for name, (spec, side) in FIELDS.items():
            node.put("bgppeers", resource("BGPPeer", name, {"peerIP": ADDRESS[name], "asNumber": 65000, **spec}))
            (directory / f"{name}.conf").write_text(bird_config(name, side))
            argv = ["bird", "-f", "-c", str(directory / f"{name}.conf"), "-s", str(directory / f"{name}.ctl")]
            argv += ["-P", str(directory / f"{name}.pid")]
            bird = Daemon(argv, directory / f"{name}.log", netns=routers[name].name).start()
            stack.callback(bird.kill)
        node.agent = node.make_agent("--gobgpd", GOBGPD[4])
        node.agent.start()
        yield Rack(node, routers, directory)


def test_each_field_makes_its_session_what_the_neighbour_asks_for(rack: Rack) -> None:
    wanted = FIELDS.keys() - {"far"}
    eventually(lambda: rack.up() == wanted, within_s=40, what="all but the one that is further away than it may be")
    eventually(lambda: rack.path("other") == "64999", within_s=20)
    eventually(lambda: rack.path("plain") == str(OWN), within_s=20)
    assert "/180" in rack.says("slow").partition("Hold timer:")[2].splitlines()[0], "three times the keepalive time"
    assert "/90" in rack.says("plain").partition("Hold timer:")[2].splitlines()[0]


def test_a_path_with_our_own_as_is_taken_where_it_may_be(rack: Rack) -> None:
    def learned(prefix: str) -> str:
        return rack.node.namespace.ip("route", "show", "proto", "177", prefix)

    eventually(lambda: {"loop", "none"} <= rack.up() and ADDRESS["loop"] in learned(LOOPED), within_s=40)
    assert not learned(FORBIDDEN)


def test_the_node_listens_at_its_address_and_port_alone(rack: Rack) -> None:
    def listening() -> list[str]:
        lines = rack.node.namespace.run("ss", "-Hltn").splitlines()
        return [line.split()[3] for line in lines if line.split()[3].endswith((":179", f":{PORT}"))]

    eventually(lambda: listening() == [f"10.97.0.1:{PORT}"], within_s=20)
