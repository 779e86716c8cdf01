"""How full each pool of Service addresses is, as its status says.

In: pools and grants; out: a Step for each pool whose status is not so. MetalLB's fields: assigned and available
addresses by family. Pure.
Source: metallb api/v1beta1/ipaddresspool_types.go (IPAddressPoolStatus), internal/allocator (poolCount).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from felixpy.addresses import Address
from felixpy.controllers.batch import Step
from felixpy.datastore.model import Expect, Write
from felixpy.resources.kinds import BY_TYPE, STATUS_PREFIX, Name
from felixpy.resources.service_types import AddressPool, AddressRange, Grant

POOLS = BY_TYPE["metallb.io/v1beta1", "IPAddressPool"]
_PREFIX = f"{STATUS_PREFIX}{POOLS.group}/{POOLS.version}/{POOLS.plural}/"
ENDLESS, MOST = 1 << 62, (1 << 63) - 1
"""What a pool of so many addresses or more is said to have (math.MaxInt64)."""


class PoolCount(NamedTuple):
    """How many addresses of a pool are held, and how many it can give out in all, by family; and how many Services."""

    held4: int
    size4: int
    held6: int
    size6: int
    services: int = 0


class PoolStatus:
    """What the status of each pool says, and how many addresses are held; counted anew only after `forget`."""

    def __init__(self) -> None:
        self._said: dict[Name, bytes] = {}
        self._sizes: dict[str, tuple[AddressPool, Name, tuple[int, int]]] | None = None
        self._held: Counter[tuple[str, int]] = Counter()
        self._holders: dict[str, Counter[Name]] = {}
        self._stale = True

    def owns(self, key: bytes) -> bool:
        """Whether a key is the status of a pool."""
        return key.startswith(_PREFIX.encode())

    def observe(self, key: str, value: bytes | None) -> bool:
        """Takes a key, if it is one of ours."""
        if not key.startswith(_PREFIX):
            return False
        namespace, _, last = key.removeprefix(_PREFIX).partition("/")
        self._stale = True
        if value is None:
            self._said.pop(Name(namespace, last), None)
        else:
            self._said[Name(namespace, last)] = value
        return True

    def counts(self) -> Mapping[str, PoolCount]:
        """How full each pool is, as of the last steps."""
        sizes = self._sizes or {}
        return {
            pool: PoolCount(self._held[pool, 4], size4, self._held[pool, 16], size6, len(self._holders.get(pool, ())))
            for pool, (_, _, (size4, size6)) in sizes.items()
        }

    def forget(self) -> None:
        """The pools are others now."""
        self._sizes, self._stale = None, True

    def recount(self, address: Address, before: Grant | None, after: Grant | None) -> None:
        """An address is held otherwise than before."""
        self._stale = True
        if self._sizes is not None:
            self._count(address, before, -1)
            self._count(address, after, 1)

    def _count(self, address: Address, grant: Grant | None, step: int) -> None:
        """An address that was given out before its pool shrank is none of the pool's."""
        known = self._sizes.get(grant.pool) if self._sizes is not None and grant is not None else None
        if grant is None or known is None or not any(_holds(one, address) for one in known[0].ranges):
            return
        self._held[known[1].name, len(address)] += step
        holders = self._holders.setdefault(known[1].name, Counter())
        for service in grant.services:
            holders[service] += step
            if not holders[service]:
                del holders[service]

    def steps(
        self,
        pools: Mapping[Name, AddressPool],
        grants: Mapping[Address, Grant],
        revisions: Mapping[bytes, int],
        most: int,
    ) -> list[Step]:
        """What there is to write of at most so many pools. Of pools with one name the first namespace's counts."""
        if not self._stale:
            return []
        if self._sizes is None:
            self._sizes = {
                name.name: (pool, name, count_addresses(pool)) for name, pool in sorted(pools.items(), reverse=True)
            }
            self._held.clear()
            self._holders.clear()
            for address, grant in grants.items():
                self._count(address, grant, 1)
        wanted = {name: self._render(name.name, sizes) for _, name, sizes in self._sizes.values()}
        found = [
            _step(name, wanted.get(name), revisions)
            for name in sorted({*wanted, *self._said})
            if wanted.get(name) != self._said.get(name)
        ]
        self._stale = len(found) > most
        return found[:most]

    def _render(self, pool: str, sizes: tuple[int, int]) -> bytes:
        body = {}
        for (version, size_bytes), size in zip(((4, 4), (6, 16)), sizes, strict=True):
            held = self._held[pool, size_bytes]
            body[f"assignedIPv{version}"] = held
            body[f"availableIPv{version}"] = MOST if size >= ENDLESS else size - held
        return msgspec.json.encode(body)


def _step(name: Name, status: bytes | None, revisions: Mapping[bytes, int]) -> Step:
    key = POOLS.status_key(name).encode()
    expect = (Expect(key, revisions.get(key, 0)),)
    return Step(None, expect, (Write(key, status),), f"pool {name} says {(status or b'nothing').decode()}")


def count_addresses(pool: AddressPool) -> tuple[int, int]:
    """How many addresses of each family a pool can give out."""
    return _total(one for one in pool.ranges if len(one.first) == 4) - (
        sum(_count_buggy(one) for one in pool.ranges) if pool.avoid_buggy else 0
    ), _total(one for one in pool.ranges if len(one.first) == 16)


def _total(ranges: Iterator[AddressRange] | Iterable[AddressRange]) -> int:
    return sum(int.from_bytes(one.last, "big") - int.from_bytes(one.first, "big") + 1 for one in ranges)


def _holds(one: AddressRange, address: Address) -> bool:
    return len(address) == len(one.first) and one.first <= address <= one.last


def _count_buggy(one: AddressRange) -> int:
    """How many addresses of a range end in .0 or .255."""
    if len(one.first) != 4:
        return 0
    first, last = int.from_bytes(one.first, "big"), int.from_bytes(one.last, "big")
    return sum((last - ending) // 256 - (first - 1 - ending) // 256 for ending in (0, 255))
