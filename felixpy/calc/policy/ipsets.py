"""The members of every IP set that some active rule refers to, as deltas.

Items are workload endpoints (their addresses, or address and port for a named port), network sets (their prefixes)
and host endpoints (their expected addresses); and nodes, whose labels are asked for by selectors of their own. Two
items may hold one address, so members are counted. Sets of what is behind a Service come from its slices. Pure and
incremental; `derive_sets` is the oracle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from felixpy.addresses import Address, Prefix
from felixpy.calc.intent import SetSpec
from felixpy.calc.policy.labels import LabelIndex, Shift
from felixpy.calc.policy.peers import every_address
from felixpy.calc.policy.service_sets import ServiceSlices, derive_service_members
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import NetworkSet
from felixpy.resources.service_types import EndpointSlice
from felixpy.resources.tables import Ref
from felixpy.resources.types import HostEndpoint, LabelPairs, NamedPort, Node, WorkloadEndpoint
from felixpy.selector import compile_selector, parse_selector

Member = Address | Prefix | tuple[Address, int, int]
"""An address; a prefix (never a /32 or /128); or address, protocol and port."""

Holder = WorkloadEndpoint | NetworkSet | HostEndpoint | Node


def members_of(holder: Holder, port: tuple[int, str] | None) -> tuple[Member, ...]:
    """What one item contributes to a set."""
    if isinstance(holder, NetworkSet):
        if port is not None:
            return ()
        return tuple(net.address if net.is_host else net for net in holder.nets)
    if isinstance(holder, Node):
        return every_address(holder)
    addresses = holder.expected_addresses if isinstance(holder, HostEndpoint) else holder.addresses
    if port is None:
        return addresses
    return _named(addresses, holder.ports, port)


def _named(addresses: tuple[Address, ...], ports: tuple[NamedPort, ...], port: tuple[int, str]) -> tuple[Member, ...]:
    protocol, name = port
    return tuple(
        (address, protocol, one.port)
        for one in ports
        if one.name == name and one.protocol == protocol
        for address in addresses
    )


@dataclass(slots=True)
class SetChange:
    """What happened to one set since the last flush; `whole` when it is new and `added` holds all of it."""

    added: set[Member] = field(default_factory=set)
    removed: set[Member] = field(default_factory=set)
    whole: bool = False


@dataclass(frozen=True, slots=True)
class SetsDelta:
    """Changes by set, and the sets that nothing refers to any more."""

    changed: Mapping[SetSpec, SetChange]
    dropped: frozenset[SetSpec]


class IpSets:
    """Sets come and go with `need` and `release`; items with `put` and `drop`."""

    def __init__(self) -> None:
        self._index: LabelIndex[Ref, SetSpec] = LabelIndex()
        self._nodes: LabelIndex[Ref, SetSpec] = LabelIndex()
        self._holders: dict[Ref, Holder] = {}
        self._counts: dict[SetSpec, dict[Member, int]] = {}
        self._uses: dict[SetSpec, int] = {}
        self._changes: dict[SetSpec, SetChange] = {}
        self._idle: set[SetSpec] = set()
        self._slices = ServiceSlices()
        self._service_sets: dict[Name, set[SetSpec]] = {}

    def members(self, spec: SetSpec) -> Iterable[Member]:
        """All members of an active set."""
        return self._counts[spec].keys()

    @property
    def holders(self) -> Mapping[Ref, Holder]:
        """Everything that sets may hold the addresses of."""
        return self._holders

    def need(self, spec: SetSpec) -> None:
        """One more rule refers to the set."""
        self._uses[spec] = self._uses.get(spec, 0) + 1
        if spec in self._counts:
            return
        counts: dict[Member, int] = {}
        if spec.service is not None:
            self._service_sets.setdefault(spec.service.service, set()).add(spec)
            counts = dict.fromkeys(self._slices.members(spec.service), 1)
            self._counts[spec] = counts
            self._changes[spec] = SetChange(added=set(counts), whole=True)
            return
        index = self._nodes if spec.nodes else self._index
        for ref in index.put_selector(spec, parse_selector(spec.text)):
            for member in members_of(self._holders[ref], spec.port):
                counts[member] = counts.get(member, 0) + 1
        self._counts[spec] = counts
        self._changes[spec] = SetChange(added=set(counts), whole=True)

    def release(self, spec: SetSpec) -> None:
        """One rule fewer refers to the set; without any it goes at the next flush, unless it is needed again."""
        self._uses[spec] -= 1
        if not self._uses[spec]:
            del self._uses[spec]
            self._idle.add(spec)

    def put(self, ref: Ref, holder: Holder) -> None:
        """Adds an item or changes it."""
        old = self._holders.get(ref)
        self._holders[ref] = holder
        shift = self._index_of(holder).put_item(ref, holder.labels, profiles_of(holder))
        for spec in shift.before & shift.after:
            if old is not None:
                self._remove(spec, members_of(old, spec.port), members_of(holder, spec.port))
        for spec in shift.before - shift.after:
            if old is not None:
                self._remove(spec, members_of(old, spec.port), ())
        for spec in shift.after - shift.before:
            self._add(spec, members_of(holder, spec.port))

    def drop(self, ref: Ref) -> None:
        """Removes an item, if it is there."""
        old = self._holders.pop(ref, None)
        if old is None:
            return
        for spec in self._index_of(old).drop_item(ref).before:
            self._remove(spec, members_of(old, spec.port), ())

    def _index_of(self, holder: Holder) -> LabelIndex[Ref, SetSpec]:
        return self._nodes if isinstance(holder, Node) else self._index

    def put_slice(self, ref: Ref, value: EndpointSlice | None) -> None:
        """Sets or (None) removes one slice of a Service."""
        for service in self._slices.put(ref, value):
            for spec in self._service_sets.get(service, ()):
                assert spec.service is not None
                old, new = set(self._counts[spec]), set(self._slices.members(spec.service))
                self._add(spec, tuple(new - old))
                self._remove(spec, tuple(old - new), ())

    def put_parent(self, name: str, labels: LabelPairs) -> None:
        """Sets the labels that items inherit from a profile."""
        for shift in self._index.put_parent(name, labels):
            self._move(shift)

    def _move(self, shift: Shift[Ref, SetSpec]) -> None:
        holder = self._holders[shift.item]
        for spec in shift.before - shift.after:
            self._remove(spec, members_of(holder, spec.port), ())
        for spec in shift.after - shift.before:
            self._add(spec, members_of(holder, spec.port))

    def flush(self) -> SetsDelta:
        """What changed since the last flush."""
        dropped = frozenset(spec for spec in self._idle if spec not in self._uses)
        for spec in dropped:
            del self._counts[spec]
            if spec.service is None:
                (self._nodes if spec.nodes else self._index).drop_selector(spec)
            else:
                self._forget_service_set(spec, spec.service.service)
        changed = {spec: change for spec, change in self._changes.items() if spec not in dropped}
        self._changes, self._idle = {}, set()
        return SetsDelta(changed, dropped)

    def _forget_service_set(self, spec: SetSpec, service: Name) -> None:
        specs = self._service_sets[service]
        specs.discard(spec)
        if not specs:
            del self._service_sets[service]

    def _add(self, spec: SetSpec, members: tuple[Member, ...]) -> None:
        counts = self._counts[spec]
        for member in members:
            count = counts.get(member, 0)
            counts[member] = count + 1
            if not count:
                self._note(spec, member, present=True)

    def _remove(self, spec: SetSpec, members: tuple[Member, ...], instead: tuple[Member, ...]) -> None:
        """Takes members out, after putting others in, so that one in both is never absent."""
        if members == instead:
            return
        self._add(spec, instead)
        counts = self._counts[spec]
        for member in members:
            counts[member] -= 1
            if not counts[member]:
                del counts[member]
                self._note(spec, member, present=False)

    def _note(self, spec: SetSpec, member: Member, present: bool) -> None:
        change = self._changes.get(spec)
        if change is None:
            change = self._changes[spec] = SetChange()
        here, there = (change.added, change.removed) if present else (change.removed, change.added)
        if member in there:
            there.discard(member)
        elif not (change.whole and not present):
            here.add(member)


def derive_sets(
    specs: Iterable[SetSpec],
    holders: Mapping[Ref, Holder],
    parents: Mapping[str, LabelPairs],
    slices: Mapping[Ref, EndpointSlice],
) -> dict[SetSpec, frozenset[Member]]:
    """The oracle: every set's members, from scratch."""
    found: dict[SetSpec, frozenset[Member]] = {}
    for spec in specs:
        if spec.service is not None:
            found[spec] = frozenset(derive_service_members(spec.service, slices))
            continue
        matches = compile_selector(parse_selector(spec.text))
        found[spec] = frozenset(
            member
            for holder in holders.values()
            if isinstance(holder, Node) == spec.nodes
            and matches(effective_labels(holder.labels, profiles_of(holder), parents))
            for member in members_of(holder, spec.port)
        )
    return found


def profiles_of(holder: Holder) -> tuple[str, ...]:
    """What an item inherits labels from."""
    return () if isinstance(holder, Node) else holder.profiles


def effective_labels(own: LabelPairs, profiles: tuple[str, ...], parents: Mapping[str, LabelPairs]) -> dict[str, str]:
    """An item's labels with those it inherits; its own win, then those of the first profile that has one."""
    labels: dict[str, str] = {}
    for profile in reversed(profiles):
        labels.update(parents.get(profile, ()))
    labels.update(own)
    return labels
