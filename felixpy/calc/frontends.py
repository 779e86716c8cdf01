"""What one Service asks of this node, per frontend: which backends, from where, and why none.

In: a Service, its backends, the addresses granted to it, what is local. Out: claims, which services.py arbitrates.
Knows no other Service and keeps nothing.
Source: Kubernetes Service semantics; KEP-1669 (terminating endpoints), KEP-2086 (internal traffic policy); external
addresses are denied by default (GHSA-phqm-jgc3-qf8g).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from felixpy.addresses import Address, Prefix
from felixpy.calc.reasons import Reason
from felixpy.resources.codec import Ref, Table
from felixpy.resources.kinds import Name
from felixpy.resources.types import (
    Backend,
    EndpointSlice,
    Service,
    ServicePort,
    TrafficPolicy,
)

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
"""A Service with this label belongs to another proxy, whatever the value."""
FORWARDED_PROTOCOLS = (6, 17)


class Frontend(NamedTuple):
    """What clients connect to; `protocol` by number."""

    address: Address
    protocol: int
    port: int


class BackendAddress(NamedTuple):
    """Where a connection goes."""

    address: Address
    port: int


class Origin(IntEnum):
    """Where a frontend's address comes from; the lower one wins where two Services claim one frontend."""

    CLUSTER = 0
    GRANT = 1
    EXTERNAL = 2


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


class _Candidate(NamedTuple):
    """A backend that takes connections: `ready`, or else on its way out but still serving."""

    address: BackendAddress
    ready: bool
    local: bool


def _candidates(port: ServicePort, slices: Iterable[EndpointSlice], is_local: IsLocal) -> Iterator[_Candidate]:
    for slice_ in slices:
        for group in slice_.groups:
            for backend_port in group.ports:
                if (backend_port.name, backend_port.protocol) != (port.name, port.protocol):
                    continue
                for backend in group.backends:
                    if not (backend.ready or (backend.serving and backend.terminating)):
                        continue
                    local = is_local(backend)
                    for address in backend.addresses:
                        yield _Candidate(BackendAddress(address, backend_port.port), backend.ready, local)


def _choose(candidates: Collection[_Candidate]) -> tuple[BackendAddress, ...]:
    """The ready ones; where there is none, the serving ones (KEP-1669)."""
    ready = {candidate.address for candidate in candidates if candidate.ready}
    return tuple(sorted(ready or {candidate.address for candidate in candidates}))


def _derive_frontend(
    name: Name, service: Service, origin: Origin, version_bytes: int, candidates: Collection[_Candidate]
) -> FrontendIntent:
    usable = [candidate for candidate in candidates if len(candidate.address.address) == version_bytes]
    everywhere = _choose(usable)
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
        source_ranges=tuple(sorted(set(service.source_ranges))) if origin is Origin.GRANT else (),
        affinity_timeout_s=service.affinity_timeout_s,
        hairpins=tuple(sorted(chosen & local)),
    )


def derive_claims(
    name: Name,
    service: Service,
    slices: Collection[EndpointSlice],
    granted: Collection[Address],
    external_ranges: Collection[Prefix],
    is_local: IsLocal,
) -> Mapping[Frontend, tuple[Claim, FrontendIntent]]:
    """Every frontend that one Service asks for. None for a Service of another proxy, and for ExternalName."""
    if service.type == "ExternalName" or any(label == PROXY_NAME_LABEL for label, _ in service.labels):
        return {}
    origins = dict.fromkeys(allowed_external(service, external_ranges), Origin.EXTERNAL)
    if service.type == "LoadBalancer":
        origins.update(dict.fromkeys(granted, Origin.GRANT))
    origins.update(dict.fromkeys(service.cluster_addresses, Origin.CLUSTER))
    claims = {}
    for port in service.ports:
        if port.protocol not in FORWARDED_PROTOCOLS or not origins:
            continue
        candidates = list(_candidates(port, slices, is_local))
        of_family: dict[tuple[Origin, int], FrontendIntent] = {}
        for address, origin in origins.items():
            kind = (origin, len(address))
            if kind not in of_family:
                of_family[kind] = _derive_frontend(name, service, origin, len(address), candidates)
            claims[Frontend(address, port.protocol, port.port)] = (Claim(origin, name), of_family[kind])
    return claims


def allowed_external(service: Service, ranges: Collection[Prefix]) -> tuple[Address, ...]:
    """The external addresses of a Service that some range allows; no others are forwarded."""
    return tuple(
        address for address in service.external_addresses if any(allowed.contains(address) for allowed in ranges)
    )


def effective_slices(slices: Mapping[Ref, EndpointSlice]) -> tuple[EndpointSlice, ...]:
    """EndpointSlices where there are any, else Endpoints: a cluster mirrors the older kind into the newer one."""
    newer = tuple(value for ref, value in slices.items() if ref.table is Table.SLICE)
    return newer or tuple(slices.values())
