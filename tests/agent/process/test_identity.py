"""A node's name is one host's; its address is the one that the host has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from felixpy.agent.node.identity import read_host
from tests.agent.node import CALICO, PROGRAM, Node, resource
from tests.agent.sandbox import Sandbox
from tests.support.netns import Namespace, link_namespaces
from tests.support.process import Daemon
from tests.support.wait import eventually

FOUND = "felixpy.io/found-ipv4-address"


@pytest.fixture
def node() -> Iterator[Node]:
    """A node on a link to a router, its agent not started."""
    with Namespace.create("r") as router, Node() as made:
        link_namespaces(
            made.namespace,
            "eth0",
            router,
            "eth0",
            left_addresses=["10.9.0.5/24", "10.9.9.1/24"],
            right_addresses=["10.9.0.1/24", "10.9.9.2/24"],
        )
        made.namespace.ip("route", "add", "default", "via", "10.9.0.1")
        yield made


def address(node: Node) -> str | None:
    value = node.etcd.get(f"{CALICO}/nodes/n1")
    found: str | None = json.loads(value)["spec"]["bgp"].get("ipv4Address") if value else None
    return found


def test_the_second_host_of_a_name_is_refused_and_a_restart_is_not(node: Node) -> None:
    node.agent.start()
    eventually(lambda: node.etcd.get("/felixpy/holders/n1/agent"), what="the name is held")
    node.agent.kill()
    node.agent.start()
    eventually(lambda: node.log().count("in sync") == 2, within_s=5, what="a restart does not wait")
    with Node(initialised=False, etcd=node.etcd, etcd_address="10.9.9.1") as other:
        link_namespaces(
            node.namespace, "up1", other.namespace, "eth0", left_addresses=[], right_addresses=["10.9.9.3/24"]
        )
        node.namespace.ip("address", "add", "10.9.9.1/32", "dev", "up1")
        node.namespace.ip("route", "add", "10.9.9.3/32", "dev", "up1")
        other.agent.start()
        eventually(lambda: "was run by the host" in other.log(), what="it waits")
        assert "felixpy" not in other.nft("list", "tables")
        eventually(lambda: not other.agent.running, within_s=25, what="it is refused")
        assert "the node n1 is run by another host" in other.log()
        assert "felixpy" not in other.nft("list", "tables")
        node.agent.kill()
        other.agent.start()
        eventually(lambda: "felixpy" in other.nft("list", "tables"), within_s=25, what="the dead one gives way")


def test_processes_of_one_host_that_start_together_are_one_host(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as starting:
        for number in range(20):
            run_dir = tmp_path / str(number)
            run_dir.mkdir()
            together = Barrier(8)

            def start(run_dir: Path = run_dir, together: Barrier = together) -> str:
                together.wait(10)
                return read_host(run_dir)

            hosts = {one.result() for one in [starting.submit(start) for _ in range(8)]}
            assert hosts == {read_host(run_dir)}


def test_a_second_agent_in_one_network_namespace_is_refused(node: Node, tmp_path: Path) -> None:
    node.agent.start()
    eventually(lambda: "felixpy" in node.nft("list", "tables"), what="the first one works")
    argv = [PROGRAM, "--etcd", "http://127.0.0.1:2379", "--node", "n2", "--roles", "agent", "--run-dir", str(tmp_path)]
    second = Daemon(argv, tmp_path / "log", netns=node.namespace.name).start()
    eventually(lambda: not second.running, what="it ends")
    assert "another agent runs in this network namespace" in second.tail()
    node.agent.kill()
    second.start()
    try:
        eventually(lambda: "in sync" in second.tail(200), what="once the first is gone it may")
    finally:
        second.stop()


def test_an_address_that_was_found_follows_the_host(node: Node) -> None:
    node.agent.start()
    eventually(lambda: address(node) == "10.9.0.5/24", what="it is found")
    node.namespace.ip("address", "add", "10.9.1.5/24", "dev", "eth0")
    node.namespace.ip("route", "replace", "default", "via", "10.9.0.1", "src", "10.9.1.5")
    node.namespace.ip("address", "del", "10.9.0.5/24", "dev", "eth0")
    node.namespace.ip("route", "replace", "default", "via", "10.9.9.2", "src", "10.9.1.5")
    eventually(lambda: address(node) == "10.9.1.5/24", what="the other address is taken")
    assert "it was 10.9.0.5/24, which the host has no longer" in node.log()


def test_an_address_that_was_written_stays(node: Node) -> None:
    node.namespace.add_address("eth0", "2001:db8:9::6/64")
    node.namespace.ip("-6", "route", "add", "default", "via", "2001:db8:9::1", "src", "2001:db8:9::6")
    written = resource("Node", "n1", {"bgp": {"ipv4Address": "10.9.0.5/24", "ipv6Address": "2001:db8:9::5/64"}})
    written["metadata"]["annotations"] = {FOUND: "10.9.0.4/24", "felixpy.io/found-ipv6-address": "2001:db8:9::5/64"}
    node.put("nodes", written)
    node.agent.start()
    eventually(lambda: "2001:db8:9::6/64" in str(node.etcd.get(f"{CALICO}/nodes/n1")), what="the found one follows")
    node.namespace.add_address("eth0", "10.9.1.5/24", "2001:db8:9::7/64")
    node.namespace.ip("-6", "route", "replace", "default", "via", "2001:db8:9::1", "src", "2001:db8:9::7")
    node.namespace.ip("address", "del", "10.9.0.5/24", "dev", "eth0")
    node.namespace.ip("address", "del", "2001:db8:9::6/64", "dev", "eth0")
    node.namespace.ip("-6", "route", "replace", "default", "via", "2001:db8:9::1", "src", "2001:db8:9::7")
    eventually(lambda: "2001:db8:9::7/64" in str(node.etcd.get(f"{CALICO}/nodes/n1")), what="it follows again")
    assert address(node) == "10.9.0.5/24"


def test_a_host_with_pods_does_not_become_another_node(node: Node) -> None:
    node.agent.start()
    with Namespace.create("s") as netns:
        sandbox = Sandbox(node, "a", netns)
        node.put("ippools", resource("IPPool", "main", {"cidr": "10.64.0.0/24"}))
        eventually(lambda: sandbox.call("ADD").code == 0, within_s=30)
        node.agent.stop()
        rules = ("list", "map", "inet", "felixpy", "to-endpoint")
        before = node.namespace.ip("route"), node.nft(*rules)
        renamed = node.make_agent("--node", "n2").start()
        eventually(lambda: not renamed.running, within_s=30, what="it is refused")
        assert "this host was the node n1, and 1 of its pods are here (calica)" in renamed.tail()
        assert (node.namespace.ip("route"), node.nft(*rules)) == before
        node.agent.start()
        assert sandbox.call("DEL").code == 0
        eventually(lambda: "calica" not in node.namespace.ip("link"), within_s=30, what="a kept DEL is done")
        node.agent.stop()
        renamed.start()
        try:
            eventually(lambda: node.etcd.get(f"{CALICO}/nodes/n2"), within_s=30, what="without pods it may")
        finally:
            renamed.stop()
