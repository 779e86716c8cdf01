"""What a process writes for itself is tried until it is there."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Sequence
from pathlib import Path

from felixpy.agent.process import Process
from felixpy.agent.settings import Role, Settings
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY
from felixpy.datastore.memory import MemoryStore
from felixpy.datastore.model import ConnectReason, Expect, TxnResult, Unavailable, Write
from felixpy.datastore.syncer import Phase
from tests.agent.node import Node
from tests.support.wait import eventually, eventually_async


class RefusesOnce(MemoryStore):
    """A datastore that has no leader at the wrong moment."""

    refused = False

    async def transact(self, expect: Sequence[Expect], writes: Sequence[Write]) -> TxnResult:
        if not self.refused and any(write.key == CLUSTER_INFORMATION_KEY for write in writes):
            self.refused = True
            raise Unavailable(ConnectReason.UNREACHABLE, "leader election")
        return await super().transact(expect, writes)


async def test_an_empty_datastore_is_initialised_at_the_second_try(tmp_path: Path) -> None:
    settings = Settings("n1", None, frozenset({Role.CONTROLLERS}), tmp_path, tmp_path, tmp_path / "cluster.json")
    store = RefusesOnce()

    async def in_sync() -> bool:
        return process._syncer.state.phase is Phase.IN_SYNC

    async with asyncio.TaskGroup() as group:
        process = Process(settings, store, group)
        running = group.create_task(process.run())
        await eventually_async(in_sync)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    assert store.refused
    assert running.cancelled()


def test_a_host_that_gets_its_address_late_gets_its_node_then() -> None:
    with Node() as node:
        node.agent.start()
        eventually(lambda: "this node has no IPv4 address" in node.log())
        node.namespace.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        node.namespace.ip("link", "set", "eth1", "up")
        node.namespace.add_address("eth0", "10.9.0.5/24")
        node.namespace.ip("route", "add", "default", "via", "10.9.0.1")
        eventually(lambda: node.etcd.get("/calico/resources/v3/projectcalico.org/nodes/n1"))


def test_a_host_that_cannot_be_read_for_a_while_gets_its_node_then() -> None:
    with Node() as node:
        node.agent.start()
        eventually(lambda: "this node has no IPv4 address" in node.log())
        usual = resource.prlimit(node.agent.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(node.agent.pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        eventually(lambda: "cannot be made now: [Errno 24]" in node.log(), within_s=20)
        resource.prlimit(node.agent.pid, resource.RLIMIT_NOFILE, usual)
        node.namespace.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        node.namespace.ip("link", "set", "eth1", "up")
        node.namespace.add_address("eth0", "10.9.0.5/24")
        node.namespace.ip("route", "add", "default", "via", "10.9.0.1")
        eventually(lambda: node.etcd.get("/calico/resources/v3/projectcalico.org/nodes/n1"), within_s=20)
