"""Which Service addresses this node contends for by ARP and NDP, among which nodes, and why not for the others.

In      grants and the frontends of services.py (one truth for forwarding and announcing), L2Advertisements, the labels
        of pools and nodes, and (for the traffic policy Local) which nodes have endpoints.
Out     by address: this node's rank and score among the nodes that may have it, the best first; or a reason.
Never   knows which of those nodes is alive: that is settled on the segment (birdpy/l2/election.py).
        `Layer2Calc` follows changes at the cost of the addresses that they concern; `derive_layer2` is the same from
        scratch.
Source  metallb speaker/layer2_controller.go (who may), design/preferred-node-l2.md (weights add up per advertisement);
        rendezvous hashing: a node that comes or goes moves its own addresses only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeVar

from felixpy.addresses import Address, format_address, parse_address
from felixpy.calc.announcing.advertisements import EXCLUDE_LABEL
from felixpy.calc.announcing.announcements import find_unserved, granted_intents
from felixpy.calc.announcing.elsewhere import Elsewhere, derive_elsewhere
from felixpy.calc.reasons import Reason, Silent
from felixpy.calc.services.arbitration import ServiceDelta, Tables, derive_services
from felixpy.calc.services.frontends import Frontend, FrontendIntent, effective_slices
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.service_types import (
    AddressPool,
    Answering,
    EndpointSlice,
    Grant,
    L2Advertisement,
    Service,
    TrafficPolicy,
)
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import LabelPairs, Node
from felixpy.selector import Selector, compile_selector

_R = TypeVar("_R")
_K = TypeVar("_K")
_V = TypeVar("_V")

_HASH_BYTES = 6
_WEIGHT_MOST = 0xFFFF


@dataclass(frozen=True, slots=True)
class Layer2Vip:
    """An address that this node may answer for: the one of `nodes` (best first) that is alive, and hears the others.

    `interfaces` None means all. `score` orders as `rank` does: the weight, then a hash of node and address.
    `elsewhere`: segments on which another node says that it answers, with the greatest score of such a one.
    """

    address: Address
    rank: int
    score: int
    nodes: tuple[str, ...]
    interfaces: tuple[str, ...] | None = None
    elsewhere: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Layer2Delta:
    """What changed since the last flush."""

    puts: Mapping[Address, Layer2Vip] = field(default_factory=dict)
    drops: frozenset[Address] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.puts or self.drops)


def score_node(node: str, address: Address, weight: int) -> int:
    """How good a node is for an address: 64 bits, the greatest wins."""
    digest = blake2b(node.encode() + b"#" + address, digest_size=_HASH_BYTES).digest()
    return min(weight, _WEIGHT_MOST) << 8 * _HASH_BYTES | int.from_bytes(digest, "big")


@dataclass(frozen=True, slots=True)
class Reach:
    """The nodes of one advertisement with their weights, and the interfaces to use there (None: all)."""

    weights: Mapping[str, int]
    interfaces: tuple[str, ...] | None


def derive_reach(advertisement: L2Advertisement, nodes: Mapping[str, LabelPairs]) -> Reach:
    """The nodes that an advertisement selects; none of those that are excluded from external load balancers."""
    weights = {}
    preferences = [(one.weight, compile_selector(one.selector)) for one in advertisement.preferences]
    for node, pairs in nodes.items():
        labels = dict(pairs)
        if EXCLUDE_LABEL not in labels and _selects(advertisement.node_selectors, labels):
            weights[node] = sum(weight for weight, predicate in preferences if predicate(labels))
    return Reach(weights, advertisement.interfaces or None)


def _selects(selectors: Collection[Selector], labels: Mapping[str, str]) -> bool:
    return not selectors or any(compile_selector(selector)(labels) for selector in selectors)


@dataclass(frozen=True, slots=True)
class World:
    """What an address is judged by. `pools` are the labels of the pools by their names."""

    node: str
    nodes: Mapping[str, LabelPairs]
    pools: Mapping[str, LabelPairs]
    services: Mapping[Name, Service]
    slices: Mapping[Name, Mapping[Ref, EndpointSlice]]
    advertisements: Mapping[Name, L2Advertisement]
    reaches: Mapping[Name, Reach]
    elsewhere: Callable[[Address], tuple[tuple[str, int], ...]]


def derive_vip(grant: Grant, intents: Collection[FrontendIntent], world: World) -> Layer2Vip | Silent:
    """What one granted address means for this node."""
    unserved = find_unserved(intents)
    if unserved is not None:
        return unserved
    applying = [
        world.reaches[name] for name, one in sorted(world.advertisements.items()) if _applies(one, grant, world)
    ]
    here = [reach for reach in applying if world.node in reach.weights]
    if not here:
        excluded = applying and EXCLUDE_LABEL in dict(world.nodes.get(world.node, ()))
        return Silent(Reason.NODE_EXCLUDED if excluded else Reason.NOT_LAYER2)
    weights: dict[str, int] = {}
    for reach in applying:
        for node, weight in reach.weights.items():
            weights[node] = weights.get(node, 0) + weight
    serving = _find_serving(grant, intents, world)
    scored = sorted(
        (
            (score_node(node, grant.address, weight), node)
            for node, weight in weights.items()
            if serving is None or node in serving or node == world.node
        ),
        reverse=True,
    )
    nodes = tuple(node for _, node in scored)
    interfaces = None
    if all(reach.interfaces is not None for reach in here):
        interfaces = tuple(sorted({name for reach in here for name in reach.interfaces or ()}))
    rank = nodes.index(world.node)
    return Layer2Vip(grant.address, rank, scored[rank][0], nodes, interfaces, world.elsewhere(grant.address))


def _applies(one: L2Advertisement, grant: Grant, world: World) -> bool:
    if one.pools or one.pool_selectors:
        by_label = one.pool_selectors and _selects(one.pool_selectors, dict(world.pools.get(grant.pool, ())))
        if grant.pool not in one.pools and not by_label:
            return False
    if not one.service_selectors:
        return True
    services = (world.services.get(name) for name in grant.services)
    return any(one.service_selectors and _selects(one.service_selectors, dict(s.labels)) for s in services if s)


def _find_serving(grant: Grant, intents: Collection[FrontendIntent], world: World) -> frozenset[str] | None:
    """The nodes that have endpoints for an address of policy Local; None where every node serves it.

    An endpoint that does not say its node may be on any: then all count, and those that serve nothing do not contend.
    """
    nodes: set[str] = set()
    served = {intent.service for intent in intents if intent.outside}
    for name in grant.services:
        service = world.services.get(name)
        if service is None:
            continue
        if service.external_policy is not TrafficPolicy.LOCAL:
            if name in served:
                return None
            continue
        for slice_ in effective_slices(world.slices.get(name, {})):
            for group in slice_.groups:
                for backend in group.backends:
                    usable = backend.ready or (backend.serving and backend.terminating)
                    if usable and any(len(one) == len(grant.address) for one in backend.addresses):
                        if not backend.node:
                            return None
                        nodes.add(backend.node)
    return frozenset(nodes)


class Layer2Calc:
    """The addresses of `node` at layer 2, kept up to date: `update` and `update_frontends`, then `flush`.

    Cost    an address costs the nodes that may have it; a change of a node's labels, or of an advertisement, costs all
            addresses.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self._nodes: dict[str, LabelPairs] = {}
        self._pools: dict[str, LabelPairs] = {}
        self._services: dict[Name, Service] = {}
        self._slices: dict[Name, dict[Ref, EndpointSlice]] = {}
        self._slice_owner: dict[Ref, Name] = {}
        self._advertisements: dict[Name, L2Advertisement] = {}
        self._reaches: dict[Name, Reach] = {}
        self._grants: dict[Address, Grant] = {}
        self._grants_of: dict[Name, set[Address]] = {}
        self._frontends_at: dict[Address, dict[Frontend, FrontendIntent]] = {}
        self._elsewhere = Elsewhere(node)
        self._dirty: set[Address] = set()
        self._reach_dirty = False
        self._silent: dict[Address, Silent] = {}
        self._published: dict[Address, Layer2Vip] = {}

    @property
    def vips(self) -> Mapping[Address, Layer2Vip]:
        """All, as of the last flush."""
        return self._published

    @property
    def silences(self) -> Mapping[Address, Silent]:
        """Why this node does not contend for a granted address; as of the last flush."""
        return self._silent

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes in one resource (None: it is gone); those of other tables are passed over."""
        match ref.table:
            case Table.GRANT:
                self._update_grant(ref.name, value if isinstance(value, Grant) else None)
            case Table.NODE:
                self._update_node(ref.name.name, value.labels if isinstance(value, Node) else None)
            case Table.ADDRESS_POOL:
                labels = value.labels if isinstance(value, AddressPool) else None
                if _put(self._pools, ref.name.name, labels):
                    self._dirty |= self._grants.keys()
            case Table.L2_ADVERTISEMENT:
                _put(self._advertisements, ref.name, value if isinstance(value, L2Advertisement) else None)
                self._reach_dirty = True
            case Table.SERVICE:
                _put(self._services, ref.name, value if isinstance(value, Service) else None)
                self._dirty |= self._grants_of.get(ref.name, set())
            case Table.ANSWERING:
                said = self._elsewhere.update(ref.name.name, value if isinstance(value, Answering) else None)
                self._dirty |= said & self._grants.keys()
            case Table.SLICE | Table.ENDPOINTS:
                self._update_slice(ref, value if isinstance(value, EndpointSlice) and not value.headless else None)
            case _:
                pass

    def _update_grant(self, name: Name, grant: Grant | None) -> None:
        address = _address_of(name)
        if address is None:
            return
        if grant is not None and grant.address != address:
            grant = None
        old = self._grants.pop(address, None)
        for service in old.services if old else ():
            self._grants_of[service].discard(address)
            if not self._grants_of[service]:
                del self._grants_of[service]
        if grant is not None:
            self._grants[address] = grant
            for service in grant.services:
                self._grants_of.setdefault(service, set()).add(address)
        self._dirty.add(address)

    def _update_node(self, node: str, labels: LabelPairs | None) -> None:
        if _put(self._nodes, node, labels):
            self._reach_dirty = True

    def _update_slice(self, ref: Ref, value: EndpointSlice | None) -> None:
        owner = self._slice_owner.pop(ref, None)
        if owner is not None:
            del self._slices[owner][ref]
            if not self._slices[owner]:
                del self._slices[owner]
            self._touch_local(owner)
        if value is not None:
            service = Name(ref.name.namespace, value.service)
            self._slice_owner[ref] = service
            self._slices.setdefault(service, {})[ref] = value
            self._touch_local(service)

    def _touch_local(self, name: Name) -> None:
        """Where endpoints are matters to the policy Local alone; whether there are any shows in the frontends."""
        service = self._services.get(name)
        if service is not None and service.external_policy is TrafficPolicy.LOCAL:
            self._dirty |= self._grants_of.get(name, set())

    def update_frontends(self, delta: ServiceDelta) -> None:
        """Takes in what ServiceCalc flushed."""
        for frontend in (*delta.drops, *delta.puts):
            held = self._frontends_at.setdefault(frontend.address, {})
            _put(held, frontend, delta.puts.get(frontend))
            if not held:
                del self._frontends_at[frontend.address]
            if frontend.address in self._grants:
                self._dirty.add(frontend.address)

    def flush(self) -> Layer2Delta:
        """What changed since the last flush; nothing where a change came to nothing."""
        if self._reach_dirty:
            self._reach_dirty = False
            self._reaches = {name: derive_reach(one, self._nodes) for name, one in self._advertisements.items()}
            self._dirty |= self._grants.keys()
        puts, drops = {}, set()
        world = World(
            self.node,
            self._nodes,
            self._pools,
            self._services,
            self._slices,
            self._advertisements,
            self._reaches,
            self._elsewhere.find,
        )
        for address in self._dirty:
            made = self._derive(address, world)
            self._silent.pop(address, None)
            if isinstance(made, Layer2Vip):
                if self._published.get(address) != made:
                    self._published[address] = puts[address] = made
                continue
            if made is not None:
                self._silent[address] = made
            if self._published.pop(address, None) is not None:
                drops.add(address)
        self._dirty.clear()
        return Layer2Delta(puts, frozenset(drops))

    def _derive(self, address: Address, world: World) -> Layer2Vip | Silent | None:
        grant = self._grants.get(address)
        if grant is None:
            return None
        return derive_vip(grant, granted_intents(grant, self._frontends_at.get(address, {})), world)


def derive_layer2(tables: Tables, node: str) -> tuple[Mapping[Address, Layer2Vip], Mapping[Address, Silent]]:
    """All addresses that `node` contends for, and why not for the other granted ones, from scratch."""
    nodes = {name.name: one.labels for name, one in _rows(tables, Table.NODE, Node)}
    advertisements = dict(_rows(tables, Table.L2_ADVERTISEMENT, L2Advertisement))
    slices: dict[Name, dict[Ref, EndpointSlice]] = {}
    for table in (Table.SLICE, Table.ENDPOINTS):
        for key, value in _rows(tables, table, EndpointSlice):
            if not value.headless:
                slices.setdefault(Name(key.namespace, value.service), {})[Ref(table, key)] = value
    world = World(
        node,
        nodes,
        {name.name: one.labels for name, one in _rows(tables, Table.ADDRESS_POOL, AddressPool)},
        dict(_rows(tables, Table.SERVICE, Service)),
        slices,
        advertisements,
        {name: derive_reach(one, nodes) for name, one in advertisements.items()},
        lambda address: derive_elsewhere(tables, node, address),
    )
    at: dict[Address, dict[Frontend, FrontendIntent]] = {}
    for frontend, intent in derive_services(tables, node).items():
        at.setdefault(frontend.address, {})[frontend] = intent
    vips, silent = {}, {}
    for name, grant in _rows(tables, Table.GRANT, Grant):
        if _address_of(name) != grant.address:
            continue
        made = derive_vip(grant, granted_intents(grant, at.get(grant.address, {})), world)
        if isinstance(made, Silent):
            silent[grant.address] = made
        else:
            vips[grant.address] = made
    return vips, silent


def _address_of(name: Name) -> Address | None:
    """A grant lies at its address in canonical text; one at another key, or that says another address, is none."""
    try:
        address = parse_address(name.name)
    except ValueError:
        return None
    return address if format_address(address) == name.name else None


def _rows(tables: Tables, table: Table, kind: type[_R]) -> Iterable[tuple[Name, _R]]:
    return ((name, one) for name, one in tables.get(table, {}).items() if isinstance(one, kind))


def _put(table: dict[_K, _V], key: _K, value: _V | None) -> bool:
    """Sets or (None) removes an entry; whether that changed anything."""
    if value is None:
        return table.pop(key, None) is not None
    changed = table.get(key) != value
    table[key] = value
    return changed
