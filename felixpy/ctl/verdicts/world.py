"""One state of the cluster, as far as policy asks: who is selected by what, and which addresses each set holds.

In: a Cluster; out: the Judges of endpoints and of hosts, the compiled rules of each policy, the members of each set.
All is made when it is first asked for: what a question does not touch costs nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from felixpy.addresses import Address, Prefix, mask_address
from felixpy.calc.intent import PolicyId, RulesIntent, SetSpec, Stage, TierIntent
from felixpy.calc.options import Options, derive_options
from felixpy.calc.policy.ipsets import Holder, Member, effective_labels, members_of, profiles_of
from felixpy.calc.policy.labels import LabelIndex
from felixpy.calc.policy.peers import PeersIntent, derive_peers, every_address
from felixpy.calc.policy.pods import derive_workloads
from felixpy.calc.policy.profiles import derive_profiles
from felixpy.calc.policy.rule_terms import compile_rules
from felixpy.calc.policy.service_sets import derive_service_members
from felixpy.calc.policy.tiers import Matched, for_workloads, sort_policies
from felixpy.calc.tunnel_plan import HostDevice, TunnelDevice
from felixpy.calc.tunnels import derive_devices, scopes
from felixpy.ctl.explain.cluster import DEFAULT_UPLINK, Cluster
from felixpy.dataplane.chains.base import PEER_SETS
from felixpy.dataplane.chains.endpoint import Direction, encapsulation_rules
from felixpy.dataplane.chains.host import ALWAYS, peer_members
from felixpy.dataplane.chains.policy import render_policy, render_profile, rendered_from
from felixpy.dataplane.objects import Set
from felixpy.dataplane.rules import Rule
from felixpy.dataplane.sets import Version, describe_set
from felixpy.resources.bgp_types import BgpConfiguration, BgpPeer, SpeakerPeer
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import NetworkSet, Policy, Tier
from felixpy.resources.service_types import EndpointSlice
from felixpy.resources.tables import POLICY_TABLES, Ref, Table
from felixpy.resources.types import FelixConfiguration, HostEndpoint, IpPool, LabelPairs, Node, Pod
from felixpy.selector import compile_selector, parse_selector

_HOLDERS = (Table.GLOBAL_NETWORK_SET, Table.NETWORK_SET, Table.HOST)
_SLICES = (Table.SLICE, Table.ENDPOINTS)
_PEER_SETS = {target.name: target for target in PEER_SETS}

Condition = SetSpec | Set | Prefix
"""What rules ask of an address: whether a set has it, or a network."""


class Line(NamedTuple):
    """A rule of a policy's chain, and the place of the written rule that it is, or is part of."""

    rule: Rule
    place: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """What decides at one place: rules that go `first`, tiers, then profiles.

    `tiers` have the policies of the direction only. `stage` is a host endpoint's; None is a workload's own judge. A
    World has one Judge for all that are judged alike.
    """

    direction: Direction
    tiers: tuple[TierIntent, ...]
    profiles: tuple[str, ...]
    first: tuple[Rule, ...] = ()
    stage: Stage | None = None

    @property
    def ends_tiers(self) -> bool:
        """Whether a tier of which no policy decided does what its default says."""
        return self.stage is None or self.stage in ALWAYS

    @property
    def is_closed(self) -> bool:
        """Whether it denies what nothing allows."""
        return self.stage in (None, Stage.NORMAL)

    @property
    def spares_hosts(self) -> bool:
        """Whether what its policies allow meets no later judge of a host."""
        return self.stage in (Stage.UNTRACKED, Stage.PRE_DNAT)

    @property
    def content(self) -> tuple[object, ...]:
        """What is equal in two worlds where the same policies decide in the same order."""
        return (self.direction, self.tiers, self.profiles, self.first, self.stage)

    def policies(self) -> Iterable[PolicyId]:
        """Its policies, in the order in which they decide."""
        for tier in self.tiers:
            yield from tier.ingress if self.direction == "in" else tier.egress

    def writers(self) -> Iterable[PolicyId | str]:
        """Its policies, and the names of its profiles."""
        yield from self.policies()
        yield from self.profiles


@dataclass(frozen=True, slots=True)
class Held:
    """The members of a set: addresses and prefixes; or, of one with ports, what each address serves."""

    addresses: frozenset[Address] = frozenset()
    prefixes: frozenset[Prefix] = frozenset()
    lengths: tuple[tuple[int, int], ...] = ()
    """Bytes of an address and bits of a prefix, of the prefixes there are."""
    served: Mapping[Address, frozenset[tuple[int, int]]] = field(default_factory=dict)

    def has(self, address: Address) -> bool:
        """Whether an address is one of them, or in one."""
        return address in self.addresses or any(
            size == len(address) and Prefix(mask_address(address, length), length) in self.prefixes
            for size, length in self.lengths
        )

    def ports_of(self, address: Address) -> frozenset[tuple[int, int]]:
        """Protocols and ports that an address serves."""
        return self.served.get(address, frozenset())


class World:
    """A cluster that can be asked."""

    def __init__(self, cluster: Cluster, like: World | None = None) -> None:
        """`like` is another state of the cluster: what is the same in both is not read twice."""
        self.cluster = cluster
        self._pods = _read_bulk(cluster, Table.POD, like)
        self._read_slices: Mapping[Ref, EndpointSlice] | None = None
        self._own: dict[str, list[Address]] | None = None
        self.endpoints = derive_workloads({**cluster.tables, Table.POD: self._pods})
        self._profiles = derive_profiles(cluster.tables)
        self.tiers = {name.name: one for name, one in cluster.tables[Table.TIER].items() if isinstance(one, Tier)}
        self._policies = {
            PolicyId(table, name): one
            for table in POLICY_TABLES
            for name, one in cluster.tables[table].items()
            if isinstance(one, Policy)
        }
        self.holders: dict[Ref, Holder] = {Ref(Table.WORKLOAD, name): one for name, one in self.endpoints.items()}
        for table in _HOLDERS:
            for name, other in cluster.tables[table].items():
                if isinstance(other, NetworkSet | HostEndpoint):
                    self.holders[Ref(table, name)] = other
        self._index: LabelIndex[Ref, PolicyId | SetSpec] = LabelIndex()
        for profile, given in self._profiles.items():
            self._index.put_parent(profile, given.labels_to_apply)
        for ref, holder in self.holders.items():
            self._index.put_item(ref, holder.labels, profiles_of(holder))
        for identity, policy in self._policies.items():
            self._index.put_selector(identity, policy.selector)
        self._judges: dict[tuple[object, ...], tuple[Judge, Judge]] = {}
        self._alike: dict[tuple[object, ...], Judge] = {}
        self._first_of_node: dict[str, int] = {}
        self._options: dict[str, Options] = {}
        self._derived_peers: PeersIntent | None = None
        self._firsts: list[tuple[Rule, ...]] = []
        self._held: dict[SetSpec | Set, Held] = {}
        self._lines: dict[tuple[PolicyId | str, Direction], tuple[Line, ...]] = {}
        self._specs: dict[str, SetSpec] = {}

    def judges(self, name: Name) -> tuple[Judge, Judge]:
        """What decides about what an endpoint sends, and about what it receives; the same for those judged alike."""
        endpoint = self.endpoints[name]
        first = self._first_of(endpoint.node)
        selectors = self._index.selectors_of(Ref(Table.WORKLOAD, name))
        key = (selectors, endpoint.profiles, first)
        found = self._judges.get(key)
        if found is None:
            known = self.known(endpoint.profiles)
            found = self._judges[key] = (
                self.same(Judge("out", self._tiers_of(selectors, "out"), known, self._firsts[first])),
                self.same(Judge("in", self._tiers_of(selectors, "in"), known)),
            )
        return found

    def matched(self, ref: Ref) -> list[Matched]:
        """The policies that select an endpoint of either kind."""
        return [(one, self._policies[one]) for one in self._index.selectors_of(ref) if isinstance(one, PolicyId)]

    def known(self, profiles: Iterable[str]) -> tuple[str, ...]:
        """Those of the profiles that there are."""
        return tuple(one for one in profiles if one in self._profiles)

    @property
    def peers(self) -> PeersIntent:
        """Whom nodes must be able to talk to."""
        if self._derived_peers is None:
            tables = self.cluster.tables
            peers = (*tables[Table.BGP_PEER].values(), *tables[Table.SPEAKER_PEER].values())
            self._derived_peers = derive_peers(
                self._nodes(),
                (one for one in peers if isinstance(one, BgpPeer | SpeakerPeer)),
                (one for one in tables[Table.BGP_CONFIGURATION].values() if isinstance(one, BgpConfiguration)),
            )
        return self._derived_peers

    def tunnels_of(self, node: str) -> Collection[TunnelDevice]:
        """The ends of tunnels that a node has."""
        tables, found = self.cluster.tables, self.cluster.tables[Table.FELIX_CONFIGURATION]
        pools = [one for one in tables[Table.POOL].values() if isinstance(one, IpPool)]
        if self._own is None:
            self._own = {}
            for address, name in self.cluster.node_names.items():
                self._own.setdefault(name, []).append(address)
        own = dict.fromkeys(self._own.get(node, ()), HostDevice(DEFAULT_UPLINK, 0))
        ordered = (
            one if isinstance(one := found.get(Name("", it)), FelixConfiguration) else None for it in scopes(node)
        )
        me = tables[Table.NODE].get(Name("", node))
        devices, _ = derive_devices(pools, node, me if isinstance(me, Node) else None, own, ordered)
        return devices.values()

    def same(self, judge: Judge) -> Judge:
        """The judge of these parts that there is already, else this one."""
        return self._alike.setdefault(judge.content, judge)

    def _tiers_of(self, selectors: Iterable[PolicyId | SetSpec], direction: Direction) -> tuple[TierIntent, ...]:
        matched = [
            (one, policy)
            for one in selectors
            if isinstance(one, PolicyId) and for_workloads(policy := self._policies[one])
        ]
        return of_direction(sort_policies(matched, self.tiers), direction)

    def _first_of(self, node: str) -> int:
        """Which of `_firsts` a node has: what it never lets its workloads send."""
        found = self._first_of_node.get(node)
        if found is None:
            rules = tuple(encapsulation_rules(self.options_of(node)))
            if rules not in self._firsts:
                self._firsts.append(rules)
            found = self._first_of_node[node] = self._firsts.index(rules)
        return found

    def options_of(self, node: str) -> Options:
        """What FelixConfiguration and BGPConfiguration say of a node."""
        names = (Name("", "default"), Name("", f"node.{node}"))
        felix, bgp = (self.cluster.tables[table] for table in (Table.FELIX_CONFIGURATION, Table.BGP_CONFIGURATION))
        key = node if names[1] in felix or names[1] in bgp else ""
        found = self._options.get(key)
        if found is None:
            common, own = (one if isinstance(one := felix.get(name), FelixConfiguration) else None for name in names)
            routing, of_node = (one if isinstance(one := bgp.get(name), BgpConfiguration) else None for name in names)
            found = self._options[key] = derive_options(common, own, routing, of_node)
        return found

    def written(self, source: PolicyId | str) -> object:
        """A policy, or a profile by its name, as it was read: the same value says the same."""
        return self._profiles.get(source) if isinstance(source, str) else self._policies.get(source)

    def lines(self, source: PolicyId | str, direction: Direction) -> tuple[Line, ...]:
        """The rules of a policy's (or profile's) chain of one direction."""
        found = self._lines.get((source, direction))
        if found is None:
            rules = compile_rules(self._profiles[source] if isinstance(source, str) else self._policies[source])
            found = self._lines[source, direction] = self._render(source, rules, direction)
        return found

    def _render(self, source: PolicyId | str, rules: RulesIntent, direction: Direction) -> tuple[Line, ...]:
        if isinstance(source, str):
            inward, outward, *_ = render_profile(source, rules, self._names)
        else:
            inward, outward, *_ = render_policy(source, rules, self._names)
        chain, terms = (inward, rules.ingress) if direction == "in" else (outward, rules.egress)
        return tuple(
            Line(rule, None if isinstance(source, str) and one.index is None else place)
            for rule, (one, place) in zip(chain.rules, rendered_from(terms, self._names), strict=True)
        )

    def _names(self, spec: SetSpec, version: Version) -> tuple[str, ...]:
        """One for all of a set, whatever it holds."""
        name = describe_set(spec, version, interval=False).name
        self._specs[name] = spec
        return (name,)

    def spec(self, set_name: str) -> SetSpec | Set:
        """The set that a rule of `lines`, or a failsafe, names."""
        return self._specs.get(set_name) or _PEER_SETS[set_name]

    def held(self, spec: SetSpec | Set) -> Held:
        """The members of a set."""
        found = self._held.get(spec)
        if found is None:
            found = self._held[spec] = _as_held(self._members(spec))
        return found

    def share(self, spec: SetSpec | Set, other: World) -> None:
        """Takes the members of a set from another world in which it has the same."""
        self._held[spec] = other.held(spec)

    def _members(self, spec: SetSpec | Set) -> Iterable[Member]:
        if isinstance(spec, Set):
            yield from peer_members(self.peers, self.options_of(""))[spec]
            return
        if spec.service is not None:
            yield from derive_service_members(spec.service, self.slices)
            return
        if spec.nodes:
            matches = compile_selector(parse_selector(spec.text))
            for node in self._nodes():
                if matches(dict(node.labels)):
                    yield from every_address(node)
            return
        for ref in self._index.put_selector(spec, parse_selector(spec.text)):
            yield from members_of(self.holders[ref], spec.port)

    @property
    def slices(self) -> Mapping[Ref, EndpointSlice]:
        """What is behind Services."""
        if self._read_slices is None:
            self._read_slices = {
                Ref(table, name): one
                for table in _SLICES
                for name, one in self.cluster.bulk(table)
                if isinstance(one, EndpointSlice)
            }
        return self._read_slices

    def _nodes(self) -> Iterator[Node]:
        return (one for one in self.cluster.tables[Table.NODE].values() if isinstance(one, Node))

    def has_nodes_of(self, other: World) -> bool:
        """Whether there are the same nodes as in another world."""
        return self.cluster.tables[Table.NODE] == other.cluster.tables[Table.NODE]

    def has_slices_of(self, other: World) -> bool:
        """Whether the same is behind every Service as in another world."""
        return _has_the_same(self.cluster, other.cluster, _SLICES)

    def changed_holders(self, other: World) -> Iterator[Ref]:
        """What sets are made of (endpoints, network sets) and is another there, or inherits other labels."""
        changed = {
            name
            for name in self._profiles.keys() | other._profiles.keys()
            if self._given_by(name) != other._given_by(name)
        }
        for ref in self.holders.keys() | other.holders.keys():
            one = self.holders.get(ref)
            if one != other.holders.get(ref) or (one is not None and not changed.isdisjoint(profiles_of(one))):
                yield ref

    def _given_by(self, profile: str) -> LabelPairs:
        found = self._profiles.get(profile)
        return found.labels_to_apply if found is not None else ()

    def labels_of(self, ref: Ref) -> dict[str, str] | None:
        """The labels of something that sets are made of, with those that it inherits; None where it is not."""
        holder = self.holders.get(ref)
        if holder is None:
            return None
        profiles = profiles_of(holder)
        return effective_labels(holder.labels, profiles, {name: self._given_by(name) for name in profiles})


def of_direction(tiers: Iterable[TierIntent], direction: Direction) -> tuple[TierIntent, ...]:
    """Tiers with the policies of one direction, where they have some."""
    if direction == "in":
        found = (TierIntent(tier.name, tier.default_action, tier.ingress, ()) for tier in tiers)
    else:
        found = (TierIntent(tier.name, tier.default_action, (), tier.egress) for tier in tiers)
    return tuple(tier for tier in found if tier.ingress or tier.egress)


def _read_bulk(cluster: Cluster, table: Table, like: World | None) -> dict[Name, Pod]:
    if like is not None and _has_the_same(cluster, like.cluster, (table,)):
        return like._pods
    return {name: one for name, one in cluster.bulk(table) if isinstance(one, Pod)}


def _has_the_same(one: Cluster, other: Cluster, tables: tuple[Table, ...]) -> bool:
    """Whether two states of a cluster hold the same values in some tables; one was made from the other."""
    return all(
        one.values.get(ref) is other.values.get(ref) for ref in (*one.values, *other.values) if ref.table in tables
    )


def _as_held(members: Iterable[Member]) -> Held:
    addresses: set[Address] = set()
    prefixes: set[Prefix] = set()
    served: dict[Address, set[tuple[int, int]]] = {}
    for member in members:
        if isinstance(member, bytes):
            addresses.add(member)
        elif isinstance(member, Prefix):
            prefixes.add(member)
        else:
            address, protocol, port = member
            served.setdefault(address, set()).add((protocol, port))
    return Held(
        frozenset(addresses),
        frozenset(prefixes),
        tuple(sorted({(len(prefix.address), prefix.length) for prefix in prefixes})),
        {address: frozenset(ports) for address, ports in served.items()},
    )
