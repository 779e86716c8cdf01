"""Addresses that change hands, while flows that name them are told of: what was told of stays the former holder's.

In: changes of endpoints, nodes, network sets and Services, before they are made; out: the table's flows with the ends
that they had. A change that concerns no address of the table costs next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from felixpy.addresses import Address, Prefix, mask_address
from felixpy.calc.policy.ipsets import Holder
from felixpy.calc.policy.peers import node_addresses
from felixpy.calc.services.arbitration import ServiceDelta
from felixpy.calc.services.frontends import Frontend, FrontendIntent
from felixpy.flows.names import Rank, addresses_of, endpoint_end, find_networks, node_end, service_end
from felixpy.flows.records import FlowEnd
from felixpy.flows.table import FlowTable
from felixpy.resources.kinds import Name
from felixpy.resources.policy_types import NetworkSet
from felixpy.resources.resource import Resource
from felixpy.resources.tables import Ref, Table
from felixpy.resources.types import HostEndpoint, Node, WorkloadEndpoint

NAMING = frozenset({Table.WORKLOAD, Table.HOST, Table.NODE, Table.NETWORK_SET, Table.GLOBAL_NETWORK_SET})
"""Tables of those who have addresses."""
SEEN_BEFORE_S = 10.0
"""A packet may be told of before the datastore tells of its end: so much later it is still its own."""


class Handovers:
    """Tells the table of flows who its addresses were."""

    def __init__(self, table: FlowTable) -> None:
        self._table = table
        self._networks: dict[Ref, NetworkSet] = {}

    def resource_changes(self, ref: Ref, known: Holder | None, value: Resource | None) -> None:
        """Takes a change of a resource of `NAMING` before it is made; `known` is what it was."""
        if ref.table in (Table.NETWORK_SET, Table.GLOBAL_NETWORK_SET):
            self._network_changes(ref, value if isinstance(value, NetworkSet) else None)
        elif self._table and ref.table is Table.NODE:
            self._hand_over(Rank.OWNER, self._node_ends(ref, known), self._node_ends(ref, value))
        elif self._table:
            self._hand_over(Rank.ENDPOINT, self._endpoint_ends(ref, known), self._endpoint_ends(ref, value))

    def services_change(self, delta: ServiceDelta, frontends: Mapping[Frontend, FrontendIntent]) -> None:
        """Takes changes of Services before they are made; `frontends` are all that there are."""
        told = self._table.addresses
        touched = {
            frontend.address
            for frontend in (*delta.puts, *delta.drops)
            if frontend.address in told and _service(frontends, frontend) != _service(delta.puts, frontend)
        }
        if not touched:
            return
        before = _service_ends(touched, frontends.items())
        later = {key: one for key, one in frontends.items() if key.address in touched and key not in delta.drops}
        after = _service_ends(touched, {**later, **delta.puts}.items())
        self._hand_over(Rank.OWNER, before, after)

    def _network_changes(self, ref: Ref, value: NetworkSet | None) -> None:
        known = self._networks.get(ref)
        before = dict(self._networks) if self._table else {}
        if value is None:
            self._networks.pop(ref, None)
        else:
            self._networks[ref] = value
        had, has = (frozenset(one.nets) if one is not None else frozenset() for one in (known, value))
        touched = frozenset(_within(had ^ has, self._table.addresses)) if self._table else frozenset()
        if not touched:
            return
        then, now = (find_networks(touched, sets.items()) for sets in (before, self._networks))
        self._hand_over(Rank.NETWORK, then, now)

    def _node_ends(self, ref: Ref, node: object) -> dict[Address, FlowEnd]:
        """What a node is at each of its addresses that is told of; nothing of anything else."""
        there = node_addresses(node) if isinstance(node, Node) else ()
        return {address: node_end(address, ref.name) for address in there if address in self._table.addresses}

    def _endpoint_ends(self, ref: Ref, endpoint: object) -> dict[Address, FlowEnd]:
        """What an endpoint is at each of its addresses that is told of; nothing of anything else."""
        if not isinstance(endpoint, WorkloadEndpoint | HostEndpoint):
            return {}
        there = (address for address in addresses_of(endpoint) if address in self._table.addresses)
        return {address: endpoint_end(address, ref.name, endpoint) for address in there}

    def _hand_over(self, rank: Rank, before: Mapping[Address, FlowEnd], after: Mapping[Address, FlowEnd]) -> None:
        """The ends of some addresses, before a change and after it."""
        for address, end in before.items():
            if after.get(address) != end:
                self._table.give_up(address, rank, end)
        for address, end in after.items():
            if address not in before:
                self._table.take(address, rank, end, time.time() - SEEN_BEFORE_S)


def _service(frontends: Mapping[Frontend, FrontendIntent], frontend: Frontend) -> Name | None:
    found = frontends.get(frontend)
    return found.service if found is not None else None


def _service_ends(
    addresses: set[Address], frontends: Iterable[tuple[Frontend, FrontendIntent]]
) -> dict[Address, FlowEnd]:
    """What each address is, as names are given."""
    found: dict[Address, FlowEnd] = {}
    for frontend, intent in frontends:
        if frontend.address in addresses:
            found.setdefault(frontend.address, service_end(frontend.address, intent.service))
    return found


def _within(nets: frozenset[Prefix], addresses: Iterable[Address]) -> Iterable[Address]:
    """The addresses in one of the networks."""
    lengths = {(len(net.address), net.length) for net in nets}
    for address in addresses if nets else ():
        if any(
            size == len(address) and Prefix(mask_address(address, length), length) in nets for size, length in lengths
        ):
            yield address
