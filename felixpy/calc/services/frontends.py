"""What one Service asks of this node, per frontend: which backends, from where, and why none.

In: a Service, its backends, the addresses and ports granted to it, what is local. Out: claims, which services.py
arbitrates. Knows no other Service and keeps nothing. A node port is the frontend of an address that stands for all
addresses of the node.
Source: Kubernetes Service semantics; KEP-1669 (terminating endpoints), KEP-2086 (internal traffic policy); external
addresses are denied by default (GHSA-phqm-jgc3-qf8g).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from felixpy.addresses import Address, Prefix
from felixpy.calc.reasons import Reason
from felixpy.calc.services.topology import Locality, choose_near, hints_of
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import (
    HEALTH,
    Backend,
    EndpointSlice,
    Hints,
    PortUse,
    Service,
    ServicePort,
    TrafficPolicy,
)
from felixpy.resources.tables import Ref, Table

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
"""A Service with this label belongs to another proxy, whatever the value."""
FORWARDED_PROTOCOLS = (6, 17, 132)
ANY_OWN: Mapping[int, Address] = {4: Address(bytes(4)), 6: Address(bytes(16))}
"""By family what stands for every address of the node, as it does where a program listens."""
NODE_PORT_TYPES = ("NodePort", "LoadBalancer")


class Frontend(NamedTuple):
    """What clients connect to; `protocol` by number."""

    address: Address
    protocol: int
    port: int

    @property
    def is_node_port(self) -> bool:
        """Whether it is a port of every address of the node."""
        return self.address in ANY_OWN.values()


class BackendAddress(NamedTuple):
    """Where a connection goes."""

    address: Address
    port: int


class Origin(IntEnum):
    """Where a frontend's address comes from; the lower one wins where two Services claim one frontend."""

    CLUSTER = 0
    GRANT = 1
    GIVEN = 2
    EXTERNAL = 3
    GRANTED_PORT = 4
    NODE_PORT = 5


@dataclass(frozen=True, slots=True)
class FrontendIntent:
    """What happens to new connections to one frontend.

    `inside` serves local workloads and the node itself, `outside` everything else; both sorted. Empty, `reason` says
    why: NO_ENDPOINT is answered with a refusal, NO_LOCAL_ENDPOINT with silence (another node serves).
    `keep_source` tells outside connections that keep their source address; `hairpins` are the backends on this node,
    which may reach themselves. `source_ranges` (of both families) are the only sources let in; none lets all in.
    """

    service: Name
    origin: Origin
    inside: tuple[BackendAddress, ...]
    outside: tuple[BackendAddress, ...]
    keep_source: bool = False
    reason: Reason | None = None
    source_ranges: tuple[Prefix, ...] = ()
    affinity_timeout_s: int = 0
    hairpins: tuple[Address, ...] = ()


class Claim(NamedTuple):
    """A Service's claim of a frontend; sorts by who wins."""

    origin: Origin
    service: Name


IsLocal = Callable[[Backend], bool]
PortGrants = Mapping[PortUse, int]
"""Ports of every node by what they are for."""


@dataclass(frozen=True, slots=True)
class Held:
    """What belongs to one Service: its slices, and the addresses and node ports granted to it."""

    slices: Collection[EndpointSlice] = ()
    addresses: Collection[Address] = ()
    ports: PortGrants = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Here:
    """What a node brings to every Service: which backends are its own, and which external addresses are allowed.

    `dead` are the nodes that look so from here (liveness.py).
    """

    locality: Locality
    is_local: IsLocal
    external_ranges: Collection[Prefix] = ()
    dead: Collection[str] = ()


class _Candidate(NamedTuple):
    """A backend that takes connections: `ready`, or else on its way out but still serving.

    `alive`: its node does not look dead.
    """

    address: BackendAddress
    ready: bool
    local: bool
    hints: Hints
    alive: bool


def _candidates(
    port: ServicePort, service: Service, slices: Iterable[EndpointSlice], here: Here
) -> Iterator[_Candidate]:
    for slice_ in slices:
        for group in slice_.groups:
            for backend_port in group.ports:
                if (backend_port.name, backend_port.protocol) != (port.name, port.protocol):
                    continue
                for backend in group.backends:
                    ready = backend.ready or service.publish_unready
                    if not (ready or (backend.serving and backend.terminating)):
                        continue
                    local, hints = here.is_local(backend), hints_of(backend, service.distribution)
                    alive = local or backend.node not in here.dead
                    for address in backend.addresses:
                        yield _Candidate(BackendAddress(address, backend_port.port), ready, local, hints, alive)


def _living(candidates: Collection[_Candidate]) -> Collection[_Candidate]:
    """Those of nodes that live; all where none does: a wrong guess must not empty a Service."""
    return [candidate for candidate in candidates if candidate.alive] or candidates


def _choose(candidates: Collection[_Candidate]) -> tuple[BackendAddress, ...]:
    """The ready ones; where there is none, the serving ones (KEP-1669)."""
    ready = {candidate.address for candidate in candidates if candidate.ready}
    return tuple(sorted(ready or {candidate.address for candidate in candidates}))


def _near(candidates: Collection[_Candidate], here: Locality) -> Collection[_Candidate]:
    """Of the ready ones those that are near; the others as they are."""
    ready = [candidate for candidate in candidates if candidate.ready]
    if not any(candidate.hints.zones or candidate.hints.nodes for candidate in ready):
        return candidates
    near = choose_near([candidate.hints for candidate in ready], here)
    return [candidate for candidate, chosen in zip(ready, near, strict=True) if chosen]


def _derive_frontend(
    name: Name, service: Service, origin: Origin, usable: Collection[_Candidate], here: Locality
) -> FrontendIntent:
    everywhere = _choose(_near(usable, here))
    policy = service.internal_policy if origin is Origin.CLUSTER else service.external_policy
    inside = outside = everywhere
    if policy is TrafficPolicy.LOCAL:
        outside = _choose([candidate for candidate in usable if candidate.local])
        inside = outside if origin is Origin.CLUSTER else everywhere
    reason = None
    if not everywhere:
        reason = Reason.NO_ENDPOINT
    elif not outside:
        reason = Reason.NO_LOCAL_ENDPOINT
    chosen = {backend.address for backend in (*inside, *outside)}
    local = {candidate.address.address for candidate in usable if candidate.local}
    return FrontendIntent(
        service=name,
        origin=origin,
        inside=inside,
        outside=outside,
        keep_source=origin is not Origin.CLUSTER and policy is TrafficPolicy.LOCAL,
        reason=reason,
        source_ranges=tuple(sorted(set(service.source_ranges))) if origin in (Origin.GRANT, Origin.GIVEN) else (),
        affinity_timeout_s=service.affinity_timeout_s,
        hairpins=tuple(sorted(chosen & local)),
    )


def derive_claims(
    name: Name, service: Service, held: Held, here: Here
) -> Mapping[Frontend, tuple[Claim, FrontendIntent]]:
    """Every frontend that one Service asks for. None for a Service of another proxy, and for ExternalName."""
    if not is_forwarded(service):
        return {}
    origins = dict.fromkeys(allowed_external(service, here.external_ranges), Origin.EXTERNAL)
    if service.type == "LoadBalancer":
        origins.update(dict.fromkeys(service.given, Origin.GIVEN))
        origins.update(dict.fromkeys(held.addresses, Origin.GRANT))
    origins.update(dict.fromkeys(service.cluster_addresses, Origin.CLUSTER))
    claims = {}
    for port in service.ports:
        if port.protocol not in FORWARDED_PROTOCOLS:
            continue
        asked = {Frontend(address, port.protocol, port.port): origin for address, origin in origins.items()}
        asked.update(_node_ports(service, port, held.ports))
        candidates = list(_candidates(port, service, held.slices, here)) if asked else []
        of_family: dict[tuple[Origin, int], FrontendIntent] = {}
        for frontend, origin in asked.items():
            kind = (origin, len(frontend.address))
            if kind not in of_family:
                usable = _living([one for one in candidates if len(one.address.address) == len(frontend.address)])
                of_family[kind] = _derive_frontend(name, service, origin, usable, here.locality)
            claims[frontend] = (Claim(origin, name), of_family[kind])
    return claims


def _node_ports(service: Service, port: ServicePort, granted: PortGrants) -> Iterator[tuple[Frontend, Origin]]:
    """The frontends of a port on all addresses of the node: the one that the Service names, or was granted.

    Of two Services that name one port, the one that holds the grant has it.
    """
    given = granted.get(PortUse(port.protocol, port.port), 0)
    number = port.node_port or given
    if service.type not in NODE_PORT_TYPES or not number:
        return
    origin = Origin.GRANTED_PORT if number == given else Origin.NODE_PORT
    for version in families_of(service):
        yield Frontend(ANY_OWN[version], port.protocol, number), origin


def families_of(service: Service) -> tuple[int, ...]:
    """The families in which a Service is served: as it says, else those of its cluster addresses, else both."""
    own = tuple(dict.fromkeys(4 if len(address) == 4 else 6 for address in service.cluster_addresses))
    return service.families or own or (4, 6)


def is_forwarded(service: Service) -> bool:
    """Whether a Service is ours to forward."""
    return service.type != "ExternalName" and all(label != PROXY_NAME_LABEL for label, _ in service.labels)


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Where a node tells a balancer outside how many ready endpoints of a Service it has (spec.healthCheckNodePort)."""

    port: int
    service: Name
    endpoints: int


def derive_health(name: Name, service: Service, held: Held, here: Here) -> HealthCheck | None:
    """The health check of a Service of type LoadBalancer with policy Local; None where there is none.

    Source: kubernetes pkg/proxy/healthcheck (endpoints that terminate do not count); the family that has most counts.
    """
    port = service.health_port or held.ports.get(HEALTH, 0)
    if not has_health_check(service) or not port or not is_forwarded(service):
        return None
    local = {
        address
        for slice_ in held.slices
        for group in slice_.groups
        for backend in group.backends
        if (backend.ready or service.publish_unready) and not backend.terminating and here.is_local(backend)
        for address in backend.addresses
    }
    return HealthCheck(port, name, max(sum(len(one) == size for one in local) for size in (4, 16)))


def has_health_check(service: Service) -> bool:
    """Whether a Service has one: a balancer outside needs to know which nodes serve it."""
    return service.type == "LoadBalancer" and service.external_policy is TrafficPolicy.LOCAL


def allowed_external(service: Service, ranges: Collection[Prefix]) -> tuple[Address, ...]:
    """The external addresses of a Service that some range allows; no others are forwarded."""
    return tuple(
        address for address in service.external_addresses if any(allowed.contains(address) for allowed in ranges)
    )


def effective_slices(slices: Mapping[Ref, EndpointSlice]) -> tuple[EndpointSlice, ...]:
    """EndpointSlices where there are any, else Endpoints: a cluster mirrors the older kind into the newer one."""
    newer = tuple(value for ref, value in slices.items() if ref.table is Table.SLICE)
    return newer or tuple(slices.values())
