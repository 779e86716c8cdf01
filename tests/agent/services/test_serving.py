"""A Service address is announced once the kernel serves it, and withdrawn before it ceases to: n2 serves, n1 hears."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from birdpy.process import listener_pid
from tests.agent.cluster import Cluster, two_nodes
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
from tests.support.wait import eventually


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes that speak BGP, and on n2 an endpoint of the Services a/web and a/more. The agents are not started."""
    with two_nodes("agent,bgp") as made:
        put_services(made)
        grant(made, VIP, "web")
        yield made


def test_it_waits_for_a_kernel_that_refuses(cluster: Cluster) -> None:
    with table_of_another(cluster):
        cluster.start()
        eventually(lambda: "not done: " in cluster.n2.log(), what="the kernel refuses")
        eventually(lambda: "this node's kernel does not hold the Service" in said(cluster), within_s=20)
        assert not heard(cluster)
    eventually(lambda: heard(cluster), within_s=40, what="announced when the kernel took it")
    assert served(cluster)


def test_the_kernel_serves_it_until_gobgpd_has_withdrawn_it(cluster: Cluster) -> None:
    cluster.start()
    eventually(lambda: heard(cluster) and served(cluster), within_s=40)
    pid = listener_pid(cluster.n2.run_dir / "gobgp.sock")
    os.kill(pid, signal.SIGSTOP)
    try:
        cluster.etcd.delete(f"/felixpy/grants/addresses/{VIP}")
        grant(cluster, OTHER_VIP, "more")
        eventually(
            lambda: served(cluster, OTHER_VIP, VIP),
            what="n2 has taken in what came later, beside the first",
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not heard(cluster) and not served(cluster))
    eventually(lambda: heard(cluster, OTHER_VIP))
