"""Pools that share addresses: two would give the same address to two holders, so the second is refused.

In, out the pools about to be written and those in etcd → who overlaps whom. Calico's pools are held against Calico's,
        MetalLB's against MetalLB's.
Source  libcalico-go/lib/clientv3/ippool.go; metallb internal/config (cidrsOverlap).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from felixpy.addresses import parse_address, parse_prefix
from felixpy.ctl.manifests import Body, Manifest, Path, Problem
from felixpy.resources.kinds import KINDS, KindInfo

POOL_KINDS = tuple(info for info in KINDS if info.kind in ("IPPool", "IPAddressPool"))


class Span(NamedTuple):
    """Addresses from `first` to `last`, as numbers of `bytes_long` bytes; `path` is the field that says so."""

    path: Path
    text: str
    bytes_long: int
    first: int
    last: int


def spans_of(info: KindInfo, body: Body) -> list[Span]:
    """What a pool holds; text that is no range of addresses holds nothing."""
    spec = body.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    if info.kind == "IPPool":
        texts: list[tuple[Path, object]] = [(("spec", "cidr"), spec.get("cidr"))]
    else:
        given = spec.get("addresses")
        listed = given if isinstance(given, list) else []
        texts = [(("spec", "addresses", index), text) for index, text in enumerate(listed)]
    return [span for path, text in texts if isinstance(text, str) and (span := _span(path, text)) is not None]


def overlaps(
    manifests: Sequence[Manifest], existing: Mapping[str, tuple[KindInfo, Body]]
) -> Iterator[tuple[Manifest, Problem]]:
    """Each pool among `manifests` that overlaps one in etcd (by key, unless it is being replaced) or an earlier one."""
    held: dict[str, tuple[KindInfo, str, list[Span]]] = {
        key: (info, key.removeprefix(info.prefix), spans_of(info, body)) for key, (info, body) in existing.items()
    }
    for manifest in manifests:
        held.pop(manifest.info.key(manifest.name), None)
    for manifest in manifests:
        info = manifest.info
        if info not in POOL_KINDS:
            continue
        spans = spans_of(info, manifest.body)
        clashes = [
            Problem(mine.path, f"{mine.text} overlaps {theirs.text} of {info.kind} {name}")
            for other, name, others in held.values()
            if other == info
            for theirs in others
            for mine in spans
            if mine.bytes_long == theirs.bytes_long and mine.first <= theirs.last and theirs.first <= mine.last
        ]
        yield from ((manifest, clash) for clash in clashes)
        if not clashes:
            held[info.key(manifest.name)] = (info, str(manifest.name), spans)


def _span(path: Path, text: str) -> Span | None:
    first, dash, last = text.partition("-")
    try:
        if dash:
            low, high = parse_address(first.strip()), parse_address(last.strip())
            return Span(path, text, len(low), int.from_bytes(low, "big"), int.from_bytes(high, "big"))
        prefix = parse_prefix(text)
    except ValueError:
        return None
    bits = len(prefix.address) * 8 - prefix.length
    number = int.from_bytes(prefix.address, "big")
    return Span(path, text, len(prefix.address), number, number + (1 << bits) - 1)
