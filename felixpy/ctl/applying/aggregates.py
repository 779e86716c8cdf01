"""Whether a BGPAdvertisement would draw traffic to addresses that its pools do not have.

In, out the objects about to be written and those in etcd → which aggregation length is too short for which pool, with
        both names. An object that cannot be read says nothing here.
Source  metallb internal/config (validateBGPAdvPerPool): of each range at least one CIDR is as wide as the aggregate.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from felixpy.addresses import format_address
from felixpy.calc.announcing.advertisements import selects
from felixpy.ctl.manifests import Body, Manifest, Path, Problem
from felixpy.ctl.stored import encode_body
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import BY_TYPE, KindInfo
from felixpy.resources.service_types import AddressPool, AddressRange, BgpAdvertisement
from felixpy.resources.tables import Decoded

POOLS = BY_TYPE["metallb.io/v1beta1", "IPAddressPool"]
ADVERTISEMENTS = BY_TYPE["metallb.io/v1beta1", "BGPAdvertisement"]
_LENGTHS: Mapping[int, Path] = {4: ("spec", "aggregationLength"), 16: ("spec", "aggregationLengthV6")}


def too_wide(
    manifests: Sequence[Manifest], existing: Mapping[str, tuple[KindInfo, Body]]
) -> Iterator[tuple[Manifest, Problem]]:
    """Each advertisement, and each pool, among `manifests` that does not fit one in etcd or among them."""
    ours = {one.info.key(one.name): one for one in manifests if one.info in (POOLS, ADVERTISEMENTS)}
    bodies = {key: body for key, (info, body) in existing.items() if info in (POOLS, ADVERTISEMENTS)}
    values = {
        key: read_object(key, body) for key, body in {**bodies, **{key: one.body for key, one in ours.items()}}.items()
    }
    for key, advertisement in values.items():
        if not isinstance(advertisement, BgpAdvertisement):
            continue
        for other, pool in values.items():
            blamed = ours.get(key) or ours.get(other)
            if blamed is None or not isinstance(pool, AddressPool) or not covers_pool(advertisement, other, pool):
                continue
            for words, path in _misfits(advertisement, pool):
                names = key.removeprefix(ADVERTISEMENTS.prefix), other.removeprefix(POOLS.prefix)
                said = f"BGPAdvertisement {names[0]} aggregates to {words} of IPAddressPool {names[1]}"
                yield blamed, Problem(path if key in ours else ("spec", "addresses"), said)


def read_object(key: str, body: Body) -> object:
    """What an object is to an agent; whatever it is where that cannot be read."""
    decoded = Decoder("").decode(key.encode(), encode_body(body))
    return decoded.value if isinstance(decoded, Decoded) else None


def covers_pool(one: BgpAdvertisement, key: str, pool: AddressPool) -> bool:
    """Whether an advertisement is for the pool at a key."""
    if not one.pools and not one.pool_selectors:
        return True
    by_label = bool(one.pool_selectors) and selects(one.pool_selectors, dict(pool.labels))
    return key.rpartition("/")[2] in one.pools or by_label


def _misfits(one: BgpAdvertisement, pool: AddressPool) -> Iterator[tuple[str, Path]]:
    for span in pool.ranges:
        length = one.aggregation4 if len(span.first) == 4 else one.aggregation6
        if length < _widest(span):
            text = f"{format_address(span.first)}-{format_address(span.last)}"
            yield f"/{length}, which is wider than {text}", _LENGTHS[len(span.first)]


def _widest(span: AddressRange) -> int:
    """The length of the widest CIDR inside a range."""
    first, last = (ipaddress.ip_address(address) for address in (span.first, span.last))
    return min(network.prefixlen for network in ipaddress.summarize_address_range(first, last))
