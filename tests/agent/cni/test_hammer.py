"""Two nodes hammered through the CNI door, with agents killed in between: no address twice, none leaked."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.agent.node import CALICO, Node, resource
from tests.agent.sandbox import IPAM, held_addresses
from tests.support.netns import Namespace, link_namespaces
from tests.support.wait import eventually

PLUGIN = Path(__file__).parents[3] / "build" / "felixpy-cni"
CALLS = 240
PARALLEL = 16
RETRIES = 60
"""How often a runtime tries an ADD that was answered with code 11."""


@dataclass(frozen=True)
class Container:
    """A sandbox on a node, as a runtime has it."""

    node: Node
    number: int
    namespace: Namespace

    def call(self, verb: str) -> tuple[int, dict[str, object]]:
        """One call of the plugin: exit code and answer."""
        conf = {"cniVersion": "1.0.0", "name": "net", "type": "felixpy-cni", "runDir": str(self.node.run_dir)}
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": f"c{self.node.name}{self.number}",
            "CNI_NETNS": str(self.namespace.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(PLUGIN.parent),
        }
        done = subprocess.run(
            [PLUGIN], input=json.dumps(conf), env={**os.environ, **environment}, capture_output=True, text=True
        )
        return done.returncode, json.loads(done.stdout or "{}")

    def add(self) -> str:
        """ADD as a runtime does it, trying again while it is told to; the IPv4 address."""

        def once() -> str | None:
            code, answer = self.call("ADD")
            if code == 0:
                return str(answer["ips"][0]["address"])  # type: ignore[index]
            assert answer["code"] == 11, answer
            return None

        return eventually(once, within_s=RETRIES, every_s=0.2)

    def delete(self) -> None:
        """DEL, which never fails."""
        code, answer = self.call("DEL")
        assert code == 0, answer


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Two nodes that share an etcd, with a pool; their agents run."""
    with Node() as first, Node(name="n2", etcd=first.etcd, etcd_address="10.9.0.1", initialised=False) as second:
        link_namespaces(
            first.namespace, "up0", second.namespace, "up0",
            left_addresses=["10.9.0.1/24"], right_addresses=["10.9.0.2/24"],
        )  # fmt: skip
        pool = {"cidr": "10.64.0.0/20", "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Never"}
        first.put("ippools", resource("IPPool", "pool", pool))
        for node in (first, second):
            node.agent.start()
        yield [first, second]


def test_no_address_twice_and_none_leaked(nodes: list[Node]) -> None:
    rng = random.Random(7)
    etcd = nodes[0].etcd
    containers = [Container(nodes[i % 2], i, Namespace.create("c")) for i in range(CALLS // 2)]
    try:
        with ThreadPoolExecutor(PARALLEL) as pool:
            adds = [pool.submit(one.add) for one in containers]
            for node in nodes:
                eventually(lambda: sum(add.done() for add in adds) > CALLS // 8, within_s=60)
                node.agent.kill()
                node.agent.start()
            addresses = [add.result().partition("/")[0] for add in adds]
            assert len(set(addresses)) == len(addresses)
            assert set(held_addresses(etcd)) == set(addresses)
            gone = rng.sample(containers, len(containers) * 3 // 4)
            deletes = [pool.submit(one.delete) for one in gone]
            eventually(lambda: sum(one.done() for one in deletes) > len(gone) // 4, within_s=60)
            nodes[0].agent.kill()
            for one in deletes:
                one.result()
            nodes[0].agent.start()
        kept = {address for address, one in zip(addresses, containers, strict=True) if one not in gone}
        eventually(lambda: set(held_addresses(etcd)) == kept, within_s=30, what="the kept DELs are done")
        endpoints = etcd.get_prefix(f"{CALICO}/workloadendpoints/")
        assert len(endpoints) == len(kept)
        assert len(etcd.get_prefix(f"{IPAM}handle/")) == len(kept)
        for one in containers:
            if one not in gone:
                assert one.node.namespace.succeeds("ping", "-nqc1", "-W2", addresses[one.number])
    finally:
        for one in containers:
            one.namespace.delete()
