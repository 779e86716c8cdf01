"""The roles agent and bgp in two processes keep the order that one process keeps: n2 serves, n1 hears."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from birdpy.process import listener_pid
from tests.agent.cluster import ADDRESSES, Cluster, two_nodes
from tests.agent.node import PROGRAM, WITH_GOBGPD
from tests.agent.services.serving_world import (
    OTHER_VIP,
    VIP,
    grant,
    heard,
    put_services,
    said,
    served,
    table_of_another,
)
from tests.support.process import Daemon
from tests.support.wait import eventually


@dataclass(frozen=True)
class Apart:
    """The two nodes, and the two processes of n2."""

    cluster: Cluster
    agent: Daemon
    speaker: Daemon

    def start(self) -> None:
        """Starts what does not run of n1's agent and the two."""
        for process in (self.cluster.n1.agent, self.agent, self.speaker):
            if not process.running:
                process.start()


@contextmanager
def two_apart() -> Iterator[Apart]:
    """Nothing of it is started yet."""
    with two_nodes("agent,bgp") as made:
        put_services(made)
        grant(made, VIP, "web")
        apart = Apart(made, *(role_of(made, role) for role in ("agent", "bgp")))
        try:
            yield apart
        finally:
            for process in (apart.agent, apart.speaker):
                process.stop()


@pytest.fixture(scope="module")
def shared() -> Iterator[Apart]:
    with two_apart() as made:
        yield made


@pytest.fixture
def apart(shared: Apart) -> Apart:
    """All run; a/web alone has an address, which is announced."""
    shared.start()
    shared.cluster.etcd.delete_prefix("/felixpy/grants/addresses/")
    grant(shared.cluster, VIP, "web")
    eventually(lambda: heard(shared.cluster) and served(shared.cluster), within_s=40)
    eventually(lambda: not heard(shared.cluster, OTHER_VIP) and not served(shared.cluster, OTHER_VIP), within_s=40)
    return shared


def role_of(cluster: Cluster, role: str, *flags: str) -> Daemon:
    """One role of n2 in a process of its own."""
    node = cluster.n2
    argv = [PROGRAM, "--etcd", f"http://{ADDRESSES['n1']}:2379", "--node", node.name, "--roles", role]
    argv += ["--run-dir", str(node.run_dir), "--state-file", str(node.run_dir / "kept" / "cluster.json"), *flags]
    return Daemon(argv, node.run_dir / f"{role}.log", netns=node.namespace.name, env=WITH_GOBGPD)


def test_an_address_is_announced_once_the_other_process_serves_it() -> None:
    with two_apart() as apart:
        cluster = apart.cluster
        with table_of_another(cluster):
            apart.start()
            eventually(lambda: "this node's kernel does not hold the Service" in said(cluster), within_s=20)
            assert not heard(cluster)
        eventually(lambda: heard(cluster), within_s=40, what="announced when the kernel took it")
        assert served(cluster)


def test_the_kernel_serves_it_until_the_other_process_has_withdrawn_it(apart: Apart) -> None:
    cluster = apart.cluster
    pid = listener_pid(cluster.n2.run_dir / "gobgp.sock")
    os.kill(pid, signal.SIGSTOP)
    try:
        cluster.etcd.delete(f"/felixpy/grants/addresses/{VIP}")
        grant(cluster, OTHER_VIP, "more")
        eventually(
            lambda: served(cluster, OTHER_VIP, VIP),
            what="it has taken in what came later, beside the first",
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not heard(cluster) and not served(cluster))


def test_what_the_kernel_serves_stays_announced_while_the_agent_is_away(apart: Apart) -> None:
    """Whichever of the two restarts; and nothing new is announced that nobody serves."""
    cluster = apart.cluster
    grant(cluster, OTHER_VIP, "more")
    eventually(lambda: heard(cluster, OTHER_VIP))
    with routes_told(cluster) as told:
        apart.agent.kill()
        apart.speaker.kill()
        apart.speaker.start()
        eventually(lambda: "the agent is away" in apart.speaker.tail(200), what="the kernel was asked")
        cluster.etcd.delete(f"/felixpy/grants/addresses/{OTHER_VIP}")
        eventually(lambda: not heard(cluster, OTHER_VIP), what="a withdrawal needs no agent")
        grant(cluster, "172.30.0.3", "more")
        eventually(lambda: "this node's kernel does not hold the Service" in said(cluster), within_s=20)
        assert heard(cluster)
        apart.agent.start()
        eventually(lambda: heard(cluster, "172.30.0.3"), within_s=40)
    assert f"Deleted {OTHER_VIP} " in told, "so a loss is told of"
    assert f"Deleted {VIP} " not in told, "what was served all the time was announced all the time"


def test_after_a_boot_nothing_is_announced_that_the_agent_has_not_said_it_serves(apart: Apart) -> None:
    """Of the run directory gobgpd alone is left, which announces what it did; BGP comes first, and the agent late."""
    cluster = apart.cluster
    eventually(lambda: heard(cluster), within_s=40)
    apart.agent.kill()
    apart.speaker.kill()
    cluster.n2.nft("delete", "table", "inet", "felixpy")
    for left in [one for one in cluster.n2.run_dir.glob("*.*") if one.name in ("agent.lock", "serving.sock")]:
        left.unlink()
    apart.speaker.start()
    try:
        eventually(lambda: not heard(cluster), within_s=40)
        assert "this node's kernel does not hold the Service" in said(cluster)
        assert "n2: role agent ran here and does not answer" in cluster.felixctl("status").err
    finally:
        apart.agent.start()
    eventually(lambda: heard(cluster) and served(cluster), within_s=40)


def test_at_the_first_boot_of_all_it_is_as_the_settings_say(apart: Apart) -> None:
    """Nothing is left of the run directory but gobgpd, and no mark of an agent: none has ever run."""
    cluster = apart.cluster
    run_dir = cluster.n2.run_dir

    def boot(how: str) -> Daemon:
        apart.agent.kill()
        apart.speaker.kill()
        for left in (run_dir / "agent.lock", run_dir / "serving.sock", run_dir / "kept" / "agent.ran"):
            left.unlink(missing_ok=True)
        return role_of(cluster, "bgp", "--agent", how).start()

    cluster.n2.nft("delete", "table", "inet", "felixpy")
    waiting = boot("apart")
    try:
        eventually(lambda: not heard(cluster), within_s=40)
        assert "this node's kernel does not hold the Service" in said(cluster)
    finally:
        waiting.kill()
    alone = boot("none")
    try:
        eventually(lambda: heard(cluster), within_s=40, what="somebody else serves it")
        assert "role agent" not in cluster.felixctl("status").err
    finally:
        alone.kill()


@contextmanager
def routes_told(cluster: Cluster) -> Iterator[Told]:
    """What the kernel of n1 tells of its routes meanwhile."""
    told = Told()
    with cluster.n1.namespace.popen("ip", "monitor", "route", stdout=subprocess.PIPE) as watching:
        try:
            yield told
        finally:
            watching.terminate()
            told.text = watching.communicate()[0]


class Told:
    """Lines, once the watch has ended."""

    text = ""

    def __contains__(self, words: str) -> bool:
        return words in self.text
