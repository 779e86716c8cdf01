"""One Service as a person asks about it: its frontends and where they are programmed, its endpoints, what it was given.

In: what the datastore holds of it, and what the nodes said; out: values to show. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from felixpy.addresses import Address, format_address
from felixpy.calc.services.frontends import Claim, Frontend, Held, Here, derive_claims, effective_slices, is_forwarded
from felixpy.calc.services.topology import Locality
from felixpy.controllers.vips import wants_address
from felixpy.ctl.cells import list_some
from felixpy.ctl.services.reach import Reach, find_reach, index_nodes
from felixpy.ctl.services.vips import CONTROLLERS, SERVICES, describe_class, read_pairs
from felixpy.datastore.model import KeyValue
from felixpy.resources.kinds import BY_TYPE, GRANTS_PREFIX, Name
from felixpy.resources.service_types import HEALTH, Backend, EndpointSlice, Grant, PortGrant, Service
from felixpy.resources.tables import Ref
from felixpy.resources.types import ControllersConfiguration
from felixpy.status.answers import NodeStatus

_SLICES = BY_TYPE["discovery.k8s.io/v1", "EndpointSlice"], BY_TYPE["v1", "Endpoints"]
PREFIXES = tuple(
    prefix.encode()
    for prefix in (
        SERVICES.prefix,
        *(info.prefix for info in _SLICES),
        GRANTS_PREFIX,
        SERVICES.status_prefix,
        CONTROLLERS.prefix,
    )
)
EVERY_NODE = ("0.0.0.0", "::")
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the datastore holds of one Service."""

    name: Name
    service: Service
    slices: tuple[EndpointSlice, ...] = ()
    grants: tuple[Grant, ...] = ()
    ports: tuple[PortGrant, ...] = ()
    refusal: str = ""
    lost: tuple[str, ...] = ()
    """What another Service has of what it asks for, in words."""
    classes: frozenset[str] = ControllersConfiguration().classes
    """Whose Services are given addresses."""

    @property
    def backends(self) -> tuple[Backend, ...]:
        return tuple(backend for one in self.slices for group in one.groups for backend in group.backends)

    @property
    def ready(self) -> int:
        return sum(len(one.addresses) for one in self.backends if one.ready or self.service.publish_unready)

    @property
    def health_port(self) -> int:
        """Where nodes answer for it, 0 nowhere."""
        granted = (one.port for one in self.ports if HEALTH in one.uses)
        return self.service.health_port or next(granted, 0)

    def find_trouble(self) -> str:
        """Why it does not do what may be expected of it, "" where it does, as far as the datastore tells."""
        service = self.service
        if not is_forwarded(service):
            return "ExternalName" if service.type == "ExternalName" else "left to another proxy"
        if self.refusal:
            return f"no address: {self.refusal}" if not self.grants else f"not as it wants: {self.refusal}"
        if service.type == "LoadBalancer" and not self.grants:
            return "no address yet" if wants_address(service, self.classes) else describe_class(service)
        if self.lost:
            return list_some(self.lost)
        if not self.backends:
            return "no endpoint"
        return "" if self.ready else "no endpoint is ready"


def read_facts(pairs: Iterable[KeyValue]) -> Mapping[Name, Facts]:
    """The Services that these keys (those below PREFIXES) tell of."""
    classes = ControllersConfiguration().classes
    services: dict[Name, Service] = {}
    slices: dict[Name, dict[Ref, EndpointSlice]] = {}
    grants: dict[Name, list[Grant]] = {}
    ports: dict[Name, list[PortGrant]] = {}
    refusals: dict[Name, str] = {}
    for decoded in read_pairs(pairs, refusals):
        match decoded.value:
            case Service() as service:
                services[decoded.ref.name] = service
            case EndpointSlice() as one:
                slices.setdefault(Name(decoded.ref.name.namespace, one.service), {})[decoded.ref] = one
            case Grant() as grant:
                for name in grant.services:
                    grants.setdefault(name, []).append(grant)
            case ControllersConfiguration() as configuration:
                classes = configuration.classes
            case PortGrant() as granted:
                ports.setdefault(granted.service, []).append(granted)
            case _:
                pass
    facts = {
        name: Facts(
            name,
            service,
            effective_slices(slices.get(name, {})),
            tuple(grants.get(name, ())),
            tuple(ports.get(name, ())),
            refusals.get(name, ""),
            classes=classes,
        )
        for name, service in sorted(services.items())
    }
    lost = _find_lost(facts.values())
    return {name: replace(one, lost=tuple(lost.get(name, ()))) for name, one in facts.items()}


def _find_lost(services: Iterable[Facts]) -> Mapping[Name, Sequence[str]]:
    """By Service the frontends that it asks for and another has, as every node decides it.

    Missing external addresses: which of them count is for BGPConfiguration to say.
    """
    holders: dict[Frontend, Claim] = {}
    claimed: list[tuple[Frontend, Claim]] = []
    for one in services:
        given = {use: port.port for port in one.ports for use in port.uses}
        held = Held((), tuple(grant.address for grant in one.grants), given)
        for frontend, (claim, _) in derive_claims(one.name, one.service, held, _ANYWHERE).items():
            claimed.append((frontend, claim))
            holders[frontend] = min(claim, holders.get(frontend, claim))
    lost: dict[Name, list[str]] = {}
    for frontend, claim in claimed:
        if holders[frontend] != claim:
            where = "every node" if frontend.is_node_port else format_address(frontend.address)
            port = f"{PROTOCOLS.get(frontend.protocol, frontend.protocol)}/{frontend.port}"
            lost.setdefault(claim.service, []).append(f"{where} {port}: Service {holders[frontend].service} has it")
    return lost


_ANYWHERE = Here(Locality(""), lambda backend: False)


@dataclass(frozen=True, slots=True)
class FrontendView:
    """A frontend: what it leads to, by node how many endpoints outside and inside; and who has it not, by why."""

    address: str
    protocol: int
    port: int
    origin: str
    serving: Mapping[str, tuple[int, int]]
    missing: Mapping[str, tuple[str, ...]]


def derive_frontends(name: Name, nodes: Mapping[str, NodeStatus | None]) -> Iterator[FrontendView]:
    """The frontends of a Service as the nodes say; `served` must have been asked for."""
    keys = {
        (one.address, one.protocol, one.port): one.origin
        for status in nodes.values()
        for one in (status.served if status is not None else ())
        if one.service == str(name)
    }
    for (address, protocol, port), origin in sorted(keys.items(), key=lambda item: (":" in item[0][0], item[0])):
        serving: dict[str, tuple[int, int]] = {}
        missing: dict[str, list[str]] = {}
        for node, status in nodes.items():
            if status is None or status.kernel is None:
                continue
            own = [one for one in status.served if (one.address, one.protocol, one.port) == (address, protocol, port)]
            reason = (
                _why_missing(own[0].service, str(name), own[0].programmed, own[0].reason) if own else "unknown there"
            )
            if own and not reason:
                serving[node] = (own[0].outside, own[0].inside)
            else:
                missing.setdefault(reason, []).append(node)
        named = {reason: tuple(names) for reason, names in missing.items()}
        yield FrontendView(address, protocol, port, origin, serving, named)


def _why_missing(holder: str, name: str, programmed: bool | None, reason: str) -> str:
    if holder != name:
        return f"Service {holder} has it"
    if reason:
        return reason
    if programmed is None:
        return "the kernel cannot be read now"
    return "" if programmed else "not in the kernel (felixctl status NODE says why)"


def derive_reaches(facts: Facts, nodes: Mapping[str, NodeStatus | None]) -> Mapping[Address, Reach]:
    """Who announces each of its granted addresses, and who does not."""
    told = index_nodes(nodes)
    return {grant.address: find_reach(grant.address, told) for grant in facts.grants}


def describe_backend(backend: Backend) -> str:
    """How an endpoint stands."""
    if backend.terminating:
        return "terminating, serving" if backend.serving else "terminating"
    return "ready" if backend.ready else "not ready"


def describe_dead(nodes: Mapping[str, NodeStatus | None]) -> Mapping[str, str]:
    """By node that looks dead, to whom it does and why."""
    seen: dict[str, dict[str, list[str]]] = {}
    for name, status in nodes.items():
        for one in status.dead if status is not None else ():
            seen.setdefault(one.node, {}).setdefault(one.why, []).append(name)
    return {
        node: "; ".join(
            f"looks dead to {list_some(names)}: {why}, and it does not answer" for why, names in found.items()
        )
        for node, found in seen.items()
    }


def list_backends(facts: Facts, nodes: Mapping[str, NodeStatus | None] | None = None) -> Iterator[tuple[str, str, str]]:
    """Each endpoint with its ports, its node, and how it stands, its node as the others see it included."""
    dead = describe_dead(nodes or {})
    for one in facts.slices:
        for group in one.groups:
            ports = ",".join(str(port.port) for port in group.ports) or "-"
            for backend in group.backends:
                for address in backend.addresses:
                    words = [describe_backend(backend), *(dead[one] for one in (backend.node,) if one in dead)]
                    yield f"{format_address(address)} {ports}", backend.node or "-", "; ".join(words)
