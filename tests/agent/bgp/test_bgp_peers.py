"""Peers as people write them, against a BIRD of another AS: passwords, filters, and two who want one session.

The whole agent with gobgpd 4 and 3, fed through etcd; what is told and what went wrong is asked of felixctl.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from tests.agent.node import Node, resource
from tests.agent.pages import Page, fetch
from tests.birdpy.conftest import GOBGPD
from tests.support.netns import Namespace, link_namespaces
from tests.support.process import Daemon
from tests.support.wait import eventually

WANTED, UNWANTED, WANTED6, UNWANTED6 = "198.51.100.0/24", "203.0.113.0/24", "2001:db8:1::/48", "2001:db8:2::/48"
BLOCK = "10.64.9.0/26"
PASSWORD, NEXT_PASSWORD = "open-sesame-77", "changed-88"
OURS = "/felixpy/resources"
SECRET = f"{OURS}/core/v1/secrets/kube-system/tor"
PEER = {"peerIP": "10.97.0.2", "asNumber": 65000}
PEER6 = {"peerIP": "fd97::2", "asNumber": 65000}
BY_SECRET = {"password": {"secretKeyRef": {"name": "tor", "key": "secret"}}}

BIRD = """
log "{log}" all;
router id 10.97.0.2;
filter told {{ if (65535, 0) ~ bgp_community then print "drains ", net; accept; }}
protocol device {{ }}
protocol static {{ ipv4; route {wanted} blackhole; route {unwanted} blackhole; }}
protocol static {{ ipv6; route {wanted6} blackhole; route {unwanted6} blackhole; }}
protocol bgp node {{ local 10.97.0.2 as 65000; neighbor 10.97.0.1 as 64512; password "{password}";
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv4 {{ import filter told; export where source = RTS_STATIC; }}; }}
protocol bgp node6 {{ local fd97::2 as 65000; neighbor fd97::1 as 64512;
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv6 {{ import all; export where source = RTS_STATIC; }}; }}
"""


@dataclass
class Rack:
    """The node n1 (10.97.0.1) with the bgp role, and its ToR (10.97.0.2, AS 65000)."""

    node: Node
    tor: Namespace
    directory: Path
    generation: int
    password: str = PASSWORD
    """The one that both ends have now."""

    def configure(self, password: str) -> None:
        self.password = password
        prefixes = {"wanted": WANTED, "unwanted": UNWANTED, "wanted6": WANTED6, "unwanted6": UNWANTED6}
        text = BIRD.format(log=self.directory / "told.log", password=password, **prefixes)
        (self.directory / "bird.conf").write_text(text)

    def start_agent(self, *flags: str) -> None:
        """The node's agent, in place of the one that runs."""
        self.node.agent.stop()
        secrets = str(self.directory / "secrets")
        self.node.agent = self.node.make_agent("--gobgpd", GOBGPD[self.generation], "--secrets-dir", secrets, *flags)
        self.node.agent.start()

    def birdc(self, *words: str) -> str:
        return self.tor.run("birdc", "-s", self.directory / "bird.ctl", *words)

    def learned(self, *prefixes: str) -> list[str]:
        """Which of the ToR's prefixes the node has in its kernel."""
        return [one for one in prefixes or (WANTED, UNWANTED, WANTED6, UNWANTED6) if self.route(one)]

    def route(self, prefix: str) -> str:
        family = "-6" if ":" in prefix else "-4"
        return self.node.namespace.ip(family, "route", "show", "proto", "177", prefix)

    def felixctl(self, *arguments: str) -> str:
        return self.node.felixctl(*arguments).out

    def bgp(self) -> Any:
        (status,) = json.loads(self.felixctl("bgp", "-o", "json"))["nodes"]
        return status["bgp"]

    def asked_by(self, address: str) -> list[str]:
        return next((one["askedBy"] for one in self.bgp()["sessions"] if one["address"] == address), [])

    def untold(self) -> dict[str, int]:
        return {one["address"]: one["untold"] for one in self.bgp()["sessions"]}

    def refusals(self) -> dict[str, str]:
        return {one["operation"]: one["error"] for one in self.bgp()["refusals"]}

    def peer(self, name: str, spec: dict[str, Any]) -> None:
        self.node.put("bgppeers", resource("BGPPeer", name, spec))

    def metallb(self, **spec: Any) -> None:
        given = {"myASN": 64512, "peerASN": 65000, "peerAddress": "10.97.0.2", **spec}
        body = {"metadata": {"name": "tor", "namespace": "m"}, "spec": given}
        self.node.etcd.put(f"{OURS}/metallb.io/v1beta2/bgppeers/m/tor", body)

    def secret(self, password: str) -> None:
        data = {"secret": base64.b64encode(password.encode()).decode()}
        body = {"metadata": {"name": "tor", "namespace": "kube-system"}, "data": data}
        self.node.etcd.put(SECRET, body)

    def filter(self, **spec: Any) -> None:
        self.node.put("bgpfilters", resource("BGPFilter", "some", spec))


@pytest.fixture(scope="module", params=[4, 3], ids=["v4", "v3"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    directory = tmp_path_factory.mktemp("tor")
    tor = Namespace.create("tor")
    bird: Daemon | None = None
    try:
        with Node("bgp") as node:
            link_namespaces(
                node.namespace, "eth0", tor, "eth0",
                left_addresses=["10.97.0.1/24", "fd97::1/64"], right_addresses=["10.97.0.2/24", "fd97::2/64"],
            )  # fmt: skip
            made = Rack(node, tor, directory, request.param)
            made.configure(PASSWORD)
            argv = ["bird", "-f", "-c", str(directory / "bird.conf"), "-s", str(directory / "bird.ctl")]
            bird = Daemon([*argv, "-P", str(directory / "pid")], directory / "bird.log", netns=tor.name).start()
            bgp = {"ipv4Address": "10.97.0.1/24", "ipv6Address": "fd97::1/64"}
            node.put("nodes", resource("Node", "n1", {"bgp": bgp}))
            block = {"cidr": BLOCK, "affinity": "host:n1", "allocations": [0, *[None] * 63], "attributes": [{}]}
            node.etcd.put(f"/calico/ipam/v2/assignment/ipv4/block/{BLOCK.replace('/', '-')}", block)
            made.start_agent()
            yield made
    finally:
        if bird is not None:
            bird.kill()
        tor.delete()


@pytest.fixture
def rack(built: Rack) -> Rack:
    """Both sessions are up, under a filter that lets everything by; nothing of an earlier test is left."""
    built.secret(built.password)
    built.filter()
    built.peer("tor", {**PEER, **BY_SECRET, "filters": ["some"]})
    built.peer("tor6", {**PEER6, "filters": ["some"]})
    for name in ("far", "rack"):
        built.node.drop("bgppeers", name)
    eventually(lambda: len(built.learned()) == 4 and BLOCK in built.birdc("show", "route"), within_s=40)
    eventually(lambda: not built.refusals(), within_s=20)
    return built


def test_no_session_before_its_password_and_filter_are_there(rack: Rack) -> None:
    rack.node.etcd.delete(SECRET)
    rack.node.drop("bgpfilters", "some")
    eventually(lambda: set(rack.refusals()) == {"BGPPeer tor", "BGPPeer tor6"}, within_s=20)
    rack.secret(rack.password)
    eventually(lambda: "no BGPFilter some" in rack.refusals().get("BGPPeer tor", ""))
    rack.filter(
        importV4=[{"action": "Accept", "cidr": WANTED, "matchOperator": "Equal"}, {"action": "Reject"}],
        importV6=[{"action": "Reject", "cidr": UNWANTED6, "matchOperator": "In"}],
    )
    eventually(lambda: rack.learned() == [WANTED, WANTED6], within_s=40)
    assert rack.refusals() == {}
    eventually(lambda: BLOCK in rack.birdc("show", "route"), within_s=10)


def test_a_filter_that_changes_is_obeyed_at_once(rack: Rack) -> None:
    rack.filter(importV4=[{"action": "Reject", "interface": "eth*"}])
    eventually(lambda: rack.learned() == [WANTED6, UNWANTED6], within_s=20)
    rack.filter(importV4=[{"action": "Reject", "interface": "bond0"}], exportV4=[{"action": "Reject"}])
    eventually(lambda: rack.learned() == [WANTED, UNWANTED, WANTED6, UNWANTED6], within_s=20)
    eventually(lambda: BLOCK not in rack.birdc("show", "route"), within_s=20)
    rack.filter()
    eventually(lambda: BLOCK in rack.birdc("show", "route"), within_s=20)


def test_a_password_that_changes_at_both_ends_brings_the_session_back(rack: Rack) -> None:
    next_one = NEXT_PASSWORD if rack.password == PASSWORD else PASSWORD
    rack.configure(next_one)
    assert "Reconfigur" in rack.birdc("configure")
    rack.secret(next_one)
    eventually(lambda: "Established" in rack.birdc("show", "protocols", "node"), within_s=40)
    eventually(lambda: BLOCK in rack.birdc("show", "route"), within_s=20)


def test_a_file_has_the_password_that_no_secret_has(rack: Rack) -> None:
    rack.node.etcd.delete(SECRET)
    eventually(lambda: "no Secret kube-system/tor" in rack.refusals().get("BGPPeer tor", ""))
    folder = rack.directory / "secrets" / "tor"
    folder.mkdir(parents=True)
    (folder / "secret").write_text(rack.password + "\n")
    eventually(lambda: rack.learned(WANTED), within_s=40)
    rmtree(folder)


def test_passwords_are_nowhere_to_be_read(rack: Rack) -> None:
    seen = [
        *(rack.felixctl(*words) for words in (("bgp", "-o", "yaml"), ("status", "-o", "json"), ("status", "n1"))),
        *(rack.felixctl("get", kind, "-A", "-o", "yaml") for kind in ("bgppeer", "bgpconfig", "node")),
        *(path.read_text(errors="replace") for path in rack.node.run_dir.glob("*.log")),
        *command_lines(),
    ]
    for text in seen:
        assert PASSWORD not in text
        assert NEXT_PASSWORD not in text
    assert rack.password not in rack.felixctl("get", "secret", "-A")


def command_lines() -> Iterator[str]:
    """What every process was started with."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                yield (folder / "cmdline").read_text(errors="replace")


def test_two_who_want_one_session_have_it_together_or_not_at_all(rack: Rack) -> None:
    rack.metallb(holdTime="30s", password=rack.password)
    eventually(lambda: rack.asked_by("10.97.0.2") == ["tor", "m/tor"], within_s=20)
    assert rack.refusals() == {}
    rack.metallb(peerASN=65001)
    eventually(lambda: not rack.learned(WANTED), within_s=20)
    said = rack.refusals()
    assert set(said) == {"BGPPeer tor", "BGPPeer.metallb.io m/tor"}
    assert all("asks for another asn" in why for why in said.values())
    rack.node.etcd.delete(f"{OURS}/metallb.io/v1beta2/bgppeers/m/tor")
    eventually(lambda: rack.learned(WANTED), within_s=40)


def test_ranges_of_service_addresses_and_what_goes_with_a_prefix(rack: Rack) -> None:
    spec = {
        "serviceLoadBalancerIPs": [{"cidr": "172.30.0.0/24"}],
        "serviceExternalIPs": [{"cidr": "172.31.0.7/32"}],
        "prefixAdvertisements": [{"cidr": "172.30.0.0/16", "communities": ["64512:30", "64512:3:0"]}],
    }
    rack.node.put("bgpconfigurations", resource("BGPConfiguration", "default", spec))
    eventually(lambda: "172.30.0.0/24" in rack.birdc("show", "route"), within_s=20)
    shown = rack.birdc("show", "route", "172.30.0.0/24", "all")
    assert "(64512,30)" in shown
    assert "(64512, 3, 0)" in shown
    ports = [{"port": 80, "protocol": "TCP"}]
    service = {"type": "ClusterIP", "ports": ports, "externalIPs": ["172.31.0.7"]}
    whole = {"metadata": {"name": "web", "namespace": "a"}, "spec": service}
    rack.node.etcd.put(f"{OURS}/core/v1/services/a/web", whole)
    assert "172.31.0.7" not in rack.birdc("show", "route"), "nobody serves it"
    meta = {"name": "web-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "web"}}
    endpoints = [{"addresses": ["10.64.9.1"], "nodeName": "n9", "conditions": {"ready": True}}]
    body = {"metadata": meta, "endpoints": endpoints, "ports": ports}
    rack.node.etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/a/web-1", body)
    eventually(lambda: "172.31.0.7/32" in rack.birdc("show", "route"), within_s=20)
    rack.node.drop("bgpconfigurations", "default")
    eventually(lambda: "172.3" not in rack.birdc("show", "route"), within_s=20)


def test_an_advertisement_lengthens_the_path_and_names_the_community_that_nobody_knows(rack: Rack) -> None:
    vip, advertisement = "172.29.0.1", f"{OURS}/metallb.io/v1beta1/bgpadvertisements/m/far"
    etcd, ports = rack.node.etcd, [{"port": 80, "protocol": "TCP"}]

    def advertise(**spec: Any) -> None:
        etcd.put(advertisement, {"metadata": {"name": "far", "namespace": "m"}, "spec": spec})

    def path() -> str:
        """The AS path that the ToR has to it."""
        shown = rack.birdc("show", "route", "all", "where", "net", "=", f"{vip}/32")
        return shown.partition("BGP.as_path: ")[2].partition("\n")[0]

    def told() -> list[str]:
        (status,) = json.loads(rack.felixctl("bgp", "routes", "-o", "json"))["nodes"]
        return next((one["told"] for one in status["bgp"]["announcements"] if one["prefix"] == f"{vip}/32"), [])

    spec = {"type": "LoadBalancer", "ports": ports}
    etcd.put(f"{OURS}/core/v1/services/a/vip", {"metadata": {"name": "vip", "namespace": "a"}, "spec": spec})
    meta = {"name": "vip-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "vip"}}
    endpoints = [{"addresses": ["10.64.9.1"], "nodeName": "n1", "conditions": {"ready": True}}]
    body = {"metadata": meta, "endpoints": endpoints, "ports": ports}
    etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/a/vip-1", body)
    etcd.put(f"/felixpy/grants/addresses/{vip}", {"address": vip, "services": ["a/vip"]})
    try:
        advertise(asPathPrepend=2)
        eventually(lambda: path() == "64512 64512 64512", within_s=40)
        assert told() == ["10.97.0.2"]
        advertise()
        eventually(lambda: path() == "64512", within_s=20)
        advertise(communities=["gold"])
        eventually(lambda: path() == "", within_s=20)
        why = "communities: no Community gives gold a number: nothing is announced by it"
        assert rack.refusals() == {"BGPAdvertisement m/far": why}
        assert told() == []
    finally:
        for key in (advertisement, f"/felixpy/grants/addresses/{vip}", f"{OURS}/core/v1/services/a/vip"):
            etcd.delete(key)
    eventually(lambda: rack.refusals() == {}, within_s=20)


def test_what_gobgp_3_cannot_do_is_refused_by_name(rack: Rack) -> None:
    rack.filter(importV4=[{"action": "Reject", "priority": 512}])
    refused = {"the session with 10.97.0.2"} if rack.generation == 3 else set()
    eventually(lambda: set(rack.refusals()) == refused, within_s=20)
    assert all("cannot match local_pref" in why for why in rack.refusals().values())
    eventually(lambda: bool(rack.learned(WANTED)) is (rack.generation == 4), within_s=20)
    rack.filter()
    eventually(lambda: rack.learned(WANTED) and not rack.refusals(), within_s=40)


def test_a_peer_is_reached_by_its_gateway(rack: Rack) -> None:
    own, host = ("192.0.2.77/32", "via", "10.97.0.9"), rack.node.namespace
    rack.peer("far", {"peerIP": "192.0.2.77", "asNumber": 65077, "reachableBy": "10.97.0.2"})
    eventually(lambda: "via 10.97.0.2" in rack.route("192.0.2.77/32"))
    host.ip("route", "add", *own)
    eventually(lambda: rack.untold() == {"10.97.0.2": 0, "fd97::2": 0, "192.0.2.77": 1}, within_s=20)
    rack.node.drop("bgppeers", "far")
    eventually(lambda: not rack.route("192.0.2.77/32"))
    assert "via 10.97.0.9" in host.ip("route", "show", "192.0.2.77/32"), "the host's own is not touched"
    host.ip("route", "del", *own)


def test_a_route_of_somebody_else_is_never_touched(rack: Rack) -> None:
    """Ours has another metric where theirs has the usual one, which of IPv6 is that of every route without one."""
    host, theirs = rack.node.namespace, ((WANTED, "10.97.0.9"), (WANTED6, "fd97::9"))

    def change(verb: str) -> None:
        for prefix, gateway in theirs:
            family = "-6" if ":" in prefix else "-4"
            host.ip(family, "route", verb, prefix, "via", gateway, "dev", "eth0", "metric", "1024")

    def stand() -> bool:
        family = {prefix: "-6" if ":" in prefix else "-4" for prefix, _ in theirs}
        return all(f"via {via} " in host.ip(family[one], "route", "show", one) for one, via in theirs)

    def ours_at(metric: int) -> bool:
        return all(f"metric {metric} " in rack.route(prefix) for prefix, _ in theirs)

    for name in ("tor", "tor6"):
        rack.node.drop("bgppeers", name)
    eventually(lambda: not rack.learned(), within_s=20)
    change("add")
    try:
        rack.peer("tor", {**PEER, **BY_SECRET, "filters": ["some"]})
        rack.peer("tor6", {**PEER6, "filters": ["some"]})
        eventually(lambda: ours_at(1025), within_s=40)
        assert stand()
        assert " 1025 " in rack.felixctl("bgp", "routes")
        change("del")
        eventually(lambda: ours_at(1024), within_s=20)
        change("replace")
        eventually(lambda: ours_at(1025), within_s=20)
        assert stand(), "it has taken the place of ours"
        for name in ("tor", "tor6"):
            rack.node.drop("bgppeers", name)
        eventually(lambda: not rack.learned(), within_s=20)
        assert stand()
    finally:
        change("replace")
        change("del")


def test_whoever_connects_from_a_prefix_is_a_peer(rack: Rack) -> None:
    def up_since() -> str:
        """Since when, as BIRD has it."""
        found = [
            line.split() for line in rack.birdc("show", "protocols", "node6").splitlines() if "Established" in line
        ]
        return found[0][4] if found else ""

    rack.node.drop("bgppeers", "tor6")
    eventually(lambda: not rack.learned(WANTED6), within_s=20)
    rack.peer("rack", {"peerIP": "fd97::/64", "asNumber": 65000})
    eventually(lambda: rack.learned(WANTED6), within_s=40)
    assert rack.asked_by("fd97::2") == ["rack"]
    assert "from fd97::/64 is a neighbour of AS 65000 (rack): 1 has" in rack.felixctl("bgp")
    before = up_since()
    rack.node.agent.stop()
    rack.node.agent.start()
    eventually(lambda: rack.bgp()["phase"] == "live", within_s=40)
    assert up_since() == before != ""
    assert rack.learned(WANTED6, UNWANTED6)
    rack.filter(importV6=[{"action": "Reject", "cidr": UNWANTED6, "matchOperator": "In"}])
    rack.peer("rack", {"peerIP": "fd97::/64", "asNumber": 65000, "filters": ["some"]})
    eventually(lambda: rack.learned(WANTED6, UNWANTED6) == [WANTED6], within_s=20)
    rack.node.drop("bgppeers", "rack")
    eventually(lambda: not rack.learned(WANTED6) and not up_since(), within_s=20)
    assert rack.asked_by("fd97::2") == []


def test_a_node_that_is_drained_or_deleted_leaves_nothing_at_its_neighbour(rack: Rack) -> None:
    """BIRD helps who restarts: what is not taken back would stay there for the restart time."""

    def seen(*prefixes: str) -> bool:
        shown = rack.birdc("show", "route")
        return all(one in shown for one in prefixes)

    spec = {"serviceLoadBalancerIPs": [{"cidr": "172.30.0.0/24"}]}
    rack.node.put("bgpconfigurations", resource("BGPConfiguration", "default", spec))
    eventually(lambda: seen(BLOCK, "172.30.0.0/24"), within_s=40)
    bgp = {"ipv4Address": "10.97.0.1/24", "ipv6Address": "fd97::1/64"}
    excluded = {"node.kubernetes.io/exclude-from-external-load-balancers": ""}
    rack.node.put("nodes", resource("Node", "n1", {"bgp": bgp}, excluded))
    eventually(lambda: "drains 172.30.0.0/24" in (rack.directory / "told.log").read_text(), within_s=20)
    eventually(lambda: not seen("172.30.0.0/24"), within_s=20)
    assert seen(BLOCK), "pods stay where they are"
    rack.node.drop("nodes", "n1")
    eventually(lambda: "64512" not in rack.birdc("show", "route", "all"), within_s=10, what="nothing of its AS is left")
    eventually(lambda: not rack.learned(), within_s=10, what="nor here of its neighbours")
    assert rack.bgp()["noSpeaker"]
    rack.node.put("nodes", resource("Node", "n1", {"bgp": bgp}))
    eventually(lambda: seen(BLOCK, "172.30.0.0/24") and rack.learned(WANTED6), within_s=40)
    rack.node.drop("bgpconfigurations", "default")


def test_a_node_that_is_to_drain_no_time_withdraws_at_once(rack: Rack) -> None:
    spec = {"serviceLoadBalancerIPs": [{"cidr": "172.28.0.0/24"}]}
    bgp = {"ipv4Address": "10.97.0.1/24", "ipv6Address": "fd97::1/64"}
    excluded = {"node.kubernetes.io/exclude-from-external-load-balancers": ""}
    rack.start_agent("--bgp-drain", "0")
    rack.node.put("bgpconfigurations", resource("BGPConfiguration", "default", spec))
    try:
        eventually(lambda: "172.28.0.0/24" in rack.birdc("show", "route"), within_s=40)
        rack.node.put("nodes", resource("Node", "n1", {"bgp": bgp}, excluded))
        eventually(lambda: "172.28.0.0/24" not in rack.birdc("show", "route"), within_s=20)
        assert "drains 172.28.0.0/24" not in (rack.directory / "told.log").read_text()
    finally:
        rack.node.drop("bgpconfigurations", "default")
        rack.node.put("nodes", resource("Node", "n1", {"bgp": bgp}))
        rack.start_agent()


def test_readiness_and_figures_name_the_neighbour_that_is_down(rack: Rack) -> None:
    """While a node starts it waits for all its sessions."""

    def page(path: str) -> Page:
        found = fetch(rack.node, path)
        assert found is not None
        return found

    rack.peer("far", {"peerIP": "192.0.2.77", "asNumber": 65077, "reachableBy": "10.97.0.2"})
    rack.start_agent("--metrics", ":9091")
    try:
        eventually(lambda: "BGP: the session with 192.0.2.77 (AS 65077) is " in page("/readiness").body, within_s=12)
        assert page("/readiness").status == 503
        eventually(lambda: 'metallb_bgp_session_up{peer="10.97.0.2"} 1.0' in page("/metrics").body, within_s=40)
        figures = page("/metrics").body
        assert 'metallb_bgp_session_up{peer="192.0.2.77"} 0.0' in figures
        assert 'metallb_bgp_pending_prefixes_total{peer="192.0.2.77"} 1.0' in figures
        assert 'metallb_bgp_pending_prefixes_total{peer="10.97.0.2"} 0.0' in figures
        assert 'felixpy_bgp_session_down{peer="192.0.2.77",reason="no connection' in figures
    finally:
        rack.node.drop("bgppeers", "far")
        rack.start_agent()
