"""A run directory that somebody wipes: nobody is left out of reach, and a new agent has all that it needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from birdpy.process import find_strays, listener_pid
from tests.agent.node import Node, resource
from tests.support.netns import Namespace, link_namespaces
from tests.support.wait import eventually


@pytest.fixture
def node() -> Iterator[Node]:
    """A node with an address, whose agent runs and has a speaker."""
    with Namespace.create("r") as router, Node("agent,bgp,controllers") as made:
        link_namespaces(
            made.namespace, "eth0", router, "eth0", left_addresses=["10.9.0.5/24"], right_addresses=["10.9.0.1/24"]
        )
        made.put("nodes", resource("Node", "n1", {"bgp": {"ipv4Address": "10.9.0.5/24"}}))
        made.agent.start()
        eventually(lambda: speaks(made), within_s=60)
        try:
            yield made
        finally:
            made.agent.stop()
            made.felixctl("leave")


def speaks(node: Node) -> bool:
    """Whether gobgpd is what it is to be, and nothing is wrong with the node."""
    said = node.felixctl("status", "--local")
    return said.code == 0 and "gobgpd 4" in said.out


def gobgpds(node: Node) -> list[int]:
    """Every gobgpd in the node's namespace."""
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in node.namespace.pids()}
    return [pid for pid, path in commands.items() if path.exists() and b"gobgpd\0" in path.read_bytes()]


def wipe(node: Node) -> None:
    """All but the log, which the test reads."""
    for one in node.run_dir.iterdir():
        if one == node.agent.log:
            continue
        shutil.rmtree(one) if one.is_dir() else one.unlink()


def test_an_agent_whose_run_directory_is_wiped_ends_and_the_next_one_takes_its_place(node: Node) -> None:
    (first,) = gobgpds(node)
    wipe(node)
    eventually(lambda: "agent.lock was removed, and with it our sockets" in node.log(), within_s=30)
    eventually(lambda: not node.agent.running, within_s=30)

    node.agent.start()

    eventually(lambda: speaks(node), within_s=60, what="the new gobgpd has the port")
    assert first not in gobgpds(node)
    assert gobgpds(node) == [listener_pid(node.run_dir / "gobgp.sock")]
    assert f"gobgpd {first} was out of reach" in node.log()


def test_who_leaves_ends_those_too_that_a_wiped_directory_put_out_of_reach(node: Node) -> None:
    node.agent.stop()
    (pid,) = gobgpds(node)
    wipe(node)
    with node.namespace.entered():
        assert find_strays(node.run_dir / "gobgp.sock") == (pid,)

    assert f"gobgpd {pid} ended" in node.felixctl("leave").out

    eventually(lambda: not gobgpds(node), within_s=30)
