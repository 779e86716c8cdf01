"""Who has an address: a pod, a host endpoint, a node, a Service or a network set. Pure.

In: the addresses of a few flows, and all that may have one of them; out: an end for each that somebody has. One pass
over everything, made when somebody asks: no change of an endpoint pays for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felixpy.addresses import Address, Prefix, format_address, mask_address
from felixpy.calc.policy.ipsets import Holder
from felixpy.calc.policy.peers import node_addresses
from felixpy.calc.policy.pods import workload_of
from felixpy.calc.services.frontends import Frontend, FrontendIntent
from felixpy.flows.records import FlowEnd
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import NetworkSet
from felixpy.resources.tables import Ref
from felixpy.resources.types import HostEndpoint, Node, WorkloadEndpoint

POD, HOST_ENDPOINT, NODE, SERVICE, NETWORK_SET = "pod", "host endpoint", "node", "Service", "network set"


def find_ends(
    wanted: frozenset[Address],
    holders: Iterable[tuple[Ref, Holder]],
    nodes: Iterable[tuple[Name, Node]],
    frontends: Iterable[tuple[Frontend, FrontendIntent]],
) -> dict[Address, FlowEnd]:
    """The ends that have a name; of several that have an address a pod goes first, a network set last."""
    endpoints: dict[Address, FlowEnd] = {}
    others: dict[Address, FlowEnd] = {}
    inside: dict[Address, tuple[int, FlowEnd]] = {}
    prefixes = _prefixes_of(wanted)
    for ref, holder in holders:
        match holder:
            case WorkloadEndpoint(addresses=addresses):
                for address in addresses:
                    if address in wanted:
                        endpoints[address] = endpoint_end(address, ref.name, holder)
            case HostEndpoint(expected_addresses=addresses):
                for address in addresses:
                    if address in wanted:
                        endpoints.setdefault(address, endpoint_end(address, ref.name, holder))
            case NetworkSet(nets=nets):
                for net in nets:
                    for address in prefixes.get(net, ()):
                        if net.length >= inside.get(address, (0,))[0]:
                            inside[address] = net.length, _end(address, NETWORK_SET, ref.name)
    for name, node in nodes:
        for address in node_addresses(node):
            if address in wanted:
                others[address] = FlowEnd(format_address(address), NODE, name=name.name, node=name.name)
    for frontend, intent in frontends:
        if frontend.address in wanted:
            others.setdefault(frontend.address, _end(frontend.address, SERVICE, intent.service))
    return {**{address: end for address, (_, end) in inside.items()}, **others, **endpoints}


def endpoint_end(address: Address, name: Name, endpoint: WorkloadEndpoint | HostEndpoint) -> FlowEnd:
    """The end that an endpoint is, at one of its addresses."""
    if isinstance(endpoint, WorkloadEndpoint):
        return pod_end(address, name, endpoint)
    return FlowEnd(format_address(address), HOST_ENDPOINT, name=name.name, node=endpoint.node)


def addresses_of(holder: object) -> frozenset[Address]:
    """The addresses that an endpoint has; none of anything else."""
    match holder:
        case WorkloadEndpoint(addresses=addresses) | HostEndpoint(expected_addresses=addresses):
            return frozenset(addresses)
        case _:
            return frozenset()


def pod_end(address: Address, name: Name, endpoint: WorkloadEndpoint) -> FlowEnd:
    """The end that a workload endpoint is."""
    workload = endpoint.workload or workload_of(name) or name.name
    return FlowEnd(format_address(address), POD, name.namespace, workload, endpoint.node)


def _end(address: Address, kind: str, name: Name) -> FlowEnd:
    return FlowEnd(format_address(address), kind, name.namespace, name.name)


def _prefixes_of(addresses: Iterable[Address]) -> Mapping[Prefix, list[Address]]:
    found: dict[Prefix, list[Address]] = {}
    for address in addresses:
        for length in range(len(address) * 8 + 1):
            found.setdefault(Prefix(mask_address(address, length), length), []).append(address)
    return found
