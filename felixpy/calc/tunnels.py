"""Which routes, next hops and tunnel devices this node needs to reach the addresses that other nodes hold.

In: blocks, nodes, pools, FelixConfiguration, and the host's own devices; out: what changed of routes per block, next
hops per way, and devices. The blocks in etcd decide, not BGP, so tunnels work without it. `derive_tunnels` is the same
from scratch. Pools that are not tunnelled get no routes here: BGP brings those; own blocks get their blackholes always.
Pure. Source: felix/calc/l3_route_resolver.go; docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from felixpy.addresses import Prefix
from felixpy.calc.tunnel_plan import (
    Hop,
    HostDevices,
    Tunnel,
    TunnelDevice,
    Unreached,
    Way,
    address_of,
    derive_device,
    derive_hop,
    derive_settings,
    derive_ways,
    pool_of,
    tunnel_of,
)
from felixpy.resources.codec import parse_block_name
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Block, FelixConfiguration, IpPool, Node

Tables = Mapping[Table, Mapping[Name, Resource]]

Towards = int | Hop | None
"""Where a route leads: a next hop's number; the hop itself where another way has its number; None is a blackhole."""


@dataclass(frozen=True, slots=True)
class NextHopIntent:
    """The next hop of one way. `number` None: another way has it, and routes carry the hop themselves."""

    number: int | None
    hop: Hop


BlockRoutes = Mapping[Prefix, Towards]
"""The routes that one block asks for, by destination."""


@dataclass(frozen=True, slots=True)
class TunnelRoute:
    """A route of a tunnelled pool to another node, through `hop`; or, where there is none, why it is dropped."""

    destination: Prefix
    way: Way
    hop: Hop | None = None
    why_dropped: Unreached | None = None


@dataclass(frozen=True, slots=True)
class TunnelDelta:
    """What changed since the last flush; None means that it is gone."""

    devices: Mapping[Tunnel, TunnelDevice | None] = field(default_factory=dict)
    hops: Mapping[Way, NextHopIntent | None] = field(default_factory=dict)
    blocks: Mapping[Prefix, BlockRoutes | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.devices or self.hops or self.blocks)


@dataclass(frozen=True, slots=True)
class TunnelIntent:
    """All of it; `unreached` says why a way has no next hop, or a tunnel no device."""

    devices: Mapping[Tunnel, TunnelDevice] = field(default_factory=dict)
    hops: Mapping[Way, NextHopIntent] = field(default_factory=dict)
    blocks: Mapping[Prefix, BlockRoutes] = field(default_factory=dict)
    unreached: Mapping[Way | Tunnel, Unreached] = field(default_factory=dict)


class TunnelCalc:
    """The tunnels of `node`, kept up to date: `update` and `put_devices`, then `flush`.

    Cost    a block costs itself; another node costs its ways (its blocks too, when it becomes reachable or stops);
            pools, and this node's own addresses and devices, cost everything.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self.objects = True
        """Whether there are to be nexthop objects; set before anything is told."""
        self._nodes: dict[str, Node] = {}
        self._pools: dict[Name, IpPool] = {}
        self._blocks: dict[Prefix, Block] = {}
        self._configurations: dict[str, FelixConfiguration] = {}
        self._host: HostDevices = {}
        self._wanted: dict[Prefix, Mapping[Prefix, Way | None]] = {}
        self._users: dict[Way, set[Prefix]] = {}
        self._ways_to: dict[str, set[Way]] = {}
        self._numbers: dict[int, set[Way]] = {}
        self._dirty_blocks: set[Prefix] = set()
        self._dirty_ways: set[Way] = set()
        self._devices_dirty = True
        self._devices: dict[Tunnel, TunnelDevice] = {}
        self._hops: dict[Way, NextHopIntent] = {}
        self._routes: dict[Prefix, BlockRoutes] = {}
        self._unreached: dict[Way | Tunnel, Unreached] = {}

    @property
    def intent(self) -> TunnelIntent:
        """All of it, as of the last flush."""
        return TunnelIntent(self._devices, self._hops, self._routes, self._unreached)

    def count_routes(self) -> int:
        """How many routes lead to other nodes; costs what the blocks are."""
        return sum(way is not None for ways in self._wanted.values() for way in ways.values())

    def list_routes(self) -> Iterator[TunnelRoute]:
        """Every route to other nodes, as of the last flush, in the order of their blocks."""
        for prefix in sorted(self._wanted):
            for destination, way in self._wanted[prefix].items():
                if way is not None:
                    intent = self._hops.get(way)
                    hop = intent.hop if intent is not None else None
                    yield TunnelRoute(destination, way, hop, self._unreached.get(way))

    @property
    def needs_devices(self) -> bool:
        """Whether the host's devices make any difference: some pool is tunnelled."""
        return any(tunnel_of(pool) is not None for pool in self._pools.values())

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes in one resource (None: it is gone); those of other tables are passed over."""
        match ref.table:
            case Table.BLOCK:
                prefix = parse_block_name(ref.name.name)
                _set(self._blocks, prefix, value if isinstance(value, Block) else None)
                self._dirty_blocks.add(prefix)
            case Table.NODE:
                self._update_node(ref.name.name, value if isinstance(value, Node) else None)
            case Table.POOL:
                self._update_pool(ref.name, value if isinstance(value, IpPool) else None)
            case Table.FELIX_CONFIGURATION if ref.name.name in scopes(self.node):
                _set(self._configurations, ref.name.name, value if isinstance(value, FelixConfiguration) else None)
                self._devices_dirty = True
            case _:
                pass

    def _update_node(self, name: str, node: Node | None) -> None:
        before = self._nodes.get(name)
        _set(self._nodes, name, node)
        self._dirty_ways |= self._ways_to.get(name, set())
        if name == self.node:
            self._devices_dirty = True
            if any(address_of(before, version) != address_of(node, version) for version in (4, 6)):
                self._dirty_ways.update(self._users)

    def _update_pool(self, name: Name, pool: IpPool | None) -> None:
        touched = [one.cidr for one in (self._pools.get(name), pool) if one is not None]
        _set(self._pools, name, pool)
        self._devices_dirty = True
        self._dirty_blocks.update(block for block in self._blocks if any(cidr.overlaps(block) for cidr in touched))

    def put_devices(self, devices: HostDevices) -> None:
        """Takes the host's addresses and the devices that hold them, as they are now."""
        if devices == self._host:
            return
        self._host = devices
        self._devices_dirty = True
        self._dirty_ways.update(self._users)

    def flush(self) -> TunnelDelta:
        """What changed since the last flush; nothing where a change came to nothing."""
        for prefix in self._dirty_blocks:
            self._rewire(prefix)
        hops = self._flush_ways()
        blocks: dict[Prefix, BlockRoutes | None] = {}
        for prefix in self._dirty_blocks:
            _publish(self._routes, prefix, self._derive_routes(prefix) or None, blocks)
        self._dirty_blocks.clear()
        return TunnelDelta(self._flush_devices(), hops, blocks)

    def _rewire(self, prefix: Prefix) -> None:
        """Finds anew which ways a block takes; ways that nobody takes any more, or did not before, become dirty."""
        block = self._blocks.get(prefix)
        old = {way for way in self._wanted.pop(prefix, {}).values() if way is not None}
        wanted: Mapping[Prefix, Way | None] = {}
        if block is not None:
            wanted = derive_ways(prefix, block, pool_of(self._pools.values(), prefix), self.node)
        if wanted:
            self._wanted[prefix] = wanted
        new = {way for way in wanted.values() if way is not None}
        for way in new - old:
            if way not in self._users:
                self._users[way] = set()
                self._ways_to.setdefault(way.node, set()).add(way)
                self._share_number(way, taken=True)
            self._users[way].add(prefix)
        for way in old - new:
            self._users[way].discard(prefix)
            if not self._users[way]:
                del self._users[way]
                self._ways_to[way.node].discard(way)
                if not self._ways_to[way.node]:
                    del self._ways_to[way.node]
                self._share_number(way, taken=False)

    def _share_number(self, way: Way, taken: bool) -> None:
        """A way begins or ends to use its number: those with the same one may win or lose it."""
        holders = self._numbers.setdefault(way.number, set())
        if taken:
            holders.add(way)
        else:
            holders.discard(way)
        self._dirty_ways |= {way, *holders}
        if not holders:
            del self._numbers[way.number]

    def _flush_ways(self) -> Mapping[Way, NextHopIntent | None]:
        hops: dict[Way, NextHopIntent | None] = {}
        for way in self._dirty_ways:
            before, after = self._hops.get(way), self._derive_hop(way)
            _publish(self._hops, way, after, hops)
            if _as_seen_by_routes(before) != _as_seen_by_routes(after):
                self._dirty_blocks |= self._users.get(way, set())
        self._dirty_ways.clear()
        return hops

    def _derive_hop(self, way: Way) -> NextHopIntent | None:
        self._unreached.pop(way, None)
        if way not in self._users:
            return None
        hop = derive_hop(way, self._nodes.get(self.node), self._nodes.get(way.node), self._host)
        if isinstance(hop, Unreached):
            self._unreached[way] = hop
            return None
        numbered = self.objects and min(self._numbers[way.number]) == way
        return NextHopIntent(way.number if numbered else None, hop)

    def _derive_routes(self, prefix: Prefix) -> BlockRoutes:
        return routes_of(self._wanted.get(prefix, {}), self._hops)

    def _flush_devices(self) -> Mapping[Tunnel, TunnelDevice | None]:
        changed: dict[Tunnel, TunnelDevice | None] = {}
        if self._devices_dirty:
            self._devices_dirty = False
            ordered = [self._configurations.get(scope) for scope in scopes(self.node)]
            found, absent = derive_devices(
                self._pools.values(), self.node, self._nodes.get(self.node), self._host, ordered
            )
            for tunnel in Tunnel:
                _publish(self._devices, tunnel, found.get(tunnel), changed)
                _set(self._unreached, tunnel, absent.get(tunnel))
        return changed


def scopes(node: str) -> tuple[str, str]:
    """The FelixConfigurations that concern a node; the later one wins."""
    return "default", f"node.{node}"


def derive_devices(
    pools: Iterable[IpPool],
    name: str,
    me: Node | None,
    host: HostDevices,
    configurations: Iterable[FelixConfiguration | None],
) -> tuple[Mapping[Tunnel, TunnelDevice], Mapping[Tunnel, Unreached]]:
    """The device of each tunnel that a pool asks for, or why there is none."""
    settings = derive_settings(configurations)
    asked = {found[0] for found in map(tunnel_of, pools) if found is not None}
    derived = {tunnel: derive_device(tunnel, name, me, host, settings) for tunnel in asked}
    return (
        {tunnel: one for tunnel, one in derived.items() if isinstance(one, TunnelDevice)},
        {tunnel: one for tunnel, one in derived.items() if isinstance(one, Unreached)},
    )


def routes_of(wanted: Mapping[Prefix, Way | None], hops: Mapping[Way, NextHopIntent]) -> BlockRoutes:
    """One block's routes. What cannot be reached is dropped: the default route would take it out of the cluster."""
    routes: dict[Prefix, Towards] = {}
    for destination, way in wanted.items():
        found = hops.get(way) if way is not None else None
        routes[destination] = None if found is None else found.hop if found.number is None else found.number
    return routes


def _as_seen_by_routes(intent: NextHopIntent | None) -> NextHopIntent | int | None:
    return intent if intent is None or intent.number is None else intent.number


_K = TypeVar("_K")
_V = TypeVar("_V")


def _publish(published: dict[_K, _V], key: _K, value: _V | None, changed: dict[_K, _V | None]) -> None:
    if published.get(key) != value:
        _set(published, key, value)
        changed[key] = value


def _set(table: dict[_K, _V], key: _K, value: _V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def derive_tunnels(tables: Tables, node: str, host: HostDevices) -> TunnelIntent:
    """All routes, next hops and devices of `node`, from scratch."""
    pools = [pool for pool in tables.get(Table.POOL, {}).values() if isinstance(pool, IpPool)]
    nodes = {name.name: one for name, one in tables.get(Table.NODE, {}).items() if isinstance(one, Node)}
    wanted: dict[Prefix, Mapping[Prefix, Way | None]] = {}
    for name, block in tables.get(Table.BLOCK, {}).items():
        if isinstance(block, Block):
            prefix = parse_block_name(name.name)
            wanted[prefix] = derive_ways(prefix, block, pool_of(pools, prefix), node)
    ways = {way for routes in wanted.values() for way in routes.values() if way is not None}
    numbered: dict[int, Way] = {}
    for way in sorted(ways, reverse=True):
        numbered[way.number] = way
    hops: dict[Way, NextHopIntent] = {}
    unreached: dict[Way | Tunnel, Unreached] = {}
    for way in ways:
        hop = derive_hop(way, nodes.get(node), nodes.get(way.node), host)
        if isinstance(hop, Unreached):
            unreached[way] = hop
        else:
            hops[way] = NextHopIntent(way.number if numbered[way.number] == way else None, hop)
    found = tables.get(Table.FELIX_CONFIGURATION, {})
    ordered = [one if isinstance(one := found.get(Name("", s)), FelixConfiguration) else None for s in scopes(node)]
    devices, absent = derive_devices(pools, node, nodes.get(node), host, ordered)
    unreached.update(absent.items())
    blocks = {prefix: routes for prefix, one in wanted.items() if (routes := routes_of(one, hops))}
    return TunnelIntent(devices, hops, blocks, unreached)
