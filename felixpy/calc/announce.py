"""Which prefixes this node announces to its BGP neighbours, why, and why not.

In: address blocks and their affinities, pools, this node's labels, grants, advertisements (advertisements.py), floating
addresses (floating.py), and the frontends that services.py derives: one truth for forwarding and announcing. Out:
announcements by prefix, and the reason of every address or block that is held here and stays silent. Never talks BGP,
and knows no neighbour.
`AnnounceCalc` follows changes at their own cost; `derive_announcements` is the same from scratch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from felixpy.addresses import Address, Prefix, host_prefix
from felixpy.calc.advertisements import Subjects, derive_terms
from felixpy.calc.announcements import (
    Announcement,
    announce_floating,
    derive_address,
    derive_block,
    granted_intents,
    merge_announcements,
)
from felixpy.calc.floating import FloatingAddresses, floating_of, is_enabled
from felixpy.calc.frontends import Frontend, FrontendIntent
from felixpy.calc.reasons import Silent
from felixpy.calc.services import ServiceDelta, Tables, derive_services
from felixpy.resources.codec import Ref, Table, parse_block_name
from felixpy.resources.kinds import Name
from felixpy.resources.types import (
    AddressPool,
    BgpAdvertisement,
    Block,
    BlockAffinity,
    CommunityAliases,
    Grant,
    IpPool,
    LabelPairs,
    Node,
    Resource,
    Service,
)

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class AnnounceDelta:
    """What changed since the last flush."""

    puts: Mapping[Prefix, Announcement] = field(default_factory=dict)
    drops: frozenset[Prefix] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.puts or self.drops)


Source = tuple[Table, Name]


class AnnounceCalc:
    """The announcements of `node`, kept up to date: `update` and `update_frontends`, then `flush`.

    Cost    a block or an address costs itself; a change of pools, advertisements or this node's labels costs the
            blocks and addresses that this node has to do with.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self._blocks: dict[Name, tuple[Prefix, Block]] = {}
        self._states: dict[Name, str] = {}
        self._pools: dict[Name, IpPool] = {}
        self._grants: dict[Name, Grant] = {}
        self._grants_at: dict[Address, set[Name]] = {}
        self._frontends_at: dict[Address, dict[Frontend, FrontendIntent]] = {}
        self._grants_of: dict[Name, set[Name]] = {}
        self._advertisements: dict[Name, BgpAdvertisement] = {}
        self._aliases: dict[Name, CommunityAliases] = {}
        self._layer2: set[Name] = set()
        self._pool_labels: dict[str, LabelPairs] = {}
        self._services: dict[Name, Service] = {}
        self._subjects = Subjects(self._pool_labels, self._services)
        self._floating = FloatingAddresses(node)
        self._labels: LabelPairs = ()
        self._terms = derive_terms((), ())
        self._drained = True
        self._dirty: set[Source] = set()
        self._made: dict[Source, tuple[Announcement, ...]] = {}
        self._silent: dict[Source, Silent] = {}
        self._sources: dict[Prefix, dict[Source, tuple[Announcement, ...]]] = {}
        self._published: dict[Prefix, Announcement] = {}

    @property
    def excluded(self) -> bool:
        """Whether this node is to announce no Service address."""
        return self._terms.excluded

    def drain(self, drained: bool) -> None:
        """Whether a node that is excluded has asked its neighbours for long enough to send elsewhere."""
        if drained != self._drained:
            self._drained = drained
            if self._terms.excluded:
                self._dirty.update((Table.GRANT, name) for name in self._grants)

    @property
    def announcements(self) -> Mapping[Prefix, Announcement]:
        """All, as of the last flush."""
        return self._published

    @property
    def silences(self) -> Mapping[Prefix, Silent]:
        """Why a block of ours, or a granted address, is not announced; as of the last flush."""
        return _silences((self._prefix_of(source), silent) for source, silent in self._silent.items())

    def _prefix_of(self, source: Source) -> Prefix:
        table, name = source
        if table is Table.BLOCK:
            return self._blocks[name][0]
        return host_prefix(self._floating.addresses[name] if table is Table.WORKLOAD else self._grants[name].address)

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes in one resource (None: it is gone); those of other tables are passed over."""
        match ref.table:
            case Table.BLOCK:
                self._update_block(ref.name, value if isinstance(value, Block) else None)
            case Table.AFFINITY if ref.name.namespace == self.node:
                self._update_state(Name("", ref.name.name), value.state if isinstance(value, BlockAffinity) else "")
            case Table.POOL:
                _set(self._pools, ref.name, value if isinstance(value, IpPool) else None)
                self._dirty.update((Table.BLOCK, name) for name in self._blocks)
                self._dirty.update((Table.WORKLOAD, name) for name in self._floating.addresses)
            case Table.WORKLOAD | Table.FELIX_CONFIGURATION:
                self._dirty.update((Table.WORKLOAD, name) for name in self._floating.update(ref, value))
            case Table.GRANT:
                self._update_grant(ref.name, value if isinstance(value, Grant) else None)
            case Table.BGP_ADVERTISEMENT:
                _set(self._advertisements, ref.name, value if isinstance(value, BgpAdvertisement) else None)
                self._update_terms()
            case Table.COMMUNITY:
                _set(self._aliases, ref.name, value if isinstance(value, CommunityAliases) else None)
                self._update_terms()
            case Table.L2_ADVERTISEMENT:
                (self._layer2.discard if value is None else self._layer2.add)(ref.name)
                self._update_terms()
            case Table.ADDRESS_POOL:
                _set(self._pool_labels, ref.name.name, value.labels if isinstance(value, AddressPool) else None)
                self._dirty.update((Table.GRANT, name) for name in self._grants)
            case Table.SERVICE:
                _set(self._services, ref.name, value if isinstance(value, Service) else None)
                self._dirty.update((Table.GRANT, name) for name in self._grants_of.get(ref.name, ()))
            case Table.NODE if ref.name.name == self.node:
                self._labels = value.labels if isinstance(value, Node) else ()
                self._update_terms()
            case _:
                pass

    def _update_block(self, name: Name, block: Block | None) -> None:
        concerns = block is not None and (
            block.affinity == self.node or any(holder == self.node for _, holder in block.borrowed)
        )
        if block is not None and concerns:
            self._blocks[name] = (parse_block_name(name.name), block)
        elif self._blocks.pop(name, None) is None:
            return
        self._dirty.add((Table.BLOCK, name))

    def _update_state(self, name: Name, state: str) -> None:
        _set(self._states, name, state or None)
        self._dirty.add((Table.BLOCK, name))

    def _update_grant(self, name: Name, grant: Grant | None) -> None:
        old = self._grants.pop(name, None)
        if old is not None:
            self._grants_at[old.address].discard(name)
            if not self._grants_at[old.address]:
                del self._grants_at[old.address]
            for service in set(old.services):
                self._grants_of[service].discard(name)
                if not self._grants_of[service]:
                    del self._grants_of[service]
        if grant is not None:
            for service in grant.services:
                self._grants_of.setdefault(service, set()).add(name)
            self._grants[name] = grant
            self._grants_at.setdefault(grant.address, set()).add(name)
        self._dirty.add((Table.GRANT, name))

    def _update_terms(self) -> None:
        terms = derive_terms(self._labels, _rows(self._advertisements), _rows(self._aliases), bool(self._layer2))
        if terms != self._terms:
            self._terms = terms
            self._dirty.update((Table.GRANT, name) for name in self._grants)

    def update_frontends(self, delta: ServiceDelta) -> None:
        """Takes in what ServiceCalc flushed."""
        for frontend in (*delta.drops, *delta.puts):
            held = self._frontends_at.setdefault(frontend.address, {})
            _set(held, frontend, delta.puts.get(frontend))
            if not held:
                del self._frontends_at[frontend.address]
            self._dirty.update((Table.GRANT, name) for name in self._grants_at.get(frontend.address, ()))

    def flush(self) -> AnnounceDelta:
        """What changed since the last flush; nothing where a change came to nothing."""
        touched: set[Prefix] = set()
        for source in self._dirty:
            touched |= self._remake(source)
        self._dirty.clear()
        puts, drops = {}, set()
        for prefix in touched:
            sources = self._sources.get(prefix)
            if not sources:
                if self._published.pop(prefix, None) is not None:
                    drops.add(prefix)
                continue
            merged = merge_announcements([one for made in sources.values() for one in made])
            if self._published.get(prefix) != merged:
                self._published[prefix] = puts[prefix] = merged
        return AnnounceDelta(puts, frozenset(drops))

    def _remake(self, source: Source) -> set[Prefix]:
        """Replaces what one block or grant contributes; the prefixes concerned."""
        made = self._derive(source)
        old = self._made.pop(source, ())
        self._silent.pop(source, None)
        new: tuple[Announcement, ...] = ()
        if isinstance(made, Silent):
            self._silent[source] = made
        else:
            new = made
        if new:
            self._made[source] = new
        for one in old:
            sources = self._sources.get(one.prefix, {})
            sources.pop(source, None)
            if not sources:
                self._sources.pop(one.prefix, None)
        for one in new:
            self._sources.setdefault(one.prefix, {})[source] = tuple(a for a in new if a.prefix == one.prefix)
        return {one.prefix for one in (*old, *new)}

    def _derive(self, source: Source) -> tuple[Announcement, ...] | Silent:
        table, name = source
        if table is Table.BLOCK:
            found = self._blocks.get(name)
            if found is None:
                return ()
            return derive_block(*found, self._states.get(name, ""), self._pools.values(), self.node)
        if table is Table.WORKLOAD:
            address = self._floating.addresses.get(name)
            return announce_floating(address, self._pools.values(), self._floating.enabled) if address else ()
        grant = self._grants.get(name)
        if grant is None:
            return ()
        intents = granted_intents(grant, self._frontends_at.get(grant.address, {}))
        return derive_address(grant, intents, self._terms, self._subjects, self._drained)


def _silences(found: Iterable[tuple[Prefix, Silent]]) -> Mapping[Prefix, Silent]:
    """One reason a prefix, whoever came first."""
    return dict(sorted(found, key=lambda one: one[1].reason))


def _set(table: dict[_K, _V], key: _K, value: _V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _rows(table: Mapping[Name, _V]) -> list[_V]:
    """In the order of their names."""
    return [table[name] for name in sorted(table)]


def derive_announcements(
    tables: Tables, node: str, drained: bool = True
) -> tuple[Mapping[Prefix, Announcement], Mapping[Prefix, Silent]]:
    """All announcements of `node` by prefix, and all that stays silent, from scratch."""
    this = tables.get(Table.NODE, {}).get(Name("", node))
    terms = derive_terms(
        this.labels if isinstance(this, Node) else (),
        [one for one in _rows(tables.get(Table.BGP_ADVERTISEMENT, {})) if isinstance(one, BgpAdvertisement)],
        [one for one in _rows(tables.get(Table.COMMUNITY, {})) if isinstance(one, CommunityAliases)],
        bool(tables.get(Table.L2_ADVERTISEMENT)),
    )
    address_pools, services = tables.get(Table.ADDRESS_POOL, {}), tables.get(Table.SERVICE, {})
    subjects = Subjects(
        {name.name: one.labels for name, one in address_pools.items() if isinstance(one, AddressPool)},
        {name: one for name, one in services.items() if isinstance(one, Service)},
    )
    pools = [pool for pool in tables.get(Table.POOL, {}).values() if isinstance(pool, IpPool)]
    at: dict[Address, dict[Frontend, FrontendIntent]] = {}
    for frontend, intent in derive_services(tables, node).items():
        at.setdefault(frontend.address, {})[frontend] = intent
    found: list[tuple[Prefix, tuple[Announcement, ...] | Silent]] = []
    for name, block in tables.get(Table.BLOCK, {}).items():
        affinity = tables.get(Table.AFFINITY, {}).get(Name(node, name.name))
        state = affinity.state if isinstance(affinity, BlockAffinity) else ""
        if isinstance(block, Block):
            prefix = parse_block_name(name.name)
            found.append((prefix, derive_block(prefix, block, state, pools, node)))
    enabled = is_enabled(tables.get(Table.FELIX_CONFIGURATION, {}), node)
    for endpoint in tables.get(Table.WORKLOAD, {}).values():
        for address in floating_of(endpoint, node):
            found.append((host_prefix(address), announce_floating(address, pools, enabled)))
    for grant in tables.get(Table.GRANT, {}).values():
        if isinstance(grant, Grant):
            made = derive_address(grant, granted_intents(grant, at.get(grant.address, {})), terms, subjects, drained)
            found.append((host_prefix(grant.address), made))
    by_prefix: dict[Prefix, list[Announcement]] = {}
    silent: list[tuple[Prefix, Silent]] = []
    for prefix, made in found:
        if isinstance(made, Silent):
            silent.append((prefix, made))
        else:
            for one in made:
                by_prefix.setdefault(one.prefix, []).append(one)
    return {prefix: merge_announcements(several) for prefix, several in by_prefix.items()}, _silences(silent)
