"""Fields of BGPPeers, BGPConfiguration and Node that make a session, or what is told in it, another one, as a BIRD at
its other end has it.

The whole agent with gobgpd 4, fed through etcd. There is a router for each field, and all sessions come up at once.
"""

from __future__ import annotations

import base64
import json
import re
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
HERE, ALSO_HERE = "10.97.0.1", "10.96.0.1"
"""The node's address, and another one of the same host."""
BLOCK, LOOPED, FORBIDDEN, TAUGHT = "10.64.9.0/26", "198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24"
SHARED, LONE, BEYOND = "198.18.1.0/24", "198.18.2.0/24", "198.18.3.0/24"
MESH_PASSWORD, RACK_PASSWORD = "between-nodes-7", "in-the-rack-8"
OURS = "/felixpy/resources"


@dataclass(frozen=True)
class Side:
    """A router's side of a session: its AS, whom it takes us for, what it tells, and what else is said of it.

    `far`: its address is in another subnet than the node's own one. `at` is one behind that, which it speaks from.
    """

    own: int = 65000
    asn: int = OWN
    here: str = HERE
    tells: str = "none"
    words: str = ""
    far: bool = False
    at: str = ""


def told(asn: int, **spec: Any) -> tuple[dict[str, Any], Side]:
    """A router of that AS, which a filter lets hear what another router taught."""
    return {"asNumber": asn, "filters": ["transit"], **spec}, Side(own=asn)


TO_US = f"passive off; neighbor port {PORT}; connect retry time 1; connect delay time 1; error wait time 1, 2;"
"""Of a router for which the node waits: the node's address comes first of the two, as text."""
FIELDS: dict[str, tuple[dict[str, Any], Side]] = {
    "plain": ({}, Side()),
    "other": ({"localASNumber": 64999}, Side(asn=64999)),
    "near": ({"ttlSecurity": 1}, Side(words="ttl security on;")),
    "far": ({"ttlSecurity": 1}, Side(words="multihop 9;")),
    "loop": ({"numAllowedLocalASNumbers": 1}, Side(tells="filter looped")),
    "none": ({}, Side(tells="filter forbidden")),
    "slow": ({"keepaliveTime": "60s"}, Side()),
    "port": ({"peerIP": "10.97.0.9:1179"}, Side(words="local port 1179;")),
    "brief": ({"maxRestartTime": "30s"}, Side()),
    "never": ({"maxRestartTime": "0s"}, Side()),
    "long": ({"maxRestartTime": "60s"}, Side()),
    "our-source": ({}, Side(words="multihop;", far=True)),
    "any-source": ({"sourceAddress": "None"}, Side(here=ALSO_HERE, far=True)),
    "teacher": ({"asNumber": 65100}, Side(own=65100, tells="filter taught")),
    "leaving": ({"asNumber": 65101}, Side(own=65101, tells="filter leaving")),
    "staying": ({"asNumber": 65102}, Side(own=65102, tells="filter staying")),
    "behind": ({}, Side(tells="filter behind", words="multihop;", at="192.0.2.77")),
    "gateway": ({}, Side(tells="filter everywhere")),
    "e-auto": told(65000),
    "e-self": told(65000, nextHopMode="Self"),
    "e-keep": told(65000, nextHopMode="Keep"),
    "e-old-keep": told(65000, keepOriginalNextHop=True),
    "i-auto": told(OWN, nextHopMode="Auto"),
    "i-self": told(OWN, nextHopMode="Self"),
    "i-keep": told(OWN, nextHopMode="Keep"),
}
"""What a BGPPeer says, and its router has to."""
ANNOTATIONS = {"long": {"felixpy.io/long-lived-restart-time": "1h"}}
METALLB: dict[str, tuple[dict[str, Any], Side]] = {
    "m-plain": ({}, Side()),
    "m-hold": ({"holdTime": "30s", "keepaliveTime": "10s"}, Side()),
    "m-as": ({"myASN": 64999}, Side(asn=64999)),
    "m-port": ({"peerPort": 1179}, Side(words="local port 1179;")),
    "m-source": ({"sourceAddress": HERE}, Side(words="multihop;", far=True)),
    "m-graceful": ({"enableGracefulRestart": True}, Side()),
    "m-secret": ({"passwordSecret": {"name": "rack"}}, Side(words=f'password "{RACK_PASSWORD}";')),
    "m-any-as": ({"peerASN": None, "dynamicASN": "external"}, Side()),
    "m-hops": ({"ebgpMultiHop": True}, Side(words="ttl security on;")),
    "m-one-hop": ({}, Side(words="ttl security on;")),
    "m-both": ({"dualStackAddressFamily": True}, Side(words="ipv6 { import all; export none; };")),
    "m-elsewhere": ({"nodeSelectors": [{"matchLabels": {"rack": "other"}}]}, Side()),
}
"""The same of MetalLB's BGPPeers."""
NODES: dict[str, tuple[dict[str, Any], Side]] = {
    "back": ({"routeReflectorClusterID": "1.0.0.1"}, Side(own=OWN, words=TO_US)),
    "manual": ({"routeReflectorClusterID": "1.0.0.1"}, Side(own=OWN, words=TO_US)),
    "secure": ({"routeReflectorClusterID": "1.0.0.1"}, Side(own=OWN, words=f"{TO_US} direct; ttl security on;")),
    "mesh": ({}, Side(own=OWN, words=f'{TO_US} password "{MESH_PASSWORD}";')),
}
"""Routers that are nodes of the cluster, as Calico runs BIRD there: what a Node says. Reflectors are in no mesh."""
SIDES = {name: side for name, (_, side) in {**FIELDS, **METALLB, **NODES}.items()}
ADDRESS = {
    name: f"10.{96 if side.far else 97}.0.{number}" for number, (name, side) in enumerate(SIDES.items(), start=2)
}


def bird_config(name: str, side: Side) -> str:
    return f"""
router id {ADDRESS[name]};
protocol device {{ }}
protocol static {{ ipv4; route {LOOPED} blackhole; route {FORBIDDEN} blackhole; route {TAUGHT} blackhole; }}
protocol static {{ ipv4; route 0.0.0.0/0 blackhole; }}
protocol static {{ ipv4; route {SHARED} blackhole; route {LONE} blackhole; }}
filter leaving {{ bgp_community.add((65535, 0)); if net ~ [{SHARED}, {LONE}] then accept; reject; }}
filter staying {{ if net = {SHARED} then accept; reject; }}
protocol static {{ ipv4; route {BEYOND} blackhole; }}
filter behind {{ if net = {BEYOND} then accept; reject; }}
filter everywhere {{ if net = 0.0.0.0/0 then accept; reject; }}
filter looped {{ if net = {LOOPED} then {{ bgp_path.prepend({OWN}); accept; }} reject; }}
filter forbidden {{ if net = {FORBIDDEN} then {{ bgp_path.prepend({OWN}); accept; }} reject; }}
filter taught {{ if net = {TAUGHT} then accept; reject; }}
protocol bgp node {{ local {side.at or ADDRESS[name]} as {side.own}; neighbor {side.here} as {side.asn};
  passive on; hold time 240; {side.words} ipv4 {{ import all; export {side.tells}; }}; }}
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

    def offers(self, name: str) -> str:
        """The capabilities that the node told a router."""
        return self.says(name).partition("Neighbor capabilities")[2]

    def restart_time_s(self, name: str) -> int | None:
        """How long the node asks the router to wait for it; None where it does not."""
        found = re.search(r"Restart time: (\d+)", self.offers(name))
        return int(found[1]) if found else None

    def hold_time_s(self, name: str) -> int:
        """What both agreed on."""
        return int(re.search(r"Hold timer: +[\d.]+/(\d+)", self.says(name))[1])  # type: ignore[index]

    def heard(self, name: str, prefix: str, attribute: str) -> str:
        """An attribute of the path to a prefix that the node told a router; "" where there is none."""
        shown = self.birdc(name, "show", "route", "all", "where", "net", "=", prefix, "&&", "proto", "=", '"node"')
        return shown.partition(f"BGP.{attribute}: ")[2].partition("\n")[0]

    def path(self, name: str) -> str:
        """The AS path by which a router was taught the node's block."""
        return self.heard(name, BLOCK, "as_path")

    def next_hops(self, *names: str) -> dict[str, str]:
        """By router, the next hop of what another router taught."""
        return {name: self.heard(name, TAUGHT, "next_hop") for name in names}

    def opens(self, name: str) -> int:
        """How often a session with a router began."""
        (status,) = self.node.felixctl("bgp", "status", "n1", "-o", "json").json()["nodes"]
        (found,) = [one for one in status["bgp"]["sessions"] if one["address"] == ADDRESS[name]]
        return int(found["got"]["opens"])


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    directory = tmp_path_factory.mktemp("routers")
    with ExitStack() as stack:
        switch = stack.enter_context(Namespace.create("sw"))
        node = stack.enter_context(Node("bgp"))
        own = [f"{HERE}/24", f"{ALSO_HERE}/24"]
        link_namespaces(node.namespace, "eth0", switch, "n1", left_addresses=own)
        routers = {name: stack.enter_context(Namespace.create("r")) for name in SIDES}
        for name, router in routers.items():
            link_namespaces(router, "eth0", switch, name, left_addresses=[f"{ADDRESS[name]}/24"])
            if SIDES[name].at:
                router.add_address("lo", f"{SIDES[name].at}/32")
            if SIDES[name].far:
                router.ip("route", "add", HERE, "dev", "eth0")
        add_bridge(switch, "br0", ["n1", *routers])
        write_cluster(node)
        for name, side in SIDES.items():
            (directory / f"{name}.conf").write_text(bird_config(name, side))
            argv = ["bird", "-f", "-c", str(directory / f"{name}.conf"), "-s", str(directory / f"{name}.ctl")]
            argv += ["-P", str(directory / f"{name}.pid")]
            bird = Daemon(argv, directory / f"{name}.log", netns=routers[name].name).start()
            stack.callback(bird.kill)
        node.agent = node.make_agent("--gobgpd", GOBGPD[4])
        node.agent.start()
        yield Rack(node, routers, directory)


def write_cluster(node: Node) -> None:
    """All that the routers' sessions follow from."""
    node.put("nodes", resource("Node", "n1", {"bgp": {"ipv4Address": f"{HERE}/24", "asNumber": OWN}}))
    own = {"listenPort": PORT, "bindMode": "NodeIP"}
    node.put("bgpconfigurations", resource("BGPConfiguration", "node.n1", own))
    by_secret = {"secretKeyRef": {"name": "mesh", "key": "secret"}}
    mesh = {"nodeMeshPassword": by_secret, "nodeMeshMaxRestartTime": "45s"}
    node.put("bgpconfigurations", resource("BGPConfiguration", "default", mesh))
    for namespace, name, key, password in (
        ("kube-system", "mesh", "secret", MESH_PASSWORD),
        ("m", "rack", "password", RACK_PASSWORD),
    ):
        data = {key: base64.b64encode(password.encode()).decode()}
        secret = {"metadata": {"name": name, "namespace": namespace}, "type": "kubernetes.io/basic-auth", "data": data}
        node.etcd.put(f"{OURS}/core/v1/secrets/{namespace}/{name}", secret)
    block = {"cidr": BLOCK, "affinity": "host:n1", "allocations": [0, *[None] * 63], "attributes": [{}]}
    node.etcd.put(f"/calico/ipam/v2/assignment/ipv4/block/{BLOCK.replace('/', '-')}", block)
    transit = {"exportV4": [{"action": "Accept", "cidr": TAUGHT, "matchOperator": "Equal"}]}
    node.put("bgpfilters", resource("BGPFilter", "transit", transit))
    for name, (spec, side) in FIELDS.items():
        place = {"peerIP": side.at, "reachableBy": ADDRESS[name]} if side.at else {"peerIP": ADDRESS[name]}
        peer = resource("BGPPeer", name, {**place, "asNumber": 65000, **spec})
        peer["metadata"]["annotations"] = ANNOTATIONS.get(name, {})
        node.put("bgppeers", peer)
    for name, (spec, _) in METALLB.items():
        given = {"myASN": OWN, "peerASN": 65000, "peerAddress": ADDRESS[name], **spec}
        body = {"metadata": {"name": name, "namespace": "m"}, "spec": {k: v for k, v in given.items() if v is not None}}
        node.etcd.put(f"{OURS}/metallb.io/v1beta2/bgppeers/m/{name}", body)
    for name, (spec, _) in NODES.items():
        bgp = {"ipv4Address": f"{ADDRESS[name]}/24", "asNumber": OWN, **spec}
        node.put("nodes", resource("Node", name, {"bgp": bgp}))
    put_one_ways(node, back="Auto", manual="Manual")
    body = {"node": "secure", "peerIP": HERE, "asNumber": OWN, "ttlSecurity": 1}
    node.put("bgppeers", resource("BGPPeer", "from-secure", body))


def put_one_ways(node: Node, **modes: str) -> None:
    """Has these nodes ask for a peering with n1, each with its reversePeering."""
    for name, mode in modes.items():
        one_way = {"node": name, "peerIP": HERE, "asNumber": OWN, "reversePeering": mode}
        node.put("bgppeers", resource("BGPPeer", f"from-{name}", one_way))


def test_each_field_makes_its_session_what_the_neighbour_asks_for(rack: Rack) -> None:
    wanted = SIDES.keys() - {"far", "m-one-hop", "m-elsewhere", "manual"}
    eventually(lambda: rack.up() == wanted, within_s=40, what="all but those that are too far, or not for this node")
    paths = {"plain": str(OWN), "other": "64999", "m-plain": str(OWN), "m-as": "64999"}
    eventually(lambda: {name: rack.path(name) for name in paths} == paths, within_s=20)
    times = {"plain": 90, "slow": 180, "m-plain": 90, "m-hold": 30}
    assert {name: rack.hold_time_s(name) for name in times} == times, (
        "three times the keepalive time where that is more"
    )
    assert {name: "ipv6" in rack.offers(name) for name in ("m-plain", "m-both")} == {"m-plain": False, "m-both": True}


def test_a_neighbour_is_asked_to_wait_for_a_restart_as_long_as_its_peer_says(rack: Rack) -> None:
    asked = {"plain": 120, "brief": 30, "long": 60, "never": None, "mesh": 45, "m-plain": None, "m-graceful": 120}
    eventually(lambda: rack.up() >= asked.keys(), within_s=40)
    assert {name: rack.restart_time_s(name) for name in asked} == asked
    assert "LL stale time: 3600" in rack.offers("long")
    assert "LL stale time" not in rack.offers("brief")


def test_a_path_with_our_own_as_is_taken_where_it_may_be(rack: Rack) -> None:
    def learned(prefix: str) -> str:
        return rack.node.namespace.ip("route", "show", "proto", "177", prefix)

    eventually(lambda: {"loop", "none"} <= rack.up() and ADDRESS["loop"] in learned(LOOPED), within_s=40)
    assert not learned(FORBIDDEN)


def test_a_default_route_is_taken_and_comes_after_those_of_the_host(rack: Rack) -> None:
    """One of the usual metric among them, as DHCP and router advertisements give it: nobody else's route is touched."""
    host = rack.node.namespace

    def way() -> str:
        return host.ip("route", "get", "100.64.0.1").partition(" via ")[2].split()[0]

    eventually(lambda: "metric 1025" in host.ip("route", "show", "default", "proto", "177"), within_s=40)
    assert way() == ADDRESS["gateway"]
    host.ip("route", "add", "default", "via", ADDRESS["plain"], "metric", "1024")
    try:
        assert way() == ADDRESS["plain"]
        rack.node.drop("bgppeers", "gateway")
        eventually(lambda: not host.ip("route", "show", "default", "proto", "177"), within_s=20)
        assert way() == ADDRESS["plain"]
    finally:
        peer = {"peerIP": ADDRESS["gateway"], "asNumber": 65000}
        rack.node.put("bgppeers", resource("BGPPeer", "gateway", peer))
        host.ip("route", "del", "default", "via", ADDRESS["plain"])


def test_what_a_peer_behind_a_gateway_teaches_is_reached_by_that(rack: Rack) -> None:
    def way() -> str:
        return rack.node.namespace.ip("route", "show", "proto", "177", BEYOND)

    eventually(lambda: f"via {ADDRESS['behind']} " in way(), within_s=40)


def test_a_neighbour_that_is_about_to_go_is_the_last_choice(rack: Rack) -> None:
    """It says so by a community (RFC 8326), as a node does that is drained; two that stay would share the traffic."""

    def ways(prefix: str) -> set[str]:
        shown = rack.node.namespace.ip("route", "show", "proto", "177", prefix)
        return set(re.findall(r"via (\S+)", shown))

    eventually(lambda: ways(LONE) == {ADDRESS["leaving"]}, within_s=40, what="where there is no other")
    eventually(lambda: ways(SHARED) == {ADDRESS["staying"]}, within_s=20)


def test_the_node_listens_at_its_address_and_port_alone(rack: Rack) -> None:
    def listening() -> list[str]:
        lines = rack.node.namespace.run("ss", "-Hltn").splitlines()
        return [line.split()[3] for line in lines if line.split()[3].endswith((":179", f":{PORT}"))]

    eventually(lambda: listening() == [f"{HERE}:{PORT}"], within_s=20)


def test_what_another_router_taught_has_the_next_hop_that_the_peer_asks_for(rack: Rack) -> None:
    teacher = ADDRESS["teacher"]
    wanted = {
        "e-auto": HERE, "e-self": HERE, "e-keep": teacher, "e-old-keep": teacher,
        "i-auto": teacher, "i-self": HERE, "i-keep": teacher,
    }  # fmt: skip
    eventually(lambda: rack.next_hops(*wanted) == wanted, within_s=40)
    assert {rack.heard(name, BLOCK, "next_hop") for name in wanted} == {HERE}, "our own paths lead here in any mode"


def test_a_neighbour_is_told_blocks_that_are_the_nodes_own_for_sure_and_what_it_borrowed(rack: Rack) -> None:
    node, ipam = rack.node, "/calico/ipam/v2"
    silent, ending, hidden, lender = "10.64.10.0/26", "10.64.11.0/26", "10.66.1.0/26", "10.64.12.0/26"

    def told() -> set[str]:
        shown = rack.birdc("plain", "show", "route", "protocol", "node")
        return set(re.findall(r"^(\d\S+/\d+)", shown, re.M))

    def affinity(cidr: str, state: str) -> None:
        key = f"{ipam}/host/n1/ipv4/block/{cidr.replace('/', '-')}"
        node.etcd.put(key, {"state": state, "deleted": False})

    eventually(lambda: told() == {BLOCK}, within_s=40)
    affinity(silent, "pending")
    affinity(ending, "pendingDeletion")
    for name, cidr, closed in (("open", "10.64.0.0/16", False), ("hidden", "10.66.0.0/16", True)):
        node.put("ippools", resource("IPPool", name, {"cidr": cidr, "blockSize": 26, "disableBGPExport": closed}))
    for cidr, holder in ((silent, "n1"), (ending, "n1"), (hidden, "n1"), (lender, "back")):
        lent = cidr == lender
        attributes = [{"handle_id": "h", "secondary": {"node": "n1"}}] if lent else []
        allocations = [None] * 5 + [0 if lent else None] + [None] * 58
        block = {"cidr": cidr, "affinity": f"host:{holder}", "allocations": allocations, "attributes": attributes}
        node.etcd.put(f"{ipam}/assignment/ipv4/block/{cidr.replace('/', '-')}", block)
    try:
        eventually(lambda: told() == {BLOCK, "10.64.12.5/32"}, within_s=20)
        affinity(silent, "confirmed")
        eventually(lambda: told() == {BLOCK, "10.64.12.5/32", silent}, within_s=20)
        assert rack.heard("i-auto", silent, "local_pref") == str((1 << 31) - 1 - 1024), "as Calico's nodes rank it"
    finally:
        for cidr in (silent, ending, hidden, lender):
            node.etcd.delete(f"{ipam}/assignment/ipv4/block/{cidr.replace('/', '-')}")
            node.etcd.delete(f"{ipam}/host/n1/ipv4/block/{cidr.replace('/', '-')}")
        for name in ("open", "hidden"):
            node.drop("ippools", name)
    eventually(lambda: told() == {BLOCK}, within_s=20)


def test_another_next_hop_mode_is_told_in_the_session_that_there_is(rack: Rack, tmp_path: Path) -> None:
    eventually(lambda: rack.next_hops("i-auto") == {"i-auto": ADDRESS["teacher"]}, within_s=40)
    before, file = rack.opens("i-auto"), tmp_path / "peer.json"
    for mode, wanted in (("Self", HERE), ("Keep", ADDRESS["teacher"])):
        spec = {"peerIP": ADDRESS["i-auto"], **FIELDS["i-auto"][0], "nextHopMode": mode}
        body = resource("BGPPeer", "i-auto", spec)
        file.write_text(json.dumps({**body, "metadata": {"name": "i-auto"}}))
        assert rack.node.felixctl("apply", "-f", str(file)).code == 0
        eventually(lambda wanted=wanted: rack.next_hops("i-auto") == {"i-auto": wanted}, within_s=20)  # type: ignore[misc]
    assert rack.opens("i-auto") == before


def test_a_peering_that_another_node_asks_for_has_its_way_back_until_it_is_manual(rack: Rack) -> None:
    eventually(lambda: "back" in rack.up(), within_s=40)
    assert "manual" not in rack.up()
    put_one_ways(rack.node, back="Manual", manual="Auto")
    try:
        eventually(lambda: "manual" in rack.up() and "back" not in rack.up(), within_s=40)
    finally:
        put_one_ways(rack.node, back="Auto", manual="Manual")
