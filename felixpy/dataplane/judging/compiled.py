"""One node's data plane from scratch, as values: what its kernel should hold, and the Intent that this was made of.

In: resources; out: CompiledNode. The same calculations and renderers as in the agent, run once. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from felixpy.addresses import Address
from felixpy.calc.graph import Graph
from felixpy.calc.intent import EndpointIntent, HostEndpointIntent, PolicyId, RulesIntent
from felixpy.calc.policy.hosts import Interfaces
from felixpy.calc.services.arbitration import ServiceCalc
from felixpy.calc.services.frontends import Frontend, FrontendIntent
from felixpy.calc.tunnel_plan import HostDevice
from felixpy.dataplane.chains.base import base_objects
from felixpy.dataplane.chains.services import ServiceTables, service_base_rules, service_objects
from felixpy.dataplane.changes import Changes
from felixpy.dataplane.judging.packet import KernelState
from felixpy.dataplane.translate import Translator
from felixpy.resources.kinds import Name
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class CompiledNode:
    """What one node's kernel should hold, and why: endpoints, the policies and profiles they use, frontends."""

    node: str
    kernel: KernelState
    endpoints: Mapping[Name, EndpointIntent] = field(default_factory=dict)
    policies: Mapping[PolicyId, RulesIntent] = field(default_factory=dict)
    profiles: Mapping[str, RulesIntent] = field(default_factory=dict)
    hosts: Mapping[Name, HostEndpointIntent] = field(default_factory=dict)
    frontends: Mapping[Frontend, FrontendIntent] = field(default_factory=dict)


def compile_node(
    node: str,
    resources: Iterable[tuple[Ref, Resource]],
    local: frozenset[Address] = frozenset(),
    uplink: str = "eth0",
    interfaces: Interfaces | None = None,
) -> CompiledNode:
    """All of `node`; `local` are its own addresses, `uplink` the device that leads elsewhere.

    `interfaces` are the host's own with their addresses; None: `uplink` has all of them.
    """
    graph, calc, tables = Graph(node), ServiceCalc(node), ServiceTables()
    for ref, value in resources:
        graph.update(ref, value)
        calc.update(ref, value)
    graph.put_interfaces({uplink: local} if interfaces is None else interfaces)
    graph.tunnels.put_devices(dict.fromkeys(local, HostDevice(uplink, 0)))
    intent, services = graph.flush(), calc.flush()
    translator, changes = Translator(graph.sets.members), Changes()
    translator.translate(intent, changes)
    fixed = (*base_objects(service_base_rules(), translator.guards), *service_objects(translator.guards.options))
    translator.ledger.put("base", fixed, changes)
    changes.merge(tables.update(services))
    objects = [one for one in changes.objects.values() if one is not None]
    members = {target: change.added for target, change in changes.members.items()}
    return CompiledNode(
        node,
        KernelState.of(objects, members, local, uplink),
        _present(intent.policy.endpoints),
        _present(intent.policy.policies),
        _present(intent.policy.profiles),
        _present(intent.policy.hosts),
        services.puts,
    )


def _present(found: Mapping[K, V | None]) -> Mapping[K, V]:
    return {key: value for key, value in found.items() if value is not None}
