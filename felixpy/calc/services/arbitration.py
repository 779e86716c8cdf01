"""Service frontends of this node, arbitrated between Services and kept up to date.

In: Services, their EndpointSlices (or Endpoints), grants of addresses and node ports, local endpoints, the node's zone,
the ranges that external addresses may come from, and which nodes look dead. Out: one intent per frontend (address,
protocol, port), and the health checks; `ServiceCalc` gives what changed, at a cost of the Services that changed, and
`derive_services` is the same function from scratch. Never says how packets are steered (dataplane/chains/services.py)
nor who announces an address (announce.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from felixpy.addresses import Address, Prefix
from felixpy.calc.reasons import Reason, Silent
from felixpy.calc.services.frontends import (
    Claim,
    Frontend,
    FrontendIntent,
    HealthCheck,
    Held,
    Here,
    allowed_external,
    derive_claims,
    derive_health,
    effective_slices,
)
from felixpy.calc.services.topology import Locality, zone_of
from felixpy.resources.bgp_types import BgpConfiguration
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.service_types import Backend, EndpointSlice, Grant, PortGrant, PortUse, Service
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import Node, WorkloadEndpoint

Tables = Mapping[Table, Mapping[Name, Resource]]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class ServiceDelta:
    """What changed since the last flush: frontends by their new intent, frontends that are gone, and health checks.

    `health` has a Service's health check as it is now, None where it has none any more.
    """

    puts: Mapping[Frontend, FrontendIntent] = field(default_factory=dict)
    drops: frozenset[Frontend] = frozenset()
    health: Mapping[Name, HealthCheck | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.puts or self.drops or self.health)


class ServiceCalc:
    """The frontends of `node`, kept up to date: `update` any resource, then `flush` what came of it.

    Cost    a flush re-derives the Services touched since the last one, each over its own backends.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self._services: dict[Name, Service] = {}
        self._slices: dict[Name, dict[Ref, EndpointSlice]] = {}
        self._slice_owner: dict[Ref, Name] = {}
        self._grants: dict[Name, Grant] = {}
        self._port_grants: dict[Name, PortGrant] = {}
        self._ports: dict[Name, dict[int, PortGrant]] = {}
        self._zone = ""
        self._health: dict[Name, HealthCheck] = {}
        self._granted: dict[Name, Counter[Address]] = {}
        self._local: Counter[Address] = Counter()
        self._workloads: dict[Name, tuple[Address, ...]] = {}
        self._homeless: dict[Address, Counter[Name]] = {}
        self._housed: dict[str, Counter[Name]] = {}
        self._dead: frozenset[str] = frozenset()
        self._external_ranges: tuple[Prefix, ...] = ()
        self._dirty: set[Name] = set()
        self._claims: dict[Frontend, dict[Claim, FrontendIntent]] = {}
        self._claimed: dict[Name, Mapping[Frontend, tuple[Claim, FrontendIntent]]] = {}
        self._published: dict[Frontend, FrontendIntent] = {}

    @property
    def frontends(self) -> Mapping[Frontend, FrontendIntent]:
        """All frontends as of the last flush."""
        return self._published

    @property
    def grants(self) -> Collection[Grant]:
        """The addresses that were granted, as of the last update."""
        return self._grants.values()

    def update(self, ref: Ref, value: Resource | None) -> None:
        """Takes in one resource (None: it is gone); those of other tables are passed over."""
        name = ref.name
        match ref.table:
            case Table.SERVICE:
                if isinstance(value, Service):
                    self._services[name] = value
                else:
                    self._services.pop(name, None)
                self._dirty.add(name)
            case Table.SLICE | Table.ENDPOINTS:
                self._update_slice(ref, value if isinstance(value, EndpointSlice) and not value.headless else None)
            case Table.GRANT:
                self._update_grant(name, value if isinstance(value, Grant) else None)
            case Table.PORT_GRANT:
                self._update_port_grant(name, value if isinstance(value, PortGrant) else None)
            case Table.NODE if name.name == self.node:
                self._move(zone_of(value.labels) if isinstance(value, Node) else "")
            case Table.WORKLOAD:
                local = isinstance(value, WorkloadEndpoint) and value.node == self.node
                self._update_workload(name, value.addresses if local and isinstance(value, WorkloadEndpoint) else ())
            case Table.BGP_CONFIGURATION if name.name == "default":
                ranges = value.service_external_cidrs if isinstance(value, BgpConfiguration) else ()
                if ranges != self._external_ranges:
                    self._external_ranges = ranges
                    self._dirty.update(key for key, one in self._services.items() if one.external_addresses)
            case _:
                pass

    def put_dead(self, nodes: frozenset[str]) -> None:
        """Takes which nodes look dead from here: what they have is used only where nobody else has any."""
        for node in nodes ^ self._dead:
            self._dirty.update(self._housed.get(node, ()))
        self._dead = nodes

    def _update_slice(self, ref: Ref, value: EndpointSlice | None) -> None:
        owner = self._slice_owner.pop(ref, None)
        if owner is not None:
            old = self._slices[owner].pop(ref)
            if not self._slices[owner]:
                del self._slices[owner]
            self._count_homes(owner, old, -1)
            self._dirty.add(owner)
        if value is not None:
            service = Name(ref.name.namespace, value.service)
            self._slice_owner[ref] = service
            self._slices.setdefault(service, {})[ref] = value
            self._count_homes(service, value, 1)
            self._dirty.add(service)

    def _count_homes(self, service: Name, slice_: EndpointSlice, step: int) -> None:
        """Remembers whom a node concerns. Backends without one are local when a local endpoint has their address."""
        for group in slice_.groups:
            for backend in group.backends:
                if backend.node:
                    _count(self._housed, backend.node, service, step)
                    continue
                for address in backend.addresses:
                    _count(self._homeless, address, service, step)

    def _update_grant(self, name: Name, value: Grant | None) -> None:
        old = self._grants.pop(name, None)
        if value is not None:
            self._grants[name] = value
        for grant, step in ((old, -1), (value, 1)):
            if grant is not None:
                for service in grant.services:
                    _count(self._granted, service, grant.address, step)
                    self._dirty.add(service)

    def _update_port_grant(self, name: Name, value: PortGrant | None) -> None:
        old = self._port_grants.pop(name, None)
        if old is not None:
            del self._ports[old.service][old.port]
            if not self._ports[old.service]:
                del self._ports[old.service]
            self._dirty.add(old.service)
        if value is not None:
            self._port_grants[name] = value
            self._ports.setdefault(value.service, {})[value.port] = value
            self._dirty.add(value.service)

    def _move(self, zone: str) -> None:
        """The node is in another zone now: what is near is another."""
        if zone != self._zone:
            self._zone = zone
            self._dirty.update(self._services)

    def _update_workload(self, name: Name, addresses: tuple[Address, ...]) -> None:
        old = self._workloads.pop(name, ())
        if old == addresses:
            if addresses:
                self._workloads[name] = addresses
            return
        if addresses:
            self._workloads[name] = addresses
        before = {address for address in (*old, *addresses) if self._local[address]}
        self._local.subtract(old)
        self._local.update(addresses)
        for address in {*old, *addresses}:
            if not self._local[address]:
                del self._local[address]
            if (address in before) != (address in self._local):
                self._dirty.update(self._homeless.get(address, ()))

    def _is_local(self, backend: Backend) -> bool:
        if backend.node:
            return backend.node == self.node
        return any(address in self._local for address in backend.addresses)

    def flush(self) -> ServiceDelta:
        """What changed since the last flush; nothing where a change came to nothing."""
        touched: set[Frontend] = set()
        health: dict[Name, HealthCheck | None] = {}
        here = Here(Locality(self.node, self._zone), self._is_local, self._external_ranges, self._dead)
        for name in self._dirty:
            service = self._services.get(name)
            held = self._held(name)
            touched |= self._reclaim(name, service, held, here)
            check = derive_health(name, service, held, here) if service is not None else None
            if check != self._health.get(name):
                health[name] = check
        for name, check in health.items():
            if check is None:
                del self._health[name]
            else:
                self._health[name] = check
        self._dirty.clear()
        puts, drops = {}, set()
        for frontend in touched:
            claims = self._claims.get(frontend)
            if not claims:
                self._claims.pop(frontend, None)
                if self._published.pop(frontend, None) is not None:
                    drops.add(frontend)
                continue
            intent = claims[min(claims)]
            if self._published.get(frontend) != intent:
                self._published[frontend] = puts[frontend] = intent
        return ServiceDelta(puts, frozenset(drops), health)

    def _held(self, name: Name) -> Held:
        ports = _ports_of(self._ports.get(name, {}).values())
        return Held(effective_slices(self._slices.get(name, {})), self._granted.get(name, ()), ports)

    def _reclaim(self, name: Name, service: Service | None, held: Held, here: Here) -> set[Frontend]:
        """Replaces the claims of one Service; the frontends whose claims differ from before."""
        old = self._claimed.pop(name, {})
        new = derive_claims(name, service, held, here) if service is not None else {}
        if new:
            self._claimed[name] = new
        touched = set()
        for frontend in {*old, *new}:
            before, after = old.get(frontend), new.get(frontend)
            if before == after:
                continue
            touched.add(frontend)
            claims = self._claims.setdefault(frontend, {})
            if before is not None:
                del claims[before[0]]
            if after is not None:
                claims[after[0]] = after[1]
        return touched

    def silences(self, name: Name) -> Mapping[Address | Frontend, Silent]:
        """Why parts of one Service do nothing here: by address where all of it, by frontend where only that."""
        service = self._services.get(name)
        if service is None:
            return {}
        found: dict[Address | Frontend, Silent] = {
            address: Silent(Reason.EXTERNAL_ADDRESS_NOT_ALLOWED)
            for address in set(service.external_addresses) - set(allowed_external(service, self._external_ranges))
        }
        for frontend in self._claimed.get(name, {}):
            intent = self._published[frontend]
            if intent.service != name:
                found[frontend] = Silent(Reason.TAKEN)
            elif intent.reason is not None:
                found[frontend] = Silent(intent.reason)
        return found


def _count(counts: dict[K, Counter[V]], key: K, value: V, step: int) -> None:
    """Adds `step` to a count, and keeps no zero."""
    counter = counts.setdefault(key, Counter())
    counter[value] += step
    if not counter[value]:
        del counter[value]
    if not counter:
        del counts[key]


def _ports_of(grants: Iterable[PortGrant]) -> Mapping[PortUse, int]:
    """The ports that some grants give; the lowest where two are for the same."""
    found: dict[PortUse, int] = {}
    for grant in sorted(grants, key=lambda one: -one.port):
        found.update(dict.fromkeys(grant.uses, grant.port))
    return found


def derive_services(
    tables: Tables, node: str, dead: Collection[str] = frozenset()
) -> Mapping[Frontend, FrontendIntent]:
    """All frontends of `node`, from scratch."""
    return derive_all(tables, node, dead)[0]


def derive_all(
    tables: Tables, node: str, dead: Collection[str] = frozenset()
) -> tuple[Mapping[Frontend, FrontendIntent], Mapping[Name, HealthCheck]]:
    """All frontends and health checks of `node`, from scratch.

    Shape   one intent per (address, protocol, port); two Services that claim the same: the lower Claim has it.
    Missing a granted address without its Service, or whose Service is no LoadBalancer, has no frontend.
    """
    local = {
        address
        for endpoint in tables.get(Table.WORKLOAD, {}).values()
        if isinstance(endpoint, WorkloadEndpoint) and endpoint.node == node
        for address in endpoint.addresses
    }

    def is_local(backend: Backend) -> bool:
        return backend.node == node if backend.node else any(address in local for address in backend.addresses)

    configuration = tables.get(Table.BGP_CONFIGURATION, {}).get(Name("", "default"))
    ranges = configuration.service_external_cidrs if isinstance(configuration, BgpConfiguration) else ()
    slices: dict[Name, dict[Ref, EndpointSlice]] = {}
    for table in (Table.SLICE, Table.ENDPOINTS):
        for key, value in tables.get(table, {}).items():
            if isinstance(value, EndpointSlice) and not value.headless:
                slices.setdefault(Name(key.namespace, value.service), {})[Ref(table, key)] = value
    granted: dict[Name, set[Address]] = {}
    for grant in tables.get(Table.GRANT, {}).values():
        if isinstance(grant, Grant):
            for name in grant.services:
                granted.setdefault(name, set()).add(grant.address)
    ports: dict[Name, list[PortGrant]] = {}
    for grant in tables.get(Table.PORT_GRANT, {}).values():
        if isinstance(grant, PortGrant):
            ports.setdefault(grant.service, []).append(grant)
    own = tables.get(Table.NODE, {}).get(Name("", node))
    here = Here(Locality(node, zone_of(own.labels) if isinstance(own, Node) else ""), is_local, ranges, dead)
    claims: dict[Frontend, dict[Claim, FrontendIntent]] = {}
    health: dict[Name, HealthCheck] = {}
    for name, service in tables.get(Table.SERVICE, {}).items():
        if not isinstance(service, Service):
            continue
        held = Held(effective_slices(slices.get(name, {})), granted.get(name, ()), _ports_of(ports.get(name, ())))
        for frontend, (claim, intent) in derive_claims(name, service, held, here).items():
            claims.setdefault(frontend, {})[claim] = intent
        check = derive_health(name, service, held, here)
        if check is not None:
            health[name] = check
    return {frontend: held[min(held)] for frontend, held in claims.items()}, health
