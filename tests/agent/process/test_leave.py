"""A node that leaves for good: what outlives its agent on purpose ends, and its kernel is as it was before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from birdpy.process import listener_pid
from tests.agent.node import Node, resource
from tests.agent.sandbox import Sandbox
from tests.support.netns import Namespace, link_namespaces
from tests.support.wait import eventually


@pytest.fixture
def node() -> Iterator[Node]:
    """A node with all roles, a tunnel and a Service address at layer 2; its agent runs."""
    with Namespace.create("r") as router, Node("agent,bgp,controllers") as made:
        link_namespaces(
            made.namespace, "eth0", router, "eth0", left_addresses=["10.9.0.5/24"], right_addresses=["10.9.0.1/24"]
        )
        made.put("nodes", resource("Node", "n1", {"bgp": {"ipv4Address": "10.9.0.5/24"}}))
        made.put("ippools", resource("IPPool", "main", {"cidr": "10.64.0.0/24", "vxlanMode": "Always"}))
        made.agent.start()
        try:
            yield made
        finally:
            made.agent.stop()
            leave(made)


def leave(node: Node, *flags: str) -> tuple[int, str]:
    said = node.felixctl("leave", *flags)
    return said.code, said.out + said.err


def ours(node: Node) -> str:
    """What the kernel holds of ours, in words; nothing in the end."""
    routes = "".join(node.namespace.ip(family, "route", "show", "proto", "176") for family in ("-4", "-6"))
    links = [line for line in node.namespace.ip("-o", "link").splitlines() if "calico" in line]
    return routes + node.nft("list", "tables") + "".join(links)


def test_a_node_leaves_and_nothing_is_left(node: Node) -> None:
    eventually(lambda: listener_pid(node.run_dir / "gobgp.sock"), within_s=30)
    with Namespace.create("s") as netns:
        sandbox = Sandbox(node, "a", netns)
        eventually(lambda: sandbox.add(), within_s=30)
        eventually(lambda: "vxlan.calico" in ours(node), within_s=30)
        code, said = leave(node, "--kernel")
        assert (code, "felixpy still runs here" in said) == (1, True)

        node.agent.stop()
        code, said = leave(node, "--kernel")
        assert code == 1
        assert "gobgpd" in said
        assert "error: 1 pod on calica: end them first, since our rules guard them" in said
        assert listener_pid(node.run_dir / "gobgp.sock") == 0
        assert "felixpy" in node.nft("list", "tables")

        node.namespace.ip("link", "del", "calica")
    code, said = leave(node, "--kernel")
    assert (code, "the rules in nftables removed" in said) == (0, True), said
    assert ours(node) == ""
    assert leave(node, "--kernel") == (0, "")
