"""Services that n2 serves and n1 hears of, and what either says of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.agent.cluster import Cluster
from tests.support.wait import eventually

VIP, OTHER_VIP = "172.30.0.1", "172.30.0.2"


OURS = "/felixpy/resources"


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


def said(cluster: Cluster) -> str:
    """What `felixctl bgp` says of n2."""
    return cluster.felixctl("bgp", "routes", "n2").out
