"""What people change of address management as a whole: its settings, and a pool made into smaller ones.

In: the stored bytes; out: what to write, or a Refused. The settings are at Calico's own key where that exists, else in
the IPAMConfiguration that somebody applied; they are changed where they are. Fields that we do not know stay. Pure.
Source: libcalico-go/lib/ipam/ipam.go (SetIPAMConfig); calicoctl/commands/ipam/{configure,split}.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import msgspec

from felixpy.ctl.manifests import Body, Json, Problem
from felixpy.ctl.stored import Stamp, encode_body, parse_body
from felixpy.ctl.validate.pools import ConfigurationSpec
from felixpy.ctl.validate.shape import check_shape
from ipam.addresses import Prefix
from ipam.codec import Malformed, parse_config, parse_configuration, parse_pool, render_config
from ipam.model import CONFIG_KEY, CONFIGURATION_KEY, Config, Pool, pool_key

PERSISTENCE = "kubeVirtVMAddressPersistence"
MOST_PARTS = 64
"""What one transaction makes of a pool: etcd takes 128 operations."""


class Refused(Exception):
    """Nothing is changed, and why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings by Calico's names, and the key that they are at (or would be)."""

    key: str
    values: Mapping[str, Json]


def read_settings(own: bytes | None, applied: bytes | None) -> Settings:
    """The settings that hold: of Calico's own key, else of the applied IPAMConfiguration, else the usual ones.

    Raises  Refused when they cannot be read.
    """
    key = CONFIGURATION_KEY if own is None and applied is not None else CONFIG_KEY
    try:
        if own is not None:
            return Settings(key, _values_of(parse_config(own), ""))
        if applied is None:
            return Settings(key, _values_of(Config(), ""))
        spec = parse_body(applied).get("spec")
        persistence = spec.get(PERSISTENCE) if isinstance(spec, dict) else None
        return Settings(key, _values_of(parse_configuration(applied), str(persistence or "")))
    except (Malformed, ValueError) as error:
        raise Refused(f"{key} cannot be read: {error}") from None


def _values_of(config: Config, persistence: str) -> Mapping[str, Json]:
    return {
        "strictAffinity": config.strict_affinity,
        "autoAllocateBlocks": config.auto_allocate_blocks,
        "maxBlocksPerHost": config.max_blocks,
        PERSISTENCE: str(config.extra.get(PERSISTENCE) or persistence or "Disabled"),
        "ipCooldownSeconds": config.cooldown_s,
    }


def check_settings(values: Mapping[str, Json]) -> tuple[Problem, ...]:
    """Everything that is wrong with settings."""
    return tuple(check_shape(ConfigurationSpec, dict(values)))


def render_settings(settings: Settings, values: Mapping[str, Json], stored: bytes | None) -> bytes:
    """What is stored, with `values` as its settings."""
    if settings.key == CONFIGURATION_KEY and stored is not None:
        body = parse_body(stored)
        spec = body.get("spec")
        return encode_body({**body, "spec": {**(spec if isinstance(spec, dict) else {}), **values}})
    before = parse_config(stored) if stored is not None else Config()
    fields = msgspec.convert(values, _Fields)
    said = PERSISTENCE in before.extra or fields.persistence != "Disabled"
    config = replace(
        before,
        strict_affinity=fields.strict_affinity,
        auto_allocate_blocks=fields.auto_allocate_blocks,
        max_blocks=fields.max_blocks_per_host,
        cooldown_s=fields.ip_cooldown_seconds,
        extra={**before.extra, **({PERSISTENCE: fields.persistence} if said else {})},
    )
    return render_config(config)


class _Fields(msgspec.Struct, rename="camel"):
    strict_affinity: bool
    auto_allocate_blocks: bool
    max_blocks_per_host: int
    ip_cooldown_seconds: int
    persistence: str = msgspec.field(name=PERSISTENCE)


@dataclass(frozen=True, slots=True)
class Part:
    """One of the pools that a pool is made into."""

    name: str
    cidr: Prefix
    value: bytes

    @property
    def key(self) -> str:
        return pool_key(self.name)


def split_pool(value: bytes, parts: int, stamps: Iterator[Stamp]) -> tuple[Pool, tuple[Part, ...]]:
    """A stored pool, and the equal parts to put in its place: like it in all but name and range. No block changes.

    Raises  Refused.
    """
    try:
        pool, body = parse_pool(value), parse_body(value)
    except (Malformed, ValueError) as error:
        raise Refused(f"the pool cannot be read: {error}") from None
    if parts < 2 or parts & (parts - 1) or parts > MOST_PARTS:
        raise Refused(f"a pool is split into 2, 4, 8, ... or {MOST_PARTS} parts, not {parts}")
    length = pool.cidr.length + parts.bit_length() - 1
    if length > pool.block_length:
        most = 1 << (pool.block_length - pool.cidr.length)
        raise Refused(f"{pool.name} has {most} blocks of /{pool.block_length}, so that it has no {parts} parts")
    size = pool.cidr.size // parts
    cidrs = [Prefix(pool.cidr.nth(number * size), length) for number in range(parts)]
    return pool, tuple(_make_part(body, pool, number, cidr, next(stamps)) for number, cidr in enumerate(cidrs))


def _make_part(body: Body, pool: Pool, number: int, cidr: Prefix, stamp: Stamp) -> Part:
    name = f"split-{pool.name[:245]}-{number}"
    metadata, spec = body.get("metadata"), body.get("spec")
    assert isinstance(metadata, dict)
    assert isinstance(spec, dict)
    fresh = {"name": name, "uid": stamp.uid, "creationTimestamp": stamp.now}
    made: Body = {**body, "metadata": {**metadata, **fresh}, "spec": {**spec, "cidr": str(cidr)}}
    return Part(name, cidr, encode_body(made))
