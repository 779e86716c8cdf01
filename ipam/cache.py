"""What is known of the datastore: this owner's blocks and claims in full, of everyone else's only that they exist.

In: keys as they were read, committed or watched; out: parsed values with the revision that a commit has to expect.
Knowledge may be outdated at any time: a commit compares it, so being wrong costs a retry and nothing else.
Does no input or output. Of another owner's block it keeps how many addresses are free, not the block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import TypeVar

from .addresses import Prefix
from .choose import iter_overlapping
from .codec import (
    Malformed,
    parse_affinity,
    parse_block,
    parse_config,
    parse_configuration,
    parse_handle,
    parse_pool,
    parse_reservation,
)
from .model import (
    BLOCKS_PREFIX,
    CONFIG_KEY,
    CONFIGURATION_KEY,
    HANDLES_PREFIX,
    POOLS_PREFIX,
    RESERVATIONS_PREFIX,
    Affinity,
    Block,
    Config,
    Handle,
    Owner,
    Pool,
    affinities_prefix,
    parse_affinity_key,
    parse_block_key,
)
from .store import Versioned


@dataclass(frozen=True, slots=True)
class Reservation:
    """Ranges that are not given out unless asked for."""

    cidrs: tuple[Prefix, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """A value that cannot be read: it is neither used nor overwritten."""

    problem: Malformed


@dataclass(frozen=True, slots=True)
class Foreign:
    """A value of a key that is not of this package's kinds; only its revision matters."""


Value = Block | Affinity | Handle | Config | Pool | Reservation | Broken | Foreign


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value, None when it is absent; older news than `as_of` is no news."""

    value: Value | None
    mod_revision: int
    as_of: int


T = TypeVar("T")

UNSURE = -1
"""How many addresses of a block are free, when that has to be read first."""


class Cache:
    """Keys and their values. `free` has every block known to exist, with its free addresses or UNSURE.

    `complete` says that whatever exists has been observed, but for what the watch has not brought yet.
    """

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.complete = False
        self.entries: dict[str, Entry] = {}
        self.own: dict[Prefix, str] = {}
        self.free: dict[Prefix, int] = {}
        self._lengths: Counter[tuple[int, int]] = Counter()
        self._own_prefix = affinities_prefix(owner)
        self._own_mark = f'"affinity":"{owner}"'.encode()
        self._passing: set[str] = set()
        self._pools: dict[str, Pool] = {}
        self._reservations: dict[str, Reservation] = {}

    def learn(self, key: str, found: Versioned | None, as_of: int = 0) -> None:
        """Takes a key as it was read, or as a refused commit reported it."""
        if found is None:
            self.put(key, None, 0, as_of)
        else:
            self.put(key, _parse(key, found.value), found.mod_revision, max(as_of, found.mod_revision))

    def put(self, key: str, value: Value | None, mod_revision: int, as_of: int) -> None:
        """Takes a key with its value already parsed."""
        cidr = parse_block_key(key)
        if cidr is not None:
            self._note_block(cidr, value)
        elif key.startswith(self._own_prefix):
            self._note_affinity(key, value)
        elif key.startswith(POOLS_PREFIX):
            _note(self._pools, key, value if isinstance(value, Pool) else None)
        elif key.startswith(RESERVATIONS_PREFIX):
            _note(self._reservations, key, value if isinstance(value, Reservation) else None)
        self.entries[key] = Entry(value, mod_revision, as_of)
        if self._is_passing(key, value):
            self._passing.add(key)
        else:
            self._passing.discard(key)

    def observe(self, key: str, value: bytes | None, mod_revision: int) -> None:
        """Takes a change that a watch reports; one that is older than what is known is ignored."""
        entry = self.entries.get(key)
        if entry is not None and mod_revision <= entry.as_of:
            return
        cidr = parse_block_key(key)
        if entry is None and cidr is not None and (value is None or self._own_mark not in value):
            self._note_free(cidr, None if value is None else _count_free(value))
        elif entry is not None or cidr is not None or self._is_followed(key):
            self.learn(key, None if value is None else Versioned(value, mod_revision), mod_revision)

    def assume_complete(self) -> None:
        """Whatever exists has been observed."""
        self.complete = True
        for key in (CONFIG_KEY, CONFIGURATION_KEY):
            self.entries.setdefault(key, Entry(None, 0, 0))

    def forget(self, key: str) -> None:
        """Drops what is known of a key, after a commit with unknown outcome."""
        self.entries.pop(key, None)

    def forget_others(self) -> None:
        """Drops what is known of the free addresses in other owners' blocks."""
        for cidr in self.free:
            if cidr not in self.own:
                self.free[cidr] = UNSURE
        self.drop_passing()

    def drop_full(self, keys: Iterable[str]) -> None:
        """Drops those of these keys that are other owners' blocks without a free address; that they are is kept."""
        for key in self._passing.intersection(keys):
            cidr = parse_block_key(key)
            if cidr is not None and self.free.get(cidr) == 0:
                self.forget(key)

    def drop_passing(self) -> None:
        """Drops values that were read for one decision only."""
        for key in self._passing:
            self.entries.pop(key, None)
        self._passing.clear()

    def retain(self, prefix: str, listed: Container[str]) -> None:
        """Takes a full list of the keys below a prefix: those that are not on it do not exist."""
        for key in [key for key in self.entries if key.startswith(prefix) and key not in listed]:
            self.put(key, None, 0, 0)

    def pools(self) -> list[Pool]:
        """All readable pools."""
        return list(self._pools.values())

    def reserved(self) -> tuple[Prefix, ...]:
        """All reserved ranges."""
        return tuple(cidr for each in self._reservations.values() for cidr in each.cidrs)

    def broken(self) -> dict[str, Malformed]:
        """Keys whose values cannot be read, to be reported."""
        return {key: entry.value.problem for key, entry in self.entries.items() if isinstance(entry.value, Broken)}

    def overlaps(self, cidr: Prefix) -> bool:
        """Whether blocks of another size are known to lie where `cidr` would."""
        lengths = [length for (version, length) in self._lengths if version == cidr.version]
        return any(other in self.free for other in iter_overlapping(cidr, lengths))

    def _note_block(self, cidr: Prefix, value: Value | None) -> None:
        if value is None:
            self._note_free(cidr, None)
        elif isinstance(value, Block) and not value.deleted:
            resting = sum(1 for attribute in value.attributes if attribute.released_at is not None)
            self._note_free(cidr, len(value.unallocated) + resting)
        else:
            self._note_free(cidr, 0)

    def _note_free(self, cidr: Prefix, free: int | None) -> None:
        kind = (cidr.version, cidr.length)
        if free is None:
            if self.free.pop(cidr, None) is not None:
                self._lengths[kind] -= 1
                self._lengths += Counter()
        else:
            self._lengths[kind] += cidr not in self.free
            self.free[cidr] = free

    def _note_affinity(self, key: str, value: Value | None) -> None:
        claim = parse_affinity_key(key)
        if claim is None:
            return
        if value is None:
            self.own.pop(claim[1], None)
        elif claim[1] not in self.own:
            self.own = dict(sorted([*self.own.items(), (claim[1], key)]))

    def _is_followed(self, key: str) -> bool:
        return key in (CONFIG_KEY, CONFIGURATION_KEY) or key.startswith(
            (self._own_prefix, POOLS_PREFIX, RESERVATIONS_PREFIX)
        )

    def _is_passing(self, key: str, value: Value | None) -> bool:
        if key.startswith(BLOCKS_PREFIX):
            return not (isinstance(value, Block) and value.is_owned_by(self.owner))
        return not self._is_followed(key) and not (key.startswith(HANDLES_PREFIX) and isinstance(value, Handle))


def _count_free(value: bytes) -> int:
    """How many addresses of a block are free, by a look at its JSON; UNSURE where that does not tell.

    Another's block is not worth parsing for each of its changes; what is taken from it is read, and compared.
    """
    _, _, tail = value.partition(b'"unallocated":[')
    free, closed, _ = tail.partition(b"]")
    if not closed or b'"releasedAt"' in value or b'"deleted":true' in value:
        return UNSURE
    return free.count(b",") + 1 if free else 0


def _note(known: dict[str, T], key: str, value: T | None) -> None:
    if value is None:
        known.pop(key, None)
    else:
        known[key] = value


def _parse(key: str, value: bytes) -> Value:
    for prefix, parse in _PARSERS:
        if key.startswith(prefix):
            try:
                return parse(value)
            except Malformed as problem:
                return Broken(problem)
    if parse_affinity_key(key) is not None:
        try:
            return parse_affinity(value)
        except Malformed as problem:
            return Broken(problem)
    return Foreign()


def _reservation(value: bytes) -> Reservation:
    return Reservation(parse_reservation(value))


_PARSERS: tuple[tuple[str, Callable[[bytes], Value]], ...] = (
    (BLOCKS_PREFIX, parse_block),
    (HANDLES_PREFIX, parse_handle),
    (POOLS_PREFIX, parse_pool),
    (RESERVATIONS_PREFIX, _reservation),
    (CONFIG_KEY, parse_config),
    (CONFIGURATION_KEY, parse_configuration),
)
