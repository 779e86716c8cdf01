"""Which connections the kernel should forget: those of addresses whose holder went, and UDP ones of lost backends.

In: deltas of local endpoints and of frontends, and routes found at the start; out: a Forget for each batch. An
established connection passes without a look at policy, so the next holder of an address would get what its predecessor
was let have. UDP has no end, so a client that goes on sending would keep the translation to a backend that is gone for
ever; TCP ends by itself.
Of a frontend it says which backends still hold, not which went: that is right whatever was missed before. Pure.
Source: net/netfilter/nf_conntrack_core.c; kubernetes issues 126130 and 139628.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from felixpy.addresses import Address
from felixpy.calc.intent import EndpointIntent
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.calc.services.frontends import BackendAddress, Frontend, FrontendIntent
from felixpy.dataplane.objects import ROUTE_PROTOCOL_WORKLOAD, Object, Route
from felixpy.resources.kinds import Name

_UDP = 17


@dataclass(frozen=True, slots=True)
class Forget:
    """Connections from or to any of `addresses`, before or after translation; and those to a UDP frontend of `udp`
    that are with none of its backends there.
    """

    addresses: frozenset[Address] = frozenset()
    udp: Mapping[Frontend, frozenset[BackendAddress]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.addresses or self.udp)


class StaleFlows:
    """Collects what is stale from one batch to the next.

    Cost    that of the endpoints and frontends that changed.
    """

    def __init__(self) -> None:
        self._endpoints: dict[Name, EndpointIntent] = {}
        self._backends: dict[Frontend, frozenset[BackendAddress]] = {}
        self._addresses: set[Address] = set()
        self._udp: dict[Frontend, frozenset[BackendAddress]] = {}

    def update_endpoints(self, endpoints: Mapping[Name, EndpointIntent | None]) -> None:
        """Takes the endpoints that changed; one with another device or MAC is another pod under the same name."""
        for name, after in endpoints.items():
            before = self._endpoints.pop(name, None)
            if after is not None:
                self._endpoints[name] = after
            if before is None:
                continue
            same = after is not None and (before.interface, before.mac) == (after.interface, after.mac)
            kept = _addresses_of(after) if after is not None and same else frozenset()
            self._addresses.update(_addresses_of(before) - kept)

    def update_frontends(self, delta: ServiceDelta) -> None:
        """Takes the frontends that changed; one that only gained backends has nothing stale, unless they are its first.

        What was sent to a frontend before it had any backend is tracked as it was, untranslated.
        """
        for frontend in (*delta.drops, *delta.puts):
            if frontend.protocol != _UDP:
                continue
            before = self._backends.pop(frontend, frozenset())
            after = _backends_of(delta.puts.get(frontend))
            if after:
                self._backends[frontend] = after
            if before - after or (after and not before):
                self._udp[frontend] = after

    def forget_routes(self, outdated: Iterable[Object]) -> None:
        """Takes what is to be replaced or dropped of the kernel as found: whose routes are among it went unseen."""
        self._addresses.update(
            one.destination.address for one in outdated if isinstance(one, Route) and _is_workload(one)
        )

    def take(self) -> Forget:
        """What became stale since the last time."""
        taken = Forget(frozenset(self._addresses), self._udp)
        self._addresses, self._udp = set(), {}
        return taken


def _is_workload(route: Route) -> bool:
    """Routes to tunnels have a gateway or a next hop object, and blackholes no device."""
    direct = route.device is not None and route.gateway is None and route.nexthop_id is None
    return direct and route.destination.is_host and route.protocol == ROUTE_PROTOCOL_WORKLOAD


def _addresses_of(endpoint: EndpointIntent) -> frozenset[Address]:
    return frozenset((*endpoint.addresses, *(one.external for one in endpoint.floating)))


def _backends_of(intent: FrontendIntent | None) -> frozenset[BackendAddress]:
    return frozenset((*intent.inside, *intent.outside)) if intent is not None else frozenset()
