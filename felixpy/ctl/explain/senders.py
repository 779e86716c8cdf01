"""Flows between parties of which one may stand for several: a Service sends as each of the endpoints behind it, and one
without an address of its own is reached at each of them. Pure.
"""

from __future__ import annotations

from dataclasses import replace

from felixpy.ctl.explain.cluster import Cluster
from felixpy.ctl.explain.flow import Flow, Traffic, Unexplained, explain_flows
from felixpy.ctl.explain.parties import Party, UnknownParty, party_at
from felixpy.resources.kinds import Name
from felixpy.resources.service_types import EndpointSlice


def explain_parties(
    cluster: Cluster, source: Party, destination: Party, traffic: Traffic, via: str = ""
) -> tuple[Flow, ...]:
    """What becomes of a first packet from each who sends as `source` to each who receives as `destination`.

    Raises  UnknownParty where nobody does; Unexplained as explain_flows, where no pair has an answer.
    """
    sources = endpoints_behind(cluster, source) if source.service is not None else (source,)
    is_headless = destination.service is not None and not destination.addresses
    targets = endpoints_behind(cluster, destination) if is_headless else (destination,)
    flows: list[Flow] = []
    why: Unexplained | None = None
    for one, other in ((one, other) for one in sources for other in targets):
        try:
            flows += explain_flows(cluster, one, other, traffic, via)
        except Unexplained as error:
            why = error
    if not flows and why is not None:
        raise why
    return tuple(flows)


def endpoints_behind(cluster: Cluster, party: Party) -> tuple[Party, ...]:
    """Those who are behind a Service, each with the addresses that it has there.

    Raises  UnknownParty where nobody is.
    """
    assert party.service is not None
    found: dict[str, Party] = {}
    for ref, value in cluster.slices_of([party.service]):
        if isinstance(value, EndpointSlice) and Name(ref.name.namespace, value.service) == party.service:
            for address in (one for group in value.groups for backend in group.backends for one in backend.addresses):
                one = party_at(cluster, address)
                had = found[one.words].addresses if one.words in found else ()
                found[one.words] = replace(one, addresses=tuple(dict.fromkeys((*had, address))))
    if not found:
        raise UnknownParty(f"{party} has no endpoints: there is nobody behind it")
    return tuple(found[words] for words in sorted(found))
