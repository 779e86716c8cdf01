"""Where the cluster addresses of Services lead, before and after a change: what is served, and the backends behind it.

In: two Worlds; out: Leads by frontend. What is inside the cluster asks for these; which backend a connection gets is
left open, and zones are not looked at. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import EndpointSlice, Service, TrafficPolicy
from felixpy.resources.tables import Ref, Table

_ANYWHERE = Here(Locality(""), lambda backend: True)
"""As if every backend were on the node: whether one is, is asked of each sender."""


@dataclass(frozen=True, slots=True)
class Lead:
    """A Service's port at one of its cluster addresses; `is_local`: each node leads to its own backends only."""

    service: Name
    backends: tuple[BackendAddress, ...]
    is_local: bool = False


Leads = Mapping[Frontend, Lead]


def derive_leads(before: World, after: World) -> tuple[Leads, Leads]:
    """Those of both worlds; a Service that is the same in both is looked at once."""
    found: list[dict[Frontend, Lead]] = []
    known: dict[tuple[int, ...], Mapping[Frontend, tuple[Claim, FrontendIntent]]] = {}
    for world in (before, after):
        slices: dict[Name, dict[Ref, EndpointSlice]] = {}
        for ref, one in world.slices.items():
            slices.setdefault(Name(ref.name.namespace, one.service), {})[ref] = one
        claimed: dict[Frontend, tuple[Claim, Lead]] = {}
        for name, service in world.cluster.tables[Table.SERVICE].items():
            if not isinstance(service, Service) or not service.cluster_addresses:
                continue
            behind = effective_slices({ref: one for ref, one in slices.get(name, {}).items() if not one.headless})
            key = (id(service), *map(id, behind))
            if key not in known:
                known[key] = derive_claims(name, service, Held(behind), _ANYWHERE)
            for frontend, (claim, intent) in known[key].items():
                if claim.origin is Origin.CLUSTER and (frontend not in claimed or claim < claimed[frontend][0]):
                    lead = Lead(name, intent.inside, service.internal_policy is TrafficPolicy.LOCAL)
                    claimed[frontend] = claim, lead
        found.append({frontend: lead for frontend, (_, lead) in claimed.items()})
    return found[0], found[1]
