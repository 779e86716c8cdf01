"""A Service address is announced once the kernel serves it, and withdrawn before it ceases to: n2 serves, n1 hears."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from birdpy.process import listener_pid
from tests.agent.cluster import Cluster, two_nodes
from tests.support.wait import eventually

VIP, OTHER_VIP = "172.30.0.1", "172.30.0.2"
OURS = "/felixpy/resources"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes that speak BGP, and on n2 an endpoint of the Services a/web and a/more. The agents are not started."""
    with two_nodes("agent,bgp") as made:
        put_services(made)
        grant(made, VIP, "web")
        yield made


def put_services(cluster: Cluster) -> None:
    """The Services a/web and a/more, with an endpoint on n2."""
    for name in ("web", "more"):
        ports = [{"port": 80, "protocol": "TCP"}]
        spec = {"type": "LoadBalancer", "ports": ports, "externalTrafficPolicy": "Local"}
        meta: dict[str, Any] = {"name": name, "namespace": "a"}
        cluster.etcd.put(f"{OURS}/core/v1/services/a/{name}", {"metadata": meta, "spec": spec})
        labels = {"kubernetes.io/service-name": name}
        endpoints = [{"addresses": ["10.64.9.1"], "nodeName": "n2", "conditions": {"ready": True}}]
        body = {"metadata": {**meta, "labels": labels}, "endpoints": endpoints, "ports": ports}
        cluster.etcd.put(f"{OURS}/discovery.k8s.io/v1/endpointslices/a/{name}", body)


def grant(cluster: Cluster, address: str, name: str) -> None:
    cluster.etcd.put(f"/felixpy/grants/addresses/{address}", {"address": address, "services": [f"a/{name}"]})


def heard(cluster: Cluster, address: str = VIP) -> bool:
    """Whether n1 has learned the address."""
    return bool(cluster.n1.namespace.ip("route", "show", "proto", "177", address))


def served(cluster: Cluster, *addresses: str) -> bool:
    """Whether the kernel of n2 has these addresses, all at once; the first one where none is named."""
    there = cluster.n2.nft("list", "map", "inet", "felixpy", "svc-out4")
    return all(f"{address} . tcp . 80 " in there for address in addresses or (VIP,))


@contextmanager
def table_of_another(cluster: Cluster) -> Iterator[None]:
    """Our table on n2 belongs to another process meanwhile: the kernel refuses all that we write there."""
    argv = cluster.n2.namespace.enter_argv(["nft", "-i"])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdin is not None
        try:
            owner.stdin.write("add table inet felixpy { flags owner; }\n")
            owner.stdin.flush()
            eventually(lambda: "felixpy" in cluster.n2.nft("list", "tables"))
            yield
        finally:
            owner.kill()


def test_it_waits_for_a_kernel_that_refuses(cluster: Cluster) -> None:
    with table_of_another(cluster):
        cluster.start()
        eventually(lambda: "not done: " in cluster.n2.log(), what="the kernel refuses")
        eventually(lambda: "this node's kernel does not hold the Service" in said(cluster), within_s=20)
        assert not heard(cluster)
    eventually(lambda: heard(cluster), within_s=40, what="announced when the kernel took it")
    assert served(cluster)


def said(cluster: Cluster) -> str:
    """What `felixctl bgp` says of n2."""
    return cluster.felixctl("bgp", "routes", "n2").out


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
