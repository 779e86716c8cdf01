"""What a runtime may expect of a network that has our plugin, alone and in a chain with Debian's plugins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from felixpy.cni.netconf import SUPPORTED_VERSIONS
from tests.agent.node import CALICO, PORT, Node, resource
from tests.agent.sandbox import PLUGIN
from tests.support.cni_runtime import CniRuntime, PluginFailed
from tests.support.netns import Namespace, link_namespaces
from tests.support.packets import NameServer, ask_tcp, ping_ok
from tests.support.wait import eventually

OTHERS = Path("/usr/lib/cni")
PORTMAP = {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
BANDWIDTH = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
TUNING = {"type": "tuning", "sysctl": {"net.core.somaxconn": "777"}}
OURS = {"capabilities": {"ips": True, "mac": True, "dns": True, "ipRanges": True, "portMappings": True}}
CHAINS = tuple(version for version in SUPPORTED_VERSIONS if version != "1.1.0")
"""Versions that Debian's plugins speak (1.1.1 of the plugins)."""
TRY_AGAIN, NOT_AS_WIRED, NOT_AVAILABLE = 11, 101, 50

MakeNamespace = Callable[[], Namespace]
needs_others = pytest.mark.skipif(not (OTHERS / "bandwidth").exists(), reason="containernetworking-plugins")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node (10.9.0.1) whose agent runs; pools 10.64.0.0/24, 10.66.0.0/24 and fd64::/112."""
    with Node() as made:
        for name, cidr in (("main", "10.64.0.0/24"), ("other", "10.66.0.0/24"), ("six", "fd64::/112")):
            spec = {"cidr": cidr, "ipipMode": "Never", "vxlanMode": "Never"}
            made.put("ippools", resource("IPPool", name, spec))
        made.namespace.add_address("lo", "10.98.0.1/32", "fd98::1/128")
        made.agent.start()
        eventually(lambda: "in sync" in made.log())
        yield made


@pytest.fixture(scope="module")
def outside(node: Node) -> Iterator[Namespace]:
    """A neighbour of the node."""
    with Namespace.create("o") as made:
        link_namespaces(
            node.namespace, "up0", made, "eth0", left_addresses=["10.9.0.1/24"], right_addresses=["10.9.0.2/24"]
        )
        yield made


@pytest.fixture
def namespaces() -> Iterator[MakeNamespace]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Namespace.create("c"))


def runtime(node: Node, *chained: dict[str, Any], version: str = "1.0.0", **fields: object) -> CniRuntime:
    """A runtime with our plugin first."""
    ipam = {"assign_ipv4": True, "assign_ipv6": True}
    ours = {"type": PLUGIN.name, "runDir": str(node.run_dir), "ipam": ipam, **OURS, **fields}
    conflist = {"cniVersion": version, "name": "net", "plugins": [ours, *chained]}
    return CniRuntime(conflist, [PLUGIN.parent, OTHERS], node.namespace)


def left(node: Node) -> dict[str, object]:
    """What containers left behind; empty in the end."""
    found: dict[str, object] = {
        "endpoints": list(node.etcd.get_prefix(f"{CALICO}/workloadendpoints/")),
        "handles": list(node.etcd.get_prefix("/calico/ipam/v2/handle/")),
        "devices": [one["ifname"] for one in json.loads(node.namespace.ip("-json", "link"))
                    if one["ifname"].startswith(("cali", "bwp"))],
        "mappings": [line for line in node.namespace.run("iptables-save", "-t", "nat").splitlines()
                     if "CNI-DN" in line],
    }  # fmt: skip
    return {what: some for what, some in found.items() if some}


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_an_attachment_from_add_to_del(node: Node, namespaces: MakeNamespace, version: str) -> None:
    cni, pod = runtime(node, version=version), namespaces()
    result = cni.add("one", pod)
    host, inside = result["interfaces"]
    assert (host["name"][:4], "sandbox" in host, inside["name"]) == ("cali", False, "eth0")
    assert inside["sandbox"] == str(pod.path)
    assert [ip["interface"] for ip in result["ips"]] == [1, 1]
    assert {route["dst"] for route in result["routes"]} == {"0.0.0.0/0", "::/0"}
    assert all(ping_ok(node.namespace, ip["address"].partition("/")[0]) for ip in result["ips"])
    if version not in ("0.3.0", "0.3.1"):
        cni.check("one")
    cni.delete("one")
    eventually(lambda: "eth0" not in pod.ip("link"))
    cni.delete("one")
    cni.delete("one", with_netns=False)
    eventually(lambda: left(node) == {})


def test_add_twice_gives_the_same_and_what_is_not_in_the_version_is_refused(
    node: Node, namespaces: MakeNamespace
) -> None:
    cni, pod = runtime(node, version="0.3.1"), namespaces()
    assert cni.add("one", pod) == cni.add("one", pod)
    with pytest.raises(PluginFailed) as raised:
        cni.check("one")
    assert raised.value.error["code"] == 1
    cni.delete("one")


def test_a_namespace_that_is_gone_before_the_del(node: Node, namespaces: MakeNamespace) -> None:
    cni = runtime(node, version="1.1.0")
    with Namespace.create("c") as pod:
        cni.add("one", pod)
    cni.delete("one")
    eventually(lambda: left(node) == {})


def test_two_interfaces_of_one_container(node: Node, namespaces: MakeNamespace) -> None:
    """Each is reached by its own addresses, in whatever order they come and go."""
    cni, pod, peer = runtime(node), namespaces(), namespaces()

    def add(ifname: str, *asked: str) -> list[str]:
        result = cni.add("one", pod, ifname, **({"ips": asked} if asked else {}))
        return [ip["address"].partition("/")[0] for ip in result["ips"]]

    cni.add("peer", peer)
    usual, other = add("eth0"), add("eth1", "10.66.0.9", "fd64::66")
    for ifname in ("eth0", "eth1"):
        cni.check("one", ifname)
    assert all(ping_ok(peer, address) for address in (*usual, *other))
    cni.delete("one", "eth1")
    eventually(lambda: "eth1" not in pod.ip("link"))
    cni.check("one", "eth0")
    assert all(ping_ok(peer, address) for address in usual)
    again = add("eth1", "10.66.0.10", "fd64::67")
    cni.delete("one", "eth0")
    eventually(lambda: "eth0" not in pod.ip("link"))
    cni.check("one", "eth1")
    assert all(ping_ok(peer, address) for address in again)
    cni.delete("one", "eth1")
    cni.delete("peer")
    eventually(lambda: left(node) == {})


def test_gc_keeps_valid_attachments_and_status_says_ready(node: Node, namespaces: MakeNamespace) -> None:
    cni = runtime(node, version="1.1.0")
    cni.status()
    for container in ("kept", "lost"):
        cni.add(container, namespaces())
    cni.collect(("kept", "eth0"))
    cni.check("kept")
    with pytest.raises(PluginFailed) as raised:
        cni.check("lost")
    assert raised.value.error["code"] == NOT_AS_WIRED
    cni.collect()
    eventually(lambda: left(node) == {})


def test_what_the_runtime_asks_for(node: Node, namespaces: MakeNamespace) -> None:
    cni, pod = runtime(node, dns={"nameservers": ["10.96.0.10"], "domain": "cluster"}), namespaces()
    result = cni.add(
        "one", pod, mac="02:00:00:00:00:77", dns={"servers": ["10.0.0.53"], "searches": ["a.b"]},
        ipRanges=[[{"subnet": "10.66.0.0/24"}], [{"subnet": "fd64::/112"}]],
    )  # fmt: skip
    assert result["interfaces"][1]["mac"] == "02:00:00:00:00:77"
    assert result["dns"] == {"nameservers": ["10.0.0.53"], "domain": "cluster", "search": ["a.b"]}
    assert result["ips"][0]["address"].startswith("10.66.0.")
    cni.delete("one")


@needs_others
@pytest.mark.parametrize("version", CHAINS)
def test_a_chain_with_debians_plugins(node: Node, namespaces: MakeNamespace, outside: Namespace, version: str) -> None:
    """Published port, limited bandwidth, a sysctl: results pass through, CHECK is content, DEL goes back in order."""
    cni, pod = runtime(node, PORTMAP, BANDWIDTH, TUNING, version=version), namespaces()
    asked = {
        "portMappings": [{"hostPort": 8080, "containerPort": PORT, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 8_000_000, "egressBurst": 80_000},
    }
    result = cni.add("one", pod, **asked)
    host = result["interfaces"][0]["name"]
    assert result["ips"][0]["interface"] == 1
    server = NameServer(pod, "one", PORT)
    try:
        assert (ask_tcp(outside, "10.9.0.1", 8080) or "").startswith("one")
    finally:
        server.stop()
    assert "rate 8Mbit" in node.namespace.run("tc", "qdisc", "show", "dev", host)
    assert pod.run("sysctl", "-n", "net.core.somaxconn").strip() == "777"
    if version not in ("0.3.0", "0.3.1"):
        cni.check("one", passing_over=("portmap",))  # 1.1.1 looks for the rules of one family in both, always
    cni.delete("one")
    verbs = [(verb, name) for verb, name, _ in cni.calls if verb == "DEL"]
    assert [name for _, name in verbs] == ["tuning", "bandwidth", "portmap", PLUGIN.name]
    cni.delete("one")
    eventually(lambda: left(node) == {})


@needs_others
def test_an_add_that_fails_further_on_leaves_nothing(node: Node, namespaces: MakeNamespace) -> None:
    cni, pod = runtime(node, {"type": "tuning", "sysctl": {"net.core.there_is_none": "1"}}), namespaces()
    with pytest.raises(PluginFailed) as raised:
        cni.add("one", pod)
    assert raised.value.plugin == "tuning"
    eventually(lambda: left(node) == {})


@needs_others
def test_behind_another_plugin_its_result_is_passed_on(node: Node, namespaces: MakeNamespace) -> None:
    """A container with a network of its own beside ours: one result tells of both, and CHECK takes it."""
    pod = namespaces()
    local = {"type": "host-local", "subnet": "172.30.0.0/24", "dataDir": str(node.run_dir / "host-local")}
    first = {"type": "ptp", "ipam": local}
    cni = runtime(node)
    ptp = CniRuntime({**cni.conflist, "plugins": [first]}, cni.plugin_dirs, node.namespace)
    before = ptp.add("one", pod, "net0")
    cni.conflist["plugins"][0]["prevResult"] = before
    result = cni.add("one", pod, "eth0")
    count = len(before["interfaces"])
    assert result["interfaces"][:count] == before["interfaces"]
    assert [ip["interface"] for ip in result["ips"]] == [before["ips"][0]["interface"], count + 1, count + 1]
    assert {route["dst"] for route in result["routes"]} >= {"0.0.0.0/0", "::/0"}
    cni.check("one", "eth0")
    cni.delete("one", "eth0")
    ptp.delete("one", "net0")
    eventually(lambda: left(node) == {})


def test_without_the_agent(node: Node, namespaces: MakeNamespace) -> None:
    """ADD says so at once, STATUS why, and a DEL is done when the agent is back."""
    cni, pod = runtime(node, version="1.1.0"), namespaces()
    cni.add("one", pod)
    node.agent.kill()
    try:
        with pytest.raises(PluginFailed) as raised:
            cni.add("two", namespaces())
        assert raised.value.error["code"] == TRY_AGAIN
        with pytest.raises(PluginFailed) as raised:
            cni.status()
        assert raised.value.error["code"] == NOT_AVAILABLE
        cni.delete("one")
    finally:
        node.agent.start()
    eventually(lambda: left(node) == {}, within_s=20)
