"""Who has an address: a pod, a host endpoint, a node, a Service or a network set. Pure.

In: the addresses of a few flows, and all that may have one of them; out: the ends of each that somebody has. One pass
over everything, made when somebody asks: no change of an endpoint pays for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

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


class Rank(IntEnum):
    """Kinds of those who have an address, in the order in which they give it its name."""

    ENDPOINT = 0
    OWNER = 1
    """A node, or a Service."""
    NETWORK = 2


class Named(NamedTuple):
    """Who has an address, by rank."""

    endpoint: FlowEnd | None = None
    owner: FlowEnd | None = None
    network: FlowEnd | None = None


NOBODY = Named()


def find_ends(
    wanted: frozenset[Address],
    holders: Iterable[tuple[Ref, Holder]],
    nodes: Iterable[tuple[Name, Node]],
    frontends: Iterable[tuple[Frontend, FrontendIntent]],
) -> dict[Address, Named]:
    """The ends that have a name."""
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
                _place(inside, prefixes, ref, nets)
    for name, node in nodes:
        for address in node_addresses(node):
            if address in wanted:
                others[address] = node_end(address, name)
    for frontend, intent in frontends:
        if frontend.address in wanted:
            others.setdefault(frontend.address, service_end(frontend.address, intent.service))
    return {
        address: Named(endpoints.get(address), others.get(address), inside.get(address, (0, None))[1])
        for address in wanted
    }


def find_networks(wanted: Iterable[Address], sets: Iterable[tuple[Ref, NetworkSet]]) -> dict[Address, FlowEnd]:
    """The network set that each address is in, if any: that of the longest prefix."""
    prefixes = _prefixes_of(wanted)
    inside: dict[Address, tuple[int, FlowEnd]] = {}
    for ref, one in sets:
        _place(inside, prefixes, ref, one.nets)
    return {address: end for address, (_, end) in inside.items()}


def _place(
    inside: dict[Address, tuple[int, FlowEnd]],
    prefixes: Mapping[Prefix, list[Address]],
    ref: Ref,
    nets: Iterable[Prefix],
) -> None:
    for net in nets:
        for address in prefixes.get(net, ()):
            if net.length >= inside.get(address, (0,))[0]:
                inside[address] = net.length, _end(address, NETWORK_SET, ref.name)


def node_end(address: Address, name: Name) -> FlowEnd:
    """The end that a node is."""
    return FlowEnd(format_address(address), NODE, name=name.name, node=name.name)


def service_end(address: Address, service: Name) -> FlowEnd:
    """The end that a Service is."""
    return _end(address, SERVICE, service)


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
