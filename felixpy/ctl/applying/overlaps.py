"""Who lays claim to addresses, and which claims exclude each other: two holders of one address serve nobody.

In, out the objects about to be written and those in etcd → who overlaps whom, with both names. Pools exclude others,
        Calico's and MetalLB's alike; a pool of Service addresses excludes the nodes' addresses, the Services' cluster
        addresses and their range (BGPConfiguration.serviceClusterIPs) as well. Nodes and Services are never refused:
        they are there already.
Source  libcalico-go/lib/clientv3/ippool.go; metallb internal/config (cidrsOverlap).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from felixpy.addresses import parse_address, parse_prefix
from felixpy.ctl.manifests import Body, Json, Manifest, Path, Problem
from felixpy.resources.kinds import CALICO, KINDS, KindInfo

POOL_KINDS = tuple(info for info in KINDS if info.kind in ("IPPool", "IPAddressPool"))
REFUSED_KINDS = (
    *POOL_KINDS,
    *(info for info in KINDS if info.kind == "BGPConfiguration"),
)
CLAIMING_KINDS = (
    *REFUSED_KINDS,
    *(info for info in KINDS if (info.kind, info.api_version) in (("Node", CALICO), ("Service", "v1"))),
)
"""Kinds whose objects say that addresses are somebody's."""


class Claim(StrEnum):
    """What somebody has addresses for."""

    PODS = "pods"
    SERVICES = "Service addresses"
    CLUSTER = "cluster addresses"
    NODE = "a node"


_EXCLUDES = {
    Claim.PODS: frozenset({Claim.PODS, Claim.SERVICES}),
    Claim.SERVICES: frozenset(Claim),
    Claim.CLUSTER: frozenset({Claim.SERVICES}),
    Claim.NODE: frozenset({Claim.SERVICES}),
}


class Claimed(NamedTuple):
    """Addresses from `first` to `last`, as numbers of `size` bytes; `path` is the field of `owner` that says so."""

    owner: str
    claim: Claim
    path: Path
    text: str
    size: int
    first: int
    last: int

    def clashes(self, other: Claimed) -> bool:
        """Whether the two may not both be."""
        shared = self.size == other.size and self.first <= other.last and other.first <= self.last
        return shared and other.claim in _EXCLUDES[self.claim]


def claims_of(info: KindInfo, name: str, body: Body) -> Iterator[Claimed]:
    """What an object lays claim to; text that is no address lays claim to nothing."""
    spec = body.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    for claim, path, text in _texts(info, spec):
        span = _span(text)
        if span is not None:
            yield Claimed(f"{info.kind} {name}", claim, path, text, *span)


def overlaps(
    manifests: Sequence[Manifest], existing: Mapping[str, tuple[KindInfo, Body]]
) -> Iterator[tuple[Manifest, Problem]]:
    """Each object among `manifests` that overlaps one in etcd (by key, unless it is replaced) or an earlier one."""
    replaced = {manifest.info.key(manifest.name) for manifest in manifests}
    held: list[Claimed] = [
        claimed
        for key, (info, body) in existing.items()
        if key not in replaced
        for claimed in claims_of(info, key.removeprefix(info.prefix), body)
    ]
    for manifest in manifests:
        if manifest.info not in CLAIMING_KINDS:
            continue
        own = list(claims_of(manifest.info, str(manifest.name), manifest.body))
        clashes = [
            Problem(mine.path, f"{mine.text} overlaps {theirs.text} of {theirs.owner}")
            for theirs in held
            for mine in own
            if manifest.info in REFUSED_KINDS and mine.clashes(theirs)
        ]
        yield from ((manifest, clash) for clash in clashes)
        if not clashes:
            held += own


def overlapping(claimed: Sequence[Claimed]) -> Iterator[tuple[Claimed, Claimed]]:
    """Every pair of owners that overlap, once; both as they stand in etcd."""
    told: set[frozenset[str]] = set()
    ordered = sorted(claimed, key=lambda one: (one.size, one.first))
    for place, one in enumerate(ordered):
        for other in ordered[place + 1 :]:
            if other.size != one.size or other.first > one.last:
                break
            pair = frozenset({one.owner, other.owner})
            if one.owner != other.owner and one.clashes(other) and pair not in told:
                told.add(pair)
                yield one, other


def _texts(info: KindInfo, spec: Mapping[str, Json]) -> Iterator[tuple[Claim, Path, str]]:
    match info.kind:
        case "IPPool":
            uses = spec.get("allowedUses")
            for_services = isinstance(uses, list) and "LoadBalancer" in uses
            yield from _listed(Claim.SERVICES if for_services else Claim.PODS, ("spec", "cidr"), [spec.get("cidr")])
        case "IPAddressPool":
            yield from _listed(Claim.SERVICES, ("spec", "addresses"), spec.get("addresses"))
        case "BGPConfiguration":
            given = spec.get("serviceClusterIPs")
            ranges = [one.get("cidr") for one in given if isinstance(one, dict)] if isinstance(given, list) else []
            yield from _listed(Claim.CLUSTER, ("spec", "serviceClusterIPs"), ranges)
        case "Service":
            clusters = spec.get("clusterIPs") or [spec.get("clusterIP")]
            yield from _listed(Claim.CLUSTER, ("spec", "clusterIPs"), clusters)
        case "Node":
            bgp = spec.get("bgp")
            bgp = bgp if isinstance(bgp, dict) else {}
            for word in ("ipv4Address", "ipv6Address"):
                text = bgp.get(word)
                if isinstance(text, str):
                    yield Claim.NODE, ("spec", "bgp", word), text.partition("/")[0]
        case _:
            pass


def _listed(claim: Claim, path: Path, given: Json | Iterable[Json]) -> Iterator[tuple[Claim, Path, str]]:
    texts = given if isinstance(given, list) else []
    for index, text in enumerate(texts):
        if isinstance(text, str):
            yield claim, path if path[-1] == "cidr" else (*path, index), text


def _span(text: str) -> tuple[int, int, int] | None:
    first, dash, last = text.partition("-")
    try:
        if dash:
            low, high = parse_address(first.strip()), parse_address(last.strip())
            return len(low), int.from_bytes(low, "big"), int.from_bytes(high, "big")
        prefix = parse_prefix(text)
    except ValueError:
        return None
    bits = len(prefix.address) * 8 - prefix.length
    number = int.from_bytes(prefix.address, "big")
    return len(prefix.address), number, number + (1 << bits) - 1
