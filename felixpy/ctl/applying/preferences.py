"""Whether two BGPAdvertisements give one path different local preferences: which one would hold is for nobody to guess.

In, out the objects about to be written and those in etcd → which two disagree, and about which pool. Those that select
        Services are left out: where they would meet is not known. An object that cannot be read says nothing.
Source  metallb internal/config (validateBGPAdvPerPool, bgpAdvertisementsOverlap).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from felixpy.calc.announcing.advertisements import selects
from felixpy.ctl.applying.aggregates import ADVERTISEMENTS, POOLS, covers_pool, read_object
from felixpy.ctl.manifests import Body, Manifest, Problem
from felixpy.resources.kinds import BY_TYPE, CALICO, KindInfo
from felixpy.resources.service_types import AddressPool, BgpAdvertisement
from felixpy.resources.types import Node

_NODES = BY_TYPE[CALICO, "Node"]
_READ = (ADVERTISEMENTS, POOLS, _NODES)


def disagreeing(
    manifests: Sequence[Manifest], existing: Mapping[str, tuple[KindInfo, Body]]
) -> Iterator[tuple[Manifest, Problem]]:
    """Each advertisement among `manifests` that disagrees with one in etcd, or with an earlier one."""
    ours = {one.info.key(one.name): one for one in manifests if one.info in _READ}
    bodies = {key: body for key, (info, body) in existing.items() if info in _READ}
    bodies |= {key: one.body for key, one in ours.items()}
    values = {key: read_object(key, body) for key, body in bodies.items()}
    pools = {key: value for key, value in values.items() if isinstance(value, AddressPool)}
    nodes = [dict(value.labels) for value in values.values() if isinstance(value, Node)]
    seen = {key: value for key, value in values.items() if isinstance(value, BgpAdvertisement) and key not in ours}
    for key, one in values.items():
        if key not in ours or not isinstance(one, BgpAdvertisement):
            continue
        for other_key, other in seen.items():
            met = next((name for name, pool in pools.items() if _meet(one, other, name, pool, nodes)), None)
            if met is not None and (one.local_pref or 0) != (other.local_pref or 0):
                names = other_key.removeprefix(ADVERTISEMENTS.prefix), met.removeprefix(POOLS.prefix)
                said = f"is {one.local_pref or 0}, and BGPAdvertisement {names[0]} says {other.local_pref or 0}"
                yield (
                    ours[key],
                    Problem(("spec", "localPref"), f"{said} for the same paths of IPAddressPool {names[1]}"),
                )
        seen[key] = one


def _meet(
    one: BgpAdvertisement, other: BgpAdvertisement, key: str, pool: AddressPool, nodes: Sequence[Mapping[str, str]]
) -> bool:
    """Whether some node would tell some peer of a prefix of the pool by both."""
    if one.service_selectors or other.service_selectors:
        return False
    if not (covers_pool(one, key, pool) and covers_pool(other, key, pool)):
        return False
    sizes = {len(span.first) for span in pool.ranges}
    alike = (4 in sizes and one.aggregation4 == other.aggregation4) or (
        16 in sizes and one.aggregation6 == other.aggregation6
    )
    peers = not one.peers or not other.peers or bool({*one.peers} & {*other.peers})
    return alike and peers and _share_node(one, other, nodes)


def _share_node(one: BgpAdvertisement, other: BgpAdvertisement, nodes: Sequence[Mapping[str, str]]) -> bool:
    if not nodes:
        return not one.node_selectors or not other.node_selectors or one.node_selectors == other.node_selectors
    return any(selects(one.node_selectors, labels) and selects(other.node_selectors, labels) for labels in nodes)
