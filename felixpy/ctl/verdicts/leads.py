"""Where the addresses of Services lead what is inside the cluster, before and after a change: the backends behind them.

In: two Worlds; out: Leads by frontend: cluster addresses, and those of load balancers and external ones, which lead
pods and nodes as these do. Which backend a connection gets is left open, and zones are not looked at. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from felixpy.addresses import Address, Prefix
from felixpy.calc.services.frontends import (
    BackendAddress,
    Claim,
    Frontend,
    FrontendIntent,
    Held,
    Here,
    Origin,
    derive_claims,
    effective_slices,
)
from felixpy.calc.services.topology import Locality
from felixpy.ctl.verdicts.world import World
from felixpy.resources.bgp_types import BgpConfiguration
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import EndpointSlice, Grant, Service, TrafficPolicy
from felixpy.resources.tables import Ref, Table

_BY_ADDRESS = frozenset({Origin.CLUSTER, Origin.GRANT, Origin.GIVEN, Origin.EXTERNAL})


@dataclass(frozen=True, slots=True)
class Lead:
    """A Service's port at one of its addresses; `is_local`: each node leads to its own backends only.

    `sources` are the only ones let in, none lets in all; `is_outer`: the address is none of the cluster's own.
    """

    service: Name
    backends: tuple[BackendAddress, ...]
    is_local: bool = False
    sources: tuple[Prefix, ...] = ()
    is_outer: bool = False

    def lets_in(self, address: Address) -> bool:
        """Whether the Service takes connections from there."""
        return not self.sources or any(one.contains(address) for one in self.sources)


Leads = Mapping[Frontend, Lead]


def derive_leads(before: World, after: World) -> tuple[Leads, Leads]:
    """Those of both worlds; a Service that is the same in both is looked at once."""
    found: list[dict[Frontend, Lead]] = []
    known: dict[tuple[object, ...], Mapping[Frontend, tuple[Claim, FrontendIntent]]] = {}
    for world in (before, after):
        anywhere, granted = _anywhere(world), _granted(world)
        slices: dict[Name, dict[Ref, EndpointSlice]] = {}
        for ref, one in world.slices.items():
            slices.setdefault(Name(ref.name.namespace, one.service), {})[ref] = one
        claimed: dict[Frontend, tuple[Claim, Lead]] = {}
        for name, service in world.cluster.tables[Table.SERVICE].items():
            if not isinstance(service, Service):
                continue
            behind = effective_slices({ref: one for ref, one in slices.get(name, {}).items() if not one.headless})
            addresses = granted.get(name, ())
            key = (id(service), addresses, anywhere.external_ranges, *map(id, behind))
            if key not in known:
                known[key] = derive_claims(name, service, Held(behind, addresses), anywhere)
            for frontend, (claim, intent) in known[key].items():
                if claim.origin in _BY_ADDRESS and (frontend not in claimed or claim < claimed[frontend][0]):
                    outer = claim.origin is not Origin.CLUSTER
                    is_local = not outer and service.internal_policy is TrafficPolicy.LOCAL
                    claimed[frontend] = claim, Lead(name, intent.inside, is_local, intent.source_ranges, outer)
        found.append({frontend: lead for frontend, (_, lead) in claimed.items()})
    return found[0], found[1]


def _anywhere(world: World) -> Here:
    """As if every backend were on the node: whether one is, is asked of each sender."""
    bgp = world.cluster.tables[Table.BGP_CONFIGURATION].get(Name("", "default"))
    ranges = bgp.service_external_cidrs if isinstance(bgp, BgpConfiguration) else ()
    return Here(Locality(""), lambda backend: True, ranges)


def _granted(world: World) -> Mapping[Name, tuple[Address, ...]]:
    """The addresses that each Service was given."""
    found: dict[Name, list[Address]] = {}
    for grant in world.cluster.tables[Table.GRANT].values():
        if isinstance(grant, Grant):
            for service in grant.services:
                found.setdefault(service, []).append(grant.address)
    return {service: tuple(sorted(addresses)) for service, addresses in found.items()}
