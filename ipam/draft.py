"""A transaction in the making: what it would change, and everything that the decision to do so relied on.

In: the cache, and changes one by one; out: expectations and writes for one commit. A draft is immutable, so a request
that fails halfway leaves no trace in the one it began from.
Never reads or writes the datastore: a planner that lacks a key raises NeedKeys, and its caller reads and plans again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Literal

from .addresses import Prefix
from .block import stamp
from .cache import Broken, Cache, Value
from .codec import render_affinity, render_block, render_handle
from .model import (
    CONFIG_KEY,
    CONFIGURATION_KEY,
    Affinity,
    AffinityState,
    Block,
    Config,
    Handle,
    Owner,
    affinity_key,
    block_key,
    handle_key,
)
from .request import Unreadable

CONFIG_KEYS = (CONFIG_KEY, CONFIGURATION_KEY)
"""Where the configuration may be; the first that exists counts."""


class Unknown(Enum):
    """The key has not been read."""

    UNKNOWN = 0


UNKNOWN: Literal[Unknown.UNKNOWN] = Unknown.UNKNOWN


class NeedKeys(Exception):
    """A plan needs these keys, or (`claims`) a fresh list of the owner's claims, before it can go on.

    `scan` says that full blocks among the keys need not be kept.
    """

    def __init__(self, keys: Iterable[str] = (), claims: bool = False, scan: bool = False) -> None:
        super().__init__()
        self.keys = tuple(keys)
        self.claims = claims
        self.scan = scan


@dataclass(frozen=True, slots=True)
class Draft:
    """What one commit is to do, on top of what `cache` knows.

    `fresh_claims` says that the owner's claims were read; `guesses`, that a block that is not known may be taken to be
    absent, as the commit will tell.
    """

    cache: Cache
    now: datetime
    fresh_claims: bool = False
    guesses: bool = False
    changes: Mapping[str, Value | None] = field(default_factory=dict)
    relied: frozenset[str] = frozenset()

    @property
    def owner(self) -> Owner:
        """Whose allocator this is."""
        return self.cache.owner

    @property
    def knows_claims(self) -> bool:
        """Whether the owner has no claims but those that are known, as far as can be told."""
        return self.fresh_claims or self.cache.complete

    def get(self, key: str) -> Value | Unknown | None:
        """A key as the commit would leave it."""
        if key in self.changes:
            return self.changes[key]
        entry = self.cache.entries.get(key)
        return UNKNOWN if entry is None else entry.value

    def put(self, key: str, value: Value | None) -> Draft:
        """With a key changed; None deletes it."""
        return self._with({**self.changes, key: value}, self.relied)

    def rely(self, *keys: str) -> Draft:
        """With the commit depending on keys being as they are known."""
        return self._with(self.changes, self.relied.union(keys))

    def _with(self, changes: Mapping[str, Value | None], relied: frozenset[str]) -> Draft:
        return Draft(self.cache, self.now, self.fresh_claims, self.guesses, changes, relied)

    def block(self, cidr: Prefix) -> Block | Broken | None:
        """A block; Broken when it cannot be read.

        Raises  NeedKeys.
        """
        key = block_key(cidr)
        value = self.get(key)
        if value is UNKNOWN:
            raise NeedKeys([key])
        return value if isinstance(value, (Block, Broken)) else None

    def owned_block(self, cidr: Prefix) -> Block | None:
        """A block that has been read and is the owner's, else None."""
        value = self.get(block_key(cidr))
        return value if isinstance(value, Block) and value.is_owned_by(self.owner) else None

    def handle(self, handle_id: str) -> Handle | None:
        """A handle that has been read, else None.

        Raises  Unreadable.
        """
        value = self.get(handle_key(handle_id))
        if isinstance(value, Broken):
            raise Unreadable(f"handle {handle_id}: {value.problem}")
        return value if isinstance(value, Handle) and not value.deleted else None

    def config(self) -> Config:
        """The configuration.

        Raises  NeedKeys, and Unreadable.
        """
        unread = [key for key in CONFIG_KEYS if self.get(key) is UNKNOWN]
        if unread:
            raise NeedKeys(unread)
        for key in CONFIG_KEYS:
            value = self.get(key)
            if isinstance(value, Broken):
                raise Unreadable(f"{key}: {value.problem}")
            if isinstance(value, Config):
                return value
        return Config()

    def own_blocks(self) -> Iterator[Prefix]:
        """The blocks that the owner claims, with those that this draft adds."""
        for cidr, key in self.cache.own.items():
            if self.changes.get(key, key) is not None:
                yield cidr
        for value in self.changes.values():
            if isinstance(value, Block) and value.is_owned_by(self.owner) and value.cidr not in self.cache.own:
                yield value.cidr

    def put_block(self, block: Block) -> Draft:
        """With a block changed; one that is empty and nobody's is deleted."""
        gone = block.is_empty and block.affinity is None
        return self.put(block_key(block.cidr), None if gone else block)

    def confirm(self, cidr: Prefix) -> Draft:
        """With the owner's claim to a block relied on, and made good where it was not."""
        key = affinity_key(self.owner, cidr)
        value = self.get(key)
        if isinstance(value, Affinity) and value.is_confirmed:
            return self.rely(key)
        extra = value.extra if isinstance(value, Affinity) else {}
        return self.put(key, Affinity(AffinityState.CONFIRMED, extra=extra))

    def expectations(self) -> dict[str, int]:
        """The mod_revision that each key has to have. One that was never read is taken to be absent."""
        entries = self.cache.entries
        keys = (*self.changes, *self.relied)
        return {key: entries[key].mod_revision if key in entries else 0 for key in keys}

    def final(self) -> dict[str, Value | None]:
        """The changes as they are to be written: blocks with their next sequence number."""
        return {key: stamp(value) if isinstance(value, Block) else value for key, value in self.changes.items()}


def render_value(value: Value | None) -> bytes | None:
    """A change as JSON; None deletes."""
    if isinstance(value, Block):
        return render_block(value)
    if isinstance(value, Affinity):
        return render_affinity(value)
    if isinstance(value, Handle):
        return render_handle(value)
    if value is None:
        return None
    raise TypeError(f"{type(value).__name__} is not written here")
