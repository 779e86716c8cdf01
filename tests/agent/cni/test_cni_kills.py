"""Plugins and agents killed in the middle of many calls: what a runtime tries again ends as if none had been."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.agent.node import CALICO, Node, resource
from tests.agent.sandbox import NETWORK, PLUGIN, held_addresses
from tests.support.netns import Namespace
from tests.support.wait import eventually

PODS = 50
TRY_AGAIN = 11


@dataclass(frozen=True)
class Container:
    """A sandbox, and the plugin started for it as a runtime does."""

    node: Node
    number: int
    netns: Namespace

    @property
    def name(self) -> str:
        return f"c{self.number}"

    def start(self, verb: str) -> subprocess.Popen[str]:
        conf = {"cniVersion": "1.1.0", "name": NETWORK, "type": PLUGIN.name, "runDir": str(self.node.run_dir)}
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": self.name,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
        }
        process = subprocess.Popen(
            [PLUGIN],
            env={**os.environ, **variables, "CNI_NETNS": str(self.netns.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin
        process.stdin.write(json.dumps(conf))
        process.stdin.close()
        process.stdin = None
        return process


@dataclass(frozen=True)
class World:
    node: Node
    containers: list[Container]

    def run(self, verb: str, containers: list[Container]) -> dict[Container, dict[str, object]]:
        """Calls for all at once, and again for those who are told to; the answers."""
        found: dict[Container, dict[str, object]] = {}

        def all_done() -> bool:
            found.update(_answers({one: one.start(verb) for one in containers if one not in found}))
            return len(found) == len(containers)

        eventually(all_done, within_s=40, every_s=0.2)
        return found

    def run_and_kill(self, verb: str, rng: random.Random) -> dict[Container, dict[str, object]]:
        """Calls for all at once; a third of the plugins are killed, and the agent when some have their answer."""
        running = {one: one.start(verb) for one in self.containers}
        for one in rng.sample(self.containers, PODS // 3):
            running[one].kill()
        eventually(lambda: sum(one.poll() is not None for one in running.values()) > PODS // 2, every_s=0.002)
        self.node.agent.kill()
        found = _answers(running)
        self.node.agent.start()
        return found

    def stored(self) -> dict[str, str]:
        """The address that each container's endpoint has."""
        endpoints = map(json.loads, self.node.etcd.get_prefix(f"{CALICO}/workloadendpoints/").values())
        return {one["spec"]["containerID"]: one["spec"]["ipNetworks"][0].partition("/")[0] for one in endpoints}

    def devices(self) -> list[str]:
        links = json.loads(self.node.namespace.ip("-json", "link", "show"))
        return [one["ifname"] for one in links if one["ifname"].startswith("cali")]


def _answers(running: dict[Container, subprocess.Popen[str]]) -> dict[Container, dict[str, object]]:
    found: dict[Container, dict[str, object]] = {}
    for one, process in running.items():
        output, _ = process.communicate(timeout=90)
        answer = json.loads(output) if output else {}
        if process.returncode == 0:
            found[one] = answer
        elif process.returncode > 0:
            assert answer["code"] == TRY_AGAIN, answer
    return found


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        node = stack.enter_context(Node())
        spec = {"cidr": "10.64.0.0/24", "ipipMode": "Never", "vxlanMode": "Never"}
        node.put("ippools", resource("IPPool", "main", spec))
        node.namespace.add_address("lo", "10.98.0.1/32")
        node.agent.start()
        eventually(lambda: "in sync" in node.log())
        netns = [stack.enter_context(Namespace.create("k")) for _ in range(PODS)]
        yield World(node, [Container(node, number, one) for number, one in enumerate(netns)])


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_or_left(world: World, seed: int) -> None:
    rng = random.Random(seed)
    added = world.run_and_kill("ADD", rng)
    kept = world.stored()
    again = world.run("ADD", [one for one in world.containers if one not in added])
    addresses = {one.name: _address(answer) for one, answer in (added | again).items()}
    assert len(addresses) == PODS
    assert addresses == addresses | kept, "who had an address in the datastore has it still"
    assert len(set(addresses.values())) == PODS
    assert world.stored() == addresses
    assert {f"{NETWORK}.{name}" for name in addresses} == set(held_addresses(world.node.etcd).values())
    assert len(world.devices()) == PODS
    for one in rng.sample(world.containers, 5):
        assert world.node.namespace.succeeds("ping", "-nqc1", "-W2", addresses[one.name])

    gone = world.run_and_kill("DEL", rng)
    world.run("DEL", [one for one in world.containers if one not in gone])
    eventually(lambda: (world.stored(), held_addresses(world.node.etcd), world.devices()) == ({}, {}, []), within_s=30)
    pending = world.node.run_dir / "cni-pending"
    eventually(lambda: not pending.exists() or not list(pending.iterdir()))
    assert world.node.etcd.get_prefix("/calico/ipam/v2/handle/") == {}


def _address(answer: dict[str, object]) -> str:
    (ip,) = answer["ips"]  # type: ignore[misc]
    return str(ip["address"]).partition("/")[0]
