"""The whole thing: three nodes, a router, a client, etcd; what `make lab` claims, and what it does not have time for.

One lab for the module, beside any other that is up. Each test leaves it as it found it.
"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.lab import claims
from tests.lab.prove import reachability, router_sessions, write_denial
from tests.lab.sight import gateways, pod
from tests.lab.topology import Node
from tests.lab.world import SERVER_PORT, Pod, World
from tests.support.netns import CommandFailed
from tests.support.packets import FlowMeter, ask_tcp, tcp_ok
from tests.support.wait import eventually

BIRD_ROUNDS_S = 0.01
"""BIRD reckons its times of day from two clocks, and so differs with itself by a millisecond."""
CLOCK = re.compile(r"\d\d:\d\d:\d\d\.\d+")


test_what_the_lab_claims = claims.test_what_the_lab_claims


def test_a_policy_decides_pair_by_pair_and_its_deletion_restores_all(world: World) -> None:
    pairs = [(a.name, b.name) for a in world.pods for b in world.pods if a != b]
    allowed = dict.fromkeys(pairs, True)
    denied = {(a, b): not (a.startswith("shell") and b.startswith("web")) for a, b in pairs}
    eventually(lambda: reachability(world) == allowed, 20, 0.2)
    with write_denial(world):
        eventually(lambda: reachability(world) == reachability(world, 6) == denied, 20, 0.2)
    eventually(lambda: reachability(world) == allowed, 20, 0.2)


@pytest.mark.parametrize("name", ["n1", "n2", "n3"])
def test_each_node_routes_every_other_node_s_block_to_that_node(world: World, name: str) -> None:
    node = world.lab.topology.node(name)
    others = {address_of(other) for other in world.nodes if other != node}
    eventually(lambda: gateways(world, node, "10.64.0.0/16") == others, 20, 0.2, f"blocks via {others}")


@pytest.mark.parametrize("version", [4, 6])
def test_the_router_spreads_a_service_over_every_node(world: World, version: int) -> None:
    address = eventually(lambda: world.service_address(version), 20)
    wanted = {address_of(node, version) for node in world.nodes}
    eventually(lambda: gateways(world, world.router, address) == wanted, 20, 0.2, f"{address} via {wanted}")


def test_a_killed_agent_leaves_its_sessions_and_the_router_s_routes_alone(world: World) -> None:
    node = world.lab.topology.node("n2")
    eventually(lambda: set(router_sessions(world).values()) == {"Established"}, 20, 0.2)
    since, routes = session_since(world, node), router_routes(world)
    world.lab.crash(node)
    world.lab.start(node)
    world.wait_ready(node)
    add_and_remove_pod(world, "n2")  # the new agent's first own change has reached the router by then
    assert session_since(world, node) == pytest.approx(since, abs=BIRD_ROUNDS_S)
    assert router_routes(world) == pytest.approx(routes, abs=BIRD_ROUNDS_S)


def test_a_killed_gobgpd_costs_no_packet_from_beyond_the_router(world: World) -> None:
    node, target = world.lab.topology.node("n2"), pod(world, "web-2")
    address = world.pod_address(target)
    assert address is not None
    eventually(lambda: set(router_sessions(world).values()) == {"Established"}, 20, 0.2)
    since = session_since(world, node)
    with FlowMeter(world.client, world.pod_namespace(target), address) as meter:
        os.kill(pid_of(world, node, "gobgpd"), signal.SIGKILL)
        eventually(lambda: abs(session_since(world, node) - since) > BIRD_ROUNDS_S, 20, 0.1)
        eventually(lambda: set(router_sessions(world).values()) == {"Established"}, 20, 0.2)
        report = meter.stop()
    assert (report.lost, report.gaps) == (0, ())


def test_a_table_flushed_by_hand_is_back_and_denies_again(world: World) -> None:
    source, address = world.pod_namespace(pod(world, "shell-1")), world.pod_address(pod(world, "web-2"))
    assert address is not None
    node = world.lab.topology.node("n2")
    with write_denial(world):
        eventually(lambda: not tcp_ok(source, address, SERVER_PORT, wait_s=0.2), 20)
        rules = world.lab.run(node, "nft", "--stateless", "list", "table", "inet", "felixpy")
        world.lab.run(node, "nft", "delete", "table", "inet", "felixpy")
        eventually(
            lambda: (
                normal(world.lab.run(node, "nft", "--stateless", "list", "table", "inet", "felixpy")) == normal(rules)
            ),
            20,
        )
        assert not tcp_ok(source, address, SERVER_PORT, wait_s=0.2)
    eventually(lambda: tcp_ok(source, address, SERVER_PORT, wait_s=0.2), 20)


def test_a_pod_comes_and_goes_without_a_trace(world: World) -> None:
    node = world.lab.topology.node("n3")
    before = traces(world, node)
    address = add_and_remove_pod(world, node.name)
    eventually(lambda: traces(world, node) == before, 10)
    assert not tcp_ok(world.client, address, SERVER_PORT, wait_s=0.3)


def test_a_wrong_request_of_the_plugin_is_answered_with_its_reason(world: World) -> None:
    with pytest.raises(CommandFailed, match='"code"'):
        world.lab.run(world.nodes[0], "pod", "check", "never-added")


def add_and_remove_pod(world: World, node: str) -> str:
    """A pod that has answered the client, and is gone again; the address that it had."""
    mine = Pod("default", "passing", node, ())
    world.add_pod(mine)
    address = world.pod_address(mine)
    assert address is not None
    world.serve(mine)
    eventually(lambda: ask_tcp(world.client, address, SERVER_PORT), 10)
    world.delete_pod(mine)
    assert not world.pod_namespace(mine).exists
    return address


def address_of(node: Node, version: int = 4) -> str:
    """A node's own address: IPv6 ones end in the same number as the node's IPv4 one."""
    address = dict(node.environment)["WAIT_FOR_ADDRESS"]
    return address if version == 4 else f"2001:db8:30::{address.rpartition('.')[2]}"


def seconds(clock: str) -> float:
    """BIRD's time of day, in seconds."""
    hours, minutes, rest = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def session_since(world: World, node: Node) -> float:
    """When the router's session with the node came up."""
    text = world.lab.run(world.router, "birdc", "-s", "/run/bird/bird.ctl", "show", "protocols")
    return next(seconds(line.split()[4]) for line in text.splitlines() if line.startswith(f"{node.name} "))


def pid_of(world: World, node: Node, program: str) -> int:
    """The one process of that program in a node."""
    (found,) = (pid for pid in world.lab.namespace(node.name).pids() if name_of(pid) == program)
    return found


def name_of(pid: int) -> str:
    """What the process is called; "" for one that has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def router_routes(world: World) -> dict[str, float]:
    """The router's BGP routes, and when each came."""
    text = world.lab.run(world.router, "birdc", "-s", "/run/bird/bird.ctl", "show", "route")
    lines = [line for line in text.splitlines() if "AS64512" in line]
    return {CLOCK.sub("", line): seconds(CLOCK.findall(line)[0]) for line in lines}


def normal(rules: str) -> list[str]:
    """A table's text without what packets and time change in it."""
    return sorted(re.sub(r"packets \d+ bytes \d+", "", line).strip() for line in rules.splitlines())


def traces(world: World, node: Node) -> tuple[set[str], set[str], set[str]]:
    """The node's devices and pod routes, and the cluster's endpoints."""
    links = json.loads(world.lab.run(node, "ip", "-j", "link", "show"))
    routes = json.loads(world.lab.run(node, "ip", "-j", "-N", "route", "show", "root", "10.64.0.0/16"))
    endpoints = world.etcd.get_prefix("/calico/resources/v3/projectcalico.org/workloadendpoints/")
    return {link["ifname"] for link in links}, {route["dst"] for route in routes if "dev" in route}, set(endpoints)
