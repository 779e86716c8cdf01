"""Which endpoints of a Service are near enough to this node, where they ask to be used from near. Pure.

In: the endpoints that are ready, and where the node is; out: those to use, all of them where the hints do not cover
everything or leave the node with nothing. Hints are what a slice says; where it says nothing and the Service has a
preference, an endpoint is for its own zone, or node, as the controller of slices would have written.
Source: kubernetes pkg/proxy/topology.go (KEP-2433, KEP-3015, KEP-4444).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from felixpy.resources.service_types import Backend, Distribution, Hints
from felixpy.resources.types import LabelPairs

ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class Locality:
    """Where a node is; `zone` "" where that is not known."""

    node: str
    zone: str = ""


def zone_of(labels: LabelPairs) -> str:
    """The zone that a node's labels name."""
    return dict(labels).get(ZONE_LABEL, "")


def hints_of(backend: Backend, distribution: Distribution) -> Hints:
    """Who should use a backend."""
    if backend.hints.zones or backend.hints.nodes or distribution is Distribution.ANY:
        return backend.hints
    by_node = distribution is Distribution.SAME_NODE and backend.node
    return Hints((backend.zone,) if backend.zone else (), (backend.node,) if by_node else ())


def choose_near(hints: Sequence[Hints], here: Locality) -> tuple[bool, ...]:
    """For each endpoint whether it is to be used: those for this node, else those for its zone, else all.

    Missing  an endpoint without hints of a kind switches that kind off: its clients would be nobody.
    """
    for_node = tuple(here.node in one.nodes for one in hints)
    if any(for_node) and all(one.nodes for one in hints):
        return for_node
    for_zone = tuple(here.zone in one.zones for one in hints)
    if any(for_zone) and all(one.zones for one in hints):
        return for_zone
    return (True,) * len(hints)
