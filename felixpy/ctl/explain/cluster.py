"""The cluster at one revision, as far as packets care.

In: what is in the datastore; out: resources by table, who holds which address, and for each node the resources that
decide about given addresses. Others could only add members to sets that these addresses are not in, so leaving them
out changes nothing, and a cluster of any size is compiled in the time that its policies take. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from felixpy.addresses import Address, format_address
from felixpy.calc.announcing.floating import is_enabled
from felixpy.calc.policy.hosts import EVERY_INTERFACE
from felixpy.calc.policy.peers import every_address
from felixpy.calc.policy.pods import pod_of
from felixpy.calc.tunnel_plan import Tunnel, tunnel_address
from felixpy.datastore.model import KeyValue
from felixpy.resources.codec import Decoder, faults_of
from felixpy.resources.kinds import CALICO_PREFIX, GRANTS_PREFIX, IPAM_PREFIX, KINDS, OURS_PREFIX, Name
from felixpy.resources.resource import Broken, Resource
from felixpy.resources.service_types import Grant, PortGrant, Service
from felixpy.resources.tables import Decoded, Ref, Table
from felixpy.resources.types import HostEndpoint, Node, WorkloadEndpoint

PREFIXES = tuple(prefix.encode() for prefix in (CALICO_PREFIX, OURS_PREFIX, GRANTS_PREFIX))
"""What policy reads."""
WITH_TUNNELS = (*PREFIXES, f"{IPAM_PREFIX}assignment/".encode())
"""What an explanation reads: blocks too, which say what goes through tunnels."""
DEFAULT_UPLINK = "eth0"
_BULK = {Table.POD: "Pod", Table.SLICE: "EndpointSlice", Table.ENDPOINTS: "Endpoints"}
"""Tables that are read one object at a time, those that matter; the kinds whose keys they have."""
_BULK_PREFIXES = {info.prefix.encode(): table for table, kind in _BULK.items() for info in KINDS if info.kind == kind}
_BULK_STARTS = tuple(_BULK_PREFIXES)

Tables = dict[Table, dict[Name, Resource]]


class FloatingHolder(NamedTuple):
    """Whom a floating address leads to: the first endpoint by name, and the address there."""

    endpoint: Name
    node: str
    internal: Address


@dataclass(frozen=True, slots=True)
class Cluster:
    """Resources by table (endpoints without their interface), raw values by Ref, and endpoints by address.

    `floating` are the floating addresses that are in use on their endpoint's node. `staged` are the policies that are
    in force here alone, since something staged stands for them.
    """

    tables: Mapping[Table, Mapping[Name, Resource]]
    values: Mapping[Ref, KeyValue]
    holders: Mapping[Address, tuple[Name, ...]]
    broken: tuple[Broken, ...] = ()
    node_names: Mapping[Address, str] = field(default_factory=dict)
    floating: Mapping[Address, FloatingHolder] = field(default_factory=dict)
    staged: frozenset[Ref] = frozenset()

    def endpoint(self, name: Name) -> WorkloadEndpoint | None:
        """An endpoint with all that its own node's agent reads of it."""
        known = self.tables[Table.WORKLOAD].get(name)
        if not isinstance(known, WorkloadEndpoint):
            return None
        found = self._read(Decoder(known.node), Ref(Table.WORKLOAD, name))
        return found if isinstance(found, WorkloadEndpoint) else None

    def changed(self, changes: Mapping[str, bytes | None]) -> Cluster:
        """The cluster with these keys otherwise: new values, or None for keys that are gone.

        What the new values cannot be read as counts as missing; `broken` names these alone.
        """
        decoder = Decoder("")
        values = dict(self.values)
        touched: Tables = {}
        broken: list[Broken] = []
        for key, value in changes.items():
            decoded = decoder.decode(key.encode(), value)
            broken += faults_of(key.encode(), decoded)
            ref = decoder.ref_of(key)
            if ref is None:
                continue
            read = decoded.value if isinstance(decoded, Decoded) else None
            named = touched.setdefault(ref.table, dict(self.tables[ref.table]))
            named.pop(ref.name, None)
            values.pop(ref, None)
            if value is not None and read is not None:
                values[ref] = KeyValue(key.encode(), value, 0)
                if ref.table not in _BULK:
                    named[ref.name] = read
        tables = {**self.tables, **touched}
        return replace(
            self,
            tables=tables,
            values=values,
            holders=_holders(tables) if Table.WORKLOAD in touched else self.holders,
            broken=tuple(broken),
            node_names=_node_names(tables),
            floating=_find_floating(tables),
        )

    def bulk(self, table: Table) -> Iterator[tuple[Name, Resource]]:
        """The resources of a table that is read one object at a time."""
        decoder = Decoder("")
        for ref in self.values:
            if ref.table is table and (value := self._read(decoder, ref)) is not None:
                yield ref.name, value

    def local_addresses(self, node: str) -> frozenset[Address]:
        """A node's own addresses."""
        return frozenset(address for address, name in self.node_names.items() if name == node)

    def interfaces(self, node: str, uplink: str) -> dict[str, frozenset[Address]]:
        """A node's interfaces with its own addresses: its tunnels', where host endpoints expect them, else `uplink`."""
        local, named = self.local_addresses(node), self.tables[Table.NODE].get(Name("", node))
        found: dict[str, frozenset[Address]] = {}
        for tunnel in Tunnel:
            address = tunnel_address(named, tunnel) if isinstance(named, Node) else None
            if address is not None:
                found[tunnel.value] = frozenset({address})
        for host in self._hosts_of(node):
            if host.interface not in ("", EVERY_INTERFACE):
                expected = frozenset(host.expected_addresses)
                found[host.interface] = found.get(host.interface, frozenset()) | expected
        placed = frozenset[Address]().union(*found.values())
        found[uplink] = found.get(uplink, frozenset()) | (local - placed)
        return found

    def governs_all(self, node: str) -> bool:
        """Whether some host endpoint governs whatever interface there is."""
        return any(host.interface == EVERY_INTERFACE for host in self._hosts_of(node))

    def _hosts_of(self, node: str) -> Iterator[HostEndpoint]:
        for host in self.tables[Table.HOST].values():
            if isinstance(host, HostEndpoint) and host.node == node:
                yield host

    def uplink(self, node: str) -> str:
        """The device that a node has its address on, as far as a host endpoint says so."""
        named = self.tables[Table.NODE].get(Name("", node))
        local = frozenset(every_address(named)) if isinstance(named, Node) else frozenset()
        for host in self._hosts_of(node):
            if host.interface in ("", EVERY_INTERFACE):
                continue
            if not host.expected_addresses or local & frozenset(host.expected_addresses):
                return host.interface
        return DEFAULT_UPLINK

    def services_at(self, addresses: Collection[Address]) -> tuple[Name, ...]:
        """The Services that have one of these addresses."""
        granted = {
            service
            for grant in self.tables[Table.GRANT].values()
            if isinstance(grant, Grant) and grant.address in addresses
            for service in grant.services
        }
        wanted = frozenset(addresses)
        for name, service in self.tables[Table.SERVICE].items():
            if isinstance(service, Service) and wanted & {*service.cluster_addresses, *service.external_addresses}:
                granted.add(name)
        return tuple(sorted(granted))

    def services_on(self, address: Address, protocol: int, port: int) -> tuple[Name, ...]:
        """The Services that have `port` on every node, where the address is a node's; any node may take all ports."""
        if address not in self.node_names:
            return ()
        granted = {
            grant.service
            for grant in self.tables[Table.PORT_GRANT].values()
            if isinstance(grant, PortGrant) and grant.port == port
        }
        return tuple(
            name
            for name, service in sorted(self.tables[Table.SERVICE].items())
            if isinstance(service, Service)
            and (name in granted or any((one.protocol, one.node_port) == (protocol, port) for one in service.ports))
        )

    def slices_of(self, services: Iterable[Name]) -> Iterator[tuple[Ref, Resource]]:
        """The EndpointSlices and Endpoints of some Services (and perhaps others of their namespaces)."""
        wanted = [(name.namespace, f'"{name.name}"'.encode()) for name in services]
        decoder = Decoder("")
        for ref, pair in self.values.items():
            if ref.table not in (Table.SLICE, Table.ENDPOINTS):
                continue
            if any(ref.name.namespace == space and word in pair.value for space, word in wanted):
                value = self._read(decoder, ref)
                if value is not None:
                    yield ref, value

    def resources(
        self, node: str, addresses: Collection[Address], services: Collection[Name]
    ) -> Iterator[tuple[Ref, Resource]]:
        """What decides on `node` about packets from and to these addresses, and to `services` where these are known."""
        decoder = Decoder(node)
        for table, named in self.tables.items():
            if table not in (Table.WORKLOAD, Table.SERVICE):
                yield from ((Ref(table, name), value) for name, value in named.items())
        services = sorted({*services, *self.services_at(addresses)})
        yield from ((Ref(Table.SERVICE, name), self.tables[Table.SERVICE][name]) for name in services)
        endpoints = self._endpoints_of(node, addresses)
        pods = {pod_of(name, one) for name, one in endpoints.items()}
        words = [f'"{word}"'.encode() for word in (*map(format_address, addresses), *(name.name for name in services))]
        for ref in self.values:
            if ref.table is Table.WORKLOAD:
                matters = ref.name in endpoints
            elif ref.table is Table.POD:
                matters = ref.name in pods
            elif ref.table in (Table.SLICE, Table.ENDPOINTS):
                matters = self._names(ref, words)
            else:
                continue
            read = self._read(decoder, ref) if matters else None
            if read is not None:
                yield ref, read

    def _endpoints_of(self, node: str, addresses: Iterable[Address]) -> Mapping[Name, WorkloadEndpoint]:
        """Those that hold the addresses, and those of `node` that claim the same interfaces."""
        held = {name for address in addresses for name in self.holders.get(address, ())}
        devices = self._devices(node, held)
        return {
            name: one
            for name, one in self.tables[Table.WORKLOAD].items()
            if isinstance(one, WorkloadEndpoint)
            and (name in held or (one.node == node and self._names(Ref(Table.WORKLOAD, name), devices)))
        }

    def _devices(self, node: str, names: Iterable[Name]) -> tuple[bytes, ...]:
        """The interfaces of those of the endpoints that are on `node`, as they stand in JSON."""
        found = (self.endpoint(name) for name in names)
        return tuple(f'"{one.interface}"'.encode() for one in found if one is not None and one.node == node)

    def _names(self, ref: Ref, words: Iterable[bytes]) -> bool:
        """Whether the value at `ref` has one of the words."""
        return any(word in self.values[ref].value for word in words)

    def _read(self, decoder: Decoder, ref: Ref) -> Resource | None:
        pair = self.values[ref]
        decoded = decoder.decode(pair.key, pair.value)
        return decoded.value if isinstance(decoded, Decoded) else None


def read_cluster(items: Iterable[KeyValue]) -> Cluster:
    """The cluster that these keys and values are; what cannot be read counts as missing, and is named."""
    decoder = Decoder("")
    tables: Tables = {table: {} for table in Table}
    values: dict[Ref, KeyValue] = {}
    broken: list[Broken] = []
    for item in items:
        if item.key.startswith(_BULK_STARTS):
            ref = decoder.ref_of(item.key.decode("utf-8", "replace"))
            if ref is not None:
                values[ref] = item
            continue
        decoded = decoder.decode(item.key, item.value)
        broken += faults_of(item.key, decoded)
        if isinstance(decoded, Decoded) and decoded.value is not None:
            values[decoded.ref] = item
            tables[decoded.ref.table][decoded.ref.name] = decoded.value
    return Cluster(
        tables,
        values,
        _holders(tables),
        tuple(broken),
        _node_names(tables),
        _find_floating(tables),
    )


def _find_floating(tables: Mapping[Table, Mapping[Name, Resource]]) -> dict[Address, FloatingHolder]:
    found: dict[Address, FloatingHolder] = {}
    for name, endpoint in sorted(tables[Table.WORKLOAD].items()):
        if isinstance(endpoint, WorkloadEndpoint) and endpoint.floating:
            if not is_enabled(tables[Table.FELIX_CONFIGURATION], endpoint.node):
                continue
            for external, internal in endpoint.floating:
                if internal in endpoint.addresses:
                    found.setdefault(external, FloatingHolder(name, endpoint.node, internal))
    return found


def _holders(tables: Mapping[Table, Mapping[Name, Resource]]) -> dict[Address, tuple[Name, ...]]:
    holders: dict[Address, list[Name]] = {}
    for name, endpoint in tables[Table.WORKLOAD].items():
        if isinstance(endpoint, WorkloadEndpoint):
            for address in endpoint.addresses:
                holders.setdefault(address, []).append(name)
    return {address: tuple(sorted(names)) for address, names in holders.items()}


def _node_names(tables: Mapping[Table, Mapping[Name, Resource]]) -> dict[Address, str]:
    """Which node has an address: as the Node says, else as a host endpoint of it expects."""
    names: dict[Address, str] = {}
    for host in tables[Table.HOST].values():
        if isinstance(host, HostEndpoint):
            names.update(dict.fromkeys(host.expected_addresses, host.node))
    for name, node in tables[Table.NODE].items():
        if isinstance(node, Node):
            names.update(dict.fromkeys(every_address(node), name.name))
    return names
