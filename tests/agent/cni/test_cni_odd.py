"""Calls, namespaces and a datastore that are not as a runtime usually has them: through the whole agent."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.agent.node import CALICO, Node, resource
from tests.agent.sandbox import MakeSandbox, call_plugin
from tests.support.netns import Namespace
from tests.support.packets import ping_ok
from tests.support.wait import eventually

INVALID_ENVIRONMENT, IO, UNKNOWN_CONTAINER, TRY_AGAIN = 4, 5, 3, 11
BLOCKS, HANDLES = "/calico/ipam/v2/assignment/", "/calico/ipam/v2/handle/"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node with a pool of each family; its agent runs."""
    with Node() as made:
        made.namespace.add_address("lo", "10.98.0.1/32")
        for name, cidr in (("main", "10.64.0.0/24"), ("main6", "fd64::/112")):
            made.put("ippools", resource("IPPool", name, {"cidr": cidr}))
        made.agent.start()
        eventually(lambda: call_plugin(made, "STATUS", "", None, "", {}).exit_status == 0)
        yield made


def left(node: Node) -> dict[str, list[str]]:
    """What containers hold: endpoints, handles, addresses that blocks say are given, devices; empty in the end."""
    blocks = map(json.loads, node.etcd.get_prefix(BLOCKS).values())
    found = {
        "endpoints": list(node.etcd.get_prefix(f"{CALICO}/workloadendpoints/")),
        "handles": list(node.etcd.get_prefix(HANDLES)),
        "addresses": [block["cidr"] for block in blocks if any(at is not None for at in block["allocations"])],
        "devices": [
            one["ifname"] for one in json.loads(node.namespace.ip("-json", "link")) if one["ifname"].startswith("cali")
        ],
    }
    return {what: some for what, some in found.items() if some}


@contextmanager
def hanging(node: Node) -> Iterator[None]:
    """An etcd that keeps its connections and answers nothing."""
    os.kill(node.etcd.daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(node.etcd.daemon.pid, signal.SIGCONT)


@contextmanager
def mute(node: Node) -> Iterator[None]:
    """An etcd that does what it is asked to, and whose answers nobody hears."""
    node.nft("add table inet mute; add chain inet mute out { type filter hook output priority 0; }")
    node.nft("add rule inet mute out tcp sport 2379 drop")
    try:
        yield
    finally:
        node.nft("delete table inet mute")


def test_the_nodes_own_namespace_is_refused_by_name(node: Node) -> None:
    before = node.namespace.ip("link")
    said = call_plugin(node, "ADD", "chost", node.namespace, "", {})
    assert (said.code, said.json["msg"]) == (INVALID_ENVIRONMENT, "CNI_NETNS is the node's own network namespace")
    assert said.details == str(node.namespace.path)
    assert call_plugin(node, "DEL", "chost", node.namespace, "", {}).exit_status == 0
    assert (node.namespace.ip("link"), left(node)) == (before, {})


def test_a_namespace_that_is_gone_before_the_add(node: Node) -> None:
    with Namespace.create("s") as gone:
        pass
    assert call_plugin(node, "ADD", "cgone", gone, "", {}).code == UNKNOWN_CONTAINER
    assert left(node) == {}


def test_an_interface_that_is_there_already_stays_and_the_add_leaves_nothing(node: Node, sandbox: MakeSandbox) -> None:
    a = sandbox("a")
    a.netns.ip("link", "add", "eth0", "type", "bridge")
    said = a.call("ADD")
    assert (said.code, said.details) == (IO, "the pod has a device eth0 already")
    assert "bridge" in a.netns.ip("-details", "link", "show", "eth0")
    eventually(lambda: left(node) == {})


def test_a_node_end_whose_name_is_taken_gives_way(node: Node, sandbox: MakeSandbox) -> None:
    node.namespace.ip("link", "add", "calica", "type", "bridge")
    (address,) = sandbox("a").add()
    assert ping_ok(node.namespace, address)


def test_the_same_container_twice(node: Node, sandbox: MakeSandbox) -> None:
    a = sandbox("a")
    assert a.add() == a.add()
    assert len(node.etcd.get_prefix(HANDLES)) == 1


def test_both_families_answer_at_once_where_ipv6_was_off(node: Node, sandbox: MakeSandbox) -> None:
    a = sandbox("a")
    a.netns.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
    addresses = a.add(ipam={"assign_ipv6": "true"})
    assert "tentative" not in a.netns.ip("-6", "address", "show", "scope", "global")
    assert [ping_ok(node.namespace, address) for address in addresses] == [True, True]


def test_a_del_that_does_not_say_which_pod_it_is_takes_all_of_it(node: Node, sandbox: MakeSandbox) -> None:
    a = sandbox("a", "default")
    (address,) = a.add()
    result = a.call("ADD").json
    assert call_plugin(node, "CHECK", a.container, a.netns, "", {"prevResult": result}).exit_status == 0
    assert call_plugin(node, "DEL", a.container, a.netns, "", {}).exit_status == 0
    assert not ping_ok(node.namespace, address, wait_s=0.3)
    eventually(lambda: left(node) == {})


def test_it_leaves_the_pods_next_container(node: Node, sandbox: MakeSandbox) -> None:
    old, new = sandbox("a", "default"), sandbox("b")
    old.add()
    args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=a"
    (address,) = call_plugin(node, "ADD", "cnew", new.netns, args, {}).addresses
    assert call_plugin(node, "DEL", old.container, None, "", {}).exit_status == 0
    assert ping_ok(node.namespace, address)
    assert list(node.etcd.get_prefix(HANDLES)) == [f"{HANDLES}net.cnew"]
    assert call_plugin(node, "DEL", "cnew", None, args, {}).exit_status == 0


@pytest.mark.parametrize("silent", [hanging, mute])
def test_an_add_that_etcd_does_without_saying_so_is_taken_back(
    node: Node, sandbox: MakeSandbox, silent: Callable[[Node], AbstractContextManager[None]]
) -> None:
    """No DEL follows: the runtime that asked is gone."""
    a = sandbox("a")
    with silent(node):
        assert a.call("ADD").code == TRY_AGAIN
    kept = node.run_dir / "cni-pending"
    eventually(lambda: list(kept.iterdir()) == [] and left(node) == {}, within_s=30, what="taken back")
    assert len(a.add()) == 1


def test_an_add_that_is_tried_again_stays(node: Node, sandbox: MakeSandbox) -> None:
    a = sandbox("a")
    with mute(node):
        assert a.call("ADD").code == TRY_AGAIN
    (address,) = eventually(lambda: (said := a.call("ADD")).exit_status == 0 and said.addresses, within_s=30)
    eventually(lambda: list((node.run_dir / "cni-pending").iterdir()) == [], within_s=30)
    assert ping_ok(node.namespace, address)
    assert set(left(node)) == {"endpoints", "handles", "addresses", "devices"}


def test_an_add_again_of_a_running_pod_is_not_taken_back(node: Node, sandbox: MakeSandbox) -> None:
    a = sandbox("a")
    (address,) = a.add()
    with hanging(node):
        assert a.call("ADD").code == TRY_AGAIN
        assert ping_ok(node.namespace, address)
    assert eventually(lambda: (said := a.call("ADD")).exit_status == 0 and said.addresses, within_s=30) == [address]
    assert ping_ok(node.namespace, address)
