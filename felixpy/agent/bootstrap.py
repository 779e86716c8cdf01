"""First things: an empty datastore is made a cluster, and a cluster without pools gets those that were asked for.

Runs once the syncer says that this node has never obeyed a cluster and finds none. Everything is written as one
compare-and-swap on ClusterInformation, so of many first agents one wins. Source: Calico's own initialisation
(libcalico-go/lib/clientv3/client.go, EnsureInitialized).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from felixpy.addresses import Prefix
from felixpy.datastore.cluster import CLUSTER_INFORMATION_KEY
from felixpy.datastore.model import Expect, Store, Write
from felixpy.resources.kinds import BY_TYPE, CALICO, Name

READY_KEY = b"/calico/v1/Ready"
TIERS: tuple[tuple[str, float, str], ...] = (
    ("kube-admin", 1_000, "Pass"),
    ("default", 1_000_000, "Deny"),
    ("kube-baseline", 10_000_000, "Pass"),
)
"""Calico's built-in tiers: name, order, default action."""
BLOCK_SIZE = {4: 26, 6: 122}


def _key(kind: str, name: str) -> bytes:
    info = BY_TYPE[CALICO, kind]
    return info.key(Name("", name)).encode()


def _render(kind: str, name: str, now: datetime, spec: Mapping[str, object]) -> bytes:
    meta = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return msgspec.json.encode({"kind": kind, "apiVersion": CALICO, "metadata": meta, "spec": spec})


async def initialise_cluster(store: Store, now: datetime) -> bool:
    """Makes an empty datastore a cluster; whether we were the one that did."""
    info = {"clusterGUID": uuid.uuid4().hex, "clusterType": "felixpy", "calicoVersion": "", "datastoreReady": True}
    writes = [
        Write(CLUSTER_INFORMATION_KEY, _render("ClusterInformation", "default", now, info)),
        Write(READY_KEY, b"true"),
    ]
    for name, order, action in TIERS:
        writes.append(Write(_key("Tier", name), _render("Tier", name, now, {"order": order, "defaultAction": action})))
    result = await store.transact([Expect(write.key, 0) for write in writes[:1]], writes)
    return result.succeeded


async def ensure_pools(store: Store, pools: Sequence[Prefix], now: datetime) -> bool:
    """Makes the pools where the cluster has none at all; whether it did."""
    prefix = _key("IPPool", "x")[:-1]
    if not pools or (await store.snapshot([prefix])).items:
        return False
    writes = []
    for pool in pools:
        name = f"default-ipv{pool.version}-ippool"
        spec = {
            "cidr": str(pool),
            "blockSize": max(BLOCK_SIZE[pool.version], pool.length),
            "ipipMode": "Never",
            "vxlanMode": "Never",
            "natOutgoing": pool.version == 4,
            "nodeSelector": "all()",
            "allowedUses": ["Workload", "Tunnel"],
        }
        writes.append(Write(_key("IPPool", name), _render("IPPool", name, now, spec)))
    return (await store.transact([Expect(write.key, 0) for write in writes], writes)).succeeded
