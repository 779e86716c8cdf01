"""Which prefixes this node announces to its BGP neighbours, why, and why not.

In: address blocks and their affinities, pools, this node's labels, grants, advertisements (advertisements.py), floating
addresses (floating.py), ranges (service_ranges.py), and the frontends that services.py derives: one truth for
forwarding and announcing. Out: announcements by prefix, and the reason of every address or block that is held here and
stays silent. Never talks BGP, and knows no neighbour.
`AnnounceCalc` follows changes at their own cost; from_scratch.py makes the same of all there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from felixpy.addresses import Address, Prefix, format_address, host_prefix, parse_address, parse_prefix
from felixpy.calc.announcing.advertisements import Subjects, derive_terms, find_unknown
from felixpy.calc.announcing.announcements import (
    Announcement,
    announce_floating,
    derive_address,
    derive_block,
    derive_range,
    derive_routed,
    granted_intents,
    merge_announcements,
)
from felixpy.calc.announcing.floating import FloatingAddresses
from felixpy.calc.announcing.service_ranges import RoutedAddresses
from felixpy.calc.reasons import Reason, Silent
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.calc.services.frontends import Frontend, FrontendIntent
from felixpy.resources.codec import parse_block_name
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.service_types import AddressPool, BgpAdvertisement, CommunityAliases, Grant, Service
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Block, BlockAffinity, IpPool, LabelPairs, Node, WorkloadEndpoint

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class AnnounceDelta:
    """What changed since the last flush; `hidden`: what a filter alone can let out."""

    puts: Mapping[Prefix, Announcement] = field(default_factory=dict)
    drops: frozenset[Prefix] = frozenset()
    hidden: bool = False

    def __bool__(self) -> bool:
        return bool(self.puts or self.drops or self.hidden)


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
        self._routed = RoutedAddresses()
        self._workloads: dict[Name, WorkloadEndpoint] = {}
        self._devices: dict[Address, dict[Name, str]] = {}
        self._labels: LabelPairs = ()
        self._terms = derive_terms((), ())
        self._drained = True
        self._dirty: set[Source] = set()
        self._made: dict[Source, tuple[Announcement, ...]] = {}
        self._silent: dict[Source, tuple[Prefix, Silent]] = {}
        self._hidden: dict[Source, tuple[Announcement, ...]] = {}
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
                self._dirty.update(map(_routed_source, self._routed.everything()))

    @property
    def announcements(self) -> Mapping[Prefix, Announcement]:
        """All, as of the last flush."""
        return self._published

    @property
    def silences(self) -> Mapping[Prefix, Silent]:
        """Why a block of ours, or a granted address, is not announced; as of the last flush."""
        return silences(self._silent.values())

    @property
    def unknown(self) -> Mapping[Name, tuple[str, ...]]:
        """Communities that nobody gives a number, by the BGPAdvertisements for this node that name them."""
        return find_unknown(self._labels, self._advertisements, self._aliases.values())

    @property
    def hidden(self) -> tuple[Announcement, ...]:
        """What stays here because its pool is not exported, and a filter may let out all the same."""
        return tuple(one for _, made in sorted(self._hidden.items()) for one in made)

    def _prefix_of(self, source: Source) -> Prefix:
        table, name = source
        if table is Table.BLOCK:
            return self._blocks[name][0]
        if table is Table.BGP_CONFIGURATION:
            return parse_prefix(name.name)
        if table is Table.SERVICE:
            return host_prefix(parse_address(name.name))
        return host_prefix(self._floating.addresses[name] if table is Table.WORKLOAD else self._grants[name].address)

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes in one resource (None: it is gone); those of other tables are passed over."""
        before = self._routed.ranges
        self._dirty.update(map(_routed_source, self._routed.update(ref, value)))
        if before != self._routed.ranges:
            self._dirty.update((Table.GRANT, name) for name in self._grants)
        if ref.table is Table.WORKLOAD:
            self._update_workload(ref.name, value)
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

    def _update_workload(self, name: Name, value: Resource | None) -> None:
        """Takes note of the devices of this node's workloads: borrowed addresses lead to them."""
        old = self._workloads.pop(name, None)
        new = value if isinstance(value, WorkloadEndpoint) and value.node == self.node else None
        if new is not None:
            self._workloads[name] = new
        touched = {address for one in (old, new) if one is not None for address in one.addresses}
        for address in touched:
            devices = self._devices.setdefault(address, {})
            _set(devices, name, new.interface if new is not None and address in new.addresses else None)
            if not devices:
                del self._devices[address]
        for block, (_, held) in self._blocks.items() if touched else ():
            if any(address in touched for address, _ in held.borrowed):
                self._dirty.add((Table.BLOCK, block))

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
        terms = derive_terms(self._labels, rows(self._advertisements), rows(self._aliases), bool(self._layer2))
        if terms != self._terms:
            self._terms = terms
            self._dirty.update((Table.GRANT, name) for name in self._grants)
            self._dirty.update(map(_routed_source, self._routed.everything()))

    def update_frontends(self, delta: ServiceDelta) -> None:
        """Takes in what ServiceCalc flushed."""
        for frontend in (*delta.drops, *delta.puts):
            held = self._frontends_at.setdefault(frontend.address, {})
            _set(held, frontend, delta.puts.get(frontend))
            if not held:
                del self._frontends_at[frontend.address]
            self._dirty.update((Table.GRANT, name) for name in self._grants_at.get(frontend.address, ()))

    def update_routed(self, delta: ServiceDelta) -> None:
        """Takes in what ServiceCalc flushed, for addresses that nobody granted."""
        self._dirty.update(map(_routed_source, self._routed.update_frontends(delta)))

    def flush(self) -> AnnounceDelta:
        """What changed since the last flush; nothing where a change came to nothing."""
        touched: set[Prefix] = set()
        before = dict(self._hidden)
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
        return AnnounceDelta(puts, frozenset(drops), self._hidden != before)

    def _remake(self, source: Source) -> set[Prefix]:
        """Replaces what one block or grant contributes; the prefixes concerned."""
        made = self._derive(source)
        old = self._made.pop(source, ())
        self._silent.pop(source, None)
        self._hidden.pop(source, None)
        new: tuple[Announcement, ...] = ()
        if isinstance(made, Silent):
            self._silent[source] = self._prefix_of(source), made
            if source[0] is Table.BLOCK and made.reason is Reason.EXPORT_DISABLED:
                exported = self._derive_block(source[1], exported=True)
                self._hidden[source] = () if isinstance(exported, Silent) else exported
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

    def _derive_block(self, name: Name, exported: bool = False) -> tuple[Announcement, ...] | Silent:
        """One block; `exported`: as if its pool were."""
        found = self._blocks.get(name)
        if found is None:
            return ()
        pools = self._pools.values()
        devices = {
            address: max(held.values())
            for address, _ in found[1].borrowed
            if (held := self._devices.get(address)) is not None
        }
        around = (replace(pool, disable_bgp_export=False) for pool in pools) if exported else pools
        return derive_block(*found, self._states.get(name, ""), around, self.node, devices)

    def _derive(self, source: Source) -> tuple[Announcement, ...] | Silent:
        table, name = source
        if table is Table.BLOCK:
            return self._derive_block(name)
        if table is Table.WORKLOAD:
            address = self._floating.addresses.get(name)
            return announce_floating(address, self._pools.values(), self._floating.enabled) if address else ()
        ranges = self._routed.ranges
        if table is Table.BGP_CONFIGURATION:
            prefix = parse_prefix(name.name)
            return derive_range(prefix, self._terms, self._drained) if prefix in ranges.whole else ()
        if table is Table.SERVICE:
            at = parse_address(name.name)
            intents = self._routed.intents_at(at)
            return derive_routed(at, intents, self._terms, self._services, ranges, self._drained)
        grant = self._grants.get(name)
        if grant is None:
            return ()
        intents = granted_intents(grant, self._frontends_at.get(grant.address, {}))
        return derive_address(grant, intents, self._terms, self._subjects, ranges, self._drained)


def _routed_source(what: Prefix | Address) -> Source:
    """A range, or an address that nobody granted."""
    if isinstance(what, Prefix):
        return Table.BGP_CONFIGURATION, Name("", str(what))
    return Table.SERVICE, Name("", format_address(what))


def silences(found: Iterable[tuple[Prefix, Silent]]) -> Mapping[Prefix, Silent]:
    """One reason a prefix, whoever came first."""
    return dict(sorted(found, key=lambda one: one[1].reason))


def _set(table: dict[_K, _V], key: _K, value: _V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def rows(table: Mapping[Name, _V]) -> list[_V]:
    """In the order of their names."""
    return [table[name] for name in sorted(table)]
