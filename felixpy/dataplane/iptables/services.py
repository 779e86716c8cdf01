"""How a frontend picks one of its backends in iptables, and how the slots of sources are told apart. Pure.

At random, each slot has the chance that the rest of them leaves it. Slots of sources are those of the hash that
xt_cluster makes, the same on every node: 32 groups, and groups of these where there are more slots. Which slot a client
is in differs from nftables (another hash); that it stays there does not.
Source: net/netfilter/xt_cluster.c (XT_CLUSTER_NODES_MAX), xt_statistic.c; pkg/proxy/iptables of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from felixpy.addresses import format_address
from felixpy.dataplane.iptables.terms import Inexpressible
from felixpy.dataplane.rules import Balance, SourceSlotIn

CLUSTER_GROUPS = 32
_FIRST_SEED = 1


def render_balance(balance: Balance, frontend: bytes, slots: Sequence[bytes | None]) -> Iterator[str]:
    """The specifications of a frontend's own chain; a slot without a backend does nothing."""
    protocol = frontend[-8]
    for position, backend in enumerate(slots):
        left = len(slots) - position
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        yield chance + _target(backend, protocol)


def match_slots(match: SourceSlotIn) -> Iterator[str]:
    """Alternatives, one a slot.

    Raises  Inexpressible.
    """
    sizes = []
    left = match.count
    while left > 1:
        sizes.append(min(CLUSTER_GROUPS, left))
        left, rest = divmod(left, sizes[-1])
        if rest:
            raise Inexpressible(f"{match.count} slots by source")
    for slot in match.slots:
        words, within, left = [], slot, match.count
        for seed, size in enumerate(sizes, _FIRST_SEED):
            left //= size
            group, within = divmod(within, left)
            words.append(_cluster(size, group, seed))
        yield " ".join(words)


def _cluster(total: int, group: int, seed: int) -> str:
    """One group of `total`; iptables(8) takes no mask of more than five of them, so a rule names one."""
    return f"-m cluster --cluster-total-nodes {total} --cluster-local-node {group + 1} --cluster-hash-seed {seed:#x}"


def _target(backend: bytes | None, protocol: int) -> str:
    """The backend as the maps hold it: address, port, two bytes of padding."""
    if backend is None:
        return "-j RETURN"
    return f"-p {protocol} {translate_to(backend[:-4], int.from_bytes(backend[-4:-2], 'big'))}"


def translate_to(address: bytes, port: int) -> str:
    """The target that leads a connection to an address and a port."""
    text = format_address(address)
    return f"-j DNAT --to-destination {f'[{text}]' if ':' in text else text}:{port}"
