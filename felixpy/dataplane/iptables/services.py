"""How a frontend picks one of its backends in iptables. Pure.

At random, each slot has the chance that the rest of them leaves it. By source, clients are told apart by the hash of
the source address that xt_cluster makes, the same on every node: 32 groups, and groups of these where there are more
slots. Which slot a client gets differs from nftables (another hash); that it keeps it does not.
Source: net/netfilter/xt_cluster.c (XT_CLUSTER_NODES_MAX), xt_statistic.c; pkg/proxy/iptables of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from felixpy.addresses import format_address
from felixpy.dataplane.iptables.terms import Inexpressible
from felixpy.dataplane.rules import Balance

CLUSTER_GROUPS = 32
_FIRST_SEED, _SECOND_SEED = 1, 2


def render_balance(balance: Balance, frontend: bytes, slots: Sequence[bytes | None]) -> Iterator[str]:
    """The specifications of a frontend's own chain; a slot without a backend does nothing.

    Raises  Inexpressible.
    """
    protocol = frontend[-8]
    if balance.by_source and len(slots) > 1:
        yield from _by_source(slots, protocol)
        return
    for position, backend in enumerate(slots):
        left = len(slots) - position
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        yield chance + _target(backend, protocol)


def _by_source(slots: Sequence[bytes | None], protocol: int) -> Iterator[str]:
    groups = min(CLUSTER_GROUPS, len(slots))
    inner, rest = divmod(len(slots), groups)
    if rest or inner > CLUSTER_GROUPS:
        raise Inexpressible(f"{len(slots)} slots by source")
    for position, backend in enumerate(slots):
        group, within = divmod(position, inner)
        match = _cluster(groups, group, _FIRST_SEED)
        if inner > 1:
            match += _cluster(inner, within, _SECOND_SEED)
        yield match + _target(backend, protocol)


def _cluster(total: int, group: int, seed: int) -> str:
    """One group of `total`; iptables(8) takes no mask of more than five of them, so a rule names one."""
    return f"-m cluster --cluster-total-nodes {total} --cluster-local-node {group + 1} --cluster-hash-seed {seed:#x} "


def _target(backend: bytes | None, protocol: int) -> str:
    """The backend as the maps hold it: address, port, two bytes of padding."""
    if backend is None:
        return "-j RETURN"
    address, port = format_address(backend[:-4]), int.from_bytes(backend[-4:-2], "big")
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return f"-p {protocol} -j DNAT --to-destination {where}"
